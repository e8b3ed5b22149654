//! Looking at a director from outside: tables, counters, connections, and why a flow goes where it goes.

use core::fmt;

use lvs_sched::{Endpoint, Flow, Instant, Protocol, Server};

use super::trace::Trace;
use super::{Director, Outgoing, Step, choose, scheduled};
use crate::conn::{ConnId, Connection, Direction, Filter, Lookup, Method};
use crate::ipvsadm::list::{self, ServerRow, ServiceRow};
use crate::rewrite::Deltas;
use crate::stats::{Counters, Traffic};
use crate::verdict::{DropReason, Verdict};
use crate::wire::{Packet, Tuple};

/// The size that `ipvsadm -Ln` prints: buckets of the kernel's table, 2 to the power of its default of 12.
const KERNEL_TABLE_SIZE: usize = 4096;

/// Why a flow goes to its server: the decisions in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The decisions.
    pub steps: Vec<Step>,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

impl Director {
    /// Takes one packet through like [`process`](Self::process) and tells every decision.
    pub fn process_traced(&mut self, packet: &mut Packet<'_>, now: Instant) -> (Verdict, Vec<Step>) {
        self.trace = Trace::recording();
        let verdict = self.process(packet, now);
        (verdict, core::mem::take(&mut self.trace).into_steps())
    }

    /// Tells where a flow's next packet (for TCP: its SYN) would go and why, without any effect.
    ///
    /// The stages are those of a live packet; the scheduler is asked on a copy, so that no cursor moves.
    pub fn explain(&self, tuple: Tuple, mark: u32, now: Instant) -> Explanation {
        let mut trace = Trace::recording();
        trace.note(|| Step::Flow(tuple));
        let found = self.conns.lookup(&tuple, now);
        if let Lookup::Hit(id, direction) = found
            && let Some(connection) = self.conns.get(id)
        {
            trace.note(|| Step::Hit { connection, direction });
            match self.may_continue(&connection, tuple.protocol != Protocol::Udp) {
                Ok(()) => {
                    let server = Endpoint::new(self.rip_of(&connection), connection.server.port);
                    trace.note(|| Step::Server { server, method: connection.method });
                    return Explanation { steps: trace.into_steps() };
                }
                Err(super::Stale::Reopen(why)) => trace.note(|| Step::Reopened { why }),
                Err(super::Stale::Drop) => {
                    trace.note(|| Step::Verdict(Verdict::Drop(DropReason::ServerGone)));
                    return Explanation { steps: trace.into_steps() };
                }
            }
        } else {
            trace.note(|| Step::Miss);
        }
        let mark = self.mark_of(mark, &tuple);
        if mark != 0 {
            trace.note(|| Step::Mark(mark));
        }
        let Some(index) = self.pool.find(&tuple, mark) else {
            trace.note(|| Step::NoService);
            return Explanation { steps: trace.into_steps() };
        };
        let record = self.pool.service(index);
        trace.note(|| Step::Service(record.config.key));
        let flow = Flow { protocol: tuple.protocol, client: tuple.src, service: tuple.dst };
        let mut scheduler = record.scheduler.fork();
        let choice = choose(scheduler.as_mut(), &record.servers, &flow, now, &mut trace);
        trace.note(|| scheduled(record, choice));
        let id = choice.map(|index| record.servers[index].id);
        if let Some(conn) = id.and_then(|id| self.connection_to(id, &tuple, now)) {
            trace.note(|| Step::Server { server: conn.server, method: conn.method });
            // FULLNAT's local port is chosen when the connection opens, and its rewrite with it.
            let rewrite = self.rewrite_of(&conn, Direction::In, Deltas::of(&conn), 0);
            match rewrite {
                Ok(rewrite) if conn.method != Method::FullNat => trace.note(|| Step::Rewrite(rewrite)),
                Ok(_) => {}
                Err(reason) => trace.note(|| Step::Verdict(Verdict::Drop(reason))),
            }
        }
        Explanation { steps: trace.into_steps() }
    }

    /// A packet that leaves beside those given in, until there are no more.
    pub fn poll_transmit(&mut self) -> Option<Outgoing> {
        let outgoing = self.outgoing.pop_front()?;
        self.counters.released += 1;
        Some(outgoing)
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do; `None` = never, as things stand.
    pub fn poll_timeout(&self) -> Option<Instant> {
        [
            self.conns.poll_timeout(),
            self.fragments.poll_timeout(),
            self.pool.trash_due(),
            self.path_mtu.poll_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Ends connections and fragments whose time is over: a bounded number of steps, so call it again when
    /// [`poll_timeout`](Self::poll_timeout) is still not after `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        let mut budget = self.config.limits.expiry_steps;
        while let Some(ended) = self.conns.expire(now, &mut budget) {
            self.counters.expired += 1;
            self.release(&ended.connection);
        }
        let late = self.fragments.handle_timeout(now);
        self.counters.count_late_drop(DropReason::FragmentTimeout, u64::from(late));
        self.count_lost_fragments();
        for (server, protocol) in self.pool.collect_trash(now) {
            self.local_ports.forget(server, protocol);
        }
        self.path_mtu.forget(now);
    }

    /// How many connections there are, those whose time is over but not yet swept included.
    pub fn connection_count(&self) -> usize {
        self.conns.len()
    }

    /// The connections that match, in table order.
    pub fn connections(&self, filter: Filter) -> impl Iterator<Item = (ConnId, Connection)> {
        let whole = self.conns.iter().map(|(id, mut conn)| {
            conn.server.addr = self.rip_of(&conn);
            (id, conn)
        });
        whole.filter(move |(_, conn)| filter.matches(conn))
    }

    /// Bytes reserved for the connection table.
    pub fn table_bytes(&self) -> usize {
        self.conns.memory_bytes()
    }

    /// The services with their servers and numbers, in the order in which they were added; servers in list
    /// order (newest first). Rows for the tables of [`ipvsadm::list`](crate::ipvsadm::list).
    pub fn services(&self) -> Vec<ServiceRow<'_>> {
        let server = |server: &Server| {
            let record = self.pool.server(server.id)?;
            let load = &server.load;
            Some(ServerRow {
                active: load.active(),
                inactive: load.inactive(),
                persistent: load.persistent(),
                stats: record.traffic,
                ..ServerRow::new(record.config)
            })
        };
        let rows = self.pool.services().iter().map(|record| {
            let servers = record.servers.iter().filter_map(server).collect();
            ServiceRow { stats: record.traffic, ..ServiceRow::new(&record.config, servers) }
        });
        rows.collect()
    }

    /// The table of `ipvsadm -Ln` as it stands.
    pub fn table(&self) -> String {
        list::services(&self.services(), KERNEL_TABLE_SIZE, list::ListOptions::default())
    }

    /// What became of the packets given in.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Connections, packets and bytes of all services together.
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }
}
