//! `sh`: source hashing. It looks at the client's address (and port), never at load.

use core::fmt;

use crate::hash::{bucket_of_256, client_number};
use crate::{Change, Flow, Instant, Scheduler, SchedulerFlags, Server};

/// Slots of the table.
const BUCKETS: usize = 256;

/// `sh`: one client always reaches the same server while the list stays the same (kernel `ip_vs_sh`).
///
/// 256 slots are dealt out in list order, each server taking as many in a row as its weight, round and round;
/// a quiesced server still takes one. The client's slot is a multiplicative hash of its address, with
/// `sh-port` ([`SchedulerFlags::PORT`]) of address plus port. When the slot's server is unavailable the answer
/// is `None`; with `sh-fallback` ([`SchedulerFlags::FALLBACK`]) the other slots are tried one after another.
/// A change of the list deals all slots anew, so most clients move: use `mh` or `maglev` where that matters.
///
/// # Examples
/// Servers .1 .2 .3 added at the head (so slot 0 is .3's, slot 1 .2's, slot 2 .1's); 192.0.2.1 has slot 50:
/// ```
/// use lvs_sched::{Flow, Instant, Protocol, Scheduler, SchedulerFlags, Server, ServerId, SourceHashing, Weight};
/// let mut servers = Vec::new();
/// for (id, rip) in [(1, "10.0.1.1:80"), (2, "10.0.1.2:80"), (3, "10.0.1.3:80")] {
///     servers.insert(0, Server::new(ServerId(id), rip.parse()?, Weight::ONE));
/// }
/// let mut sh = SourceHashing::new(SchedulerFlags::empty());
/// let mut server_of = |client: &str| {
///     let flow = Flow { protocol: Protocol::Tcp, client: client.parse().ok()?, service: "10.0.0.1:80".parse().ok()? };
///     sh.schedule(&flow, &servers, Instant::ZERO).map(|index| servers[index].id.0)
/// };
/// assert_eq!(server_of("192.0.2.1:40000"), Some(1)); // 50 mod 3 = 2
/// assert_eq!(server_of("192.0.2.1:50000"), Some(1)); // the port does not matter
/// assert_eq!(server_of("192.0.2.2:40000"), Some(2)); // 148 mod 3 = 1
/// # Ok::<(), lvs_sched::ParseEndpointError>(())
/// ```
#[derive(Clone)]
pub struct SourceHashing {
    flags: SchedulerFlags,
    /// List indices. Each server takes a slot at least, so no index above 255 has one.
    table: [u8; BUCKETS],
    stale: bool,
}

impl SourceHashing {
    /// Makes the scheduler; the table is dealt at the next choice.
    pub const fn new(flags: SchedulerFlags) -> Self {
        Self { flags, table: [0; BUCKETS], stale: true }
    }

    fn deal(&mut self, servers: &[Server]) {
        let hands = servers.iter().enumerate().cycle().flat_map(|(index, server)| {
            let slots = server.weight.get().clamp(1, BUCKETS as u32) as usize;
            core::iter::repeat_n(index as u8, slots)
        });
        for (slot, index) in self.table.iter_mut().zip(hands) {
            *slot = index;
        }
        self.stale = false;
    }
}

impl Scheduler for SourceHashing {
    fn schedule(&mut self, flow: &Flow, servers: &[Server], _now: Instant) -> Option<usize> {
        if servers.is_empty() {
            return None;
        }
        if self.stale {
            self.deal(servers);
        }
        let available = |slot: u8| {
            let index = usize::from(self.table[usize::from(slot)]);
            servers.get(index).is_some_and(Server::is_available).then_some(index)
        };
        let home = bucket_of_256(client_number(flow, self.flags));
        available(home).or_else(|| {
            if !self.flags.contains(SchedulerFlags::FALLBACK) {
                return None;
            }
            // The walk begins at twice the home slot: the kernel adds the home slot to the offset.
            (0..=u8::MAX).map(|step| home.wrapping_add(home).wrapping_add(step)).find_map(available)
        })
    }

    fn changed(&mut self, _change: Change, _servers: &[Server]) {
        self.stale = true;
    }
}

impl fmt::Debug for SourceHashing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceHashing")
            .field("flags", &self.flags)
            .field("stale", &self.stale)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Service;

    #[test]
    fn slots_are_dealt_in_rows_and_a_quiesced_server_takes_one() {
        let service = Service::new(SourceHashing::new(SchedulerFlags::empty()), &[2, 0, 3]);
        let mut sh = SourceHashing::new(SchedulerFlags::empty());
        sh.deal(&service.servers);
        // The list is .3 (3), .2 (0), .1 (2).
        assert_eq!(sh.table[..9], [0, 0, 0, 1, 2, 2, 0, 0, 0]);
    }

    #[test]
    fn without_fallback_an_unavailable_server_means_nobody() {
        let mut service = Service::new(SourceHashing::new(SchedulerFlags::empty()), &[1, 1, 1]);
        service.client("192.0.2.1:40000");
        assert_eq!(service.schedule(), Some(1));
        service.overload(1, true);
        assert_eq!(service.schedule(), None);
    }

    #[test]
    fn with_fallback_another_one_is_found_while_there_is_one() {
        let mut service = Service::new(SourceHashing::new(SchedulerFlags::FALLBACK), &[1, 1, 1]);
        service.client("192.0.2.1:40000");
        service.overload(1, true);
        // The walk begins at slot 100: 100 mod 3 = 1 is .2's.
        assert_eq!(service.schedule(), Some(2));
        service.overload(2, true);
        assert_eq!(service.schedule(), Some(3));
        service.overload(3, true);
        assert_eq!(service.schedule(), None);
    }

    #[test]
    fn the_port_counts_only_with_its_flag() {
        let mut service = Service::new(SourceHashing::new(SchedulerFlags::PORT), &[1, 1, 1]);
        service.client("192.0.2.1:40000");
        assert_eq!(service.schedule(), Some(2), "slot 214, 214 mod 3 = 1");
    }

    #[test]
    fn more_servers_than_slots_do_no_harm() {
        let weights = [1; 300];
        let mut service = Service::new(SourceHashing::new(SchedulerFlags::FALLBACK), &weights);
        for host in 0..=255 {
            service.client(&std::format!("192.0.2.{host}:1"));
            assert!(service.schedule().is_some());
        }
    }
}
