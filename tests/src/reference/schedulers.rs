//! The schedulers in the order of their lists: whom a new connection goes to.

use lvs_core::service::VirtualService;
use lvs_core::{Flow, Instant, SchedulerKind, ServerId};
use lvs_sched::Change;

use super::Reference;

/// What a scheduler remembers between two choices.
#[derive(Debug)]
pub(super) enum Turn {
    /// The server of the last choice; `None` = before the first.
    RoundRobin(Option<u32>),
    WeightedRoundRobin {
        last: Option<u32>,
        level: i64,
        top: i64,
        step: i64,
    },
    LeastConnection,
    WeightedLeastConnection,
    Library(Box<dyn lvs_sched::Scheduler>),
}

impl Turn {
    pub(super) fn new(config: &VirtualService) -> Self {
        match config.scheduler {
            SchedulerKind::RoundRobin => Self::RoundRobin(None),
            SchedulerKind::WeightedRoundRobin => {
                Self::WeightedRoundRobin { last: None, level: 0, top: 0, step: 1 }
            }
            SchedulerKind::LeastConnection => Self::LeastConnection,
            SchedulerKind::WeightedLeastConnection => Self::WeightedLeastConnection,
            other => Self::Library(other.build(config.flags)),
        }
    }
}

impl Reference {
    /// Tells the scheduler that its list has changed.
    pub(super) fn changed(&mut self, at: usize, change: Option<Change>) {
        let list = self.list(at);
        let weights: Vec<i64> = list.iter().map(|server| i64::from(server.weight.get())).collect();
        match &mut self.services[at].turn {
            Turn::WeightedRoundRobin { last, level, top, step } => {
                *last = None;
                *step = weights.iter().fold(0, |a, b| gcd(a, *b)).max(1);
                let largest = weights.iter().copied().max().unwrap_or(0);
                *top = if largest == 0 { 0 } else { largest - (*step - 1) };
                if *level > *top || *level == 0 {
                    *level = *top;
                } else if *step > 1 {
                    *level = *level / *step * *step + 1;
                }
            }
            Turn::Library(scheduler) => match change {
                Some(change) => scheduler.changed(change, &list),
                None if list.is_empty() => {}
                None => scheduler.changed(Change::Edited { index: 0 }, &list),
            },
            _ => {}
        }
    }

    pub(super) fn is_available(&self, id: u32) -> bool {
        let server = &self.servers[&id];
        server.config.weight.get() > 0 && !server.overloaded
    }

    /// The list of a service as the schedulers of the library see it.
    fn list(&self, at: usize) -> Vec<lvs_sched::Server> {
        let server = |id: &u32| {
            let record = &self.servers[id];
            let mut server =
                lvs_sched::Server::new(ServerId(*id), record.config.endpoint, record.config.weight);
            server.last_weight = record.last_weight;
            server.load.set_overloaded(record.overloaded);
            server
        };
        self.services[at].order.iter().map(server).collect()
    }

    pub(super) fn schedule(&mut self, at: usize, flow: &Flow, now: Instant) -> Option<u32> {
        let order = self.services[at].order.clone();
        let available: Vec<u32> = order.iter().copied().filter(|id| self.is_available(*id)).collect();
        let weight = |id: &u32| i64::from(self.servers[id].config.weight.get());
        let overhead = |id: &u32| {
            let server = &self.servers[id];
            i64::from(server.active) * 256 + i64::from(server.inactive)
        };
        // A server earlier in the list wins a tie: only a smaller one takes over.
        let least = |smaller: &dyn Fn(&u32, &u32) -> bool| {
            let mut best: Option<u32> = None;
            for id in &available {
                if best.is_none_or(|best| smaller(id, &best)) {
                    best = Some(*id);
                }
            }
            best
        };
        let list = self.list(at);
        let behind = |last: Option<u32>| match last {
            None => 0,
            Some(last) => order.iter().position(|id| *id == last).expect("the last choice is listed") + 1,
        };
        match &mut self.services[at].turn {
            Turn::RoundRobin(last) => {
                let start = behind(*last);
                let round = order[start..].iter().chain(&order[..start]);
                let next = round.copied().find(|id| available.contains(id))?;
                *last = Some(next);
                Some(next)
            }
            Turn::WeightedRoundRobin { last, level, top, step } => {
                if *top == 0 {
                    return None;
                }
                if available.is_empty() {
                    if last.is_none() {
                        *level = *top;
                    }
                    return None;
                }
                let mut start = behind(*last);
                loop {
                    let reaches = |id: &&u32| available.contains(id) && weight(id) >= *level;
                    if let Some(next) = order[start..].iter().find(reaches) {
                        *last = Some(*next);
                        return Some(*next);
                    }
                    start = 0;
                    *level -= *step;
                    if *level <= 0 {
                        *level = *top;
                    }
                }
            }
            Turn::LeastConnection => least(&|a, b| overhead(a) < overhead(b)),
            Turn::WeightedLeastConnection => least(&|a, b| overhead(b) * weight(a) > overhead(a) * weight(b)),
            Turn::Library(scheduler) => scheduler.schedule(flow, &list, now).map(|index| order[index]),
        }
    }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
