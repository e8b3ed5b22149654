//! One connection as it lies in memory: addresses of its family, then what every packet reads or writes.

use core::hash::{BuildHasher, Hasher};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lvs_sched::{Endpoint, Protocol, ServerId};

use super::{ConnFlags, Connection, Method, State};
use crate::service::Family;
use crate::wire::Tuple;

/// [`Hot::cold`] of a connection that has no cold side.
pub const NO_COLD: u32 = u32::MAX;

/// Set in [`Hot::code`] for persistence templates, so that a packet's tuple never finds one. The codes of
/// TCP, UDP and SCTP (6, 17, 132) have the bit clear.
const TEMPLATE_BIT: u8 = 0x40;

/// What both families keep of a connection beside its addresses; 40 bytes.
///
/// The public fields are the owner's to write. Protocol, method, generation and expiry are not among them:
/// the index and the sweep depend on them.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Hot {
    /// Protocol number, [`TEMPLATE_BIT`]; 0 = the slot is vacant.
    code: u8,
    /// State of the protocol's machine.
    pub state: State,
    /// Flags. `TEMPLATE` and `NO_CLIENT_PORT` only inform here: the index goes by what was inserted.
    pub flags: ConnFlags,
    method: Method,
    unused: [u8; 3],
    /// Which server record it counts at.
    pub server_id: ServerId,
    /// Ticks since the table's epoch.
    pub(super) expires: u32,
    pub(super) generation: u32,
    /// Checksum delta of the addresses for a packet from the client; the owner's, opaque here.
    pub addr_delta: u16,
    /// Checksum delta of the ports for a packet from the client; the owner's, opaque here.
    pub port_delta: u16,
    /// The owner's index of what few connections have (sequence deltas, its template); [`NO_COLD`] = none.
    /// In a vacant slot the next vacant one.
    pub cold: u32,
    /// A template's live connections. As long as there are any it neither expires nor is evicted.
    pub children: u32,
    /// Packets from the client so far (saturating).
    pub packets: u32,
    /// Mark of the packet that created it; 0 = none.
    pub mark: u32,
}

impl Hot {
    /// TCP, UDP or SCTP.
    #[inline]
    pub fn protocol(&self) -> Protocol {
        match self.code & !TEMPLATE_BIT {
            17 => Protocol::Udp,
            132 => Protocol::Sctp,
            _ => Protocol::Tcp,
        }
    }

    /// How packets reach the server.
    #[inline]
    pub fn method(&self) -> Method {
        self.method
    }

    /// Whether it was inserted as a persistence template.
    #[inline]
    pub fn is_template(&self) -> bool {
        self.code & TEMPLATE_BIT != 0
    }

    /// Whether it has not expired at this tick. A template lives as long as its connections.
    #[inline]
    pub(super) fn is_live(&self, now: u32) -> bool {
        self.expires > now || self.children != 0
    }

    #[inline]
    pub(super) fn in_use(&self) -> bool {
        self.code != 0
    }

    #[inline]
    pub(super) fn code(&self) -> u8 {
        self.code
    }
}

/// The code that entries of this protocol have: `Hot::code` for flows or for templates.
#[inline]
pub(super) fn code_of(protocol: Protocol, template: bool) -> u8 {
    protocol.number() | if template { TEMPLATE_BIT } else { 0 }
}

/// IPv4 or IPv6 in the table's memory.
pub(super) trait Address: Copy + Eq + Into<IpAddr> + core::fmt::Debug {
    const FAMILY: Family;
    const UNSPECIFIED: Self;

    fn from_ip(addr: IpAddr) -> Option<Self>;

    /// Feeds addresses, ports and protocol code to a hasher in as few words as they need.
    fn feed(key: &Key<Self>, code: u8, hasher: &mut impl Hasher);
}

impl Address for Ipv4Addr {
    const FAMILY: Family = Family::V4;
    const UNSPECIFIED: Self = Self::UNSPECIFIED;

    #[inline]
    fn from_ip(addr: IpAddr) -> Option<Self> {
        match addr {
            IpAddr::V4(addr) => Some(addr),
            IpAddr::V6(_) => None,
        }
    }

    #[inline]
    fn feed(key: &Key<Self>, code: u8, hasher: &mut impl Hasher) {
        let addrs = u64::from(key.src.to_bits()) << 32 | u64::from(key.dst.to_bits());
        hasher.write_u128(u128::from(addrs) << 64 | u128::from(key.ports_and(code)));
    }
}

impl Address for Ipv6Addr {
    const FAMILY: Family = Family::V6;
    const UNSPECIFIED: Self = Self::UNSPECIFIED;

    #[inline]
    fn from_ip(addr: IpAddr) -> Option<Self> {
        match addr {
            IpAddr::V4(_) => None,
            IpAddr::V6(addr) => Some(addr),
        }
    }

    #[inline]
    fn feed(key: &Key<Self>, code: u8, hasher: &mut impl Hasher) {
        hasher.write_u128(key.src.to_bits());
        hasher.write_u128(key.dst.to_bits());
        hasher.write_u64(key.ports_and(code));
    }
}

/// A flow key of one family without the protocol: 12 bytes for IPv4, 36 for IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Key<A> {
    pub(super) src: A,
    pub(super) dst: A,
    pub(super) sport: u16,
    pub(super) dport: u16,
}

impl<A: Address> Key<A> {
    #[inline]
    fn ports_and(&self, code: u8) -> u64 {
        u64::from(code) << 32 | u64::from(self.sport) << 16 | u64::from(self.dport)
    }

    fn of(src: Endpoint, dst: Endpoint) -> Option<Self> {
        Some(Self {
            src: A::from_ip(src.addr)?,
            dst: A::from_ip(dst.addr)?,
            sport: src.port,
            dport: dst.port,
        })
    }

    fn sender(&self) -> Endpoint {
        Endpoint::new(self.src.into(), self.sport)
    }

    fn receiver(&self) -> Endpoint {
        Endpoint::new(self.dst.into(), self.dport)
    }
}

/// The keyed hash of the table. With a secret seed a sender cannot choose tuples that meet in one bucket.
#[derive(Debug, Clone)]
pub(super) struct KeyHasher {
    state: ahash::RandomState,
    /// Tests clear bits here to make tuples meet.
    #[cfg(test)]
    pub(super) mask: u64,
}

impl KeyHasher {
    pub(super) fn new(seed: u64) -> Self {
        let mut counter = seed;
        let mut word = || {
            // SplitMix64 (Steele, Lea, Flood 2014): four unrelated words from one.
            counter = counter.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = counter;
            z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ z >> 31
        };
        Self {
            state: ahash::RandomState::with_seeds(word(), word(), word(), word()),
            #[cfg(test)]
            mask: u64::MAX,
        }
    }

    #[inline]
    pub(super) fn hash<A: Address>(&self, key: &Key<A>, code: u8) -> u64 {
        let mut hasher = self.state.build_hasher();
        A::feed(key, code, &mut hasher);
        let hash = hasher.finish();
        #[cfg(test)]
        let hash = hash & self.mask;
        hash
    }
}

/// A packet's flow key in the form of its family.
#[derive(Debug, Clone, Copy)]
pub(super) enum FamilyKey {
    V4(Key<Ipv4Addr>),
    V6(Key<Ipv6Addr>),
}

impl FamilyKey {
    /// `None` when sender and receiver are of different families: no packet is like that.
    #[inline]
    pub(super) fn of(tuple: &Tuple) -> Option<Self> {
        let (sport, dport) = (tuple.src.port, tuple.dst.port);
        match (tuple.src.addr, tuple.dst.addr) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => Some(Self::V4(Key { src, dst, sport, dport })),
            (IpAddr::V6(src), IpAddr::V6(dst)) => Some(Self::V6(Key { src, dst, sport, dport })),
            _ => None,
        }
    }
}

/// A slot: 64 bytes for IPv4, 128 for IPv6.
///
/// | Bytes (IPv4) | |
/// |---|---|
/// | 0..12 | client address, VIP, client port, service port |
/// | 12..24 | server address, local address, server port, local port |
/// | 24..64 | [`Hot`] |
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Entry<A> {
    /// A packet from the client: client to service.
    pub(super) from_client: Key<A>,
    /// A packet from the server: server to local.
    pub(super) from_server: Key<A>,
    pub(super) hot: Hot,
}

const _: () = assert!(size_of::<Hot>() == 40);
const _: () = assert!(size_of::<Key<Ipv4Addr>>() == 12 && size_of::<Key<Ipv6Addr>>() == 36);
const _: () = assert!(size_of::<Entry<Ipv4Addr>>() == 64 && align_of::<Entry<Ipv4Addr>>() == 64);
const _: () = assert!(size_of::<Entry<Ipv6Addr>>() == 128 && align_of::<Entry<Ipv6Addr>>() == 64);

impl<A: Address> Entry<A> {
    /// Packs a connection; `None` when its addresses cannot be held: client and service of two families, or a
    /// rewriting method with server or local address of the other family.
    ///
    /// Expiry and generation are left 0.
    pub(super) fn pack(conn: &Connection) -> Option<Self> {
        let template = conn.flags.contains(ConnFlags::TEMPLATE);
        let mut from_client = Key::of(conn.client, conn.service)?;
        let mut from_server = match Key::of(conn.server, conn.local) {
            Some(key) => key,
            None if conn.method.sees_replies() && !template => return None,
            // A tunnel may lead into the other family: the server is then known by its id alone.
            None => Key {
                src: A::from_ip(conn.server.addr).unwrap_or(A::UNSPECIFIED),
                dst: A::from_ip(conn.local.addr).unwrap_or(A::UNSPECIFIED),
                sport: conn.server.port,
                dport: conn.local.port,
            },
        };
        if conn.flags.contains(ConnFlags::NO_CLIENT_PORT) {
            if conn.local == conn.client {
                from_server.dport = 0;
            }
            from_client.sport = 0;
        }
        let hot = Hot {
            code: code_of(conn.protocol, template),
            state: conn.state,
            flags: conn.flags,
            method: conn.method,
            unused: [0; 3],
            server_id: conn.server_id,
            expires: 0,
            generation: 0,
            addr_delta: 0,
            port_delta: 0,
            cold: NO_COLD,
            children: 0,
            packets: conn.packets,
            mark: conn.mark,
        };
        Some(Self { from_client, from_server, hot })
    }

    /// The connection as a value; `expires` as the caller converted it.
    #[inline]
    pub(super) fn unpack(&self, expires: lvs_sched::Instant) -> Connection {
        Connection {
            protocol: self.hot.protocol(),
            client: self.from_client.sender(),
            service: self.from_client.receiver(),
            server: self.from_server.sender(),
            local: self.from_server.receiver(),
            method: self.hot.method,
            server_id: self.hot.server_id,
            state: self.hot.state,
            flags: self.hot.flags,
            mark: self.hot.mark,
            packets: self.hot.packets,
            expires,
        }
    }

    /// The key of packets from the server, for connections whose replies pass the director.
    #[inline]
    pub(super) fn reply_key(&self) -> Option<Key<A>> {
        // A server that is its own client would have one key twice; it is held once.
        let seen = self.hot.method.sees_replies() && !self.hot.is_template();
        (seen && self.from_server != self.from_client).then_some(self.from_server)
    }

    /// Makes the slot vacant; ids of what it held no longer match.
    pub(super) fn vacate(&mut self, next: u32) {
        self.hot.code = 0;
        self.hot.children = 0;
        self.hot.generation = self.hot.generation.wrapping_add(1);
        self.hot.cold = next;
    }
}
