//! How results are printed.

use super::{Ended, args::Output};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::io::{IsTerminal as _, Write as _};

/// Prints a line. A reader that has gone ends nothing, other than with `println`.
pub fn out(line: std::fmt::Arguments<'_>) {
    write(&format!("{line}\n"));
}

/// Prints a text.
pub fn write(text: &str) {
    let mut stdout = std::io::stdout();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Without what would steer a terminal: keys and messages come from elsewhere.
pub fn plain(text: &str) -> String {
    text.chars()
        .map(|character| {
            if character.is_control() {
                '\u{fffd}'
            } else {
                character
            }
        })
        .collect()
}

/// Rows under a heading, in columns that are as wide as they must be.
pub fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let heading: Vec<String> = heading.iter().map(|&name| name.to_owned()).collect();
    let plain = |row: &Vec<String>| row.iter().map(|cell| self::plain(cell)).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(plain).collect();
    let all = || std::iter::once(&heading).chain(&rows);
    let width = |column: usize| {
        all()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let mut out = String::new();
    for row in all() {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        out.push_str(cells.join("   ").trim_end());
        out.push('\n');
    }
    out
}

/// Objects as a list, or the one of them.
///
/// # Errors
/// They cannot be written.
pub fn objects(objects: Vec<Value>, output: Output) -> Result<(), Ended> {
    let mut objects = objects;
    let value = match objects.len() {
        1 => objects.remove(0),
        _ => json!({"apiVersion": "v1", "kind": "List", "items": objects}),
    };
    self::object(&value, output)
}

/// # Errors
/// It cannot be written.
pub fn object(value: &Value, output: Output) -> Result<(), Ended> {
    let failed = |error: String| Ended::Failed(error);
    let text = match output {
        Output::Yaml => serde_saphyr::to_string(value).map_err(|error| failed(error.to_string()))?,
        Output::Json | Output::Table => {
            let text = serde_json::to_string_pretty(value);
            format!("{}\n", text.map_err(|error| failed(error.to_string()))?)
        }
    };
    write(&text);
    Ok(())
}

/// A number with marks between thousands.
pub fn count(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if number < 0 { format!("-{out}") } else { out }
}

/// A number of things.
pub fn counted(number: i64, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {thing}{plural}", count(number))
}

/// Bytes as people read them.
pub fn bytes(bytes: i64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    #[allow(clippy::cast_precision_loss, reason = "it is rounded to one place anyway")]
    let mut value = bytes as f64;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// How long ago, in the largest unit that is whole.
pub fn since(time: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(time.as_second()).max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

/// Part of a whole, in `width` signs.
pub fn bar(done: i64, all: i64, width: usize) -> String {
    let width_number = i64::try_from(width).unwrap_or(0);
    let filled = (done.max(0) * width_number / all.max(1)).clamp(0, width_number);
    let filled = usize::try_from(filled).unwrap_or(0);
    format!("[{}{}]", "#".repeat(filled), "-".repeat(width - filled))
}

/// Colours are for terminals (<https://no-color.org>).
#[derive(Clone, Copy)]
pub struct Paint(bool);

impl Paint {
    pub fn for_output() -> Self {
        Self(std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none())
    }

    #[cfg(test)]
    pub const fn none() -> Self {
        Self(false)
    }

    pub fn good(self, text: &str) -> String {
        self.wrap(text, "32")
    }

    pub fn bad(self, text: &str) -> String {
        self.wrap(text, "31")
    }

    pub fn strong(self, text: &str) -> String {
        self.wrap(text, "1")
    }

    fn wrap(self, text: &str, code: &str) -> String {
        if self.0 {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_people_read_them() {
        assert_eq!(
            [count(7), count(1234), count(-1_234_567)],
            ["7", "1,234", "-1,234,567"]
        );
        assert_eq!(
            [counted(0, "record"), counted(1, "record")],
            ["0 records", "1 record"]
        );
        assert_eq!(
            [bytes(512), bytes(1536), bytes(3 << 30)],
            ["512 B", "1.5 KiB", "3.0 GiB"]
        );
        assert_eq!(
            [bar(1, 4, 8), bar(9, 4, 2), bar(0, 0, 2)],
            ["[##------]", "[##]", "[--]"]
        );
    }

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let rows = [
            vec!["a".into(), "1".into()],
            vec!["Zü\u{1b}ich".into(), String::new()],
        ];
        assert_eq!(
            table(&["NAME", "N"], &rows),
            "NAME     N\na        1\nZü\u{fffd}ich\n"
        );
    }
}
