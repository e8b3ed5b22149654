//! `mh`: the kernel's Maglev hashing, bit for bit. It looks at the client's address (and port).

use alloc::vec::Vec;
use core::fmt;

use crate::gcd::gcd;
use crate::hash::{client_number, fold, hsiphash};
use crate::permutation::{Entrant, fill};
use crate::{Change, Endpoint, Flow, Instant, Scheduler, SchedulerFlags, Server};

/// The kernel's fixed keys (both halves of each are equal): no boot changes them.
const KEY_1: u64 = 2_654_435_761;
const KEY_2: u64 = 2_654_446_892;

/// The size of an `mh` table: the kernel's build option `IP_VS_MH_TAB_INDEX`.
///
/// | index | 8 | 9 | 10 | 11 | **12** | 13 | 14 | 15 | 16 | 17 |
/// |---|---|---|---|---|---|---|---|---|---|---|
/// | slots | 251 | 509 | 1021 | 2039 | **4093** | 8191 | 16381 | 32749 | 65521 | 131071 |
///
/// # Examples
/// ```
/// use lvs_sched::MhTableIndex;
/// assert_eq!(MhTableIndex::default().slots(), 4093);
/// assert_eq!(MhTableIndex::new(17).map(MhTableIndex::slots), Some(131_071));
/// assert!(MhTableIndex::new(18).is_none());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MhTableIndex(u8);

impl MhTableIndex {
    const PRIMES: [usize; 10] = [251, 509, 1021, 2039, 4093, 8191, 16_381, 32_749, 65_521, 131_071];
    const SMALLEST: u8 = 8;

    /// Returns the table index, `None` outside 8 to 17.
    pub const fn new(index: u8) -> Option<Self> {
        if index >= Self::SMALLEST && index <= 17 { Some(Self(index)) } else { None }
    }

    /// Slots of the table, a prime.
    pub const fn slots(self) -> usize {
        Self::PRIMES[(self.0 - Self::SMALLEST) as usize]
    }
}

impl Default for MhTableIndex {
    /// 12, as in distribution kernels: 4093 slots.
    fn default() -> Self {
        Self(12)
    }
}

/// `mh`: the same server for a client while the list stays the same, and few clients move when it changes
/// (kernel `ip_vs_mh` of 64-bit machines).
///
/// Slots are claimed in list order by permutations of SipHash-1-3, heavy servers claiming several per round.
/// The server's address and port make its permutation, so the same servers in another order give another
/// table. A quiesced server keeps its slots ([`Server::last_weight`]); when a client's server is unavailable
/// the answer is `None`, or with `mh-fallback` ([`SchedulerFlags::FALLBACK`]) the client is hashed again with
/// growing offsets. `mh-port` ([`SchedulerFlags::PORT`]) adds the client's port. With more servers than slots
/// there is no table and nobody is chosen; the kernel refuses such a list.
///
/// # Examples
/// ```
/// use lvs_sched::{Flow, Instant, MaglevHashing, Protocol, Scheduler, SchedulerFlags, Server, ServerId, Weight};
/// let mut servers = Vec::new();
/// for (id, rip) in [(1, "10.0.1.1:80"), (2, "10.0.1.2:80"), (3, "10.0.1.3:80")] {
///     servers.insert(0, Server::new(ServerId(id), rip.parse()?, Weight::ONE));
/// }
/// let mut mh = MaglevHashing::new(SchedulerFlags::empty());
/// let mut server_of = |client: &str| {
///     let flow = Flow { protocol: Protocol::Tcp, client: client.parse().ok()?, service: "10.0.0.1:80".parse().ok()? };
///     mh.schedule(&flow, &servers, Instant::ZERO).map(|index| servers[index].id.0)
/// };
/// assert_eq!(server_of("192.0.2.1:40000"), Some(1)); // slot 2891
/// assert_eq!(server_of("192.0.2.2:40000"), Some(1)); // slot 746
/// assert_eq!(server_of("198.51.100.77:40000"), Some(3)); // slot 1482
/// # Ok::<(), lvs_sched::ParseEndpointError>(())
/// ```
#[derive(Clone)]
pub struct MaglevHashing {
    flags: SchedulerFlags,
    index: MhTableIndex,
    /// List indices; empty when there is no table.
    table: Vec<u32>,
    /// What the table was filled from.
    filled_from: Vec<(Endpoint, u32)>,
    stale: bool,
}

impl MaglevHashing {
    /// Makes the scheduler with the default table of 4093 slots; it is filled at the next choice.
    pub fn new(flags: SchedulerFlags) -> Self {
        Self::with_table_index(flags, MhTableIndex::default())
    }

    /// Makes the scheduler with a table of another size.
    pub const fn with_table_index(flags: SchedulerFlags, index: MhTableIndex) -> Self {
        Self { flags, index, table: Vec::new(), filled_from: Vec::new(), stale: true }
    }

    fn refill(&mut self, servers: &[Server]) {
        self.stale = false;
        let inputs = servers.iter().map(|server| (server.key, server.last_weight.get()));
        // Quiescing and new thresholds leave the table as it is.
        if inputs.clone().eq(self.filled_from.iter().copied()) {
            return;
        }
        self.filled_from = inputs.collect();
        self.table = if servers.len() <= self.index.slots() { self.table_of_inputs() } else { Vec::new() };
    }

    fn table_of_inputs(&self) -> Vec<u32> {
        let size = self.index.slots();
        let divisor = gcd(self.filled_from.iter().map(|&(_, weight)| weight)).max(1);
        let heaviest = self.filled_from.iter().map(|&(_, weight)| weight / divisor).max().unwrap_or(0);
        // Keeps a heavy server from claiming the whole table before the others have had a turn.
        let shift = (u32::BITS - heaviest.leading_zeros()).saturating_sub(u32::from(self.index.0 / 2));
        let entrants = (0..).zip(&self.filled_from).map(|(index, &(key, weight))| {
            let number = fold(key.addr).wrapping_add(u32::from(key.port));
            let turns = if weight == 0 { 0 } else { ((weight / divisor) >> shift).max(1) };
            Entrant {
                index,
                next: hsiphash(number, KEY_1) as usize % size,
                skip: hsiphash(number, KEY_2) as usize % (size - 1) + 1,
                gain: u64::from(turns),
                credit: 0,
            }
        });
        fill(size, 1, entrants.collect())
    }

    fn slot(&self, number: u32) -> usize {
        hsiphash(number, KEY_1) as usize % self.index.slots()
    }
}

impl Scheduler for MaglevHashing {
    fn schedule(&mut self, flow: &Flow, servers: &[Server], _now: Instant) -> Option<usize> {
        if self.stale {
            self.refill(servers);
        }
        if self.table.is_empty() {
            return None;
        }
        let available = |slot: usize| {
            let index = self.table[slot] as usize;
            servers.get(index).is_some_and(Server::is_available).then_some(index)
        };
        let number = client_number(flow, self.flags);
        let home = self.slot(number);
        available(home).or_else(|| {
            // A walk over all slots that cannot find anybody would make refusing a flow dear.
            if !self.flags.contains(SchedulerFlags::FALLBACK) || !servers.iter().any(Server::is_available) {
                return None;
            }
            let size = self.table.len();
            let offsets = (0..size).map(|step| ((step + home) % size) as u32);
            offsets.map(|offset| self.slot(number.wrapping_add(offset))).find_map(available)
        })
    }

    fn changed(&mut self, _change: Change, _servers: &[Server]) {
        self.stale = true;
    }
}

impl fmt::Debug for MaglevHashing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MaglevHashing")
            .field("flags", &self.flags)
            .field("index", &self.index)
            .field("servers", &self.filled_from.len())
            .field("stale", &self.stale)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Service;
    use crate::{ServerId, Weight};
    use std::vec;

    fn table(weights: &[u32]) -> (MaglevHashing, Vec<Server>) {
        let service = Service::new(MaglevHashing::new(SchedulerFlags::empty()), weights);
        let mut mh = MaglevHashing::new(SchedulerFlags::empty());
        mh.refill(&service.servers);
        (mh, service.servers)
    }

    /// Slots per server, in the order of addition.
    fn counts(mh: &MaglevHashing, servers: &[Server]) -> Vec<usize> {
        let of = |id| mh.table.iter().filter(|&&index| servers[index as usize].id == ServerId(id)).count();
        (1..=servers.len() as u32).map(of).collect()
    }

    #[test]
    fn permutations_of_the_kernel() {
        for (rip, offset, skip) in
            [("10.0.1.3:80", 9, 209), ("10.0.1.2:80", 1584, 2508), ("10.0.1.1:80", 1011, 1586)]
        {
            let key: Endpoint = rip.parse().expect("a literal endpoint");
            let number = fold(key.addr) + 80;
            assert_eq!(
                (hsiphash(number, KEY_1) % 4093, hsiphash(number, KEY_2) % 4092 + 1),
                (offset, skip),
                "{rip}"
            );
        }
    }

    #[test]
    fn the_table_of_three_equal_servers() {
        let (mh, servers) = table(&[1, 1, 1]);
        let first: Vec<u32> = mh.table[..16].iter().map(|&index| servers[index as usize].id.0).collect();
        assert_eq!(first, [3, 2, 3, 2, 1, 3, 2, 3, 3, 3, 1, 1, 1, 2, 2, 2]);
        assert_eq!(counts(&mh, &servers), [1364, 1364, 1365]);
    }

    #[test]
    fn the_table_of_weights_1_2_3() {
        let (mh, servers) = table(&[1, 2, 3]);
        assert_eq!(counts(&mh, &servers), [682, 1364, 2047]);
    }

    #[test]
    fn clients_of_the_worked_example() {
        for (weights, flags, chosen) in [
            ([1, 1, 1], SchedulerFlags::empty(), [1, 1, 3]),
            ([1, 1, 1], SchedulerFlags::PORT, [1, 1, 2]),
            ([1, 2, 3], SchedulerFlags::empty(), [2, 1, 3]),
        ] {
            let mut service = Service::new(MaglevHashing::new(flags), &weights);
            for (client, id) in
                ["192.0.2.1:40000", "192.0.2.2:40000", "198.51.100.77:40000"].into_iter().zip(chosen)
            {
                service.client(client);
                assert_eq!(service.schedule(), Some(id), "{client} {weights:?} {flags:?}");
            }
        }
    }

    #[test]
    fn quiescing_keeps_the_slots() {
        let (mut mh, mut servers) = table(&[1, 1, 1]);
        let before = mh.table.clone();
        servers[1].set_weight(Weight::QUIESCED);
        mh.changed(Change::Edited { index: 1 }, &servers);
        mh.refill(&servers);
        assert_eq!(mh.table, before);
    }

    #[test]
    fn a_server_added_quiesced_has_no_slots() {
        let (mh, servers) = table(&[1, 0, 1]);
        assert_eq!(counts(&mh, &servers)[1], 0);
    }

    #[test]
    fn slots_of_the_worked_clients() {
        let mh = MaglevHashing::new(SchedulerFlags::empty());
        for (client, slot) in [("192.0.2.1", 2891), ("192.0.2.2", 746), ("198.51.100.77", 1482)] {
            assert_eq!(mh.slot(fold(client.parse().expect("a literal address"))), slot);
        }
    }

    #[test]
    fn more_servers_than_slots_have_no_table() {
        let index = MhTableIndex::new(8).expect("8 is the smallest");
        let mut service =
            Service::new(MaglevHashing::with_table_index(SchedulerFlags::empty(), index), &vec![1; 252]);
        assert_eq!(service.schedule(), None);
        service.remove(252);
        assert!(service.schedule().is_some());
    }

    #[test]
    fn every_size_fills_every_slot() {
        for index in 8..=17 {
            let index = MhTableIndex::new(index).expect("in range");
            let mut mh = MaglevHashing::with_table_index(SchedulerFlags::empty(), index);
            let (_, servers) = table(&[1, 5, 1000]);
            mh.refill(&servers);
            assert_eq!(mh.table.len(), index.slots());
            assert!(mh.table.iter().all(|&slot| slot < 3));
        }
    }
}
