//! `rr`: round robin. It walks the list and never looks at load.

use crate::{Change, Flow, Instant, Scheduler, Server};

/// `rr`: each server in turn, in list order, whatever its weight (but 0).
///
/// The scheduler remembers the server that it chose last and goes on behind it. A server that is added does
/// not move that place; when the remembered server leaves, the place moves to the one before it, so nobody is
/// passed over (kernel `ip_vs_rr`).
///
/// # Examples
/// Servers .1 .2 .3, each added at the head of the list as the kernel does, so .3 comes first:
/// ```
/// use lvs_sched::{Flow, Instant, Protocol, RoundRobin, Scheduler, Server, ServerId, Weight};
/// let mut servers = Vec::new();
/// for (id, rip) in [(1, "10.0.1.1:80"), (2, "10.0.1.2:80"), (3, "10.0.1.3:80")] {
///     servers.insert(0, Server::new(ServerId(id), rip.parse()?, Weight::ONE));
/// }
/// let flow = Flow { protocol: Protocol::Tcp, client: "192.0.2.1:40000".parse()?, service: "10.0.0.1:80".parse()? };
/// let mut rr = RoundRobin::new();
/// let mut next = || rr.schedule(&flow, &servers, Instant::ZERO).map(|index| servers[index].id.0);
/// assert_eq!([(); 6].map(|()| next()), [3, 2, 1, 3, 2, 1].map(Some));
/// # Ok::<(), lvs_sched::ParseEndpointError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct RoundRobin {
    /// Index of the last choice; `None` stands before the first server.
    cursor: Option<usize>,
}

impl RoundRobin {
    /// Starts before the first server.
    pub const fn new() -> Self {
        Self { cursor: None }
    }
}

impl Scheduler for RoundRobin {
    fn schedule(&mut self, _flow: &Flow, servers: &[Server], _now: Instant) -> Option<usize> {
        let start = self.cursor.map_or(0, |last| last + 1).min(servers.len());
        let (before, after) = servers.split_at(start);
        let index = after
            .iter()
            .position(Server::is_available)
            .map(|offset| start + offset)
            .or_else(|| before.iter().position(Server::is_available))?;
        self.cursor = Some(index);
        Some(index)
    }

    fn changed(&mut self, change: Change, _servers: &[Server]) {
        let Some(last) = self.cursor else { return };
        match change {
            Change::Added { index } if index <= last => self.cursor = Some(last + 1),
            // Index 0 leaving while it was the last choice puts the cursor before the first server again.
            Change::Removed { index, .. } if index <= last => self.cursor = last.checked_sub(1),
            Change::Added { .. } | Change::Removed { .. } | Change::Edited { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Service, picks};

    #[test]
    fn a_server_added_at_the_head_does_not_move_the_turn() {
        let mut service = Service::new(RoundRobin::new(), &[1, 1, 1]);
        assert_eq!(picks(&mut service, 1), [3]);
        service.add(4, 1);
        assert_eq!(picks(&mut service, 4), [2, 1, 4, 3]);
    }

    #[test]
    fn the_turn_moves_back_when_its_server_leaves() {
        let mut service = Service::new(RoundRobin::new(), &[1, 1, 1]);
        assert_eq!(picks(&mut service, 2), [3, 2]);
        service.remove(2);
        assert_eq!(picks(&mut service, 3), [1, 3, 1]);
    }

    #[test]
    fn the_turn_goes_to_the_front_when_the_first_server_leaves() {
        let mut service = Service::new(RoundRobin::new(), &[1, 1, 1]);
        assert_eq!(picks(&mut service, 1), [3]);
        service.remove(3);
        assert_eq!(picks(&mut service, 2), [2, 1]);
    }

    #[test]
    fn quiesced_servers_are_passed_over() {
        let mut service = Service::new(RoundRobin::new(), &[1, 0, 1]);
        assert_eq!(picks(&mut service, 4), [3, 1, 3, 1]);
    }

    #[test]
    fn nobody_is_chosen_when_all_are_quiesced() {
        let mut service = Service::new(RoundRobin::new(), &[0, 0]);
        assert_eq!(service.schedule(), None);
        assert_eq!(Service::new(RoundRobin::new(), &[]).schedule(), None);
    }

    #[test]
    fn the_only_server_is_chosen_again() {
        let mut service = Service::new(RoundRobin::new(), &[1]);
        assert_eq!(picks(&mut service, 3), [1, 1, 1]);
    }
}
