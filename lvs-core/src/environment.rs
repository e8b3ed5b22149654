//! What the engine cannot know by itself: own addresses, MTUs, marks. Given by the owner as one value.

use core::net::IpAddr;
use core::ops::RangeInclusive;

use lvs_sched::Protocol;

use crate::prefix::Prefix;
use crate::service::Family;
use crate::wire::Tuple;

/// MTU of Ethernet, in bytes.
pub const DEFAULT_MTU: u16 = 1500;

/// The smallest MTU that IPv4 allows (RFC 791), in bytes.
pub const MIN_MTU_V4: u16 = 68;

/// The smallest MTU that IPv6 allows (RFC 8200), in bytes.
pub const MIN_MTU_V6: u16 = 1280;

/// The MTU on the way to a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub prefix: Prefix,
    /// MTU of the link, in bytes.
    pub mtu: u16,
}

/// The director's surroundings.
///
/// # Examples
/// ```
/// use lvs_core::Environment;
/// let environment = Environment { addresses: vec!["10.0.2.1".parse().unwrap()], ..Environment::default() };
/// assert_eq!(environment.mtu_to("10.0.2.11".parse().unwrap()), 1500);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// The director's own addresses; the first of each family is the source of its tunnels and own ICMP.
    pub addresses: Vec<IpAddr>,
    /// MTU towards everything that no route names, in bytes.
    pub mtu: u16,
    /// MTUs of particular prefixes; the longest match counts.
    pub routes: Vec<Route>,
}

impl Default for Environment {
    fn default() -> Self {
        Self { addresses: Vec::new(), mtu: DEFAULT_MTU, routes: Vec::new() }
    }
}

impl Environment {
    /// The source of own packets of a family.
    pub fn source(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|addr| Family::of(addr) == family)
    }

    /// Whether an address is the director's own.
    pub fn is_own(&self, addr: IpAddr) -> bool {
        self.addresses.contains(&addr)
    }

    /// MTU of the link towards an address, in bytes.
    pub fn mtu_to(&self, addr: IpAddr) -> u16 {
        let longest = self
            .routes
            .iter()
            .filter(|route| route.prefix.contains(addr))
            .max_by_key(|route| route.prefix.bits());
        longest.map_or(self.mtu, |route| route.mtu)
    }
}

/// Gives packets a mark, in place of a firewall: the first rule that matches counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkRule {
    /// Only this protocol, or all.
    pub protocol: Option<Protocol>,
    /// Destinations.
    pub destination: Prefix,
    /// Destination ports.
    pub ports: RangeInclusive<u16>,
    /// The mark to give, not 0.
    pub mark: u32,
}

impl MarkRule {
    /// Whether a flow gets this mark.
    pub fn matches(&self, tuple: &Tuple) -> bool {
        self.protocol.is_none_or(|protocol| protocol == tuple.protocol)
            && self.ports.contains(&tuple.dst.port)
            && self.destination.contains(tuple.dst.addr)
    }
}
