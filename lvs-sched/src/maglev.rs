//! `maglev`: the table of the Maglev paper with weights, the same in every director. It looks at the client's
//! address (and port). Not a kernel scheduler.

use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;

use siphasher::sip::SipHasher24;

use crate::permutation::{Entrant, fill};
use crate::{Change, Endpoint, Flow, Instant, Scheduler, SchedulerFlags, Server};

/// The size of a [`Maglev`] table.
///
/// Take at least 100 slots per server: the heaviest loaded slot share is then about 1 % off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum MaglevSize {
    /// 65537 slots (256 KiB): up to about 650 servers.
    #[default]
    Small,
    /// 655373 slots (2.5 MiB): up to about 6500 servers.
    Large,
}

impl MaglevSize {
    /// Slots of the table, a prime.
    pub const fn slots(self) -> usize {
        match self {
            Self::Small => 65_537,
            Self::Large => 655_373,
        }
    }
}

/// `maglev`: the same server for a client in every director that has the same servers and key, and few
/// clients move when a server comes or leaves.
///
/// The table is that of Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer",
/// NSDI 2016, section 3.4: offset and skip of a server's permutation come from SipHash-2-4 of its address and
/// port. Servers take turns in the order of their keys, so the order of the list does not matter; a server
/// of weight *w* takes *w* ÷ (mean weight) turns per round, in equal lists one, and always at least one slot
/// (while there are no more servers than slots).
/// Quiesced servers have no slots: their clients spread over the others. When a client's server is overloaded the
/// answer is `None`; with `maglev-fallback` ([`SchedulerFlags::FALLBACK`]) the following slots are tried. With
/// `maglev-port` ([`SchedulerFlags::PORT`]) each of a client's ports hashes by itself.
///
/// The input of every hash is 19 bytes: a purpose (1 offset, 2 skip, 3 client), the address as IPv6
/// (IPv4 mapped, `::ffff:a.b.c.d`), the port in network order (0 for clients without `maglev-port`).
///
/// # Examples
/// Two directors that learnt their servers in different order agree on every client:
/// ```
/// use lvs_sched::{Flow, Instant, Maglev, Protocol, Scheduler, SchedulerFlags, Server, ServerId, Weight};
/// let server = |id, rip: &str| Ok::<_, lvs_sched::ParseEndpointError>(Server::new(ServerId(id), rip.parse()?, Weight::ONE));
/// let here = [server(1, "10.0.1.1:80")?, server(2, "10.0.1.2:80")?, server(3, "10.0.1.3:80")?];
/// let there = [server(7, "10.0.1.3:80")?, server(8, "10.0.1.1:80")?, server(9, "10.0.1.2:80")?];
/// let (mut first, mut second) = (Maglev::new(SchedulerFlags::empty()), Maglev::new(SchedulerFlags::empty()));
/// for host in 1..=254 {
///     let flow = Flow {
///         protocol: Protocol::Tcp,
///         client: format!("192.0.2.{host}:40000").parse()?,
///         service: "10.0.0.1:80".parse()?,
///     };
///     let a = first.schedule(&flow, &here, Instant::ZERO).map(|index| here[index].key);
///     let b = second.schedule(&flow, &there, Instant::ZERO).map(|index| there[index].key);
///     assert!(a.is_some() && a == b);
/// }
/// # Ok::<(), lvs_sched::ParseEndpointError>(())
/// ```
#[derive(Clone)]
pub struct Maglev {
    flags: SchedulerFlags,
    size: MaglevSize,
    key: [u8; 16],
    /// List indices; empty when nobody has a slot.
    table: Vec<u32>,
    /// What the table was filled from, in list order.
    filled_from: Vec<(Endpoint, u32)>,
    stale: bool,
}

impl Maglev {
    /// The key of [`Maglev::new`]: directors without a configured key agree too.
    pub const DEFAULT_KEY: [u8; 16] = *b"lvs-sched maglev";

    /// Makes the scheduler with 65537 slots and the default key; the table is filled at the next choice.
    pub const fn new(flags: SchedulerFlags) -> Self {
        Self::with_key(flags, MaglevSize::Small, Self::DEFAULT_KEY)
    }

    /// Makes the scheduler with a SipHash key of the caller.
    ///
    /// A secret key keeps clients from choosing their server. Directors that share flows must share the key.
    pub const fn with_key(flags: SchedulerFlags, size: MaglevSize, key: [u8; 16]) -> Self {
        Self { flags, size, key, table: Vec::new(), filled_from: Vec::new(), stale: true }
    }

    fn refill(&mut self, servers: &[Server]) {
        self.stale = false;
        let inputs = servers.iter().map(|server| (server.key, server.weight.get()));
        if inputs.clone().eq(self.filled_from.iter().copied()) {
            return;
        }
        self.filled_from = inputs.collect();

        let mut present: Vec<(Endpoint, u32, u32)> = (0..)
            .zip(&self.filled_from)
            .filter(|(_, (_, weight))| *weight > 0)
            .map(|(index, &(key, weight))| (key, weight, index))
            .collect();
        present.sort_unstable();
        let total: u64 = present.iter().map(|&(_, weight, _)| u64::from(weight)).sum();
        let size = self.size.slots();
        let count = present.len() as u64;
        let entrants = present.into_iter().map(|(key, weight, index)| Entrant {
            index,
            next: (self.hash(PURPOSE_OFFSET, key) % size as u64) as usize,
            skip: (self.hash(PURPOSE_SKIP, key) % (size as u64 - 1)) as usize + 1,
            // Per round weight ÷ mean weight turns = weight × count ÷ total.
            gain: u64::from(weight) * count,
            // Rounds up, so that the lightest server has its turn in the first round.
            credit: total - 1,
        });
        self.table = fill(size, total, entrants.collect());
    }

    fn hash(&self, purpose: u8, endpoint: Endpoint) -> u64 {
        let addr = match endpoint.addr {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        let mut input = [0; 19];
        input[0] = purpose;
        input[1..17].copy_from_slice(&addr.octets());
        input[17..].copy_from_slice(&endpoint.port.to_be_bytes());
        SipHasher24::new_with_key(&self.key).hash(&input)
    }
}

const PURPOSE_OFFSET: u8 = 1;
const PURPOSE_SKIP: u8 = 2;
const PURPOSE_CLIENT: u8 = 3;

impl Scheduler for Maglev {
    fn schedule(&mut self, flow: &Flow, servers: &[Server], _now: Instant) -> Option<usize> {
        if self.stale {
            self.refill(servers);
        }
        if self.table.is_empty() {
            return None;
        }
        let port = if self.flags.contains(SchedulerFlags::PORT) { flow.client.port } else { 0 };
        let client = Endpoint::new(flow.client.addr, port);
        let home = (self.hash(PURPOSE_CLIENT, client) % self.table.len() as u64) as usize;
        let available = |&index: &u32| {
            servers.get(index as usize).is_some_and(Server::is_available).then_some(index as usize)
        };
        available(&self.table[home]).or_else(|| {
            // A walk over all slots that cannot find anybody would make refusing a flow dear.
            if !self.flags.contains(SchedulerFlags::FALLBACK) || !servers.iter().any(Server::is_available) {
                return None;
            }
            let (before, after) = self.table.split_at(home);
            after.iter().chain(before).find_map(available)
        })
    }

    fn changed(&mut self, _change: Change, _servers: &[Server]) {
        self.stale = true;
    }
}

/// Without the key, which may be a secret.
impl fmt::Debug for Maglev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maglev")
            .field("flags", &self.flags)
            .field("size", &self.size)
            .field("servers", &self.filled_from.len())
            .field("stale", &self.stale)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Weight;
    use crate::testing::Service;
    use std::vec;

    /// The table as server ids, in slot order.
    fn table(servers: &[Server]) -> Vec<u32> {
        let mut maglev = Maglev::new(SchedulerFlags::empty());
        maglev.refill(servers);
        maglev.table.iter().map(|&index| servers[index as usize].id.0).collect()
    }

    fn servers(weights: &[u32]) -> Vec<Server> {
        Service::new(Maglev::new(SchedulerFlags::empty()), weights).servers
    }

    fn count(table: &[u32], id: u32) -> usize {
        table.iter().filter(|&&slot| slot == id).count()
    }

    #[test]
    fn equal_servers_share_the_slots_equally() {
        let table = table(&servers(&[1; 10]));
        assert_eq!(table.len(), 65_537);
        for id in 1..=10 {
            assert!((6553..=6554).contains(&count(&table, id)), "{id}: {}", count(&table, id));
        }
    }

    #[test]
    fn shares_follow_weights() {
        let table = table(&servers(&[1, 2, 5, 92]));
        for (id, percent) in [(1, 1.0), (2, 2.0), (3, 5.0), (4, 92.0)] {
            let share = count(&table, id) as f64 * 100.0 / table.len() as f64;
            assert!((share - percent).abs() < 0.1, "{id}: {share} %");
        }
    }

    #[test]
    fn the_lightest_server_has_a_slot() {
        let table = table(&servers(&[1, i32::MAX as u32]));
        assert_eq!(count(&table, 1), 1);
    }

    #[test]
    fn the_order_of_the_list_does_not_matter() {
        let mut list = servers(&[1, 2, 3, 4]);
        let before = table(&list);
        list.reverse();
        assert_eq!(table(&list), before);
    }

    #[test]
    fn another_key_gives_another_table() {
        let list = servers(&[1, 1, 1]);
        let mut other = Maglev::with_key(SchedulerFlags::empty(), MaglevSize::Small, [7; 16]);
        other.refill(&list);
        let other: Vec<u32> = other.table.iter().map(|&index| list[index as usize].id.0).collect();
        assert_ne!(table(&list), other);
    }

    #[test]
    fn few_slots_move_when_a_server_leaves() {
        let list = servers(&[1; 10]);
        let before = table(&list);
        let after = table(&list[1..]);
        let gone = list[0].id.0;
        let moved = before.iter().zip(&after).filter(|(a, b)| **a != gone && a != b).count();
        assert!(moved * 100 < before.len() * 3, "{moved} slots of servers that stay have moved");
    }

    #[test]
    fn the_table_is_the_same_in_every_release() {
        // Directors of different versions must agree: this fails when the hash or the filling changes.
        let table = table(&servers(&[1, 2, 3]));
        let digest = table.iter().fold(0u64, |sum, &id| sum.wrapping_mul(31).wrapping_add(u64::from(id)));
        assert_eq!((&table[..8], digest), (&PINNED_SLOTS[..], PINNED_DIGEST));
    }

    /// Computed by an independent program from the description above.
    const PINNED_SLOTS: [u32; 8] = [1, 2, 3, 3, 1, 1, 2, 3];
    const PINNED_DIGEST: u64 = 1_778_204_102_972_539_749;

    #[test]
    fn quiesced_servers_have_no_slots() {
        let mut list = servers(&[1, 1, 1]);
        list[0].set_weight(Weight::QUIESCED);
        let table = table(&list);
        assert_eq!((table.len(), count(&table, list[0].id.0)), (65_537, 0));
    }

    #[test]
    fn an_overloaded_server_needs_the_fallback_flag() {
        for (flags, somebody) in [(SchedulerFlags::empty(), false), (SchedulerFlags::FALLBACK, true)] {
            let mut service = Service::new(Maglev::new(flags), &[1, 1, 1]);
            let Some(home) = service.schedule() else { panic!("three servers are available") };
            service.overload(home, true);
            let other = service.schedule();
            assert_eq!(other.is_some(), somebody);
            assert_ne!(other, Some(home));
        }
    }

    #[test]
    fn nobody_is_chosen_from_nobody() {
        assert_eq!(Service::new(Maglev::new(SchedulerFlags::FALLBACK), &[]).schedule(), None);
        assert_eq!(Service::new(Maglev::new(SchedulerFlags::FALLBACK), &[0, 0]).schedule(), None);
    }

    #[test]
    fn the_large_table_fills_up() {
        let list = servers(&[3, 1]);
        let mut maglev = Maglev::with_key(SchedulerFlags::empty(), MaglevSize::Large, [0; 16]);
        maglev.refill(&list);
        assert_eq!(maglev.table.len(), 655_373);
        assert!(maglev.table.iter().all(|&slot| slot < 2));
    }

    #[test]
    fn only_the_port_flag_looks_at_ports() {
        let chosen = |flags| {
            let mut service = Service::new(Maglev::new(flags), &[1; 5]);
            let mut ids: Vec<u32> = (1..100)
                .filter_map(|port| {
                    service.client(&std::format!("192.0.2.1:{port}"));
                    service.schedule()
                })
                .collect();
            ids.sort_unstable();
            ids.dedup();
            ids
        };
        assert_eq!(chosen(SchedulerFlags::empty()).len(), 1);
        assert_eq!(chosen(SchedulerFlags::PORT), vec![1, 2, 3, 4, 5]);
    }
}
