//! What a connection holds and how it is counted: its place in the table, its share of a server's load, its local
//! port. Everything that is taken when a connection opens is given back here when it ends.

use lvs_sched::{Endpoint, Instant, ServerId};

use super::plan::next_state;
use super::refuse::Refusal;
use super::{Director, Step};
use crate::conn::{ConnFlags, ConnId, Connection, Direction, InsertError, Method, Row, State};
use crate::rewrite::Deltas;
use crate::service::Family;
use crate::stats::Traffic;
use crate::verdict::DropReason;
use crate::wire::{Delta, Parsed, Tuple};

impl Director {
    /// Puts a connection into the table and counts it at its server; a full table evicts first.
    pub(super) fn insert(&mut self, conn: &Connection, deltas: Deltas, now: Instant) -> Result<(), Refusal> {
        let id = loop {
            let in_the_way = match self.conns.insert(conn, now) {
                Ok(id) => break id,
                Err(InsertError::Full) => {
                    let Some(victim) = self.conns.evict(Family::of(&conn.client.addr), now) else {
                        return Err(Refusal::Silent(DropReason::TableFull));
                    };
                    self.counters.evicted += 1;
                    self.release(&victim.connection);
                    continue;
                }
                Err(InsertError::TupleTaken(id) | InsertError::ReturnTupleTaken(id)) => id,
                Err(_) => return Err(Refusal::Silent(DropReason::Unsupported)),
            };
            // A connection whose time is over may still hold the tuple; a living one keeps it.
            if self.conns.expires(in_the_way).is_none_or(|expires| expires > now) {
                return Err(Refusal::Silent(DropReason::ReturnTupleTaken));
            }
            self.counters.expired += 1;
            self.end(in_the_way);
        };
        if let Some(hot) = self.conns.hot_mut(id) {
            (hot.addr_delta, hot.port_delta) = (deltas.addr.bits(), deltas.port.bits());
        }
        if let Some(record) = self.pool.server_mut(conn.server_id) {
            record.connections += 1;
            let load = &record.server.load;
            if conn.flags.contains(ConnFlags::INACTIVE) {
                load.add_inactive()
            } else {
                load.add_active()
            }
            record.thresholds.opened(load);
        }
        Ok(())
    }

    /// Removes a connection and gives back what it held.
    pub(super) fn end(&mut self, id: ConnId) {
        if let Some(ended) = self.conns.remove(id) {
            self.release(&ended.connection);
        }
    }

    /// Gives back what a removed connection held: its count at the server, its local port.
    pub(super) fn release(&mut self, conn: &Connection) {
        if let Some(record) = self.pool.server_mut(conn.server_id) {
            debug_assert!(record.connections > 0, "a connection in the table is counted at its server");
            record.connections = record.connections.saturating_sub(1);
            let load = &record.server.load;
            if conn.flags.contains(ConnFlags::INACTIVE) {
                load.sub_inactive()
            } else {
                load.sub_active()
            }
            record.thresholds.closed(load);
        }
        self.free_local(conn);
    }

    /// FULLNAT: a local address and port that no other connection to that server has.
    pub(super) fn take_local(
        &mut self,
        service: usize,
        conn: &Connection,
        tuple: &Tuple,
    ) -> Result<Endpoint, DropReason> {
        let rip = self.port_space(conn);
        let pool = self.pool.service(service).locals(Family::of(&rip.addr));
        if pool.is_empty() {
            return Err(DropReason::NoLocalAddress);
        }
        let spread = self.conns.hash(tuple);
        self.local_ports.allocate(pool, rip, tuple.protocol, spread).ok_or(DropReason::LocalPortsExhausted)
    }

    pub(super) fn free_local(&mut self, conn: &Connection) {
        if conn.method == Method::FullNat {
            self.local_ports.free(conn.local, self.port_space(conn), conn.protocol);
        }
    }

    /// Towards which endpoint FULLNAT's ports are told apart. A server without a port has one range for all its
    /// ports: which of them there are is the clients' choice, and each range takes memory.
    pub(super) fn port_space(&self, conn: &Connection) -> Endpoint {
        let any_port =
            self.pool.server(conn.server_id).is_some_and(|record| record.config.endpoint.port == 0);
        if any_port { Endpoint::new(conn.server.addr, 0) } else { conn.server }
    }

    /// The state machine's step for one packet; keeps the server's active and inactive counts.
    pub(super) fn advance(
        &mut self,
        id: ConnId,
        conn: &Connection,
        direction: Direction,
        parsed: &Parsed,
    ) -> State {
        let mut flags = conn.flags;
        if direction == Direction::Out {
            flags.remove(ConnFlags::NO_OUTPUT);
        }
        let state = next_state(conn.state, Row::of(direction, flags), parsed);
        flags.set(ConnFlags::INACTIVE, !state.is_active());
        if state != conn.state || flags != conn.flags {
            if let Some(hot) = self.conns.hot_mut(id) {
                (hot.state, hot.flags) = (state, flags);
            }
            self.trace.note(|| Step::State { before: conn.state, after: state });
        }
        let inactive = flags.contains(ConnFlags::INACTIVE);
        if inactive != conn.flags.contains(ConnFlags::INACTIVE)
            && let Some(record) = self.pool.server_mut(conn.server_id)
        {
            let load = &record.server.load;
            if inactive {
                load.sub_active();
                load.add_inactive();
            } else {
                load.sub_inactive();
                load.add_active();
            }
        }
        state
    }

    pub(super) fn deltas(&self, id: ConnId) -> Deltas {
        let (addr, port) = self.conns.deltas(id).unwrap_or_default();
        Deltas { addr: Delta::from_bits(addr), port: Delta::from_bits(port) }
    }

    pub(super) fn count_packet(&mut self, server: ServerId, bytes: u32, direction: Direction) {
        let count = |traffic: &mut Traffic| match direction {
            Direction::In => traffic.count_in(bytes),
            Direction::Out => traffic.count_out(bytes),
        };
        count(&mut self.traffic);
        let Some(record) = self.pool.server_mut(server) else { return };
        count(&mut record.traffic);
        if let Some(index) = record.service_index {
            count(&mut self.pool.service_mut(index).traffic);
        }
    }

    pub(super) fn count_opened(&mut self, service: usize, server: ServerId, bytes: u32) {
        self.traffic.connections += 1;
        self.pool.service_mut(service).traffic.connections += 1;
        if let Some(record) = self.pool.server_mut(server) {
            record.traffic.connections += 1;
        }
        self.count_packet(server, bytes, Direction::In);
    }

    /// The next identification for an own packet that may be fragmented.
    pub(super) fn take_id(&mut self) -> u16 {
        self.next_id = self.next_id.wrapping_add(1);
        self.next_id
    }
}
