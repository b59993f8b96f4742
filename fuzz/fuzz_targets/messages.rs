//! A message of pgoutput, as the source sends it.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tablemap::source::postgres::pgoutput::{Message, decode};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Message::Insert { new, .. }) = decode(Bytes::copy_from_slice(bytes)) {
        assert_eq!(new.cells().count(), new.len());
    }
});
