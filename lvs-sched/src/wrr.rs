//! `wrr`: weighted round robin. It walks the list level by level and never looks at load.

use crate::gcd::gcd;
use crate::{Change, Flow, Instant, Scheduler, Server};

/// `wrr`: each server as often per cycle as its weight says (kernel `ip_vs_wrr`).
///
/// A cycle has levels, from the largest weight down to 1 in steps of the weights' greatest common divisor.
/// On each level every server whose weight reaches the level is chosen once, in list order. Every change of
/// the list sends the walk back to the head of the list and keeps the level, or lowers it to the new top.
///
/// # Examples
/// From a complete list of weights 4, 3, 2:
/// ```
/// use lvs_sched::{Flow, Instant, Protocol, Scheduler, Server, ServerId, Weight, WeightedRoundRobin};
/// let mut servers = Vec::new();
/// for (id, rip, weight) in [(0, "10.0.1.1:80", 4), (1, "10.0.1.2:80", 3), (2, "10.0.1.3:80", 2)] {
///     servers.push(Server::new(ServerId(id), rip.parse()?, Weight::new(weight)?));
/// }
/// let flow = Flow { protocol: Protocol::Tcp, client: "192.0.2.1:40000".parse()?, service: "10.0.0.1:80".parse()? };
/// let mut wrr = WeightedRoundRobin::new();
/// let mut next = || wrr.schedule(&flow, &servers, Instant::ZERO);
/// assert_eq!([(); 9].map(|()| next()), [0, 0, 1, 0, 1, 2, 0, 1, 2].map(Some));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
/// With ipvsadm's one-by-one additions the first cycle starts on a lower level (weights 2, 3, 4 for .1 .2 .3):
/// ```
/// use lvs_sched::{Change, Flow, Instant, Protocol, Scheduler, Server, ServerId, Weight, WeightedRoundRobin};
/// let (mut wrr, mut servers) = (WeightedRoundRobin::new(), Vec::new());
/// for (id, rip, weight) in [(1, "10.0.1.1:80", 2), (2, "10.0.1.2:80", 3), (3, "10.0.1.3:80", 4)] {
///     servers.insert(0, Server::new(ServerId(id), rip.parse()?, Weight::new(weight)?));
///     wrr.changed(Change::Added { index: 0 }, &servers);
/// }
/// let flow = Flow { protocol: Protocol::Tcp, client: "192.0.2.1:40000".parse()?, service: "10.0.0.1:80".parse()? };
/// let mut next = || wrr.schedule(&flow, &servers, Instant::ZERO).map(|index| servers[index].id.0);
/// assert_eq!([(); 9].map(|()| next()), [3, 2, 1, 3, 3, 2, 3, 2, 1].map(Some));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct WeightedRoundRobin {
    /// Index of the last choice; `None` stands before the first server.
    cursor: Option<usize>,
    /// The kernel's `cw`: only servers of at least this weight are chosen now. 0 before the first list.
    level: u32,
    /// The kernel's `mw`: the level a cycle starts on, 0 when no server has a weight.
    top: u32,
    /// The kernel's `di`: the step between levels. 0 before the first list.
    step: u32,
}

impl WeightedRoundRobin {
    /// Starts on the top level of the first list that it sees.
    pub const fn new() -> Self {
        Self { cursor: None, level: 0, top: 0, step: 0 }
    }

    /// Takes over the weights of a list that is new or has changed.
    fn renew(&mut self, servers: &[Server]) {
        let largest = servers.iter().map(|server| server.weight.get()).max().unwrap_or(0);
        self.step = gcd(servers.iter().map(|server| server.weight.get())).max(1);
        self.top = if largest == 0 { 0 } else { largest - (self.step - 1) };
        self.cursor = None;
        if self.level > self.top || self.level == 0 {
            self.level = self.top;
        } else if self.step > 1 {
            self.level = self.level / self.step * self.step + 1;
        }
    }

    /// Goes down to the next level that some server reaches; `largest` is the weight of the heaviest one.
    ///
    /// Levels that nobody reaches are skipped in one step: walking them would take up to 2³¹ rounds.
    fn descend(&mut self, largest: u32) {
        self.level = self.level.saturating_sub(self.step);
        if self.level == 0 {
            self.level = self.top;
        }
        if self.level > largest {
            let excess =
                u64::from(self.level - largest).div_ceil(u64::from(self.step)) * u64::from(self.step);
            // All levels are 1 above a multiple of the step and so is the lowest one, which everybody reaches.
            // The floor matters only to an owner that changed a weight and did not say so.
            self.level = u64::from(self.level).saturating_sub(excess).max(1) as u32;
        }
    }
}

impl Scheduler for WeightedRoundRobin {
    fn schedule(&mut self, _flow: &Flow, servers: &[Server], _now: Instant) -> Option<usize> {
        if self.step == 0 {
            self.renew(servers);
        }
        if self.top == 0 {
            return None;
        }
        let reaches = |server: &Server, level: u32| server.is_available() && server.weight.get() >= level;
        let start = self.cursor.map_or(0, |last| last + 1).min(servers.len());
        let rest = servers[start..].iter().position(|server| reaches(server, self.level));
        let index = match rest {
            Some(offset) => start + offset,
            None => {
                let available = servers.iter().filter(|server| server.is_available());
                let Some(largest) = available.map(|server| server.weight.get()).max() else {
                    // A whole cycle without a choice ends where it began; one from the head ends on top.
                    if self.cursor.is_none() {
                        self.level = self.top;
                    }
                    return None;
                };
                self.descend(largest);
                servers.iter().position(|server| reaches(server, self.level))?
            }
        };
        self.cursor = Some(index);
        Some(index)
    }

    fn changed(&mut self, _change: Change, servers: &[Server]) {
        self.renew(servers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Service, picks};

    #[test]
    fn one_by_one_the_level_starts_low() {
        let mut service = Service::new(WeightedRoundRobin::new(), &[2, 3, 4]);
        assert_eq!(picks(&mut service, 9), [3, 2, 1, 3, 3, 2, 3, 2, 1]);
        let mut service = Service::new(WeightedRoundRobin::new(), &[4, 2]);
        assert_eq!(picks(&mut service, 6), [2, 1, 1, 2, 1, 1]);
    }

    #[test]
    fn five_one_one() {
        let mut service = Service::new(WeightedRoundRobin::new(), &[5, 1, 1]);
        assert_eq!(picks(&mut service, 9), [3, 2, 1, 1, 1, 1, 1, 3, 2]);
    }

    #[test]
    fn nobody_is_chosen_when_all_are_quiesced_or_overloaded() {
        let mut service = Service::new(WeightedRoundRobin::new(), &[0, 0]);
        assert_eq!(service.schedule(), None);
        let mut service = Service::new(WeightedRoundRobin::new(), &[3, 2]);
        service.overload(1, true);
        service.overload(2, true);
        assert_eq!(service.schedule(), None);
        service.overload(1, false);
        assert_eq!(service.schedule(), Some(1));
    }

    #[test]
    fn a_full_heavy_server_does_not_cost_a_walk_over_all_levels() {
        let mut service = Service::new(WeightedRoundRobin::new(), &[i32::MAX as u32, 1]);
        service.overload(1, true);
        assert_eq!(picks(&mut service, 3), [2, 2, 2]);
        service.overload(1, false);
        assert_eq!(picks(&mut service, 3), [1, 1, 1]);
    }

    #[test]
    fn weights_changed_without_notice_do_no_harm() {
        let mut service = Service::new(WeightedRoundRobin::new(), &[10, 20]);
        assert_eq!(picks(&mut service, 1), [2]);
        for server in &mut service.servers {
            server.set_weight(crate::Weight::ONE);
        }
        assert!((0..50).all(|_| service.schedule().is_some()));
    }
}
