//! The TCP connect check: a server that completes the handshake in time is up.
//!
//! It names the endpoint and the time limit, and judges what the owner's connect came to. It opens no
//! socket and sends no byte after the handshake.

use core::time::Duration;
use std::io::{Error, ErrorKind};

use lvs_sched::Endpoint;

use super::{DownReason, Outcome};

/// The TCP connect check (keepalived's `TCP_CHECK`).
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use lvs_health::{DownReason, Outcome, TcpAnswer, TcpCheck};
///
/// let check = TcpCheck::new("[2001:db8::10]:443".parse()?);
/// assert_eq!(check.connect_timeout, Duration::from_secs(5));
/// assert_eq!(check.judge(TcpAnswer::Connected), Outcome::Up);
/// assert_eq!(check.judge(TcpAnswer::Refused), Outcome::Down(DownReason::Refused));
/// # Ok::<(), lvs_sched::ParseEndpointError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpCheck {
    /// Where to connect: the real server's address and port, or a port that stands for it.
    pub endpoint: Endpoint,
    /// How long the handshake may take, 1 ms to 1 day.
    pub connect_timeout: Duration,
}

impl TcpCheck {
    /// keepalived's `connect_timeout`: 5 s.
    pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

    /// Makes a check of `endpoint` with keepalived's time limit.
    pub const fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, connect_timeout: Self::CONNECT_TIMEOUT }
    }

    /// Judges what became of the connect.
    pub const fn judge(&self, answer: TcpAnswer) -> Outcome {
        match answer {
            TcpAnswer::Connected => Outcome::Up,
            TcpAnswer::Refused => Outcome::Down(DownReason::Refused),
            TcpAnswer::Unreachable => Outcome::Down(DownReason::Unreachable),
            TcpAnswer::TimedOut => Outcome::Down(DownReason::TimedOut),
            TcpAnswer::NotSent => Outcome::Inconclusive,
        }
    }
}

/// What became of a connect, in the owner's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TcpAnswer {
    /// The handshake is complete.
    Connected,
    /// A RST came back.
    Refused,
    /// An ICMP error came back, or there is no way to the address.
    Unreachable,
    /// No answer within the time limit.
    TimedOut,
    /// The connect failed on this host before a SYN could leave.
    NotSent,
}

impl TcpAnswer {
    /// Sorts the error of a finished `connect`.
    ///
    /// Errors that only this host can cause (descriptors, ports, memory, permission) are [`NotSent`]: a
    /// director that runs out of descriptors must not take all its servers down. Any other error that has
    /// no name here came from the network (Linux turns ICMP codes into a dozen of them) and is
    /// [`Unreachable`].
    ///
    /// A connect that is still under way (`EINPROGRESS`) has not finished; do not report it.
    ///
    /// [`NotSent`]: Self::NotSent
    /// [`Unreachable`]: Self::Unreachable
    ///
    /// # Examples
    /// ```
    /// use std::io::{Error, ErrorKind};
    /// use lvs_health::TcpAnswer;
    /// assert_eq!(TcpAnswer::from_error(&Error::from(ErrorKind::ConnectionRefused)), TcpAnswer::Refused);
    /// assert_eq!(TcpAnswer::from_error(&Error::from(ErrorKind::AddrNotAvailable)), TcpAnswer::NotSent);
    /// ```
    pub fn from_error(error: &Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Self::Refused,
            ErrorKind::TimedOut => Self::TimedOut,
            ErrorKind::AddrInUse
            | ErrorKind::AddrNotAvailable
            | ErrorKind::Interrupted
            | ErrorKind::InvalidInput
            | ErrorKind::OutOfMemory
            | ErrorKind::PermissionDenied
            | ErrorKind::WouldBlock => Self::NotSent,
            _ if error.raw_os_error().is_some_and(|number| LOCAL_ERRORS.contains(&number)) => Self::NotSent,
            _ => Self::Unreachable,
        }
    }
}

/// Errors of this host that `std` has no stable kind for: ENFILE, EMFILE, ENOBUFS (Linux numbers).
const LOCAL_ERRORS: [i32; 3] = [23, 24, 105];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_has_its_verdict() {
        let check = TcpCheck::new("192.0.2.1:80".parse().unwrap());
        let verdicts = [
            (TcpAnswer::Connected, Outcome::Up),
            (TcpAnswer::Refused, Outcome::Down(DownReason::Refused)),
            (TcpAnswer::Unreachable, Outcome::Down(DownReason::Unreachable)),
            (TcpAnswer::TimedOut, Outcome::Down(DownReason::TimedOut)),
            (TcpAnswer::NotSent, Outcome::Inconclusive),
        ];
        for (answer, outcome) in verdicts {
            assert_eq!(check.judge(answer), outcome, "{answer:?}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn linux_connect_errors_are_sorted() {
        let errors = [
            (111, TcpAnswer::Refused),     // ECONNREFUSED
            (104, TcpAnswer::Refused),     // ECONNRESET
            (110, TcpAnswer::TimedOut),    // ETIMEDOUT
            (113, TcpAnswer::Unreachable), // EHOSTUNREACH
            (101, TcpAnswer::Unreachable), // ENETUNREACH
            (100, TcpAnswer::Unreachable), // ENETDOWN
            (112, TcpAnswer::Unreachable), // EHOSTDOWN: ICMP code 7
            (64, TcpAnswer::Unreachable),  // ENONET: ICMP code 8
            (92, TcpAnswer::Unreachable),  // ENOPROTOOPT: ICMP code 2
            (97, TcpAnswer::Unreachable),  // EAFNOSUPPORT: this host has no IPv6
            (24, TcpAnswer::NotSent),      // EMFILE
            (23, TcpAnswer::NotSent),      // ENFILE
            (105, TcpAnswer::NotSent),     // ENOBUFS
            (12, TcpAnswer::NotSent),      // ENOMEM
            (99, TcpAnswer::NotSent),      // EADDRNOTAVAIL: no local port left
            (1, TcpAnswer::NotSent),       // EPERM: a local packet filter
        ];
        for (number, answer) in errors {
            assert_eq!(TcpAnswer::from_error(&Error::from_raw_os_error(number)), answer, "errno {number}");
        }
    }
}
