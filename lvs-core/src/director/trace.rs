//! Why: each decision on a packet's way can leave a step here. Off, a step costs one branch.

use core::fmt;
use core::net::IpAddr;

use lvs_sched::{Endpoint, SchedulerKind, Server, Weight};

use crate::conn::{Connection, Direction, Method, State};
use crate::rewrite::Rewrite;
use crate::service::ServiceKey;
use crate::verdict::Verdict;
use crate::wire::{TcpFlags, Tuple};

/// A server as the scheduler saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// RIP and port.
    pub server: Endpoint,
    /// Weight.
    pub weight: Weight,
    /// Active connections.
    pub active: u32,
    /// Inactive connections.
    pub inactive: u32,
    /// Over its thresholds.
    pub overloaded: bool,
}

impl Candidate {
    pub(super) fn of(server: &Server) -> Self {
        Self {
            server: server.key,
            weight: server.weight,
            active: server.load.active(),
            inactive: server.load.inactive(),
            overloaded: server.load.is_overloaded(),
        }
    }
}

/// One decision.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// The packet's flow key.
    Flow(Tuple),
    /// A known connection was found.
    Hit {
        /// It, as it was before this packet.
        connection: Connection,
        /// Which way the packet travels.
        direction: Direction,
    },
    /// No connection is known for the flow.
    Miss,
    /// The connection ended and the packet counts as new.
    Reopened {
        /// Why.
        why: &'static str,
    },
    /// The packet has a mark.
    Mark(u32),
    /// The virtual service.
    Service(ServiceKey),
    /// No virtual service is meant.
    NoService,
    /// The packet may not open a connection.
    MayNotOpen(TcpFlags),
    /// What the scheduler chose from, in list order.
    Candidates(Vec<Candidate>),
    /// What it chose.
    Scheduled {
        /// The algorithm.
        scheduler: SchedulerKind,
        /// The server, if any may take the flow.
        server: Option<Endpoint>,
    },
    /// The return tuple was taken at that server; another is tried.
    ReturnTupleTaken(Endpoint),
    /// The server and how packets reach it.
    Server {
        /// RIP and port.
        server: Endpoint,
        /// How packets reach it.
        method: Method,
    },
    /// FULLNAT: the local address and port for this connection.
    Local(Endpoint),
    /// The state machine's step.
    State {
        /// Before this packet.
        before: State,
        /// After it.
        after: State,
    },
    /// What is done to the packet.
    Rewrite(Rewrite),
    /// The packet is larger than may leave.
    TooLarge {
        /// Its size with all headers, in bytes.
        size: u32,
        /// What may leave, in bytes.
        mtu: u16,
        /// Whether it is cut into fragments.
        cut: bool,
    },
    /// An ICMP error about a known connection.
    Related {
        /// The connection.
        connection: Connection,
        /// Which way the error travels.
        direction: Direction,
    },
    /// All fragments of a datagram are there.
    Reassembled {
        /// How many there were.
        fragments: usize,
        /// Length of the datagram in bytes.
        len: usize,
    },
    /// Handled in place of the host stack, or left to it.
    Host {
        /// Whom the packet was for.
        to: IpAddr,
    },
    /// The end.
    Verdict(Verdict),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flow(t) => write!(f, "flow: {} {} -> {}", t.protocol, t.src, t.dst),
            Self::Hit { connection: c, direction } => write!(
                f,
                "connection: {} {} -> {} at {} ({}), packet travels {}",
                c.protocol,
                c.client,
                c.service,
                c.server,
                c.state,
                way(*direction)
            ),
            Self::Miss => f.write_str("connection: none known"),
            Self::Reopened { why } => write!(f, "connection: ended, the packet counts as new: {why}"),
            Self::Mark(mark) => write!(f, "mark: {mark}"),
            Self::Service(key) => write!(f, "service: {key}"),
            Self::NoService => f.write_str("service: none at this address, port or mark"),
            Self::MayNotOpen(flags) => {
                write!(f, "may not open a connection: TCP flags {flags:?} without SYN, or with RST")
            }
            Self::Candidates(list) => {
                f.write_str("candidates in list order:")?;
                for c in list {
                    let state = if c.weight.is_quiesced() {
                        ", quiesced"
                    } else if c.overloaded {
                        ", overloaded"
                    } else {
                        ""
                    };
                    write!(
                        f,
                        "\n  -> {} weight {} active {} inactive {}{state}",
                        c.server, c.weight, c.active, c.inactive
                    )?;
                }
                Ok(())
            }
            Self::Scheduled { scheduler, server: Some(server) } => {
                write!(f, "scheduler {scheduler}: {server}")
            }
            Self::Scheduled { scheduler, server: None } => {
                write!(f, "scheduler {scheduler}: no server may take the flow")
            }
            Self::ReturnTupleTaken(server) => {
                write!(f, "return tuple at {server} belongs to another connection: next candidate")
            }
            Self::Server { server, method } => write!(f, "server: {server} by {method}"),
            Self::Local(local) => write!(f, "local address: {local}"),
            Self::State { before, after } => write!(f, "state: {before} -> {after}"),
            Self::Rewrite(r) => {
                write!(f, "rewrite: next hop {} (mtu {})", r.next_hop, r.mtu)?;
                if let Some(src) = r.src {
                    write!(f, ", source {src}")?;
                }
                if let Some(dst) = r.dst {
                    write!(f, ", destination {dst}")?;
                }
                if let Some(outer) = r.outer {
                    write!(f, ", outer {} -> {}", outer.src, outer.dst)?;
                }
                Ok(())
            }
            Self::TooLarge { size, mtu, cut: true } => {
                write!(f, "size: {size} bytes over the mtu of {mtu}, cut into fragments")
            }
            Self::TooLarge { size, mtu, cut: false } => {
                write!(f, "size: {size} bytes over the mtu of {mtu}, may not be fragmented")
            }
            Self::Related { connection: c, direction } => {
                write!(
                    f,
                    "ICMP error about {} {} -> {}, travels {}",
                    c.protocol,
                    c.client,
                    c.service,
                    way(*direction)
                )
            }
            Self::Reassembled { fragments, len } => {
                write!(f, "reassembled: {fragments} fragments, {len} bytes")
            }
            Self::Host { to } => write!(f, "host: for {to} itself, not for a connection"),
            Self::Verdict(Verdict::Drop(reason)) => write!(f, "verdict: drop, {reason}"),
            Self::Verdict(verdict) => match verdict.next_hop() {
                Some(hop) => write!(f, "verdict: {} to {hop}", verdict.name()),
                None => write!(f, "verdict: {}", verdict.name()),
            },
        }
    }
}

const fn way(direction: Direction) -> &'static str {
    match direction {
        Direction::In => "in (client to server)",
        Direction::Out => "out (server to client)",
    }
}

/// A recorder of steps that is usually off.
#[derive(Debug, Default)]
pub(crate) struct Trace(Option<Vec<Step>>);

impl Trace {
    pub(crate) fn recording() -> Self {
        Self(Some(Vec::new()))
    }

    #[inline]
    pub(crate) fn note(&mut self, step: impl FnOnce() -> Step) {
        if let Some(steps) = &mut self.0 {
            steps.push(step());
        }
    }

    pub(crate) fn into_steps(self) -> Vec<Step> {
        self.0.unwrap_or_default()
    }
}
