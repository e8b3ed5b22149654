//! FULLNAT's local ports: which address and port of the director stands in for a client towards a server.
//!
//! A server sees `local address:local port` as its client. The return tuple `<server, local address:port, protocol>`
//! must name one connection, so ports are given out per local address, server and protocol: each such triple has
//! the whole range, 64,512 ports by default. A port that comes back waits behind all that are free longer, so that
//! late segments of the old connection do not meet a new one. Nothing here knows a connection or a packet.

use std::collections::{HashMap, VecDeque};

use core::net::IpAddr;
use core::ops::RangeInclusive;

use ahash::RandomState;
use lvs_sched::{Endpoint, Protocol};

/// The ports that are given out by default: all but the well-known ones.
pub const DEFAULT_LOCAL_PORTS: RangeInclusive<u16> = 1024..=65535;

/// Gives out local endpoints, none twice at a time.
///
/// # Memory
/// A triple of local address, server and protocol takes 16 KiB at its first port (two bits for each port of the range,
/// with the default range) and up to 128 KiB more for the queue of free ports, which grows as far as ports were ever in
/// use and free at once. How many triples there are is up to the configuration, not to clients.
///
/// # Examples
/// ```
/// use lvs_core::local_ports::{DEFAULT_LOCAL_PORTS, LocalPorts};
/// use lvs_core::Protocol;
/// let mut ports = LocalPorts::new(DEFAULT_LOCAL_PORTS, 7);
/// let pool = ["10.0.2.1".parse()?, "10.0.2.2".parse()?];
/// let server = "10.0.2.11:8080".parse()?;
/// let local = ports.allocate(&pool, server, Protocol::Tcp, 42).expect("all are free");
/// assert!(pool.contains(&local.addr) && local.port >= 1024);
/// ports.free(local, server, Protocol::Tcp);
/// assert_eq!(ports.in_use(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct LocalPorts {
    first: u16,
    /// How many ports the range has.
    count: u32,
    towards: HashMap<Towards, Ports, RandomState>,
    in_use: u64,
    exhausted: u64,
}

impl LocalPorts {
    /// Makes an allocator of the ports of `range`; port 0 is never given out, an empty range has no ports.
    ///
    /// `seed` decides with which port each triple begins, and keys the hash table.
    pub fn new(range: RangeInclusive<u16>, seed: u64) -> Self {
        let first = (*range.start()).max(1);
        let count = (u32::from(*range.end()) + 1).saturating_sub(u32::from(first));
        let hasher = RandomState::with_seeds(seed, !seed, seed.rotate_left(32), 0);
        Self { first, count, towards: HashMap::with_hasher(hasher), in_use: 0, exhausted: 0 }
    }

    /// Gives out a local endpoint towards `server`, or `None` when every address of `pool` has used up its ports.
    ///
    /// The search starts at the address that `flow_hash` points to (any number that spreads: a hash of the flow, or a
    /// counter) and goes on to the next one when an address has none left. Addresses of another family than the
    /// server's are passed over. Ports never used before come first, in order from a start that the seed decides; then
    /// the one that is free for the longest time. Constant time for each address tried.
    pub fn allocate(
        &mut self,
        pool: &[IpAddr],
        server: Endpoint,
        protocol: Protocol,
        flow_hash: u64,
    ) -> Option<Endpoint> {
        let start = flow_hash.checked_rem(pool.len() as u64).unwrap_or(0) as usize;
        let (behind, ahead) = pool.split_at(start);
        for local in ahead.iter().chain(behind) {
            if local.is_ipv4() != server.addr.is_ipv4() {
                continue;
            }
            if let Some(index) = self.ports(Towards { local: *local, server, protocol }).take() {
                self.in_use += 1;
                return Some(Endpoint::new(*local, self.first + index));
            }
        }
        self.exhausted += 1;
        None
    }

    /// Takes back the endpoint `local` that was given out towards `server`.
    ///
    /// # Panics
    /// In debug builds when it is not in use; release builds ignore that.
    pub fn free(&mut self, local: Endpoint, server: Endpoint, protocol: Protocol) {
        let index = self.index(local.port);
        let towards = Towards { local: local.addr, server, protocol };
        let freed = match (self.towards.get_mut(&towards), index) {
            (Some(ports), Some(index)) => ports.free(index),
            _ => false,
        };
        debug_assert!(freed, "{local} towards {server} is freed but not in use");
        self.in_use -= u64::from(freed);
    }

    /// Marks the endpoint `local` towards `server` as given out: a connection restored from a snapshot has it.
    ///
    /// Returns false, and changes nothing, when it is in use already or its port is outside the range. Constant time
    /// for a port that was never given out, else linear in the free ports.
    pub fn reserve(&mut self, local: Endpoint, server: Endpoint, protocol: Protocol) -> bool {
        let Some(index) = self.index(local.port) else {
            return false;
        };
        let reserved = self.ports(Towards { local: local.addr, server, protocol }).reserve(index);
        self.in_use += u64::from(reserved);
        reserved
    }

    /// Frees the memory kept for a server that was removed, as far as no endpoint towards it is in use. Linear in
    /// the triples.
    pub fn forget(&mut self, server: Endpoint, protocol: Protocol) {
        self.towards.retain(|towards, ports| {
            (towards.server, towards.protocol) != (server, protocol) || ports.in_use > 0
        });
    }

    /// Endpoints given out at the moment.
    pub fn in_use(&self) -> u64 {
        self.in_use
    }

    /// Endpoints given out at the moment from one local address towards one server.
    pub fn in_use_towards(&self, local: IpAddr, server: Endpoint, protocol: Protocol) -> u32 {
        self.towards.get(&Towards { local, server, protocol }).map_or(0, |ports| ports.in_use)
    }

    /// How often [`allocate`](Self::allocate) found nothing.
    pub fn exhausted(&self) -> u64 {
        self.exhausted
    }

    /// Bytes held for the ports of all triples.
    pub fn memory_bytes(&self) -> usize {
        let of_one = |ports: &Ports| ports.used.len() * 16 + ports.freed.capacity() * size_of::<u16>();
        self.towards.values().map(of_one).sum::<usize>()
            + self.towards.capacity() * size_of::<(Towards, Ports)>()
    }

    /// A port's place in the range.
    fn index(&self, port: u16) -> Option<u16> {
        port.checked_sub(self.first).filter(|index| u32::from(*index) < self.count)
    }

    fn ports(&mut self, towards: Towards) -> &mut Ports {
        let start = self.towards.hasher().hash_one(towards).checked_rem(u64::from(self.count)).unwrap_or(0);
        self.towards.entry(towards).or_insert_with(|| Ports::new(self.count, start as u32))
    }
}

/// A triple that has a range of ports of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Towards {
    local: IpAddr,
    server: Endpoint,
    protocol: Protocol,
}

/// The ports of one triple, by their place in the range.
///
/// A port is in use, or in `freed`, or was never given out.
#[derive(Debug)]
struct Ports {
    count: u32,
    start: u32,
    /// How many places, counted from `start`, were looked at for a port never given out.
    looked_at: u32,
    /// Free ports that were in use, the longest free one first.
    freed: VecDeque<u16>,
    /// Which ports are in use.
    used: Box<[u64]>,
    /// Which ports were ever given out or reserved.
    seen: Box<[u64]>,
    in_use: u32,
}

impl Ports {
    fn new(count: u32, start: u32) -> Self {
        let bits = vec![0u64; (count as usize).div_ceil(64)].into_boxed_slice();
        Self { count, start, looked_at: 0, freed: VecDeque::new(), used: bits.clone(), seen: bits, in_use: 0 }
    }

    fn take(&mut self) -> Option<u16> {
        while self.looked_at < self.count {
            let index = ((self.start + self.looked_at) % self.count) as u16;
            self.looked_at += 1;
            if !bit(&self.seen, index) {
                self.mark_used(index);
                return Some(index);
            }
        }
        let index = self.freed.pop_front()?;
        debug_assert!(!bit(&self.used, index), "a port in the queue is free");
        self.mark_used(index);
        Some(index)
    }

    fn free(&mut self, index: u16) -> bool {
        if !bit(&self.used, index) {
            return false;
        }
        self.used[usize::from(index) / 64] &= !(1 << (index % 64));
        self.in_use -= 1;
        self.freed.push_back(index);
        true
    }

    fn reserve(&mut self, index: u16) -> bool {
        if bit(&self.used, index) {
            return false;
        }
        if bit(&self.seen, index) {
            self.freed.retain(|freed| *freed != index);
        }
        self.mark_used(index);
        true
    }

    fn mark_used(&mut self, index: u16) {
        self.used[usize::from(index) / 64] |= 1 << (index % 64);
        self.seen[usize::from(index) / 64] |= 1 << (index % 64);
        self.in_use += 1;
    }
}

fn bit(bits: &[u64], index: u16) -> bool {
    bits[usize::from(index) / 64] & (1 << (index % 64)) != 0
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn default_range_has_over_60_000_ports_for_each_triple() {
        let mut ports = LocalPorts::new(DEFAULT_LOCAL_PORTS, 1);
        for (server, protocol) in
            [(server(1), Protocol::Tcp), (server(1), Protocol::Udp), (server(2), Protocol::Tcp)]
        {
            let given: HashSet<_> =
                (0..64_512).map(|_| take(&mut ports, &[LIP], server, protocol).unwrap()).collect();
            assert_eq!(given.len(), 64_512);
            assert!(given.iter().all(|local| local.addr == LIP && local.port >= 1024));
            assert_eq!(take(&mut ports, &[LIP], server, protocol), None);
        }
        assert_eq!((ports.in_use(), ports.exhausted()), (3 * 64_512, 3));
        assert_eq!(ports.in_use_towards(LIP, server(2), Protocol::Tcp), 64_512);
    }

    #[test]
    fn ports_never_used_come_first_and_in_order() {
        let mut ports = LocalPorts::new(100..=103, 5);
        let first = take(&mut ports, &[LIP], server(1), Protocol::Tcp).unwrap().port;
        ports.free(Endpoint::new(LIP, first), server(1), Protocol::Tcp);
        let next = |offset| 100 + (first - 100 + offset) % 4;
        for expected in [next(1), next(2), next(3), first] {
            assert_eq!(take(&mut ports, &[LIP], server(1), Protocol::Tcp).unwrap().port, expected);
        }
    }

    #[test]
    fn longest_free_port_comes_back_first() {
        let mut ports = LocalPorts::new(100..=109, 5);
        for _ in 0..10 {
            take(&mut ports, &[LIP], server(1), Protocol::Tcp).unwrap();
        }
        let order = [107, 101, 104, 100, 109];
        for port in order {
            ports.free(Endpoint::new(LIP, port), server(1), Protocol::Tcp);
        }
        for port in order {
            assert_eq!(take(&mut ports, &[LIP], server(1), Protocol::Tcp).unwrap().port, port);
        }
    }

    #[test]
    fn seed_decides_where_a_triple_begins() {
        let starts: HashSet<_> = (0..20)
            .map(|seed| {
                take(&mut LocalPorts::new(DEFAULT_LOCAL_PORTS, seed), &[LIP], server(1), Protocol::Tcp)
            })
            .collect();
        assert!(starts.len() > 10, "20 seeds began at {} ports only", starts.len());
    }

    #[test]
    fn hash_spreads_over_the_pool_and_an_empty_address_gives_way() {
        let mut ports = LocalPorts::new(100..=101, 5);
        let pool = [lip(1), lip(2), lip(3)];
        let mut addr = |hash| ports.allocate(&pool, server(1), Protocol::Tcp, hash).map(|local| local.addr);
        assert_eq!([addr(0), addr(1), addr(2)], [Some(lip(1)), Some(lip(2)), Some(lip(3))]);
        assert_eq!([addr(2), addr(2), addr(2)], [Some(lip(3)), Some(lip(1)), Some(lip(2))]);
        assert_eq!(addr(2), None);
    }

    #[test]
    fn addresses_of_the_other_family_and_empty_pools_give_nothing() {
        let mut ports = LocalPorts::new(DEFAULT_LOCAL_PORTS, 5);
        let v6: IpAddr = "2001:db8::1".parse().unwrap();
        assert_eq!(take(&mut ports, &[v6], server(1), Protocol::Tcp), None);
        assert_eq!(take(&mut ports, &[], server(1), Protocol::Tcp), None);
        assert_eq!(take(&mut ports, &[v6, LIP], server(1), Protocol::Tcp).unwrap().addr, LIP);
        assert_eq!(ports.exhausted(), 2);
    }

    #[test]
    #[expect(clippy::reversed_empty_ranges, reason = "an empty range is the case")]
    fn empty_range_and_port_0_give_nothing() {
        let mut ports = LocalPorts::new(5..=4, 1);
        assert_eq!(take(&mut ports, &[LIP], server(1), Protocol::Tcp), None);
        assert!(!ports.reserve(Endpoint::new(LIP, 5), server(1), Protocol::Tcp));
        let mut ports = LocalPorts::new(0..=1, 1);
        assert_eq!(take(&mut ports, &[LIP], server(1), Protocol::Tcp).unwrap().port, 1);
        assert_eq!(take(&mut ports, &[LIP], server(1), Protocol::Tcp), None);
    }

    #[test]
    fn reserved_port_is_not_given_out() {
        let mut ports = LocalPorts::new(100..=103, 5);
        assert!(ports.reserve(Endpoint::new(LIP, 102), server(1), Protocol::Tcp));
        assert!(!ports.reserve(Endpoint::new(LIP, 102), server(1), Protocol::Tcp));
        assert!(!ports.reserve(Endpoint::new(LIP, 99), server(1), Protocol::Tcp));
        let given: Vec<_> = core::iter::from_fn(|| take(&mut ports, &[LIP], server(1), Protocol::Tcp))
            .map(|local| local.port)
            .collect();
        assert_eq!(given.len(), 3);
        assert!(!given.contains(&102));
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "freed but not in use")]
    fn double_free_is_noticed_in_debug_builds() {
        let mut ports = LocalPorts::new(DEFAULT_LOCAL_PORTS, 5);
        let local = take(&mut ports, &[LIP], server(1), Protocol::Tcp).unwrap();
        ports.free(local, server(1), Protocol::Tcp);
        ports.free(local, server(1), Protocol::Tcp);
    }

    #[test]
    fn double_free_changes_nothing() {
        let mut ports = Ports::new(2, 0);
        let index = ports.take().unwrap();
        assert!(ports.free(index));
        assert!(!ports.free(index));
        assert_eq!((ports.take(), ports.take(), ports.take()), (Some(1), Some(0), None));
    }

    #[test]
    fn hundred_cycles_of_filling_and_freeing_leak_nothing() {
        let mut ports = LocalPorts::new(1024..=5119, 3);
        let mut memory = 0;
        for cycle in 0..100 {
            let given: Vec<_> =
                core::iter::from_fn(|| take(&mut ports, &[LIP], server(1), Protocol::Tcp)).collect();
            assert_eq!(given.len(), 4096);
            for local in given {
                ports.free(local, server(1), Protocol::Tcp);
            }
            assert_eq!(ports.in_use(), 0);
            if cycle == 0 {
                memory = ports.memory_bytes();
            }
        }
        assert_eq!(ports.memory_bytes(), memory);
        ports.forget(server(1), Protocol::Tcp);
        assert!(ports.towards.is_empty());
    }

    #[test]
    fn memory_of_a_triple_is_as_documented() {
        let mut ports = LocalPorts::new(DEFAULT_LOCAL_PORTS, 3);
        take(&mut ports, &[LIP], server(1), Protocol::Tcp).unwrap();
        let table = ports.towards.capacity() * size_of::<(Towards, Ports)>();
        assert!(ports.memory_bytes() - table <= 16 << 10);
        // All in use, all free, and then many turns: the queue does not grow beyond the ports.
        let given: Vec<_> =
            core::iter::from_fn(|| take(&mut ports, &[LIP], server(1), Protocol::Tcp)).collect();
        for local in given {
            ports.free(local, server(1), Protocol::Tcp);
        }
        for _ in 0..100_000 {
            let local = take(&mut ports, &[LIP], server(1), Protocol::Tcp).unwrap();
            ports.free(local, server(1), Protocol::Tcp);
        }
        assert!(ports.memory_bytes() - table <= (16 + 128) << 10);
    }

    #[test]
    fn forget_keeps_what_is_in_use() {
        let mut ports = LocalPorts::new(DEFAULT_LOCAL_PORTS, 3);
        let local = take(&mut ports, &[LIP], server(1), Protocol::Tcp).unwrap();
        ports.forget(server(1), Protocol::Tcp);
        ports.free(local, server(1), Protocol::Tcp);
        ports.forget(server(1), Protocol::Tcp);
        assert_eq!((ports.in_use(), ports.towards.len()), (0, 0));
    }

    /// One command of a random history.
    #[derive(Debug, Clone)]
    enum Step {
        Take { server: u8, hash: u64 },
        Free(prop::sample::Index),
        Reserve { lip: u8, port: u16, server: u8 },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..2u8, any::<u64>()).prop_map(|(server, hash)| Step::Take { server, hash }),
            2 => any::<prop::sample::Index>().prop_map(Step::Free),
            1 => (0..2u8, 98..112u16, 0..2u8).prop_map(|(lip, port, server)| Step::Reserve { lip, port, server }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// Against a model that knows only what is out: never a duplicate, `None` exactly when all are out, and
        /// what comes back waits behind everything that was free before.
        #[test]
        fn any_history_keeps_the_rules(seed: u64, steps in prop::collection::vec(step(), 0..200)) {
            const RANGE: RangeInclusive<u16> = 100..=109;
            let pool = [lip(0), lip(1)];
            let mut ports = LocalPorts::new(RANGE, seed);
            let mut out: Vec<(Endpoint, u8)> = Vec::new();
            // Freed at least once and free now, the longest free one first.
            let mut waiting: Vec<(Endpoint, u8)> = Vec::new();
            let mut ever = HashSet::new();
            for step in steps {
                match step {
                    Step::Take { server: number, hash } => {
                        match ports.allocate(&pool, server(number), Protocol::Tcp, hash) {
                            None => prop_assert_eq!(out.iter().filter(|(_, to)| *to == number).count(), 20),
                            Some(local) => {
                                let given = (local, number);
                                prop_assert!(RANGE.contains(&local.port) && !out.contains(&given));
                                if ever.contains(&given) {
                                    let same = |(other, to): &&(Endpoint, u8)| other.addr == local.addr && *to == number;
                                    prop_assert_eq!(waiting.iter().find(same), Some(&given));
                                    let fresh = ever.iter().filter(same).count();
                                    prop_assert_eq!(fresh, 10, "a port came back before a fresh one");
                                }
                                waiting.retain(|other| *other != given);
                                ever.insert(given);
                                out.push(given);
                            }
                        }
                    }
                    Step::Free(which) => {
                        if !out.is_empty() {
                            let given = out.swap_remove(which.index(out.len()));
                            ports.free(given.0, server(given.1), Protocol::Tcp);
                            waiting.push(given);
                        }
                    }
                    Step::Reserve { lip: addr, port, server: number } => {
                        let wanted = (Endpoint::new(lip(addr), port), number);
                        let possible = RANGE.contains(&port) && !out.contains(&wanted);
                        prop_assert_eq!(ports.reserve(wanted.0, server(number), Protocol::Tcp), possible);
                        if possible {
                            waiting.retain(|other| *other != wanted);
                            ever.insert(wanted);
                            out.push(wanted);
                        }
                    }
                }
                prop_assert_eq!(ports.in_use(), out.len() as u64);
            }
        }
    }

    const LIP: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(10, 0, 2, 1));

    fn lip(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 2, 100 + number])
    }

    fn server(number: u8) -> Endpoint {
        Endpoint::new(IpAddr::from([10, 0, 3, number]), 8080)
    }

    fn take(
        ports: &mut LocalPorts,
        pool: &[IpAddr],
        server: Endpoint,
        protocol: Protocol,
    ) -> Option<Endpoint> {
        ports.allocate(pool, server, protocol, 0)
    }
}
