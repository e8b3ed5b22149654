//! Everything a director is given when it is made.

use core::ops::RangeInclusive;

use crate::answer::IcmpLimits;
use crate::conn::Capacity;
use crate::environment::{Environment, MarkRule};
use crate::fragment::FragmentLimits;
use crate::sysctl::Sysctl;

/// What to do with packets that are not the director's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PassPolicy {
    /// Say [`Verdict::Pass`](crate::Verdict::Pass): the owner can give them to a host stack.
    #[default]
    Pass,
    /// There is no host behind the engine (TUN, replay): answer for it as Linux would. A TCP segment for a
    /// VIP or own address without a connection gets a RST, a datagram a port unreachable, a ping its reply;
    /// other traffic of a real server is forwarded untranslated; the rest is dropped.
    Answer,
}

/// Hard limits; reaching one is a drop reason with a counter, never an allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections per address family.
    pub connections: Capacity,
    /// Datagrams waiting for fragments.
    pub fragments: FragmentLimits,
    /// Ports that FULLNAT uses on each local address.
    pub local_ports: RangeInclusive<u16>,
    /// Packets waiting in `poll_transmit`.
    pub outgoing: usize,
    /// Paths whose MTU is remembered.
    pub paths: usize,
    /// Groups of 64 connections that one `handle_timeout` looks at.
    pub expiry_steps: u32,
}

impl Default for Limits {
    /// 65,536 IPv4 and 65,536 IPv6 connections (about 16 MiB).
    fn default() -> Self {
        Self {
            connections: Capacity { ipv4: 1 << 16, ipv6: 1 << 16 },
            fragments: FragmentLimits::default(),
            local_ports: 1024..=65535,
            outgoing: 4096,
            paths: 4096,
            expiry_steps: 1024,
        }
    }
}

/// Switches of FULLNAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FullNatOptions {
    /// Tell the server the client's address by the TCP option TOA, on the SYN and on the packet after it. Options of
    /// that kind (253, 254) that a client itself has put in are overwritten.
    pub toa: bool,
    /// Overwrite the timestamp option of a client's SYN, so that servers which keep per-address timestamps
    /// do not take clients behind one local address for one another.
    pub blank_timestamp: bool,
}

impl Default for FullNatOptions {
    fn default() -> Self {
        Self { toa: true, blank_timestamp: false }
    }
}

/// Everything a director is given when it is made.
///
/// # Examples
/// ```
/// use lvs_core::{Config, Director};
/// let director = Director::new(Config::default());
/// assert_eq!(director.connection_count(), 0);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Hard limits.
    pub limits: Limits,
    /// The `net.ipv4.vs.*` switches.
    pub sysctl: Sysctl,
    /// Own addresses and MTUs.
    pub environment: Environment,
    /// What becomes of packets that are not the director's.
    pub pass: PassPolicy,
    /// Marks for packets that bring none.
    pub mark_rules: Vec<MarkRule>,
    /// FULLNAT switches.
    pub fullnat: FullNatOptions,
    /// Limits of own ICMP errors; `None` = no limit.
    pub icmp_limits: Option<IcmpLimits>,
    /// Secret of the hash tables and start of identification counters. Random in production; fixed, the same
    /// packets give the same bytes.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            sysctl: Sysctl::default(),
            environment: Environment::default(),
            pass: PassPolicy::default(),
            mark_rules: Vec::new(),
            fullnat: FullNatOptions::default(),
            icmp_limits: Some(IcmpLimits::default()),
            seed: 0,
        }
    }
}
