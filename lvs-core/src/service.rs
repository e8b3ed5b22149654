//! Virtual services and real servers as configuration values, in the words of ipvsadm.

use core::fmt;
use core::net::IpAddr;
use core::time::Duration;

use lvs_sched::{Endpoint, Protocol, SchedulerFlags, SchedulerKind, Weight};

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub const fn of(addr: &IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// What identifies a virtual service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServiceKey {
    /// Protocol, VIP and port; port 0 takes all ports.
    Address {
        /// TCP, UDP or SCTP.
        protocol: Protocol,
        /// VIP and port.
        endpoint: Endpoint,
    },
    /// Packets with this firewall mark.
    Mark {
        /// IPv4 (default of ipvsadm) or IPv6 (`-6`).
        family: Family,
        /// The mark, not 0.
        mark: u32,
    },
}

impl ServiceKey {
    /// VIP and port; `None` for a service by mark.
    pub const fn endpoint(&self) -> Option<Endpoint> {
        match self {
            Self::Address { endpoint, .. } => Some(*endpoint),
            Self::Mark { .. } => None,
        }
    }
}

/// As `ipvsadm -Ln` prints it: `TCP  10.0.0.1:80`, `SCTP 10.0.0.1:99`, `FWM  7`.
impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { protocol, endpoint } => write!(f, "{protocol:<4} {endpoint}"),
            Self::Mark { family: Family::V4, mark } => write!(f, "FWM  {mark}"),
            Self::Mark { family: Family::V6, mark } => write!(f, "FWM  {mark} IPv6"),
        }
    }
}

/// Persistence of a service: a client stays with its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Persistence {
    /// How long after its last connection a client stays bound.
    pub timeout: Duration,
    /// How many leading bits of the client's address count (32 or 128 = the single client).
    pub prefix_len: u8,
}

/// A virtual service as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualService {
    /// What identifies it.
    pub key: ServiceKey,
    /// How servers are chosen.
    pub scheduler: SchedulerKind,
    /// Flags of the scheduler.
    pub flags: SchedulerFlags,
    /// Whether clients stay with their server.
    pub persistence: Option<Persistence>,
    /// One-packet scheduling (UDP): every datagram is scheduled anew.
    pub one_packet: bool,
    /// FULLNAT: the addresses that servers see as the client (`--laddr`).
    pub local_addresses: Vec<IpAddr>,
}

impl VirtualService {
    /// Makes a service with the given scheduler and ipvsadm's defaults for the rest.
    pub fn new(key: ServiceKey, scheduler: SchedulerKind) -> Self {
        Self {
            key,
            scheduler,
            flags: SchedulerFlags::empty(),
            persistence: None,
            one_packet: false,
            local_addresses: Vec::new(),
        }
    }
}

/// What a tunnel's checksum option says (`--tun-nocsum`, `--tun-csum`, `--tun-remcsum`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TunnelChecksum {
    /// No checksum in the tunnel header.
    #[default]
    None,
    /// A checksum in the tunnel header.
    Full,
    /// GUE remote checksum offload.
    Remote,
}

/// The outer headers of LVS/TUN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Tunnel {
    /// IP in IP (RFC 2003, RFC 2473).
    #[default]
    Ipip,
    /// Generic UDP encapsulation.
    Gue {
        /// UDP destination port.
        port: u16,
        /// Checksum option.
        checksum: TunnelChecksum,
    },
    /// Generic routing encapsulation (RFC 2784).
    Gre {
        /// Checksum option (`None` or `Full`).
        checksum: TunnelChecksum,
    },
}

/// How a packet reaches its real server. A property of each server; one service may mix them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ForwardingMethod {
    /// LVS/NAT (`-m`): the destination is rewritten, replies come back through the director.
    Masquerade,
    /// LVS/DR (`-g`): only the link's next hop changes; the server owns the VIP and answers directly.
    #[default]
    DirectRoute,
    /// LVS/TUN (`-i`): the packet is wrapped; the server unwraps it and answers directly.
    Tunnel(Tunnel),
    /// FULLNAT (`--fullnat`): both addresses are rewritten; the server needs no route through the director.
    FullNat,
    /// The director itself is the server: the packet is passed to the host.
    Local,
    /// No server: the packet goes to its original destination.
    Bypass,
}

impl ForwardingMethod {
    /// Whether the server's replies come back through the director and are rewritten there.
    pub const fn sees_replies(self) -> bool {
        matches!(self, Self::Masquerade | Self::FullNat)
    }
}

/// A real server as configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RealServer {
    /// RIP and port.
    pub endpoint: Endpoint,
    /// How packets reach it.
    pub method: ForwardingMethod,
    /// Its share; 0 = quiesced.
    pub weight: Weight,
    /// Connections at which it counts as overloaded (`-x`); 0 = no limit.
    pub upper_threshold: u32,
    /// Connections below which it no longer does (`-y`); 0 = three quarters of the upper one.
    pub lower_threshold: u32,
}

impl RealServer {
    /// Makes a server with weight 1 and no thresholds.
    pub const fn new(endpoint: Endpoint, method: ForwardingMethod) -> Self {
        Self { endpoint, method, weight: Weight::ONE, upper_threshold: 0, lower_threshold: 0 }
    }
}

/// Timeouts of `ipvsadm --set tcp tcpfin udp`; zero leaves a value as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TimeoutSettings {
    /// TCP established.
    pub tcp: Duration,
    /// TCP after a FIN.
    pub tcp_fin: Duration,
    /// UDP.
    pub udp: Duration,
}

/// One line of `ipvsadm -R`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `-A`
    AddService(VirtualService),
    /// `-E`
    EditService(VirtualService),
    /// `-D`
    DeleteService(ServiceKey),
    /// `-a`
    AddServer(ServiceKey, RealServer),
    /// `-e`
    EditServer(ServiceKey, RealServer),
    /// `-d`
    DeleteServer(ServiceKey, Endpoint),
    /// `-C`
    Flush,
    /// `-Z`, of one service or of all.
    Zero(Option<ServiceKey>),
    /// `--set`
    SetTimeouts(TimeoutSettings),
}
