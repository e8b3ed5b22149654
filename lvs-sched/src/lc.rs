//! `lc`: least connections. It looks at connection counts only.

use crate::{Change, Flow, Instant, Overhead, Scheduler, Server};
use alloc::boxed::Box;

/// `lc`: the server with the smallest [`Overhead`], whatever its weight (but 0); the first in the list wins a tie
/// (kernel `ip_vs_lc`).
///
/// # Examples
/// Servers .1 .2 .3 (the last added stands first), every connection staying active:
/// ```
/// use lvs_sched::{Flow, Instant, LeastConnection, Protocol, Scheduler, Server, ServerId, Weight};
/// let mut servers = Vec::new();
/// for (id, rip, weight) in [(1, "10.0.1.1:80", 3), (2, "10.0.1.2:80", 2), (3, "10.0.1.3:80", 1)] {
///     servers.insert(0, Server::new(ServerId(id), rip.parse()?, Weight::new(weight)?));
/// }
/// let flow = Flow { protocol: Protocol::Tcp, client: "192.0.2.1:40000".parse()?, service: "10.0.0.1:80".parse()? };
/// let mut lc = LeastConnection::new();
/// let mut open = || {
///     let server = &servers[lc.schedule(&flow, &servers, Instant::ZERO)?];
///     server.load.add_active();
///     Some(server.id.0)
/// };
/// assert_eq!([(); 8].map(|()| open()), [3, 2, 1, 3, 2, 1, 3, 2].map(Some));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct LeastConnection {
    overhead: Overhead,
}

impl LeastConnection {
    /// Counts by [`Overhead::Classic`].
    pub const fn new() -> Self {
        Self::with_overhead(Overhead::Classic)
    }

    /// Counts by another formula.
    pub const fn with_overhead(overhead: Overhead) -> Self {
        Self { overhead }
    }
}

impl Scheduler for LeastConnection {
    fn fork(&self) -> Box<dyn Scheduler> {
        Box::new(*self)
    }

    fn schedule(&mut self, _flow: &Flow, servers: &[Server], _now: Instant) -> Option<usize> {
        // `min_by_key` keeps the first of equals.
        let available = servers.iter().enumerate().filter(|(_, server)| server.is_available());
        available.min_by_key(|(_, server)| self.overhead.of(&server.load)).map(|(index, _)| index)
    }

    /// Nothing to do: there is no memory between choices.
    fn changed(&mut self, _change: Change, _servers: &[Server]) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Service;

    #[test]
    fn one_active_connection_outweighs_255_inactive_ones() {
        let mut service = Service::new(LeastConnection::new(), &[1, 1]);
        service.server(2).load.add_active();
        (0..255).for_each(|_| service.server(1).load.add_inactive());
        assert_eq!(service.schedule(), Some(1));
        service.server(1).load.add_inactive();
        assert_eq!(service.schedule(), Some(2), "256 inactive ones tie and .2 stands first");
    }

    #[test]
    fn the_2026_formula_breaks_that_tie() {
        let mut service = Service::new(LeastConnection::with_overhead(Overhead::TotalConns), &[1, 1]);
        service.server(2).load.add_active();
        (0..256).for_each(|_| service.server(1).load.add_inactive());
        assert_eq!(service.schedule(), Some(1));
    }

    #[test]
    fn unavailable_servers_are_passed_over() {
        let mut service = Service::new(LeastConnection::new(), &[1, 0, 1]);
        service.overload(3, true);
        assert_eq!(service.schedule(), Some(1));
        service.overload(1, true);
        assert_eq!(service.schedule(), None);
    }
}
