//! An entry of a queue, as Redis gives it back. What can be read at all can be written again, and reads the same.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tablemap::{
    queue::{Header, decode, encode},
    record::Position,
};

fuzz_target!(|bytes: &[u8]| {
    let entry = Bytes::copy_from_slice(bytes);
    let _ = Header::split_from(&mut entry.clone());
    let Ok(records) = decode(entry) else { return };
    let keys = std::iter::empty::<&[u8]>();
    if let Ok(again) = encode(&records, Position::ZERO, keys) {
        assert_eq!(decode(again.entry).as_deref(), Ok(&*records));
    }
});
