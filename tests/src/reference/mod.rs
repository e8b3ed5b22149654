//! A reference director: the same rules as the engine's in the simplest form that can be seen to be right.
//!
//! Everything is a list that is searched from the front; packets are taken apart and put together again byte by
//! byte, with every checksum computed over all bytes. Of the engine it uses the configuration's types and the
//! packet parser, nothing that looks up, schedules or writes; the hash schedulers `sh` and `mh` are the only ones
//! that it borrows. It covers TCP and UDP over both families, NAT, DR, TUN (IP in IP) and FULLNAT. Not
//! covered: fragments that come in, ICMP, marks, persistence, one-packet scheduling, limits, `PassPolicy::Answer`.

mod arrival;
mod connections;
mod control;
mod forwarding;
mod rewriting;
mod schedulers;
mod tcp;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use lvs_core::service::{RealServer, ServiceKey, VirtualService};
use lvs_core::{Config, DropReason, Endpoint, Instant, Protocol, Weight};

use connections::Conn;
use schedulers::Turn;
use tcp::Machine;

pub use tcp::long_name;

/// What becomes of one packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It leaves towards the next hop, in these pieces.
    Transmit {
        /// The next hop.
        next_hop: IpAddr,
        /// One whole packet, or fragments.
        pieces: Vec<Vec<u8>>,
        /// Whether the pieces begin with a header that the director made, whose identification is its own.
        own_header: bool,
        /// Whether 0 and 0xFFFF may stand for one another in the transport checksum, since it is wrong anyway.
        wrong_checksum: bool,
    },
    /// This goes back.
    Reply {
        /// Whom it is for.
        to: IpAddr,
        /// An ICMP error.
        packet: Vec<u8>,
    },
    /// It is left to the host, unchanged.
    Pass,
    /// It ends here.
    Drop(DropReason),
}

/// A connection as it can be compared with one of the engine's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// CIP and port.
    pub client: Endpoint,
    /// VIP and port.
    pub service: Endpoint,
    /// RIP and port.
    pub server: Endpoint,
    /// Whom the server answers.
    pub local: Endpoint,
    /// The kernel's word for its state.
    pub state: &'static str,
    /// When it ends, in nanoseconds.
    pub expires: u64,
}

/// Counters of a server: connections, packets in and out, bytes in and out.
pub type Numbers = [u64; 5];

/// A server of the list of a service, as it can be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerNumbers {
    /// RIP and port.
    pub endpoint: Endpoint,
    /// Active connections.
    pub active: u32,
    /// Other connections.
    pub inactive: u32,
    /// Its counters.
    pub numbers: Numbers,
}

/// The reference director.
#[derive(Debug)]
pub struct Reference {
    config: Config,
    services: Vec<Service>,
    /// By serial number; deleted ones stay while they can be revived.
    servers: BTreeMap<u32, Server>,
    next_server: u32,
    conns: Vec<Conn>,
    established: Duration,
    fin_wait: Duration,
    udp: Duration,
    machine: Machine,
}

#[derive(Debug)]
struct Service {
    config: VirtualService,
    /// Serial numbers in list order, the newest first.
    order: Vec<u32>,
    turn: Turn,
}

#[derive(Debug, Clone)]
struct Server {
    service: ServiceKey,
    config: RealServer,
    last_weight: Weight,
    active: u32,
    inactive: u32,
    overloaded: bool,
    deleted: Option<Instant>,
    numbers: Numbers,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

impl Reference {
    /// A director without services. Of the configuration it reads switches, environment and local ports.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            services: Vec::new(),
            servers: BTreeMap::new(),
            next_server: 0,
            conns: Vec::new(),
            established: Duration::from_secs(900),
            fin_wait: Duration::from_secs(120),
            udp: Duration::from_secs(300),
            machine: Machine::new(),
        }
    }

    // ---- what can be seen ----

    /// All connections, sorted.
    pub fn connections(&self) -> Vec<Row> {
        let mut rows: Vec<_> = self
            .conns
            .iter()
            .map(|conn| Row {
                protocol: conn.protocol,
                client: conn.client,
                service: conn.service,
                server: conn.server,
                local: conn.local,
                state: conn.state,
                expires: conn.expires.as_nanos(),
            })
            .collect();
        rows.sort();
        rows
    }

    /// Services in order with their servers in list order.
    pub fn tables(&self) -> Vec<(ServiceKey, Vec<ServerNumbers>)> {
        let numbers = |id: &u32| {
            let server = &self.servers[id];
            ServerNumbers {
                endpoint: server.config.endpoint,
                active: server.active,
                inactive: server.inactive,
                numbers: server.numbers,
            }
        };
        let table = |service: &Service| (service.config.key, service.order.iter().map(numbers).collect());
        self.services.iter().map(table).collect()
    }

    /// How many connections there are.
    pub fn len(&self) -> usize {
        self.conns.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.conns.is_empty()
    }

    /// When the first connection ends.
    pub fn first_expiry(&self) -> Option<Instant> {
        self.conns.iter().map(|conn| conn.expires).min()
    }

    // ---- time ----

    /// Ends what is over.
    pub fn sweep(&mut self, now: Instant) {
        while let Some(over) = self.conns.iter().position(|conn| conn.expires <= now) {
            self.end(over);
        }
        let conns = &self.conns;
        self.servers.retain(|id, server| {
            let trashed = server.deleted.is_some_and(|since| now - since >= Duration::from_secs(120));
            !trashed || conns.iter().any(|conn| conn.server_id == *id)
        });
    }
}
