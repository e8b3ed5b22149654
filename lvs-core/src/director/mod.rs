//! The director: one packet in, one verdict out. This file is the packet's whole way, in order.
//!
//! ```text
//! parse ─▶ fragment? ─▶ ICMP error of a flow? ─▶ conns.lookup(tuple)
//!                                                    │
//!                        hit: forward ◀──────────────┴─────────────▶ miss: open
//!          state.advance · rewrite[direction]           service ─▶ scheduler ─▶ tentative connection
//!                             │                                        │ insert once nothing can fail
//!                             └───────▶ deliver: TTL, MTU, room ◀──────┘
//!                                       apply · cut · verdict
//! ```
//!
//! No byte of a packet changes before every check has passed, so that errors quote the original. A packet that
//! is dropped opens nothing. Time comes in as an argument; nothing here reads a clock or does I/O.

mod config;
mod control;
mod deliver;
mod fragments;
mod observe;
mod path_mtu;
mod pool;
mod related;
mod stray;
mod trace;

use core::net::IpAddr;
use std::collections::VecDeque;

use lvs_sched::{Endpoint, Flow, Instant, Scheduler, Server, ServerId};

pub use config::{Config, FullNatOptions, Limits, PassPolicy};
pub use control::{ApplyError, ConfigError};
pub use observe::Explanation;
pub use pool::TRASH_TIME;
pub use trace::{Candidate, Step};

use crate::answer::IcmpLimiter;
use crate::conn::{
    self, ConnFlags, ConnId, ConnTable, Connection, Direction, InsertError, Lookup, Method, Row, State,
    Timeouts,
};
use crate::fragment::FragmentStore;
use crate::local_ports::LocalPorts;
use crate::rewrite::{Deltas, Outer, Rewrite};
use crate::service::{Family, ForwardingMethod, Tunnel};
use crate::stats::{Counters, Traffic};
use crate::verdict::{DropReason, Verdict};
use crate::wire::{self, Delta, Meta, Packet, ParseError, Parsed, TcpFlags, Transport, Tuple, sctp};
use deliver::Refusal;
use fragments::Pieces;
use path_mtu::PathMtu;
use pool::Pool;
use trace::Trace;

/// Packets that `process_batch` takes through one stage before the next.
pub const BATCH: usize = 64;

/// A packet that leaves beside the one that was given in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// `Transmit`, `Reply` or `Pass`.
    pub verdict: Verdict,
    /// The whole IP packet.
    pub packet: Vec<u8>,
    /// Its metadata.
    pub meta: Meta,
}

/// A Linux Virtual Server director without I/O.
///
/// # Examples
/// A UDP datagram to a virtual service, translated to a real server:
/// ```
/// use lvs_core::{Config, Director, Instant, Verdict, ipvsadm::rules, wire::Packet};
/// let mut director = Director::new(Config::default());
/// let rules = rules::parse("-A -u 10.9.0.1:80 -s rr\n-a -u 10.9.0.1:80 -r 10.0.2.11:8080 -m")?;
/// let commands: Vec<_> = rules.into_iter().map(|line| line.command).collect();
/// director.apply(&commands, Instant::ZERO)?;
///
/// let datagram = [
///     0x45, 0xb9, 0, 33, 0x10, 0x0f, 0, 0, 64, 17, 0xb3, 0xe1, 172, 16, 0, 9, 10, 9, 0, 1, // IPv4
///     0x75, 0x32, 0, 80, 0, 13, 0x90, 0x5c, b'h', b'e', b'l', b'l', b'o', // UDP 30002 -> 80
/// ];
/// let mut buffer = [0; 128];
/// buffer[64..97].copy_from_slice(&datagram);
/// let mut packet = Packet::new(&mut buffer, 64, 97).expect("inside the buffer");
/// let verdict = director.process(&mut packet, Instant::from_secs(1));
/// assert_eq!(verdict, Verdict::Transmit { next_hop: "10.0.2.11".parse()? });
/// assert_eq!(packet.bytes()[16..20], [10, 0, 2, 11]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Director {
    config: Config,
    pool: Pool,
    conns: ConnTable,
    timeouts: Timeouts,
    local_ports: LocalPorts,
    fragments: FragmentStore,
    icmp_limiter: IcmpLimiter,
    path_mtu: PathMtu,
    outgoing: VecDeque<Outgoing>,
    answer: Vec<u8>,
    counters: Counters,
    traffic: Traffic,
    trace: Trace,
    next_id: u16,
}

/// What the first stage found out about one packet.
struct Prepared {
    parsed: Result<Parsed, ParseError>,
    /// Flow key and its hash, for whole packets with ports.
    key: Option<(Tuple, u64)>,
}

/// One packet on its way through the stages.
struct Job<'j, 'b> {
    packet: &'j mut Packet<'b>,
    parsed: &'j Parsed,
    /// Present when the packet is a reassembled datagram: how it must leave again.
    pieces: Option<&'j Pieces>,
    now: Instant,
}

impl Director {
    /// Makes a director without services; all memory of the connection table is reserved here.
    pub fn new(config: Config) -> Self {
        let seed = config.seed;
        Self {
            pool: Pool::new(seed),
            conns: ConnTable::new(config.limits.connections, seed),
            timeouts: Timeouts::default(),
            local_ports: LocalPorts::new(config.limits.local_ports.clone(), seed),
            fragments: FragmentStore::new(config.limits.fragments, seed),
            icmp_limiter: IcmpLimiter::new(config.icmp_limits, seed),
            path_mtu: PathMtu::new(config.limits.paths),
            outgoing: VecDeque::new(),
            answer: Vec::new(),
            counters: Counters::default(),
            traffic: Traffic::default(),
            trace: Trace::default(),
            next_id: seed as u16,
            config,
        }
    }

    /// Takes one packet through the director. The verdict speaks of the buffer, changed in place.
    pub fn process(&mut self, packet: &mut Packet<'_>, now: Instant) -> Verdict {
        let prepared = self.prepare(packet);
        self.decide(packet, prepared, now)
    }

    /// Takes packets through the director stage by stage, in order; `verdicts` gets one for each.
    ///
    /// The verdicts are those that [`process`](Self::process) would give one by one; memory that later stages
    /// need is fetched while earlier stages of other packets run.
    pub fn process_batch(&mut self, packets: &mut [Packet<'_>], now: Instant, verdicts: &mut Vec<Verdict>) {
        for chunk in packets.chunks_mut(BATCH) {
            let mut prepared: [Option<Prepared>; BATCH] = [const { None }; BATCH];
            for (slot, packet) in prepared.iter_mut().zip(chunk.iter()) {
                let first = slot.insert(self.prepare(packet));
                if let Some((tuple, hash)) = &first.key {
                    self.conns.prefetch_bucket(tuple, *hash);
                }
            }
            for (tuple, hash) in prepared.iter().flatten().filter_map(|first| first.key.as_ref()) {
                self.conns.prefetch_entry(tuple, *hash);
            }
            for (packet, first) in chunk.iter_mut().zip(prepared.into_iter().flatten()) {
                verdicts.push(self.decide(packet, first, now));
            }
        }
    }

    /// Stage 1: look at the packet once.
    #[inline]
    fn prepare(&self, packet: &Packet<'_>) -> Prepared {
        let parsed = wire::parse(packet.bytes());
        let key = match &parsed {
            Ok(parsed) if parsed.fragment.is_none() => {
                parsed.tuple().map(|tuple| (tuple, self.conns.hash(&tuple)))
            }
            _ => None,
        };
        Prepared { parsed, key }
    }

    /// Everything after stage 1; counts the verdict.
    fn decide(&mut self, packet: &mut Packet<'_>, prepared: Prepared, now: Instant) -> Verdict {
        let verdict = match prepared.parsed {
            Err(error) => Verdict::Drop(error.drop_reason()),
            Ok(parsed) if is_martian(parsed.src) => Verdict::Drop(DropReason::Martian),
            Ok(parsed) if parsed.fragment.is_some() => self.fragment(packet, &parsed, now),
            Ok(parsed) => {
                let mut job = Job { packet, parsed: &parsed, pieces: None, now };
                self.whole(&mut job, prepared.key)
            }
        };
        self.counters.count(verdict);
        self.trace.note(|| Step::Verdict(verdict));
        verdict
    }

    /// Stage 2: a whole packet finds its connection, or opens one.
    fn whole(&mut self, job: &mut Job<'_, '_>, key: Option<(Tuple, u64)>) -> Verdict {
        if let Transport::Icmp(icmp) = job.parsed.transport {
            return self.icmp(job, icmp);
        }
        let Some((tuple, hash)) = key else { return self.host(job) };
        self.trace.note(|| Step::Flow(tuple));
        match self.conns.lookup_hashed(&tuple, hash, job.now) {
            Lookup::Hit(id, direction) => {
                if let Some(verdict) = self.forward(job, id, direction) {
                    return verdict;
                }
            }
            Lookup::Expired(id) => {
                self.counters.expired += 1;
                self.end(id);
                self.trace.note(|| Step::Miss);
            }
            Lookup::Miss => self.trace.note(|| Step::Miss),
        }
        self.open(job, tuple)
    }

    /// Stage 3, hit: advance the state machine and deliver. `None` when the connection ended instead and the
    /// packet counts as new.
    fn forward(&mut self, job: &mut Job<'_, '_>, id: ConnId, direction: Direction) -> Option<Verdict> {
        let conn = self.conns.get(id)?;
        self.trace.note(|| Step::Hit { connection: conn, direction });
        let flags = job.parsed.tcp_flags();
        if direction == Direction::In {
            match self.may_continue(&conn, opens(job.parsed)) {
                Ok(()) => {}
                Err(Stale::Reopen(why)) => {
                    self.trace.note(|| Step::Reopened { why });
                    self.end(id);
                    return None;
                }
                Err(Stale::Drop) => return Some(Verdict::Drop(DropReason::ServerGone)),
            }
        }
        self.count_packet(conn.server_id, job.parsed.len, direction);
        let state = self.advance(id, &conn, direction, job.parsed);
        self.conns.touch(id, job.now + self.timeouts.of(state));
        let rewrite = match self.rewrite_of(&conn, direction, self.deltas(id)) {
            Ok(rewrite) => rewrite,
            Err(reason) => return Some(Verdict::Drop(reason)),
        };
        self.trace.note(|| Step::Rewrite(rewrite));
        let fit = match self.fit(job, &rewrite) {
            Ok(fit) => fit,
            Err(refusal) => return Some(self.refuse_forwarding(job, refusal, direction)),
        };
        if direction == Direction::In
            && let Some(hot) = self.conns.hot_mut(id)
        {
            hot.packets = hot.packets.saturating_add(1);
        }
        let toa = self.toa_for(&conn, direction, flags);
        Some(self.send(job, &rewrite, fit, toa))
    }

    /// Stage 3, miss: find the service, choose a server, and open the connection once nothing can fail.
    fn open(&mut self, job: &mut Job<'_, '_>, tuple: Tuple) -> Verdict {
        let mark = self.mark_of(job.packet.meta.mark, &tuple);
        if mark != 0 {
            self.trace.note(|| Step::Mark(mark));
        }
        let Some(service) = self.pool.find(&tuple, mark) else {
            self.trace.note(|| Step::NoService);
            return self.stray(job, &tuple);
        };
        self.trace.note(|| Step::Service(self.pool.service(service).config.key));
        let flags = job.parsed.tcp_flags();
        if !self.may_open(&tuple, job.parsed) {
            self.trace.note(|| Step::MayNotOpen(flags));
            return self.host(job);
        }
        let record = self.pool.service_mut(service);
        let flow = Flow { protocol: tuple.protocol, client: tuple.src, service: tuple.dst };
        let choice = choose(record.scheduler.as_mut(), &record.servers, &flow, job.now, &mut self.trace);
        let one_packet = record.config.one_packet;
        self.trace.note(|| scheduled(self.pool.service(service), choice));
        let Some(first) = choice else { return self.refuse_opening(job, Refusal::NoServer) };

        let mut refusal = Refusal::NoServer;
        let count = self.pool.service(service).servers.len();
        for index in core::iter::once(first).chain((0..count).filter(|index| *index != first)) {
            if index != first && !self.pool.service(service).servers[index].is_available() {
                continue;
            }
            let conn = match self.tentative(job, service, index, &tuple, mark) {
                Ok(conn) => conn,
                Err(reason) => return Verdict::Drop(reason),
            };
            let deltas = Deltas::of(&conn);
            let plan = self.rewrite_of(&conn, Direction::In, deltas).map_err(Refusal::Silent);
            let outcome = plan.and_then(|rewrite| {
                let fit = self.fit(job, &rewrite)?;
                if !one_packet {
                    self.insert(&conn, deltas, job.now)?;
                }
                Ok((rewrite, fit))
            });
            match outcome {
                Ok((rewrite, fit)) => {
                    self.trace.note(|| Step::State { before: State::None, after: conn.state });
                    self.trace.note(|| Step::Rewrite(rewrite));
                    self.count_opened(service, conn.server_id, job.parsed.len);
                    let toa = self.toa_for(&conn, Direction::In, flags);
                    if one_packet {
                        self.free_local(&conn);
                    }
                    return self.send(job, &rewrite, fit, toa);
                }
                Err(Refusal::Silent(DropReason::ReturnTupleTaken)) => {
                    self.trace.note(|| Step::ReturnTupleTaken(conn.server));
                    self.free_local(&conn);
                    refusal = Refusal::Silent(DropReason::ReturnTupleTaken);
                }
                Err(other) => {
                    self.free_local(&conn);
                    return self.refuse_opening(job, other);
                }
            }
        }
        self.refuse_opening(job, refusal)
    }

    /// Whether a packet from the client may go on using its connection.
    fn may_continue(&self, conn: &Connection, opens: bool) -> Result<(), Stale> {
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
    fn may_open(&self, tuple: &Tuple, parsed: &Parsed) -> bool {
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
    fn tentative(
        &mut self,
        job: &Job<'_, '_>,
        service: usize,
        index: usize,
        tuple: &Tuple,
        mark: u32,
    ) -> Result<Connection, DropReason> {
        let record = self.pool.service(service);
        let id = record.servers[index].id;
        let Some(server) = self.pool.server(id) else { return Err(DropReason::NoServer) };
        let config = server.config;
        let port = if config.endpoint.port == 0 { tuple.dst.port } else { config.endpoint.port };
        let rip = Endpoint::new(config.endpoint.addr, port);
        self.trace.note(|| Step::Server { server: rip, method: config.method });
        let local = match config.method {
            ForwardingMethod::FullNat => {
                let local = self.take_local(service, rip, tuple)?;
                self.trace.note(|| Step::Local(local));
                local
            }
            _ => tuple.src,
        };
        let mut flags = ConnFlags::empty();
        flags.set(ConnFlags::NO_OUTPUT, !config.method.sees_replies());
        let state = next_state(State::None, Row::of(Direction::In, flags), job.parsed);
        flags.set(ConnFlags::INACTIVE, !state.is_active());
        Ok(Connection {
            protocol: tuple.protocol,
            client: tuple.src,
            service: tuple.dst,
            server: rip,
            local,
            method: config.method.into(),
            server_id: id,
            state,
            flags,
            mark,
            packets: 1,
            expires: job.now + self.timeouts.of(state),
        })
    }

    /// Puts a connection into the table and counts it at its server; a full table evicts first.
    fn insert(&mut self, conn: &Connection, deltas: Deltas, now: Instant) -> Result<(), Refusal> {
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
    fn end(&mut self, id: ConnId) {
        if let Some(ended) = self.conns.remove(id) {
            self.release(&ended.connection);
        }
    }

    /// Gives back what a removed connection held: its count at the server, its local port.
    fn release(&mut self, conn: &Connection) {
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
    fn take_local(&mut self, service: usize, rip: Endpoint, tuple: &Tuple) -> Result<Endpoint, DropReason> {
        let pool = self.pool.service(service).locals(Family::of(&rip.addr));
        if pool.is_empty() {
            return Err(DropReason::NoLocalAddress);
        }
        let spread = self.conns.hash(tuple);
        self.local_ports.allocate(pool, rip, tuple.protocol, spread).ok_or(DropReason::LocalPortsExhausted)
    }

    fn free_local(&mut self, conn: &Connection) {
        if conn.method == Method::FullNat {
            self.local_ports.free(conn.local, conn.server, conn.protocol);
        }
    }

    /// The state machine's step for one packet; keeps the server's active and inactive counts.
    fn advance(&mut self, id: ConnId, conn: &Connection, direction: Direction, parsed: &Parsed) -> State {
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
        if flags.contains(ConnFlags::INACTIVE) != conn.flags.contains(ConnFlags::INACTIVE) {
            if let Some(record) = self.pool.server_mut(conn.server_id) {
                let load = &record.server.load;
                if flags.contains(ConnFlags::INACTIVE) {
                    load.sub_active();
                    load.add_inactive();
                } else {
                    load.sub_inactive();
                    load.add_active();
                }
            }
        }
        state
    }

    /// What is done to the packets of one direction: the connection's translation joined with the server's
    /// outer header, next hop and MTU.
    fn rewrite_of(
        &mut self,
        conn: &Connection,
        direction: Direction,
        deltas: Deltas,
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
                    id: self.take_id(),
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
    fn rip_of(&self, conn: &Connection) -> IpAddr {
        self.pool.server(conn.server_id).map_or(conn.server.addr, |record| record.config.endpoint.addr)
    }

    fn mark_of(&self, mark: u32, tuple: &Tuple) -> u32 {
        match mark {
            0 => self.config.mark_rules.iter().find(|rule| rule.matches(tuple)).map_or(0, |rule| rule.mark),
            given => given,
        }
    }

    fn count_packet(&mut self, server: ServerId, bytes: u32, direction: Direction) {
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

    fn count_opened(&mut self, service: usize, server: ServerId, bytes: u32) {
        self.traffic.connections += 1;
        self.pool.service_mut(service).traffic.connections += 1;
        if let Some(record) = self.pool.server_mut(server) {
            record.traffic.connections += 1;
        }
        self.count_packet(server, bytes, Direction::In);
    }

    fn deltas(&self, id: ConnId) -> Deltas {
        let (addr, port) = self.conns.deltas(id).unwrap_or_default();
        Deltas { addr: Delta::from_bits(addr), port: Delta::from_bits(port) }
    }

    /// The next identification for an own packet that may be fragmented.
    fn take_id(&mut self) -> u16 {
        self.next_id = self.next_id.wrapping_add(1);
        self.next_id
    }
}

/// Why a packet does not go on using the connection it found.
enum Stale {
    /// The connection ends; the packet counts as new.
    Reopen(&'static str),
    /// The packet is dropped and the connection left to time out.
    Drop,
}

/// Active FTP data comes from here; it never opens a connection (`ip_vs_schedule`).
const FTP_DATA: u16 = 20;

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

/// Whether a packet is the first of a connection: a TCP SYN, an SCTP INIT.
fn opens(parsed: &Parsed) -> bool {
    match parsed.transport {
        Transport::Tcp { flags, .. } => flags.contains(TcpFlags::SYN),
        Transport::Sctp { chunk, .. } => chunk == Some(sctp::INIT),
        _ => false,
    }
}

/// The state that a packet leads to.
fn next_state(state: State, row: Row, parsed: &Parsed) -> State {
    match parsed.transport {
        Transport::Tcp { flags, .. } => conn::tcp_next(state, row, flags, false),
        Transport::Sctp { chunk: Some(first), second, .. } => conn::sctp_next(state, row, first, second),
        Transport::Udp { .. } => State::Udp,
        _ => state,
    }
}

/// Asks a scheduler; the one place that does, for live packets and for `explain`.
fn choose(
    scheduler: &mut dyn Scheduler,
    servers: &[Server],
    flow: &Flow,
    now: Instant,
    trace: &mut Trace,
) -> Option<usize> {
    trace.note(|| Step::Candidates(servers.iter().map(Candidate::of).collect()));
    scheduler.schedule(flow, servers, now)
}

fn scheduled(record: &pool::ServiceRecord, choice: Option<usize>) -> Step {
    Step::Scheduled {
        scheduler: record.config.scheduler,
        server: choice.map(|index| record.servers[index].key),
    }
}

/// Sources that no packet from a network may have (RFC 1122 3.2.1.3, RFC 4291 2.5 and 2.7).
fn is_martian(src: IpAddr) -> bool {
    match src {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_multicast() || v4.is_broadcast() || v4.is_unspecified(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_multicast() || v6.is_unspecified(),
    }
}
