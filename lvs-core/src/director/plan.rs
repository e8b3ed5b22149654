//! What a packet may do and what would be done to it: the rules, without any effect but a local port taken.

use core::net::IpAddr;

use lvs_sched::{Endpoint, Instant, ServerId};

use super::{Director, Job, Step};
use crate::conn::{self, ConnFlags, Connection, Direction, Method, Row, State};
use crate::rewrite::{Deltas, Outer, Rewrite};
use crate::service::{Family, ForwardingMethod, Tunnel};
use crate::verdict::DropReason;
use crate::wire::{Parsed, TcpFlags, Transport, Tuple, sctp};

/// Why a packet does not go on using the connection it found.
pub(super) enum Stale {
    /// The connection ends; the packet counts as new.
    Reopen(&'static str),
    /// The packet is dropped and the connection left to time out.
    Drop,
}

/// Active FTP data comes from here; it never opens a connection (`ip_vs_schedule`).
const FTP_DATA: u16 = 20;

impl Director {
    /// Whether a packet from the client may go on using its connection.
    pub(super) fn may_continue(&self, conn: &Connection, opens: bool) -> Result<(), Stale> {
        let sysctl = &self.config.sysctl;
        let server = self.pool.server(conn.server_id);
        if server.is_none_or(|record| record.deleted.is_some()) {
            return Err(if sysctl.expire_nodest_conn {
                Stale::Reopen("its server was deleted")
            } else {
                Stale::Drop
            });
        }
        if !opens {
            return Ok(());
        }
        if sysctl.expire_nodest_conn && server.is_some_and(|record| record.config.weight.is_quiesced()) {
            return Err(Stale::Reopen("its server is quiesced and expire_nodest_conn is set"));
        }
        let closed = matches!(conn.state, State::TimeWait | State::Close | State::SctpClosed);
        let one_way = conn.state == State::FinWait && conn.flags.contains(ConnFlags::NO_OUTPUT);
        if sysctl.conn_reuse_mode != 0 && (closed || sysctl.conn_reuse_mode & 2 != 0 && one_way) {
            return Err(Stale::Reopen("a new SYN, and the old connection is closed"));
        }
        Ok(())
    }

    /// Whether a packet without a connection may open one (`ip_vs_proto_tcp.c`, `ip_vs_in_hook`).
    pub(super) fn may_open(&self, tuple: &Tuple, parsed: &Parsed) -> bool {
        let sysctl = &self.config.sysctl;
        match parsed.transport {
            Transport::Tcp { flags, .. } => {
                tuple.src.port != FTP_DATA
                    && !flags.contains(TcpFlags::RST)
                    && (flags.contains(TcpFlags::SYN) || sysctl.sloppy_tcp)
            }
            Transport::Sctp { chunk, .. } => chunk == Some(sctp::INIT) || sysctl.sloppy_sctp,
            _ => true,
        }
    }

    /// A connection as it would be after this packet; a local port is taken for FULLNAT, nothing else.
    pub(super) fn tentative(
        &mut self,
        job: &Job<'_, '_>,
        service: usize,
        index: usize,
        tuple: &Tuple,
        mark: u32,
    ) -> Result<Connection, DropReason> {
        let id = self.pool.service(service).servers[index].id;
        let mut conn = self.connection_to(id, tuple, job.now).ok_or(DropReason::NoServer)?;
        self.trace.note(|| Step::Server { server: conn.server, method: conn.method });
        if conn.method == Method::FullNat {
            conn.local = self.take_local(service, conn.server, tuple)?;
            self.trace.note(|| Step::Local(conn.local));
        }
        conn.mark = mark;
        conn.state = next_state(State::None, Row::of(Direction::In, conn.flags), job.parsed);
        conn.flags.set(ConnFlags::INACTIVE, !conn.state.is_active());
        conn.expires = job.now + self.timeouts.of(conn.state);
        Ok(conn)
    }

    /// A connection to a server before any packet; `None` when the server is not known.
    pub(super) fn connection_to(&self, id: ServerId, tuple: &Tuple, now: Instant) -> Option<Connection> {
        let config = self.pool.server(id)?.config;
        let port = if config.endpoint.port == 0 { tuple.dst.port } else { config.endpoint.port };
        let mut flags = ConnFlags::empty();
        flags.set(ConnFlags::NO_OUTPUT, !config.method.sees_replies());
        Some(Connection {
            protocol: tuple.protocol,
            client: tuple.src,
            service: tuple.dst,
            server: Endpoint::new(config.endpoint.addr, port),
            local: tuple.src,
            method: config.method.into(),
            server_id: id,
            state: State::None,
            flags,
            mark: 0,
            packets: 1,
            expires: now,
        })
    }

    /// What is done to the packets of one direction: the connection's translation joined with the server's
    /// outer header, next hop and MTU.
    pub(super) fn rewrite_of(
        &self,
        conn: &Connection,
        direction: Direction,
        deltas: Deltas,
        id: u16,
    ) -> Result<Rewrite, DropReason> {
        let environment = &self.config.environment;
        let Some(record) = self.pool.server(conn.server_id) else { return Err(DropReason::ServerGone) };
        // A connection keeps the method with which it was opened, whatever its server is changed to.
        match conn.method {
            Method::Masquerade | Method::FullNat => {
                let next_hop = if direction == Direction::In { conn.server.addr } else { conn.client.addr };
                Ok(Rewrite::translate(conn, direction, deltas, environment.mtu_to(next_hop)))
            }
            Method::DirectRoute => {
                let rip = self.rip_of(conn);
                Ok(Rewrite::forward(rip, environment.mtu_to(rip)))
            }
            Method::Tunnel => {
                let tunnel = match record.config.method {
                    ForwardingMethod::Tunnel(tunnel) => tunnel,
                    _ => Tunnel::default(),
                };
                let rip = self.rip_of(conn);
                let src = environment.source(Family::of(&rip)).ok_or(DropReason::NoTunnelSource)?;
                let mtu = self.path_mtu.limit(rip, environment.mtu_to(rip));
                let outer = Outer {
                    src,
                    dst: rip,
                    tunnel,
                    source_port: gue_source_port(conn),
                    copy_df: self.config.sysctl.pmtu_disc,
                    id,
                };
                Ok(Rewrite { outer: Some(outer), ..Rewrite::forward(rip, mtu) })
            }
            Method::Bypass => {
                let hop = conn.service.addr;
                Ok(Rewrite::forward(hop, environment.mtu_to(hop)))
            }
            Method::Local => Err(DropReason::Unsupported),
        }
    }

    /// The server's address from its record: the table does not hold one of another family than the client's.
    pub(super) fn rip_of(&self, conn: &Connection) -> IpAddr {
        self.pool.server(conn.server_id).map_or(conn.server.addr, |record| record.config.endpoint.addr)
    }

    pub(super) fn mark_of(&self, mark: u32, tuple: &Tuple) -> u32 {
        match mark {
            0 => self.config.mark_rules.iter().find(|rule| rule.matches(tuple)).map_or(0, |rule| rule.mark),
            given => given,
        }
    }
}

/// Whether a packet is the first of a connection: a TCP SYN, an SCTP INIT.
pub(super) fn opens(parsed: &Parsed) -> bool {
    match parsed.transport {
        Transport::Tcp { flags, .. } => flags.contains(TcpFlags::SYN),
        Transport::Sctp { chunk, .. } => chunk == Some(sctp::INIT),
        _ => false,
    }
}

/// The state that a packet leads to.
pub(super) fn next_state(state: State, row: Row, parsed: &Parsed) -> State {
    match parsed.transport {
        Transport::Tcp { flags, .. } => conn::tcp_next(state, row, flags, false),
        Transport::Sctp { chunk: Some(first), second, .. } => conn::sctp_next(state, row, first, second),
        Transport::Udp { .. } => State::Udp,
        _ => state,
    }
}

/// The UDP source port of a GUE tunnel: the same for all packets of a flow, in the dynamic range (RFC 6335).
fn gue_source_port(conn: &Connection) -> u16 {
    let addr = match conn.client.addr {
        IpAddr::V4(v4) => v4.to_bits(),
        IpAddr::V6(v6) => {
            v6.segments().iter().fold(0u32, |hash, word| hash.rotate_left(5) ^ u32::from(*word))
        }
    };
    let hash =
        (addr ^ u32::from(conn.client.port) << 16 ^ u32::from(conn.service.port)).wrapping_mul(0x9e37_79b1);
    0xc000 | (hash >> 18) as u16
}
