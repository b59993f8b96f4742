//! Texts that a destination type reads as one value, brought to one form. Each answers `None` to a text that the type
//! does not read (`PostgreSQL` manual, chapter 8, "Data Types").

use std::borrow::Cow;

/// `numeric` ends at 131072 digits before and 16383 after the point.
const MAX_DIGITS: i64 = 131_072 + 16_383;

pub(super) fn integer(text: &str) -> Option<Cow<'_, str>> {
    let trimmed = text.trim_ascii();
    let (negative, digits) = sign(trimmed);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let significant = digits.trim_start_matches('0');
    Some(match (negative, significant) {
        (_, "") => Cow::Borrowed("0"),
        (false, significant) => Cow::Borrowed(significant),
        (true, significant) if trimmed.len() == significant.len() + 1 => Cow::Borrowed(trimmed),
        (true, significant) => Cow::Owned(format!("-{significant}")),
    })
}

fn sign(text: &str) -> (bool, &str) {
    match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    }
}

/// Plain decimal notation without superfluous zeros; `NaN`, `Infinity`, `-Infinity`.
pub(super) fn numeric(text: &str) -> Option<Cow<'_, str>> {
    let (negative, unsigned) = sign(text.trim_ascii());
    if let Some(special) = special(negative, unsigned) {
        return Some(Cow::Borrowed(special));
    }
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
        None => (unsigned, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = || whole.bytes().chain(fraction.bytes());
    if digits().next().is_none() || !digits().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    if exponent == 0 && !negative && fraction.is_empty() && !whole.starts_with('0') {
        return Some(Cow::Borrowed(whole));
    }
    plain(
        negative,
        [whole, fraction].concat().as_str(),
        whole.len(),
        exponent,
    )
    .map(Cow::Owned)
}

fn special(negative: bool, text: &str) -> Option<&'static str> {
    let is = |name: &str| text.eq_ignore_ascii_case(name);
    match negative {
        false if is("nan") => Some("NaN"),
        false if is("infinity") || is("inf") => Some("Infinity"),
        true if is("infinity") || is("inf") => Some("-Infinity"),
        _ => None,
    }
}

/// `0.digits × 10^(point + exponent)`, written out.
fn plain(negative: bool, digits: &str, point: usize, exponent: i64) -> Option<String> {
    let significant = digits.trim_start_matches('0');
    if significant.is_empty() {
        return Some("0".to_owned());
    }
    let zeros = i64::try_from(digits.len() - significant.len()).ok()?;
    let point = i64::try_from(point)
        .ok()?
        .checked_add(exponent)?
        .checked_sub(zeros)?;
    if point.abs() > MAX_DIGITS {
        return None;
    }
    let significant = significant.trim_end_matches('0');
    let sign = if negative { "-" } else { "" };
    let zeros = |count: i64| "0".repeat(usize::try_from(count).unwrap_or_default());
    let length = i64::try_from(significant.len()).ok()?;
    Some(if point <= 0 {
        format!("{sign}0.{}{significant}", zeros(-point))
    } else if point >= length {
        format!("{sign}{significant}{}", zeros(point - length))
    } else {
        let (whole, fraction) = significant.split_at_checked(usize::try_from(point).ok()?)?;
        format!("{sign}{whole}.{fraction}")
    })
}

/// Trailing blanks mean nothing in `char(n)`.
pub(super) fn fixed_char(text: &str) -> &str {
    text.trim_end_matches(' ')
}

/// `varchar(n)` silently drops blanks beyond its length, and refuses all else.
pub(super) fn varchar(text: &str, max_characters: usize) -> &str {
    let Some((cut, _)) = text.char_indices().nth(max_characters) else {
        return text;
    };
    match text.split_at_checked(cut) {
        Some((kept, rest)) if rest.bytes().all(|byte| byte == b' ') => kept,
        _ => text,
    }
}

/// 32 hexadecimal digits of any case, in braces or not, with a hyphen after any group of four.
pub(super) fn uuid(text: &str) -> Option<Cow<'_, str>> {
    if is_canonical_uuid(text) {
        return Some(Cow::Borrowed(text));
    }
    let inner = match text.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}')?,
        None => text,
    };
    let mut digits = String::with_capacity(36);
    let mut count = 0;
    let mut previous = '-';
    for character in inner.chars() {
        match character {
            '-' if count % 4 == 0 && count > 0 && count < 32 && previous != '-' => {}
            digit if digit.is_ascii_hexdigit() => {
                if matches!(count, 8 | 12 | 16 | 20) {
                    digits.push('-');
                }
                digits.push(digit.to_ascii_lowercase());
                count += 1;
            }
            _ => return None,
        }
        previous = character;
    }
    (count == 32).then_some(Cow::Owned(digits))
}

fn is_canonical_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

/// `t` or `f`, from any unique prefix of the words that Postgres reads.
pub(super) fn boolean(text: &str) -> Option<&'static str> {
    let text = text.trim_ascii();
    let begins = |word: &str, least: usize| {
        text.len() >= least
            && word
                .get(..text.len())
                .is_some_and(|part| part.eq_ignore_ascii_case(text))
    };
    if begins("true", 1) || begins("yes", 1) || begins("on", 2) || text == "1" {
        Some("t")
    } else if begins("false", 1) || begins("no", 1) || begins("off", 2) || text == "0" {
        Some("f")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn integers_lose_signs_zeros_and_blanks() {
        for (text, expected) in [
            ("007", "7"),
            ("7", "7"),
            ("+7", "7"),
            ("-0", "0"),
            ("-007", "-7"),
            (" -7 ", "-7"),
        ] {
            assert_eq!(integer(text).as_deref(), Some(expected), "{text}");
        }
        for text in ["", "-", "1.0", "0x1", "--1", "1 2"] {
            assert_eq!(integer(text), None, "{text}");
        }
    }

    #[test]
    fn equal_numerics_are_one_text() {
        for (text, expected) in [
            ("1.00", "1"),
            ("1.0", "1"),
            ("-0.0", "0"),
            ("1e3", "1000"),
            ("1.50E-3", "0.0015"),
            ("0010", "10"),
            (".5", "0.5"),
            ("5.", "5"),
            ("-12.340", "-12.34"),
            ("0e9999999999", "0"),
            ("nan", "NaN"),
            ("-inf", "-Infinity"),
        ] {
            assert_eq!(numeric(text).as_deref(), Some(expected), "{text}");
        }
        for text in ["", ".", "e5", "1e", "1.2.3", "1e999999", "-NaN", "x"] {
            assert_eq!(numeric(text), None, "{text}");
        }
    }

    #[test]
    fn uuids_lose_case_and_braces() {
        let expected = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
        for text in [
            expected,
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            "{a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11}",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11",
        ] {
            assert_eq!(uuid(text).as_deref(), Some(expected), "{text}");
        }
        for text in [
            "",
            "{a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0eebc999c0b4ef8bb6d6bb9bd380a1",
            "a0e-ebc99",
        ] {
            assert_eq!(uuid(text), None, "{text}");
        }
    }

    #[test]
    fn booleans_are_read_as_postgres_does() {
        for text in ["t", "TRUE", "y", "on", "1", " true "] {
            assert_eq!(boolean(text), Some("t"), "{text}");
        }
        for text in ["f", "fal", "no", "OF", "0"] {
            assert_eq!(boolean(text), Some("f"), "{text}");
        }
        for text in ["", "o", "2", "truth"] {
            assert_eq!(boolean(text), None, "{text}");
        }
    }

    #[test]
    fn blanks_that_the_destination_drops_do_not_count() {
        assert_eq!(fixed_char("x  "), "x");
        assert_eq!(varchar("ä  ", 2), "ä ");
        assert_eq!(varchar("ab c", 2), "ab c");
        assert_eq!(varchar("ab", 2), "ab");
    }

    proptest! {
        #[test]
        fn canonical_forms_are_their_own(text in "[+-]?[0-9]{0,6}(\\.[0-9]{0,6})?([eE][+-]?[0-9]{1,2})?") {
            for form in [numeric(&text), integer(&text)].into_iter().flatten() {
                let again = numeric(&form);
                prop_assert_eq!(again.as_deref(), Some(form.as_ref()));
            }
        }

        #[test]
        fn a_shifted_exponent_is_the_same_number(digits in "[0-9]{1,9}", zeros in 0usize..6) {
            let longer = format!("{digits}{}e-{zeros}", "0".repeat(zeros));
            let fraction = format!("{digits}.{}", "0".repeat(zeros));
            prop_assert_eq!(numeric(&digits), numeric(&longer));
            prop_assert_eq!(numeric(&digits), numeric(&fraction));
        }

        #[test]
        fn numbers_stay_themselves(number in any::<i64>(), hundredths in 0u8..100) {
            let text = format!("{number}.{hundredths:02}");
            let (expected, read): (f64, f64) = (text.parse().unwrap(), numeric(&text).unwrap().parse().unwrap());
            prop_assert!((expected - read).abs() == 0.0);
        }

        #[test]
        fn hostile_texts_never_panic(text in "\\PC{0,12}") {
            let _ = (integer(&text), numeric(&text), uuid(&text), boolean(&text), varchar(&text, 3));
        }
    }
}
