//! A reference director: the same rules as the engine's in the simplest form that can be seen to be right.
//!
//! Everything is a list that is searched from the front; packets are taken apart and put together again byte by
//! byte, with every checksum computed over all bytes. Of the engine it uses the configuration's types and the
//! packet parser, nothing that looks up, schedules or writes; the hash schedulers `sh` and `mh` are the only ones
//! that it borrows. It covers TCP and UDP over both families, NAT, DR, TUN (IP in IP) and FULLNAT. Not
//! covered: fragments that come in, ICMP, marks, persistence, one-packet scheduling, limits, `PassPolicy::Answer`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use lvs_core::service::{Command, ForwardingMethod, RealServer, ServiceKey, TimeoutSettings, VirtualService};
use lvs_core::wire::{self, Parsed, Transport};
use lvs_core::{Config, DropReason, Endpoint, Flow, Instant, Protocol, SchedulerKind, ServerId, Weight};
use lvs_sched::Change;

use crate::packets::{self, flags, ip_header, word};

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

#[derive(Debug, Clone)]
struct Conn {
    protocol: Protocol,
    client: Endpoint,
    service: Endpoint,
    server: Endpoint,
    local: Endpoint,
    method: ForwardingMethod,
    server_id: u32,
    state: &'static str,
    no_output: bool,
    active: bool,
    /// Packets from the client that left.
    packets: u32,
    expires: Instant,
}

/// What a scheduler remembers between two choices.
#[derive(Debug)]
enum Turn {
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

/// How a packet leaves.
struct Plan {
    src: Endpoint,
    dst: Endpoint,
    /// Source and destination of the outer header.
    tunnel: Option<(IpAddr, IpAddr)>,
    next_hop: IpAddr,
    /// Whose address a TCP option tells the server (TOA).
    tell: Option<Endpoint>,
}

/// Why a packet may not leave.
enum Refusal {
    Ttl,
    TooBig(usize),
    Silent(DropReason),
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

    // ---- control ----

    /// Carries out one command; false when it cannot be carried out.
    pub fn apply(&mut self, command: &Command, now: Instant) -> bool {
        match command {
            Command::AddService(config) => {
                if self.service_at(&config.key).is_some() {
                    return false;
                }
                let turn = Turn::new(config);
                self.services.push(Service { config: config.clone(), order: Vec::new(), turn });
                true
            }
            Command::EditService(config) => self.edit_service(config),
            Command::DeleteService(key) => {
                let Some(at) = self.service_at(key) else { return false };
                for id in self.services[at].order.clone() {
                    self.delete_server(at, id, now);
                }
                self.services.remove(at);
                true
            }
            Command::AddServer(key, server) => {
                let Some(at) = self.service_at(key) else { return false };
                let server = with_service_port(key, *server);
                if self.server_at(at, server.endpoint).is_some() || !self.server_is_valid(at, &server) {
                    return false;
                }
                self.add_server(at, server);
                true
            }
            Command::EditServer(key, server) => {
                let Some(at) = self.service_at(key) else { return false };
                let server = with_service_port(key, *server);
                let Some(id) = self.server_at(at, server.endpoint) else { return false };
                if !self.server_is_valid(at, &server) {
                    return false;
                }
                let record = self.servers.get_mut(&id).expect("a listed server has a record");
                record.configure(server);
                self.changed(at, Some(Change::Edited { index: 0 }));
                true
            }
            Command::DeleteServer(key, endpoint) => {
                let Some(at) = self.service_at(key) else { return false };
                let Some(id) = self.server_at(at, *endpoint) else { return false };
                self.delete_server(at, id, now);
                true
            }
            Command::SetTimeouts(TimeoutSettings { tcp, tcp_fin, udp }) => {
                for (mine, new) in
                    [(&mut self.established, tcp), (&mut self.fin_wait, tcp_fin), (&mut self.udp, udp)]
                {
                    if !new.is_zero() {
                        *mine = *new;
                    }
                }
                true
            }
            other => panic!("the reference does not know {other:?}"),
        }
    }

    fn edit_service(&mut self, config: &VirtualService) -> bool {
        let Some(at) = self.service_at(&config.key) else { return false };
        let old = std::mem::replace(&mut self.services[at].config, config.clone());
        let servers: Vec<_> = self.services[at].order.iter().map(|id| self.servers[id].config).collect();
        if !servers.iter().all(|server| self.server_is_valid(at, server)) {
            self.services[at].config = old;
            return false;
        }
        if (old.scheduler, old.flags) != (config.scheduler, config.flags) {
            self.services[at].turn = Turn::new(config);
            self.changed(at, None);
        }
        true
    }

    fn add_server(&mut self, at: usize, server: RealServer) {
        let key = self.services[at].config.key;
        let known = self.servers.iter().find(|(_, record)| {
            record.deleted.is_some() && record.service == key && record.config.endpoint == server.endpoint
        });
        let id = match known {
            Some((id, _)) => *id,
            None => {
                self.next_server += 1;
                self.servers.insert(self.next_server, Server::new(key, server));
                self.next_server
            }
        };
        let record = self.servers.get_mut(&id).expect("just found");
        record.deleted = None;
        record.configure(server);
        self.services[at].order.insert(0, id);
        self.changed(at, Some(Change::Added { index: 0 }));
    }

    fn delete_server(&mut self, at: usize, id: u32, now: Instant) {
        let service = &mut self.services[at];
        let place = service.order.iter().position(|other| *other == id).expect("a listed server");
        if let Turn::RoundRobin(last) = &mut service.turn
            && *last == Some(id)
        {
            *last = place.checked_sub(1).map(|before| service.order[before]);
        }
        service.order.remove(place);
        self.servers.get_mut(&id).expect("a listed server has a record").deleted = Some(now);
        self.changed(at, Some(Change::Removed { index: place, id: ServerId(id) }));
    }

    /// Tells the scheduler that its list has changed.
    fn changed(&mut self, at: usize, change: Option<Change>) {
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

    fn service_at(&self, key: &ServiceKey) -> Option<usize> {
        self.services.iter().position(|service| service.config.key == *key)
    }

    fn server_at(&self, service: usize, endpoint: Endpoint) -> Option<u32> {
        let order = &self.services[service].order;
        order.iter().copied().find(|id| self.servers[id].config.endpoint == endpoint)
    }

    fn server_is_valid(&self, at: usize, server: &RealServer) -> bool {
        let service = &self.services[at].config;
        let ServiceKey::Address { endpoint, .. } = service.key else { panic!("no marks here") };
        let v4 = server.endpoint.addr.is_ipv4();
        let same_family = v4 == endpoint.addr.is_ipv4();
        let has_local = service.local_addresses.iter().any(|local| local.is_ipv4() == v4);
        (same_family || matches!(server.method, ForwardingMethod::Tunnel(_)))
            && server.endpoint.addr != endpoint.addr
            && (server.method != ForwardingMethod::FullNat || has_local)
            && server.lower_threshold <= server.upper_threshold
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

    // ---- packets ----

    /// Takes one packet. `chosen` is the local endpoint that the engine gave this packet, should it have opened
    /// a FULLNAT connection; an endpoint that it must not give ends the program.
    pub fn process(&mut self, bytes: &[u8], chosen: Option<Endpoint>, now: Instant) -> Answer {
        let parsed = match wire::parse(bytes) {
            Ok(parsed) => parsed,
            Err(error) => return Answer::Drop(error.drop_reason()),
        };
        let martian = match parsed.src {
            IpAddr::V4(src) => {
                matches!(src.octets()[0], 127 | 224..=239) || src.to_bits() == 0 || src.to_bits() == u32::MAX
            }
            IpAddr::V6(src) => src.octets()[0] == 0xff || src.to_bits() <= 1,
        };
        if martian || parsed.src == parsed.dst {
            return Answer::Drop(DropReason::Martian);
        }
        let Some(tuple) = parsed.tuple() else { return Answer::Pass };
        let (protocol, src, dst) = (tuple.protocol, tuple.src, tuple.dst);
        let found = self.conns.iter().position(|conn| conn.has_key(protocol, src, dst));
        if let Some(at) = found {
            if self.conns[at].expires <= now {
                self.end(at);
            } else if let Some(answer) = self.known(bytes, &parsed, at, (src, dst), now) {
                return answer;
            }
        }
        self.unknown(bytes, &parsed, protocol, (src, dst), chosen, now)
    }

    /// A packet of a connection; `None` when that ended and the packet counts as new.
    fn known(
        &mut self,
        bytes: &[u8],
        parsed: &Parsed,
        at: usize,
        (src, dst): (Endpoint, Endpoint),
        now: Instant,
    ) -> Option<Answer> {
        let conn = self.conns[at].clone();
        let way = if (src, dst) == (conn.client, conn.service) { Way::In } else { Way::Out };
        let sysctl = self.config.sysctl.clone();
        let server = &self.servers[&conn.server_id];
        let tcp = tcp_flags(parsed);
        if way == Way::In {
            if conn.protocol == Protocol::Tcp && tcp & flags::SYN != 0 {
                let quiesced = sysctl.expire_nodest_conn && server.config.weight.get() == 0;
                let closed = conn.state == "TW" || conn.state == "CL";
                let half_closed = conn.state == "FW" && conn.no_output && sysctl.conn_reuse_mode & 2 != 0;
                if quiesced || sysctl.conn_reuse_mode != 0 && (closed || half_closed) {
                    self.end(at);
                    return None;
                }
            }
            if server.deleted.is_some() {
                if !sysctl.expire_nodest_conn {
                    return Some(Answer::Drop(DropReason::ServerGone));
                }
                self.end(at);
                return None;
            }
        }
        let record = self.servers.get_mut(&conn.server_id).expect("a connection's server is kept");
        record.count(way, parsed.len);
        self.advance(at, way, tcp);
        self.conns[at].expires = now + self.timeout(self.conns[at].state);
        let plan = match way {
            Way::In => match self.plan_in(&conn, tcp) {
                Ok(plan) => plan,
                Err(reason) => return Some(Answer::Drop(reason)),
            },
            Way::Out => Plan {
                src: conn.service,
                dst: conn.client,
                tunnel: None,
                next_hop: conn.client.addr,
                tell: None,
            },
        };
        Some(match self.leave(bytes, parsed, &plan) {
            Ok(answer) => {
                self.conns[at].packets += u32::from(way == Way::In);
                answer
            }
            Err(refusal) => {
                let from = if way == Way::In { Some(parsed.dst) } else { self.own(parsed.dst.is_ipv4()) };
                self.refuse(bytes, refusal, from, way == Way::In)
            }
        })
    }

    /// A packet of no connection.
    fn unknown(
        &mut self,
        bytes: &[u8],
        parsed: &Parsed,
        protocol: Protocol,
        (src, dst): (Endpoint, Endpoint),
        chosen: Option<Endpoint>,
        now: Instant,
    ) -> Answer {
        let tcp = tcp_flags(parsed);
        let key = ServiceKey::Address { protocol, endpoint: dst };
        let Some(service) = self.service_at(&key) else {
            let nat_server = self.services.iter().any(|service| {
                let same =
                    matches!(service.config.key, ServiceKey::Address { protocol: p, .. } if p == protocol);
                let at_source = |id: &u32| {
                    let config = &self.servers[id].config;
                    config.endpoint == src && config.method == ForwardingMethod::Masquerade
                };
                same && service.order.iter().any(at_source)
            });
            if self.config.sysctl.nat_icmp_send && parsed.ttl > 1 && tcp & flags::RST == 0 && nat_server {
                let from = self.own(src.addr.is_ipv4());
                // The kernel refuses it on its way through: the TTL has gone down.
                let mut quote = bytes.to_vec();
                packets::set_ttl(&mut quote, parsed.ttl.saturating_sub(1));
                packets::set_ipv4_checksum(&mut quote);
                return unreachable(&quote, from);
            }
            return Answer::Pass;
        };
        if protocol == Protocol::Tcp {
            let may_open = tcp & flags::SYN != 0 || self.config.sysctl.sloppy_tcp;
            if src.port == 20 || tcp & flags::RST != 0 || !may_open {
                return Answer::Pass;
            }
        }
        let flow = Flow { protocol, client: src, service: dst };
        let Some(first) = self.schedule(service, &flow, now) else {
            return unreachable(bytes, Some(dst.addr));
        };
        let others = self.services[service].order.clone();
        let candidates = std::iter::once(first)
            .chain(others.into_iter().filter(|id| *id != first && self.is_available(*id)));
        for id in candidates.collect::<Vec<_>>() {
            let config = self.servers[&id].config;
            let translates =
                matches!(config.method, ForwardingMethod::Masquerade | ForwardingMethod::FullNat);
            let local = if config.method == ForwardingMethod::FullNat {
                match self.local_of(service, config.endpoint, protocol, chosen) {
                    Ok(local) => local,
                    Err(reason) => return Answer::Drop(reason),
                }
            } else {
                src
            };
            let no_output = !translates;
            let state = match protocol {
                Protocol::Tcp => self.machine.next("NO", Way::In, no_output, tcp),
                _ => "UDP",
            };
            let conn = Conn {
                protocol,
                client: src,
                service: dst,
                server: config.endpoint,
                local,
                method: config.method,
                server_id: id,
                state,
                no_output,
                active: is_active(state),
                packets: 1,
                expires: now + self.timeout(state),
            };
            let plan = match self.plan_in(&conn, tcp) {
                Ok(plan) => plan,
                Err(reason) => return Answer::Drop(reason),
            };
            let answer = match self.leave(bytes, parsed, &plan) {
                Ok(answer) => answer,
                Err(refusal) => return self.refuse(bytes, refusal, Some(dst.addr), true),
            };
            if !self.make_room(&conn, now) {
                continue;
            }
            if config.method == ForwardingMethod::FullNat {
                assert!(chosen.is_some(), "the engine did not open {conn:?}");
            }
            let server = self.servers.get_mut(&id).expect("a listed server has a record");
            if conn.active {
                server.active += 1;
            } else {
                server.inactive += 1;
            }
            let upper = server.config.upper_threshold;
            if upper != 0 && server.active + server.inactive >= upper {
                server.overloaded = true;
            }
            server.numbers[0] += 1;
            server.count(Way::In, parsed.len);
            self.conns.push(conn);
            return answer;
        }
        Answer::Drop(DropReason::ReturnTupleTaken)
    }

    /// Whether no living connection has a key of `conn`; those that are over and have one are ended.
    fn make_room(&mut self, conn: &Conn, now: Instant) -> bool {
        loop {
            let in_the_way = self.conns.iter().position(|other| {
                conn.protocol == other.protocol && conn.keys().iter().any(|key| other.keys().contains(key))
            });
            let Some(at) = in_the_way else { return true };
            if self.conns[at].expires > now {
                return false;
            }
            self.end(at);
        }
    }

    /// FULLNAT: the engine's choice when it is a good one, or why there is none.
    fn local_of(
        &self,
        service: usize,
        server: Endpoint,
        protocol: Protocol,
        chosen: Option<Endpoint>,
    ) -> Result<Endpoint, DropReason> {
        let locals: Vec<IpAddr> = self.services[service].config.local_addresses.clone();
        let pool: Vec<IpAddr> =
            locals.into_iter().filter(|local| local.is_ipv4() == server.addr.is_ipv4()).collect();
        let is_taken = |local: Endpoint| {
            self.conns.iter().any(|conn| {
                conn.method == ForwardingMethod::FullNat
                    && (conn.protocol, conn.server, conn.local) == (protocol, server, local)
            })
        };
        let range = self.config.limits.local_ports.clone();
        let free = pool.iter().find_map(|addr| {
            range.clone().map(|port| Endpoint::new(*addr, port)).find(|local| !is_taken(*local))
        });
        let Some(free) = free else { return Err(DropReason::LocalPortsExhausted) };
        let Some(chosen) = chosen else { return Ok(free) };
        assert!(pool.contains(&chosen.addr), "{chosen} is not a local address of the service");
        assert!(range.contains(&chosen.port), "{chosen} has a port outside of {range:?}");
        assert!(!is_taken(chosen), "{chosen} towards {server} is in use");
        Ok(chosen)
    }

    fn end(&mut self, at: usize) {
        let conn = self.conns.remove(at);
        let server = self.servers.get_mut(&conn.server_id).expect("a connection's server is kept");
        if conn.active {
            server.active -= 1;
        } else {
            server.inactive -= 1;
        }
        let (upper, lower) = (server.config.upper_threshold, server.config.lower_threshold);
        let left = server.active + server.inactive;
        let relieved = if lower != 0 { left < lower } else { left * 4 < upper * 3 };
        if upper == 0 || relieved {
            server.overloaded = false;
        }
    }

    fn advance(&mut self, at: usize, way: Way, tcp: u8) {
        let conn = &mut self.conns[at];
        if way == Way::Out {
            conn.no_output = false;
        }
        if conn.protocol == Protocol::Tcp {
            conn.state = self.machine.next(conn.state, way, conn.no_output, tcp);
        }
        let server = self.servers.get_mut(&conn.server_id).expect("a connection's server is kept");
        match (conn.active, is_active(conn.state)) {
            (true, false) => (server.active, server.inactive) = (server.active - 1, server.inactive + 1),
            (false, true) => (server.active, server.inactive) = (server.active + 1, server.inactive - 1),
            _ => {}
        }
        conn.active = is_active(conn.state);
    }

    fn timeout(&self, state: &str) -> Duration {
        Duration::from_secs(match state {
            "NO" => 2,
            "ES" => return self.established,
            "FW" => return self.fin_wait,
            "SS" | "TW" | "LI" | "SA" => 120,
            "SR" | "CW" => 60,
            "CL" => 10,
            "LA" => 30,
            "UDP" => return self.udp,
            other => panic!("no state {other}"),
        })
    }

    // ---- schedulers ----

    fn is_available(&self, id: u32) -> bool {
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

    fn schedule(&mut self, at: usize, flow: &Flow, now: Instant) -> Option<u32> {
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

    // ---- leaving ----

    /// The director's own address of a family.
    fn own(&self, v4: bool) -> Option<IpAddr> {
        self.config.environment.addresses.iter().copied().find(|addr| addr.is_ipv4() == v4)
    }

    fn mtu(&self, to: IpAddr) -> usize {
        let environment = &self.config.environment;
        let mut best: Option<(u8, u16)> = None;
        for route in environment.routes.iter().filter(|route| route.prefix.contains(to)) {
            if best.is_none_or(|(bits, _)| route.prefix.bits() > bits) {
                best = Some((route.prefix.bits(), route.mtu));
            }
        }
        usize::from(best.map_or(environment.mtu, |(_, mtu)| mtu))
    }

    fn plan_in(&self, conn: &Conn, tcp: u8) -> Result<Plan, DropReason> {
        let rip = conn.server.addr;
        let (src, dst, tunnel) = match conn.method {
            ForwardingMethod::Masquerade | ForwardingMethod::FullNat => (conn.local, conn.server, None),
            ForwardingMethod::DirectRoute => (conn.client, conn.service, None),
            ForwardingMethod::Tunnel(_) => {
                let own = self.own(rip.is_ipv4()).ok_or(DropReason::NoTunnelSource)?;
                (conn.client, conn.service, Some((own, rip)))
            }
            other => panic!("the reference does not know {other:?}"),
        };
        // With each SYN, and with the packet behind it.
        let due = tcp & flags::SYN != 0 || (conn.packets == 1 || conn.state == "SR") && tcp & 0x3f != 0;
        let told = self.config.fullnat.toa && conn.method == ForwardingMethod::FullNat && due;
        Ok(Plan { src, dst, tunnel, next_hop: rip, tell: told.then_some(conn.client) })
    }

    fn leave(&self, bytes: &[u8], parsed: &Parsed, plan: &Plan) -> Result<Answer, Refusal> {
        if parsed.ttl <= 1 {
            return Err(Refusal::Ttl);
        }
        let v4 = parsed.src.is_ipv4();
        let whole = parsed.len as usize;
        let mtu = self.mtu(plan.next_hop);
        let overhead = match plan.tunnel {
            None => 0,
            Some((IpAddr::V4(_), _)) => 20,
            Some((IpAddr::V6(_), _)) => 40,
        };
        let obeys_df = plan.tunnel.is_none() || self.config.sysctl.pmtu_disc;
        let too_big = whole + overhead > mtu;
        // An IPv6 sender cannot be asked for less than 1280 bytes: the tunnel's packet is cut.
        let keeps_whole = if v4 { parsed.dont_fragment && obeys_df } else { overhead == 0 || whole > 1280 };
        if too_big && keeps_whole {
            let fits = mtu.saturating_sub(overhead);
            return Err(match (v4, fits) {
                (true, 0..68) => Refusal::Silent(DropReason::TooBig),
                (true, _) => Refusal::TooBig(fits),
                (false, _) => Refusal::TooBig(fits.max(1280)),
            });
        }

        let mut out = bytes[..whole].to_vec();
        packets::set_ttl(&mut out, parsed.ttl - 1);
        let error = packets::transport_checksum_error(bytes);
        if packets::endpoints(bytes) != (plan.src, plan.dst) {
            readdress(&mut out, plan.src, plan.dst);
            let at = packets::checksum_at(&out).expect("TCP and UDP have one");
            let udp = parsed.protocol == 17;
            let none = udp && word(bytes, at) == 0;
            if let Some(client) = plan.tell {
                tell_client(&mut out, client, mtu);
            }
            packets::set_transport_checksum(&mut out);
            if error != 0 && !none {
                // What came wrong leaves as wrong as it came.
                let field = packets::fold(u64::from(word(&out, at)) + u64::from(error));
                let field = if udp && field == 0 { 0xffff } else { field };
                out[at..at + 2].copy_from_slice(&field.to_be_bytes());
            }
        }
        packets::set_ipv4_checksum(&mut out);
        let own_header = plan.tunnel.is_some();
        if let Some((src, dst)) = plan.tunnel {
            let shape = packets::Shape {
                ttl: parsed.ttl - 1,
                // RFC 6040: congestion inside is not shown outside.
                tos: if parsed.tos & 3 == 3 { parsed.tos - 1 } else { parsed.tos },
                id: 0,
                dont_fragment: v4 && parsed.dont_fragment && self.config.sysctl.pmtu_disc,
                ..packets::Shape::default()
            };
            let mut outer = ip_header(src, dst, if v4 { 4 } else { 41 }, &shape, out.len());
            outer.extend(out);
            out = outer;
        }
        let pieces = if too_big { cut(&out, mtu) } else { vec![out] };
        Ok(Answer::Transmit { next_hop: plan.next_hop, pieces, own_header, wrong_checksum: error != 0 })
    }

    fn refuse(&self, bytes: &[u8], refusal: Refusal, from: Option<IpAddr>, decremented: bool) -> Answer {
        let v4 = bytes[0] >> 4 == 4;
        match refusal {
            Refusal::Silent(reason) => Answer::Drop(reason),
            Refusal::Ttl => match from {
                Some(from) => error_reply(bytes, if v4 { (11, 0, 0) } else { (3, 0, 0) }, from),
                None => Answer::Drop(DropReason::TtlExceeded),
            },
            Refusal::TooBig(mtu) => {
                let mut quote = bytes.to_vec();
                if decremented {
                    let ttl = packets::ttl(&quote) - 1;
                    packets::set_ttl(&mut quote, ttl);
                    packets::set_ipv4_checksum(&mut quote);
                }
                let says = if v4 { (3, 4, mtu as u32) } else { (2, 0, mtu as u32) };
                match from {
                    Some(from) => error_reply(&quote, says, from),
                    None => Answer::Drop(DropReason::TooBig),
                }
            }
        }
    }
}

impl Server {
    fn new(service: ServiceKey, config: RealServer) -> Self {
        Self {
            service,
            config,
            last_weight: config.weight,
            active: 0,
            inactive: 0,
            overloaded: false,
            deleted: None,
            numbers: [0; 5],
        }
    }

    /// Takes new settings. Higher limits free an overloaded server at once, lower ones wait.
    fn configure(&mut self, config: RealServer) {
        if config.upper_threshold == 0 || config.upper_threshold > self.config.upper_threshold {
            self.overloaded = false;
        }
        if config.weight.get() != 0 {
            self.last_weight = config.weight;
        }
        self.config = config;
    }

    fn count(&mut self, way: Way, bytes: u32) {
        let [_, in_packets, out_packets, in_bytes, out_bytes] = &mut self.numbers;
        match way {
            Way::In => (*in_packets, *in_bytes) = (*in_packets + 1, *in_bytes + u64::from(bytes)),
            Way::Out => (*out_packets, *out_bytes) = (*out_packets + 1, *out_bytes + u64::from(bytes)),
        }
    }
}

impl Conn {
    /// Sender and receiver of the packets that belong to it.
    fn keys(&self) -> Vec<(Endpoint, Endpoint)> {
        let mut keys = vec![(self.client, self.service)];
        if matches!(self.method, ForwardingMethod::Masquerade | ForwardingMethod::FullNat) {
            keys.push((self.server, self.local));
        }
        keys
    }

    fn has_key(&self, protocol: Protocol, src: Endpoint, dst: Endpoint) -> bool {
        self.protocol == protocol && self.keys().contains(&(src, dst))
    }
}

impl Turn {
    fn new(config: &VirtualService) -> Self {
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

/// The TCP machine from its table, read as text.
#[derive(Debug)]
struct Machine(BTreeMap<(&'static str, &'static str, &'static str), &'static str>);

/// Direction and event, then the next state for each of the states of the first line.
const TCP_TABLE: &str = "\
    from    .   NO ES SS SR FW TW CL CW LA LI SA
    in      syn SR ES ES SR SR SR SR SR SR SR SR
    in      fin CL CW SS TW TW TW CL CW LA LI TW
    in      ack ES ES SS ES FW TW CL CW CL LI ES
    in      rst CL CL CL SR CL CL CL CL LA LI SR
    out     syn SS ES SS SR SS SS SS SS SS LI SR
    out     fin TW FW SS TW FW TW CL TW LA LI TW
    out     ack ES ES SS ES FW TW CL CW LA ES ES
    out     rst CL CL SS CL CL TW CL CL CL CL CL
    in-only syn SR ES ES SR SR SR SR SR SR SR SR
    in-only fin CL FW SS TW FW TW CL CW LA LI TW
    in-only ack ES ES SS ES FW TW CL CW CL LI ES
    in-only rst CL CL CL SR CL CL CL CL LA LI CL";

impl Machine {
    fn new() -> Self {
        let mut lines = TCP_TABLE.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let from = lines.next().expect("a first line");
        let mut table = BTreeMap::new();
        for line in lines {
            for (from, to) in from[2..].iter().zip(&line[2..]) {
                table.insert((line[0], line[1], *from), *to);
            }
        }
        Self(table)
    }

    fn next(&self, state: &'static str, way: Way, no_output: bool, tcp: u8) -> &'static str {
        let row = match (way, no_output) {
            (Way::Out, _) => "out",
            (Way::In, true) => "in-only",
            (Way::In, false) => "in",
        };
        let event = if tcp & flags::RST != 0 {
            "rst"
        } else if tcp & flags::SYN != 0 {
            "syn"
        } else if tcp & flags::FIN != 0 {
            "fin"
        } else if tcp & flags::ACK != 0 {
            "ack"
        } else {
            return state;
        };
        self.0[&(row, event, state)]
    }
}

fn is_active(state: &str) -> bool {
    matches!(state, "ES" | "SS" | "SR" | "SA")
}

/// The kernel's long word for a state of the table.
pub fn long_name(state: &str) -> &'static str {
    match state {
        "NO" => "NONE",
        "ES" => "ESTABLISHED",
        "SS" => "SYN_SENT",
        "SR" => "SYN_RECV",
        "FW" => "FIN_WAIT",
        "TW" => "TIME_WAIT",
        "CL" => "CLOSE",
        "CW" => "CLOSE_WAIT",
        "LA" => "LAST_ACK",
        "LI" => "LISTEN",
        "SA" => "SYNACK",
        "UDP" => "UDP",
        other => panic!("no state {other}"),
    }
}

fn tcp_flags(parsed: &Parsed) -> u8 {
    match parsed.transport {
        Transport::Tcp { flags, .. } => flags.bits(),
        _ => 0,
    }
}

/// DR and TUN keep the service's port.
fn with_service_port(key: &ServiceKey, mut server: RealServer) -> RealServer {
    if let ServiceKey::Address { endpoint, .. } = key
        && !matches!(server.method, ForwardingMethod::Masquerade | ForwardingMethod::FullNat)
    {
        server.endpoint.port = endpoint.port;
    }
    server
}

fn readdress(packet: &mut [u8], src: Endpoint, dst: Endpoint) {
    match (src.addr, dst.addr) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            packet[12..16].copy_from_slice(&src.octets());
            packet[16..20].copy_from_slice(&dst.octets());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            packet[8..24].copy_from_slice(&src.octets());
            packet[24..40].copy_from_slice(&dst.octets());
        }
        _ => panic!("{src} and {dst} are of two families"),
    }
    let l4 = packets::transport_at(packet);
    packet[l4..l4 + 2].copy_from_slice(&src.port.to_be_bytes());
    packet[l4 + 2..l4 + 4].copy_from_slice(&dst.port.to_be_bytes());
}

/// Puts the option TOA behind the TCP base header, if it fits: kind 254, length, port, address.
fn tell_client(packet: &mut Vec<u8>, client: Endpoint, mtu: usize) {
    let mut option = vec![254, if client.addr.is_ipv4() { 8 } else { 20 }];
    option.extend(client.port.to_be_bytes());
    match client.addr {
        IpAddr::V4(addr) => option.extend(addr.octets()),
        IpAddr::V6(addr) => option.extend(addr.octets()),
    }
    let len = packet.len() + option.len();
    if len > mtu {
        return;
    }
    let l4 = packets::transport_at(packet);
    packet[l4 + 12] += (option.len() as u8 / 4) << 4;
    packet.splice(l4 + 20..l4 + 20, option);
    let (at, says) = if packet[0] >> 4 == 4 { (2, len) } else { (4, len - 40) };
    packet[at..at + 2].copy_from_slice(&(says as u16).to_be_bytes());
}

/// Fragments of at most `mtu` bytes (RFC 791 section 3.2, RFC 8200 section 4.5); no options, no extensions.
fn cut(packet: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    let v4 = packet[0] >> 4 == 4;
    let (header, room) = if v4 { (20, mtu - 20) } else { (40, mtu - 48) };
    let payload = &packet[header..];
    let mut pieces = Vec::new();
    let mut offset = 0;
    while offset < payload.len() {
        // Only the last piece need not end at a multiple of 8.
        let left = payload.len() - offset;
        let more = left > room;
        let part = &payload[offset..][..if more { room / 8 * 8 } else { left }];
        let mut piece = packet[..header].to_vec();
        if v4 {
            let field = (offset / 8) as u16 | if more { 0x2000 } else { 0 } | word(packet, 6) & 0x4000;
            piece[2..4].copy_from_slice(&((20 + part.len()) as u16).to_be_bytes());
            piece[6..8].copy_from_slice(&field.to_be_bytes());
            packets::set_ipv4_checksum(&mut piece);
        } else {
            piece[4..6].copy_from_slice(&((8 + part.len()) as u16).to_be_bytes());
            piece[6] = 44;
            let field = offset as u16 | u16::from(more);
            piece.extend([packet[6], 0]);
            piece.extend(field.to_be_bytes());
            piece.extend([0; 4]);
        }
        piece.extend(part);
        pieces.push(piece);
        offset += part.len();
    }
    pieces
}

fn unreachable(bytes: &[u8], from: Option<IpAddr>) -> Answer {
    let says = if bytes[0] >> 4 == 4 { (3, 3, 0) } else { (1, 4, 0) };
    match from {
        Some(from) => error_reply(bytes, says, from),
        None => Answer::Drop(DropReason::NoServer),
    }
}

fn error_reply(quote: &[u8], (kind, code, rest): (u8, u8, u32), from: IpAddr) -> Answer {
    let (to, _) = packets::addresses(quote);
    let mut packet = packets::icmp_error(from, to, kind, code, rest, quote);
    if packet[0] >> 4 == 4 {
        packet[1] = quote[1] & 0x1c | 0xc0;
        packets::set_ipv4_checksum(&mut packet);
    }
    Answer::Reply { to, packet }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
