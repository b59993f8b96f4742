//! Failures below SQL: the connection itself.

use super::{Class, Fault, Verdict};
use std::io::{self, ErrorKind};

/// The connection ended without an answer: what was in flight is not known to be durable (rule 2).
pub const CONNECTION_LOST: Verdict = unavailable(
    "The connection was lost: check the server and the network between; writing goes on by itself.",
);

/// The client's own deadline passed without an answer.
pub const NO_ANSWER: Verdict = Verdict {
    class: Class::Timeout,
    fault: Fault::Destination,
    remedy: "The server did not answer in time: check its load and the network between; writing goes on by itself.",
};

const fn unavailable(remedy: &'static str) -> Verdict {
    Verdict {
        class: Class::Unavailable,
        fault: Fault::Destination,
        remedy,
    }
}

/// What an I/O error means. It is never the record's fault.
#[must_use]
pub fn from_io(error: &io::Error) -> Verdict {
    match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => NO_ANSWER,
        ErrorKind::ConnectionRefused => unavailable(
            "Nothing listens there: start the server, or correct the Connection's host and port; writing goes on by itself.",
        ),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => unavailable(
            "The host cannot be reached: check the network, its policies and the Connection's host; writing goes on by itself.",
        ),
        ErrorKind::InvalidData => unavailable(
            "The connection's bytes make no sense, as when TLS fails: check the Connection's `tls` and port.",
        ),
        _ => CONNECTION_LOST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_io_error_is_never_the_records_fault() {
        for kind in [
            ErrorKind::TimedOut,
            ErrorKind::ConnectionRefused,
            ErrorKind::HostUnreachable,
            ErrorKind::InvalidData,
            ErrorKind::UnexpectedEof,
            ErrorKind::BrokenPipe,
        ] {
            let verdict = from_io(&io::Error::from(kind));
            assert_eq!(verdict.fault, Fault::Destination, "{kind}");
            assert!(verdict.remedy.ends_with('.'));
        }
        assert_eq!(
            from_io(&io::Error::from(ErrorKind::TimedOut)).class,
            Class::Timeout
        );
        assert_eq!(
            from_io(&io::Error::from(ErrorKind::ConnectionReset)),
            CONNECTION_LOST
        );
    }
}
