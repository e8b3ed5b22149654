//! `wlc`: weighted least connections. It looks at connection counts and weights.

use crate::{Change, Flow, Instant, Overhead, Scheduler, Server};
use alloc::boxed::Box;

/// `wlc`: the server with the smallest [`Overhead`] per weight; the first in the list wins a tie
/// (kernel `ip_vs_wlc`, ipvsadm's default).
///
/// # Examples
/// Weights 3, 2, 1 for .1 .2 .3 (the last added stands first), every connection staying active:
/// ```
/// use lvs_sched::{Flow, Instant, Protocol, Scheduler, Server, ServerId, Weight, WeightedLeastConnection};
/// let mut servers = Vec::new();
/// for (id, rip, weight) in [(1, "10.0.1.1:80", 3), (2, "10.0.1.2:80", 2), (3, "10.0.1.3:80", 1)] {
///     servers.insert(0, Server::new(ServerId(id), rip.parse()?, Weight::new(weight)?));
/// }
/// let flow = Flow { protocol: Protocol::Tcp, client: "192.0.2.1:40000".parse()?, service: "10.0.0.1:80".parse()? };
/// let mut wlc = WeightedLeastConnection::new();
/// let mut open = || {
///     let server = &servers[wlc.schedule(&flow, &servers, Instant::ZERO)?];
///     server.load.add_active();
///     Some(server.id.0)
/// };
/// assert_eq!([(); 8].map(|()| open()), [3, 2, 1, 1, 2, 1, 3, 2].map(Some));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct WeightedLeastConnection {
    overhead: Overhead,
}

impl WeightedLeastConnection {
    /// Counts by [`Overhead::Classic`].
    pub const fn new() -> Self {
        Self::with_overhead(Overhead::Classic)
    }

    /// Counts by another formula.
    pub const fn with_overhead(overhead: Overhead) -> Self {
        Self { overhead }
    }
}

impl Scheduler for WeightedLeastConnection {
    fn fork(&self) -> Box<dyn Scheduler> {
        Box::new(*self)
    }

    fn schedule(&mut self, _flow: &Flow, servers: &[Server], _now: Instant) -> Option<usize> {
        let mut available =
            servers.iter().enumerate().filter(|(_, server)| server.is_available()).map(|(index, server)| {
                (index, self.overhead.of(&server.load), u64::from(server.weight.get()))
            });
        let first = available.next()?;
        let (index, ..) = available.fold(first, |best, next| {
            // best/weight > next/weight without a division. 2⁴¹ connections times 2³¹ needs more than 64 bits.
            let (best_share, next_share) = (product(best.1, next.2), product(next.1, best.2));
            if best_share > next_share { next } else { best }
        });
        Some(index)
    }

    /// Nothing to do: there is no memory between choices.
    fn changed(&mut self, _change: Change, _servers: &[Server]) {}
}

fn product(overhead: u64, weight: u64) -> u128 {
    u128::from(overhead) * u128::from(weight)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Service;

    #[test]
    fn the_largest_weight_wins_under_load_without_overflow() {
        let mut service = Service::new(WeightedLeastConnection::new(), &[i32::MAX as u32, 1]);
        (0..100_000).for_each(|_| service.server(1).load.add_active());
        service.server(2).load.add_active();
        assert_eq!(service.schedule(), Some(1));
    }

    #[test]
    fn the_first_in_the_list_wins_a_tie() {
        let mut service = Service::new(WeightedLeastConnection::new(), &[1, 2, 4]);
        assert_eq!(service.schedule(), Some(3));
        (0..4).for_each(|_| service.server(3).load.add_active());
        (0..2).for_each(|_| service.server(2).load.add_active());
        service.server(1).load.add_active();
        assert_eq!(service.schedule(), Some(3));
    }

    #[test]
    fn the_2026_formula_is_a_switch() {
        // .1: 1 active; .2: 256 inactive. Classic: a tie that the head (.2) wins.
        for (overhead, chosen) in [(Overhead::Classic, 2), (Overhead::TotalConns, 2)] {
            let mut service = Service::new(WeightedLeastConnection::with_overhead(overhead), &[1, 1]);
            service.server(1).load.add_active();
            (0..256).for_each(|_| service.server(2).load.add_inactive());
            assert_eq!(service.schedule(), Some(chosen));
        }
        // .2: 1 active; .1: 256 inactive. Only the new formula sees a difference.
        for (overhead, chosen) in [(Overhead::Classic, 2), (Overhead::TotalConns, 1)] {
            let mut service = Service::new(WeightedLeastConnection::with_overhead(overhead), &[1, 1]);
            service.server(2).load.add_active();
            (0..256).for_each(|_| service.server(1).load.add_inactive());
            assert_eq!(service.schedule(), Some(chosen));
        }
    }
}
