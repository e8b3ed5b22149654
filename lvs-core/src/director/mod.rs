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
mod fullnat;
mod ledger;
mod observe;
mod path_mtu;
mod plan;
mod pool;
mod refuse;
mod related;
mod stray;
mod trace;

use core::net::IpAddr;
use std::collections::VecDeque;

use lvs_sched::{Flow, Instant, Protocol, Scheduler, Server};

pub use config::{Config, FullNatOptions, Limits, PassPolicy};
pub use control::{ApplyError, ConfigError};
pub use observe::Explanation;
pub use pool::TRASH_TIME;
pub use trace::{Candidate, Step};

use crate::answer::IcmpLimiter;
use crate::conn::{ConnId, ConnTable, Direction, Lookup, Method, State, Timeouts};
use crate::fragment::FragmentStore;
use crate::local_ports::LocalPorts;
use crate::rewrite::Deltas;
use crate::stats::{Counters, Traffic};
use crate::verdict::{DropReason, Verdict};
use crate::wire::{self, Meta, Packet, ParseError, Parsed, Transport, Tuple};
use fragments::Pieces;
use path_mtu::PathMtu;
use plan::{Stale, opens};
use pool::Pool;
use refuse::Refusal;
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
        let parsed = wire::parse(packet.bytes());
        let key = self.key_of(&parsed);
        self.decide(packet, &parsed, key.as_ref(), now)
    }

    /// Takes packets through the director stage by stage, in order; `verdicts` gets one for each.
    ///
    /// The verdicts are those that [`process`](Self::process) would give one by one; memory that later stages
    /// need is fetched while earlier stages of other packets run.
    pub fn process_batch(&mut self, packets: &mut [Packet<'_>], now: Instant, verdicts: &mut Vec<Verdict>) {
        for chunk in packets.chunks_mut(BATCH) {
            let mut prepared: [Option<Prepared>; BATCH] = [const { None }; BATCH];
            for (slot, packet) in prepared.iter_mut().zip(chunk.iter()) {
                let parsed = wire::parse(packet.bytes());
                let key = self.key_of(&parsed);
                let first = slot.insert(Prepared { parsed, key });
                if let Some((tuple, hash)) = &first.key {
                    self.conns.prefetch_bucket(tuple, *hash);
                }
            }
            for (tuple, hash) in prepared.iter().flatten().filter_map(|first| first.key.as_ref()) {
                self.conns.prefetch_entry(tuple, *hash);
            }
            for (packet, first) in chunk.iter_mut().zip(prepared.iter().flatten()) {
                verdicts.push(self.decide(packet, &first.parsed, first.key.as_ref(), now));
            }
        }
    }

    /// The flow key of a whole packet with ports, and its hash.
    #[inline]
    fn key_of(&self, parsed: &Result<Parsed, ParseError>) -> Option<(Tuple, u64)> {
        let parsed = parsed.as_ref().ok().filter(|parsed| parsed.fragment.is_none())?;
        parsed.tuple().map(|tuple| (tuple, self.conns.hash(&tuple)))
    }

    /// Everything after stage 1; counts the verdict.
    fn decide(
        &mut self,
        packet: &mut Packet<'_>,
        parsed: &Result<Parsed, ParseError>,
        key: Option<&(Tuple, u64)>,
        now: Instant,
    ) -> Verdict {
        let verdict = match parsed {
            Err(error) => Verdict::Drop(error.drop_reason()),
            Ok(parsed) if is_martian(parsed) => Verdict::Drop(DropReason::Martian),
            Ok(parsed) if is_group(parsed.dst) => self.group_traffic(parsed),
            Ok(parsed) if parsed.fragment.is_some() => self.fragment(packet, parsed, now),
            Ok(parsed) => {
                let mut job = Job { packet, parsed, pieces: None, now };
                self.whole(&mut job, key)
            }
        };
        self.counters.count(verdict);
        self.trace.note(|| Step::Verdict(verdict));
        verdict
    }

    /// Stage 2: a whole packet finds its connection, or opens one.
    fn whole(&mut self, job: &mut Job<'_, '_>, key: Option<&(Tuple, u64)>) -> Verdict {
        if let Transport::Icmp(icmp) = job.parsed.transport {
            return self.icmp(job, icmp);
        }
        let Some(&(ref tuple, hash)) = key else { return self.host(job) };
        self.trace.note(|| Step::Flow(*tuple));
        match self.conns.lookup_hashed(tuple, hash, job.now) {
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
        self.open(job, *tuple)
    }

    /// Stage 3, hit: advance the state machine and deliver. `None` when the connection ended instead and the
    /// packet counts as new.
    fn forward(&mut self, job: &mut Job<'_, '_>, id: ConnId, direction: Direction) -> Option<Verdict> {
        // Connection and rewrite are large: they are read where they were made, not moved.
        let Some(conn) = &self.conns.get(id) else { return None };
        self.trace.note(|| Step::Hit { connection: *conn, direction });
        let flags = job.parsed.tcp_flags();
        if direction == Direction::In {
            match self.may_continue(conn, opens(job.parsed)) {
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
        let state = self.advance(id, conn, direction, job.parsed);
        self.conns.touch(id, job.now + self.timeouts.of(state));
        if conn.method == Method::Local {
            return Some(self.local_node());
        }
        let packet_id = self.take_id();
        let planned = self.rewrite_of(conn, direction, self.deltas(id), packet_id);
        let rewrite = match &planned {
            Ok(rewrite) => rewrite,
            Err(reason) => return Some(Verdict::Drop(*reason)),
        };
        self.trace.note(|| Step::Rewrite(*rewrite));
        let fit = match self.fit(job, rewrite) {
            Ok(fit) => fit,
            Err(refusal) => return Some(self.refuse_forwarding(job, refusal, direction)),
        };
        if direction == Direction::In
            && let Some(hot) = self.conns.hot_mut(id)
        {
            hot.packets = hot.packets.saturating_add(1);
        }
        let fullnat = self.fullnat_step(conn, direction, flags);
        Some(self.send(job, rewrite, fit, fullnat))
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
        // The kernel schedules single datagrams, whatever a service by mark lets in beside them.
        let one_packet = record.config.one_packet && tuple.protocol == Protocol::Udp;
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
            if conn.method == Method::Local {
                return self.open_local(job, service, &conn, one_packet);
            }
            let deltas = Deltas::of(&conn);
            let id = self.take_id();
            let plan = self.rewrite_of(&conn, Direction::In, deltas, id).map_err(Refusal::Silent);
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
                    let fullnat = self.fullnat_step(&conn, Direction::In, flags);
                    if one_packet {
                        self.free_local(&conn);
                    }
                    return self.send(job, &rewrite, fit, fullnat);
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

/// Addresses that no packet from a network may have (RFC 1122 3.2.1.3, RFC 4291 2.5 and 2.7), and packets from their
/// own destination. A sender without an address yet may speak to a group (DHCP, duplicate address detection).
fn is_martian(parsed: &Parsed) -> bool {
    let (src, dst) = (parsed.src, parsed.dst);
    src.is_loopback()
        || is_group(src)
        || src.is_unspecified() && !is_group(dst)
        || dst.is_loopback()
        || dst.is_unspecified()
        || src == dst
}

/// Multicast or limited broadcast.
fn is_group(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(v4) => v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_multicast(),
    }
}
