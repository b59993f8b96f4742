//! What a client sends to the records API: path, selectors, continue tokens. Lines: path, query, Accept.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut lines = text.split('\n');
    let mut line = || lines.next().unwrap_or_default();
    let _ = tablemap::records::read_request(line(), line(), line());
});
