//! Completion: scripts for shells, and the answer to kubectl, which completes its plugins itself.

use super::{args::Arguments, print};
use clap::{Arg, Command, CommandFactory as _};
use clap_complete::Shell;

/// The word by which plugins' scripts ask, as kubectl itself is asked.
const ASKED: &str = "__complete";
/// What kubectl expects last: nothing that is offered is a file.
const NO_FILES: &str = ":4";

/// Prints a script for `kubectl-tablemap`.
pub fn script(shell: Shell) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "kubectl-tablemap", &mut script);
    print::write(&String::from_utf8_lossy(&script));
}

/// Answers `__complete WORD…`: what may stand in place of the last word, one a line. It is no command of ours, so that no
/// script or help shows it.
pub fn is_asked() -> bool {
    let mut words = std::env::args_os().skip(1);
    if words.next().is_none_or(|word| word != ASKED) {
        return false;
    }
    let words: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    let mut offered = offers(&words);
    offered.push(NO_FILES.into());
    print::write(&format!("{}\n", offered.join("\n")));
    true
}

fn offers(words: &[String]) -> Vec<String> {
    let mut command = Arguments::command();
    command.build();
    let (last, before) = match words.split_last() {
        Some((last, before)) => (last.as_str(), before),
        None => ("", words),
    };
    let named = before.iter().find_map(|word| command.find_subcommand(word));
    let option = before
        .last()
        .and_then(|word| option(named.unwrap_or(&command), word));
    let all = match (option, named) {
        (Some(option), _) => values(option),
        (None, named) if last.starts_with('-') => flags(named.unwrap_or(&command)),
        (None, None) => subcommands(&command),
        (None, Some(named)) => named.get_positionals().flat_map(values).collect(),
    };
    all.into_iter().filter(|word| word.starts_with(last)).collect()
}

/// The option that still waits for its value.
fn option<'a>(command: &'a Command, word: &str) -> Option<&'a Arg> {
    let is_named = |option: &&Arg| {
        let long = option.get_long().is_some_and(|long| word == format!("--{long}"));
        let short = option
            .get_short()
            .is_some_and(|short| word == format!("-{short}"));
        (long || short) && option.get_action().takes_values()
    };
    command.get_arguments().find(is_named)
}

fn values(argument: &Arg) -> Vec<String> {
    let values = argument.get_possible_values();
    values.iter().map(|value| value.get_name().to_owned()).collect()
}

fn flags(command: &Command) -> Vec<String> {
    let long = |argument: &Arg| Some(format!("--{}", argument.get_long()?));
    command.get_arguments().filter_map(long).collect()
}

fn subcommands(command: &Command) -> Vec<String> {
    let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
    shown.map(|command| command.get_name().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_may_come_next() {
        let offers = |line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            super::offers(&words).join(" ")
        };
        assert_eq!(offers("re"), "resume retry");
        assert_eq!(offers("-n sales resume --sk"), "--skip");
        assert_eq!(offers("resume a --skip "), "preserve discard");
        assert_eq!(offers("errors --class B"), "BadRequest");
        assert_eq!(offers("completion z"), "zsh");
        assert_eq!(offers("list -n "), "");
        assert!(offers("retry a --").contains("--context"));
    }
}
