//! The network of the demo and what is played on it.
//!
//! ```text
//!  clients 10.0.1.11-16 ──┐ outside                        inside ┌── servers 10.0.2.11-13, weights 1, 2, 3
//!                         ├── director: VIP 10.0.1.100, 10.0.2.1 ─┤
//!                         └── router: 10.0.1.254, 10.0.2.254 ─────┘
//! ```
//!
//! Three phases of equally many connections. In the first all servers are up. At its end, with connections
//! open, the second server dies, and at the same virtual moment the operator sets its weight to 0: no new
//! connection goes there. At the end of the second phase it comes back and gets its weight again. A phase ends
//! when all its connections are established, so each connection is chosen for by the weights of one phase.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::BTreeSet;
use std::error::Error;

use lvs_core::conn::{Capacity, Filter};
use lvs_core::lab::{DirectorNode, Failure, Host, Lab, LinkConfig, NodeId, Request, Router};
use lvs_core::service::{Command, ForwardingMethod, RealServer, ServiceKey, Tunnel, VirtualService};
use lvs_core::{
    Config, Endpoint, Environment, Instant, Limits, Prefix, Protocol, SchedulerFlags, SchedulerKind, Weight,
};

use super::ModeArg;

const CLIENTS: u8 = 6;
/// Exchanges that one client has under way at a time.
const CONCURRENCY: usize = 16;
const WEIGHTS: [u16; 3] = [1, 2, 3];
/// The server that dies.
const VICTIM: usize = 1;

const VIP: [u8; 4] = [10, 0, 1, 100];
const DIP_OUTSIDE: [u8; 4] = [10, 0, 1, 1];
const DIP_INSIDE: [u8; 4] = [10, 0, 2, 1];
const LOCAL_POOL: [[u8; 4]; 2] = [[10, 0, 2, 2], [10, 0, 2, 3]];
const ROUTER_OUTSIDE: [u8; 4] = [10, 0, 1, 254];
const ROUTER_INSIDE: [u8; 4] = [10, 0, 2, 254];

/// Bodies in bytes: most are short, every tenth takes many round trips.
const SHORT_BODY: u64 = 500;
const SHORT_SPREAD: u64 = 4000;
const LONG_BODY: u64 = 60_000;
const LONG_EVERY: u32 = 10;

/// How long a client waits for a server that says nothing more.
const PATIENCE: Duration = Duration::from_secs(10);
/// The director is looked at this often.
const SLICE: Duration = Duration::from_millis(1);
/// A phase that takes longer has stalled.
const PHASE_LIMIT: Duration = Duration::from_secs(3600);

/// What to play.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) mode: ModeArg,
    pub(super) scheduler: SchedulerKind,
    pub(super) connections: u32,
    pub(super) seed: u64,
}

/// What happened.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) plan: Plan,
    pub(super) completed: u64,
    /// Exchanges that were open on the server when it died, and ended with it.
    pub(super) lost_with_server: u64,
    /// Exchanges that failed for any other reason.
    pub(super) failures: Vec<Failure>,
    pub(super) phases: Vec<Phase>,
    pub(super) victim: Endpoint,
    pub(super) virtual_time: Duration,
    /// Packets that the director was given.
    pub(super) packets: u64,
    /// The table of `ipvsadm -Ln` at the end of the last phase.
    pub(super) table: String,
}

/// New connections of one phase.
#[derive(Debug)]
pub(super) struct Phase {
    pub(super) name: &'static str,
    pub(super) servers: Vec<Share>,
}

/// What one server got in one phase.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) server: Endpoint,
    pub(super) weight: u16,
    pub(super) opened: u64,
}

impl Phase {
    pub(super) fn opened(&self) -> u64 {
        self.servers.iter().map(|share| share.opened).sum()
    }

    pub(super) fn weight(&self) -> u64 {
        self.servers.iter().map(|share| u64::from(share.weight)).sum()
    }
}

/// The network, ready to play.
pub(super) struct Scene {
    plan: Plan,
    lab: Lab,
    director: NodeId<DirectorNode>,
    clients: Vec<NodeId<Host>>,
    servers: Vec<NodeId<Host>>,
    asked: u32,
    /// Clients' ends of the exchanges that were open on the server when it died.
    doomed: BTreeSet<Endpoint>,
    weights: [u16; WEIGHTS.len()],
}

impl Scene {
    pub(super) fn new(plan: Plan) -> Result<Self, Box<dyn Error>> {
        let mut lab = Lab::new(plan.seed);
        let (outside, inside) = (lab.add_network(), lab.add_network());
        let near = LinkConfig::default();
        let far = LinkConfig { delay: Duration::from_millis(10), jitter: Duration::from_millis(2), ..near };

        let director = lab.add_node(director(plan)?);
        lab.attach(director, outside, &[ip(DIP_OUTSIDE), ip(VIP)], near);
        let dips: Vec<IpAddr> = core::iter::once(DIP_INSIDE).chain(LOCAL_POOL).map(ip).collect();
        lab.attach(director, inside, &dips, near);

        let router = lab.add_node(Router::new());
        lab.attach(router, outside, &[ip(ROUTER_OUTSIDE)], near);
        lab.attach(router, inside, &[ip(ROUTER_INSIDE)], near);

        let everywhere: Prefix = "0.0.0.0/0".parse()?;
        let gateway = ip(if plan.mode == ModeArg::Nat { DIP_INSIDE } else { ROUTER_INSIDE });
        let servers = (0..WEIGHTS.len()).map(|index| {
            let id = lab.add_host(inside, server(plan.mode, index), near);
            lab.add_route(id, everywhere, gateway);
            id
        });
        let servers = servers.collect();
        let clients = (0..CLIENTS).map(|index| {
            let host = Host::new("client", [ip([10, 0, 1, 11 + index])]).concurrency(CONCURRENCY);
            let id = lab.add_host(outside, host, far);
            lab.add_route(id, everywhere, ip(ROUTER_OUTSIDE));
            id
        });
        let clients = clients.collect();
        Ok(Self {
            plan,
            lab,
            director,
            clients,
            servers,
            asked: 0,
            doomed: BTreeSet::new(),
            weights: WEIGHTS,
        })
    }

    /// Plays the three phases; `progress` is told how many exchanges are over.
    pub(super) fn play(mut self, progress: impl Fn(u64)) -> Result<Outcome, Box<dyn Error>> {
        let third = self.plan.connections / 3;
        let mut phases = vec![self.phase("all up", self.plan.connections - 2 * third, &progress)?];

        self.doomed = self.open_on_victim();
        self.lab.with(self.servers[VICTIM], |host, now, _| host.kill(now));
        self.set_victim_weight(0)?;
        phases.push(self.phase("one down", third, &progress)?);

        self.lab.with(self.servers[VICTIM], |host, _, _| host.revive());
        self.set_victim_weight(WEIGHTS[VICTIM])?;
        phases.push(self.phase("back again", third, &progress)?);

        let table = self.lab.node(self.director).director.table();
        self.run_while("the last connections", Self::is_unfinished, &progress)?;
        Ok(self.outcome(phases, table))
    }

    fn phase(
        &mut self,
        name: &'static str,
        count: u32,
        progress: &impl Fn(u64),
    ) -> Result<Phase, Box<dyn Error>> {
        let before = self.opened();
        for index in 0..count {
            let client = self.clients[self.asked as usize % self.clients.len()];
            // The last ones are long, so that connections are open when the phase ends.
            let last = count - index <= 2 * u32::from(CLIENTS);
            let request = Request { timeout: PATIENCE, ..Request::new(vip(), self.body(last)) };
            self.asked += 1;
            self.lab.with(client, |host, now, out| host.fetch(request, now, out));
        }
        self.run_while(name, Self::is_opening, progress)?;
        let after = self.opened();
        let servers = (0..WEIGHTS.len()).map(|index| Share {
            server: rip(index),
            weight: self.weights[index],
            opened: after[index] - before[index],
        });
        Ok(Phase { name, servers: servers.collect() })
    }

    fn run_while(
        &mut self,
        what: &str,
        condition: impl Fn(&Self) -> bool,
        progress: &impl Fn(u64),
    ) -> Result<(), Box<dyn Error>> {
        let limit = self.lab.now() + PHASE_LIMIT;
        while condition(self) {
            if self.lab.now() > limit {
                return Err(format!("{what}: stalled at {:?} of virtual time", self.lab.now()).into());
            }
            let next = self.lab.now() + SLICE;
            self.lab.run_until(next);
            progress(self.clients().map(|client| client.exchanges().len() as u64).sum());
        }
        Ok(())
    }

    /// Whether an exchange waits, or is not established yet.
    fn is_opening(&self) -> bool {
        self.clients()
            .any(|client| client.waiting() > 0 || client.open_exchanges().any(|open| !open.connected))
    }

    fn is_unfinished(&self) -> bool {
        self.clients().any(|client| client.unfinished() > 0)
    }

    fn clients(&self) -> impl Iterator<Item = &Host> {
        self.clients.iter().map(|client| self.lab.node(*client))
    }

    /// Connections that the director opened to each server so far.
    fn opened(&self) -> [u64; WEIGHTS.len()] {
        let services = self.lab.node(self.director).director.services();
        core::array::from_fn(|index| {
            let rows = services.iter().flat_map(|row| &row.servers);
            rows.filter(|row| row.server.endpoint == rip(index)).map(|row| row.stats.connections).sum()
        })
    }

    /// The clients' ends of unfinished exchanges that the director sends to the victim.
    fn open_on_victim(&self) -> BTreeSet<Endpoint> {
        let unfinished: BTreeSet<Endpoint> =
            self.clients().flat_map(Host::open_exchanges).map(|open| open.local).collect();
        let filter = Filter { server: Some(rip(VICTIM)), ..Filter::default() };
        let director = &self.lab.node(self.director).director;
        let theirs = director.connections(filter).map(|(_, connection)| connection.client);
        theirs.filter(|client| unfinished.contains(client)).collect()
    }

    fn set_victim_weight(&mut self, weight: u16) -> Result<(), Box<dyn Error>> {
        let new = Weight::new(u32::from(weight))?;
        self.lab
            .with(self.director, |node, _, _| node.director.set_weight(service_key(), rip(VICTIM), new))?;
        self.weights[VICTIM] = weight;
        Ok(())
    }

    /// The next exchange's body, drawn from the seed.
    fn body(&self, long: bool) -> u64 {
        if long || self.asked.is_multiple_of(LONG_EVERY) {
            return LONG_BODY;
        }
        let mixed = (self.plan.seed ^ u64::from(self.asked)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        SHORT_BODY + (mixed >> 32) % SHORT_SPREAD
    }

    fn outcome(&self, phases: Vec<Phase>, table: String) -> Outcome {
        let mut outcome = Outcome {
            plan: self.plan,
            completed: 0,
            lost_with_server: 0,
            failures: Vec::new(),
            phases,
            victim: rip(VICTIM),
            virtual_time: self.lab.now() - Instant::ZERO,
            packets: self.lab.node(self.director).director.counters().received,
            table,
        };
        for exchange in self.clients().flat_map(Host::exchanges) {
            match exchange.outcome {
                Ok(()) => outcome.completed += 1,
                Err(_) if self.doomed.contains(&exchange.local) => outcome.lost_with_server += 1,
                Err(failure) => outcome.failures.push(failure),
            }
        }
        outcome
    }
}

/// The name that the documentation of Linux Virtual Server uses.
pub(super) fn title(mode: ModeArg) -> &'static str {
    match mode {
        ModeArg::Nat => "LVS/NAT",
        ModeArg::Dr => "LVS/DR",
        ModeArg::Tun => "LVS/TUN",
        ModeArg::Fullnat => "FULLNAT",
        ModeArg::All => "all",
    }
}

fn method(mode: ModeArg) -> ForwardingMethod {
    match mode {
        ModeArg::Nat => ForwardingMethod::Masquerade,
        ModeArg::Dr | ModeArg::All => ForwardingMethod::DirectRoute,
        ModeArg::Tun => ForwardingMethod::Tunnel(Tunnel::Ipip),
        ModeArg::Fullnat => ForwardingMethod::FullNat,
    }
}

fn director(plan: Plan) -> Result<DirectorNode, Box<dyn Error>> {
    let limits = Limits {
        // Closed connections stay for a while; none may be evicted here.
        connections: Capacity { ipv4: (2 * plan.connections).max(1 << 12), ipv6: 0 },
        ..Limits::default()
    };
    let environment =
        Environment { addresses: vec![ip(DIP_INSIDE), ip(DIP_OUTSIDE)], ..Environment::default() };
    let mut node =
        DirectorNode::with_config(Config { limits, environment, seed: plan.seed, ..Config::default() });
    let mut service = VirtualService::new(service_key(), plan.scheduler);
    service.flags = flags(plan.scheduler);
    if plan.mode == ModeArg::Fullnat {
        service.local_addresses = LOCAL_POOL.map(ip).to_vec();
    }
    let mut commands = vec![Command::AddService(service)];
    for (index, weight) in WEIGHTS.into_iter().enumerate() {
        let weight = Weight::new(u32::from(weight))?;
        let server = RealServer { weight, ..RealServer::new(rip(index), method(plan.mode)) };
        commands.push(Command::AddServer(service_key(), server));
    }
    node.director.apply(&commands, Instant::ZERO)?;
    Ok(node)
}

/// A hash scheduler must look at ports, since there are few clients, and beyond a server that takes nothing.
fn flags(kind: SchedulerKind) -> SchedulerFlags {
    match kind {
        SchedulerKind::SourceHashing | SchedulerKind::MaglevHashing | SchedulerKind::Maglev => {
            SchedulerFlags::FALLBACK | SchedulerFlags::PORT
        }
        _ => SchedulerFlags::empty(),
    }
}

fn server(mode: ModeArg, index: usize) -> Host {
    let host = Host::new(&format!("server-{}", index + 1), [rip(index).addr]).serve(80);
    match mode {
        ModeArg::Nat | ModeArg::Fullnat => host,
        ModeArg::Dr | ModeArg::All => host.loopback(ip(VIP)),
        // 20 bytes of every packet from the director are the outer header.
        ModeArg::Tun => host.loopback(ip(VIP)).unwrap_tunnels().mtu(1480),
    }
}

fn service_key() -> ServiceKey {
    ServiceKey::Address { protocol: Protocol::Tcp, endpoint: vip() }
}

fn vip() -> Endpoint {
    Endpoint::new(ip(VIP), 80)
}

fn rip(index: usize) -> Endpoint {
    let last = 11 + u8::try_from(index).unwrap_or(u8::MAX - 11);
    Endpoint::new(ip([10, 0, 2, last]), 80)
}

fn ip(octets: [u8; 4]) -> IpAddr {
    IpAddr::from(octets)
}
