//! Who talks to whom: the part of a packet that a scheduler may see.

use core::fmt;
use core::net::{IpAddr, SocketAddr};
use core::str::FromStr;

/// A transport protocol that virtual services exist for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Protocol {
    /// TCP, IP protocol 6.
    Tcp = 6,
    /// UDP, IP protocol 17.
    Udp = 17,
    /// SCTP, IP protocol 132.
    Sctp = 132,
}

impl Protocol {
    /// Returns the protocol of an IP protocol number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            132 => Some(Self::Sctp),
            _ => None,
        }
    }

    /// The IP protocol number.
    pub const fn number(self) -> u8 {
        self as u8
    }
}

/// As `ipvsadm -Ln` prints it: `TCP`, `UDP`, `SCTP`.
impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

impl FromStr for Protocol {
    type Err = ParseEndpointError;

    /// Reads `tcp`, `udp` or `sctp` in any case.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [(Self::Tcp, "tcp"), (Self::Udp, "udp"), (Self::Sctp, "sctp")]
            .into_iter()
            .find(|(_, name)| name.eq_ignore_ascii_case(text))
            .map(|(protocol, _)| protocol)
            .ok_or(ParseEndpointError("expected tcp, udp or sctp"))
    }
}

/// An address and a port, without the flow label and scope that `std::net::SocketAddrV6` carries.
///
/// # Examples
/// ```
/// use lvs_sched::Endpoint;
/// let vip: Endpoint = "10.0.0.1:80".parse()?;
/// assert_eq!(vip.port, 80);
/// assert_eq!("[2001:db8::1]:53".parse::<Endpoint>()?.to_string(), "[2001:db8::1]:53");
/// # Ok::<(), lvs_sched::ParseEndpointError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// IPv4 or IPv6 address.
    pub addr: IpAddr,
    /// Port; 0 where a protocol has none or a service takes all.
    pub port: u16,
}

impl Endpoint {
    /// Joins an address and a port.
    pub const fn new(addr: IpAddr, port: u16) -> Self {
        Self { addr, port }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.addr, self.port).fmt(f)
    }
}

impl FromStr for Endpoint {
    type Err = ParseEndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<SocketAddr>().map(Self::from).map_err(|_| {
            ParseEndpointError("expected ADDRESS:PORT, IPv6 in brackets: 10.0.0.1:80, [2001:db8::1]:80")
        })
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(socket: SocketAddr) -> Self {
        Self::new(socket.ip(), socket.port())
    }
}

impl From<Endpoint> for SocketAddr {
    fn from(endpoint: Endpoint) -> Self {
        Self::new(endpoint.addr, endpoint.port)
    }
}

/// What would have been right where an [`Endpoint`] or a [`Protocol`] could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseEndpointError(pub(crate) &'static str);

/// A new flow as a scheduler sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The client (CIP and its port). Hash schedulers key on it.
    pub client: Endpoint,
    /// The packet's destination (VIP and port).
    pub service: Endpoint,
}
