//! Free ports on 127.0.0.1.

use std::{
    net::TcpListener,
    sync::atomic::{AtomicU16, Ordering},
};

// Below the ports that the kernel gives to outgoing connections (32768 and up): a server that was killed
// must find its port free when it starts again.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port that nothing listens on, and that this process has not given out yet.
pub fn free_port() -> u16 {
    // Test programs that run side by side begin at different places.
    let start = u16::try_from(std::process::id().wrapping_mul(97) % u32::from(COUNT)).unwrap();
    for _ in 0..COUNT {
        let port = FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}
