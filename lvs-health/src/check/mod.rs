//! What a check asks for and how its answer is judged. Knows neither time nor the states of servers.

mod tcp;

use core::time::Duration;

use lvs_sched::Endpoint;

pub use tcp::{TcpAnswer, TcpCheck};

/// What to do to learn whether a server is alive: the recipe that a probe carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Check {
    /// Open a TCP connection and close it.
    Tcp(TcpCheck),
}

impl Check {
    /// The address and port that the probe goes to.
    pub const fn endpoint(&self) -> Endpoint {
        match self {
            Self::Tcp(check) => check.endpoint,
        }
    }

    /// How long the whole probe may take.
    pub const fn timeout(&self) -> Duration {
        match self {
            Self::Tcp(check) => check.connect_timeout,
        }
    }
}

impl From<TcpCheck> for Check {
    fn from(check: TcpCheck) -> Self {
        Self::Tcp(check)
    }
}

/// What one probe says about the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The server answered as it should.
    Up,
    /// The server did not.
    Down(DownReason),
    /// The probe could not be made (no descriptor left, no local port): nothing is known about the server.
    Inconclusive,
}

/// Why a probe counts against the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum DownReason {
    /// The server's host answered that nobody listens (TCP RST, RFC 9293 section 3.5.2).
    #[error("connection refused")]
    Refused,
    /// The network answered that it cannot deliver (ICMP destination unreachable, no route, no neighbour).
    #[error("unreachable")]
    Unreachable,
    /// Nobody answered before the deadline.
    #[error("timed out")]
    TimedOut,
}
