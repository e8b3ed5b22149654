//! The Lab: a deterministic network on a virtual clock.
//!
//! ```text
//!   client ──link──▶ network ◀──link── router ──link──▶ network ◀──link── server
//!                       ▲                                  ▲
//!                       └───link── director ──────link─────┘
//! ```
//!
//! A [`Lab`] joins [`Node`]s by links to networks. A network is a switch without delay: it hands a packet to the
//! node that answers for the *next hop*, whatever the packet's destination is, so direct routing works as on a
//! real segment. Every link has its own [faults](LinkConfig). Nothing reads a clock, waits or draws randomness
//! but from the seed: the same seed and the same calls give the same bytes ([`Lab::digest`]).
//!
//! Nodes that come with it: [`Host`] (TCP/IP by smoltcp with an [HTTP server and client](Host)), [`DirectorNode`],
//! [`Router`]. Anything else that implements [`Node`] can join.
//!
//! # Examples
//! ```
//! use lvs_core::Instant;
//! use lvs_core::lab::{Host, Lab, LinkConfig, Request};
//!
//! let mut lab = Lab::new(1);
//! let lan = lab.add_network();
//! let server = lab.add_host(lan, Host::new("web", ["10.0.0.2".parse()?]).serve(80), LinkConfig::default());
//! let client = lab.add_host(lan, Host::new("client", ["10.0.0.9".parse()?]), LinkConfig::default());
//! lab.with(client, |host, now, out| host.fetch(Request::new("10.0.0.2:80".parse().unwrap(), 5000), now, out));
//! assert!(lab.run_while(|lab| lab.node(client).unfinished() > 0, Instant::from_secs(10)));
//! let exchange = &lab.node(client).exchanges()[0];
//! assert_eq!((exchange.server.as_deref(), exchange.outcome), (Some("web"), Ok(())));
//! assert_eq!(lab.node(server).accepted(), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod director;
mod host;
mod http;
mod link;
mod node;
mod port;
mod random;
mod router;
mod unwrap;

use core::any::Any;
use core::cmp::Reverse;
use core::hash::Hasher;
use core::net::IpAddr;
use core::time::Duration;
use std::collections::{BTreeMap, BinaryHeap};
use std::io::Write;

use siphasher::sip::SipHasher13;

use crate::io::{CaptureError, CaptureWriter, LinkType};
use crate::{Instant, Prefix};

pub use director::DirectorNode;
pub use host::{Host, MAX_CONNECTIONS};
pub use http::{Exchange, Failure, MAX_BODY, OpenExchange, Request};
pub use link::{LinkConfig, LinkCounters, REORDER_HOLD};
pub use node::{Node, NodeId, Outbox};
pub use router::Router;

use link::Wire;
use random::Random;

/// The most packets that [`Lab::record`] keeps of one link; later ones are counted, not kept.
pub const MAX_RECORDED: usize = 1 << 18;

/// A node that wants to be called again at once is called after this time, so that time always goes on.
const SMALLEST_STEP: Duration = Duration::from_micros(1);

/// A network: a switch whose ports are links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkId(usize);

/// A cable between a node and a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkId(usize);

/// Which end of a link a packet comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heading {
    /// From the node to the network.
    ToNetwork = 0,
    /// From the network to the node.
    ToNode = 1,
}

/// Where a link is listened to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tap {
    /// Packets as they are sent into the link, before anything goes wrong.
    Entering,
    /// Packets as they come out, with everything that went wrong.
    Leaving,
}

/// A packet that was seen on a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// When.
    pub at: Instant,
    /// Its place among all packets recorded in this Lab.
    pub order: u64,
    /// Which way it went.
    pub heading: Heading,
    /// The IP packet.
    pub bytes: Vec<u8>,
}

/// A deterministic network on a virtual clock; see the [module](self).
pub struct Lab {
    seed: u64,
    now: Instant,
    events: BinaryHeap<Reverse<Event>>,
    /// Events and recorded packets made so far: breaks ties of time.
    order: u64,
    nodes: Vec<Slot>,
    links: Vec<Link>,
    networks: Vec<Network>,
    outbox: Outbox,
    digest: SipHasher13,
    delivered: u64,
    unroutable: u64,
    unclaimed: u64,
}

struct Slot {
    node: Box<dyn Node>,
    links: Vec<LinkId>,
    /// Longest prefix first.
    routes: Vec<(Prefix, IpAddr)>,
    /// The earliest wake-up in the queue of events.
    wake: Option<Instant>,
}

struct Link {
    node: usize,
    network: NetworkId,
    config: LinkConfig,
    up: bool,
    wires: [Wire; 2],
    tap: Option<Tap>,
    recorded: Vec<Recorded>,
    unrecorded: u64,
}

#[derive(Default)]
struct Network {
    links: Vec<LinkId>,
    owners: BTreeMap<IpAddr, LinkId>,
}

/// Something that will happen. Ordered by time, then by the order of planning.
struct Event {
    at: Instant,
    order: u64,
    what: What,
}

enum What {
    Arrive { link: LinkId, heading: Heading, next_hop: IpAddr, packet: Vec<u8> },
    Wake { node: usize },
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// Building the network.
impl Lab {
    /// Makes an empty Lab at time zero.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            now: Instant::ZERO,
            events: BinaryHeap::new(),
            order: 0,
            nodes: Vec::new(),
            links: Vec::new(),
            networks: Vec::new(),
            outbox: Outbox::default(),
            digest: SipHasher13::new(),
            delivered: 0,
            unroutable: 0,
            unclaimed: 0,
        }
    }

    /// The seed, to replay a run.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Adds a network without nodes.
    pub fn add_network(&mut self) -> NetworkId {
        self.networks.push(Network::default());
        NetworkId(self.networks.len() - 1)
    }

    /// Adds a node without links.
    pub fn add_node<T: Node>(&mut self, node: T) -> NodeId<T> {
        self.nodes.push(Slot { node: Box::new(node), links: Vec::new(), routes: Vec::new(), wake: None });
        let index = self.nodes.len() - 1;
        self.plan_wake(index);
        NodeId::new(index)
    }

    /// Adds a host with one link; the network learns its [addresses](Host::addresses), not those on loopback.
    pub fn add_host(&mut self, network: NetworkId, mut host: Host, link: LinkConfig) -> NodeId<Host> {
        let addresses = host.addresses().to_vec();
        host.limit_mtu(link.mtu);
        // A stream of its own, apart from those of the links.
        host.seed(Random::new(self.seed, u64::MAX - self.nodes.len() as u64).next());
        let id = self.add_node(host);
        self.attach(id, network, &addresses, link);
        id
    }

    /// Plugs a node into a network. What is sent there towards one of `addresses` comes to the node.
    pub fn attach<T>(
        &mut self,
        node: NodeId<T>,
        network: NetworkId,
        addresses: &[IpAddr],
        config: LinkConfig,
    ) -> LinkId {
        let id = LinkId(self.links.len());
        // Each direction has its own stream of chance: a packet more on one link changes nothing on another.
        let wire = |direction| Wire::new(Random::new(self.seed, id.0 as u64 * 2 + direction));
        self.links.push(Link {
            node: node.index,
            network,
            config,
            up: true,
            wires: [wire(0), wire(1)],
            tap: None,
            recorded: Vec::new(),
            unrecorded: 0,
        });
        self.nodes[node.index].links.push(id);
        let network = &mut self.networks[network.0];
        network.links.push(id);
        network.owners.extend(addresses.iter().map(|addr| (*addr, id)));
        id
    }

    /// Adds a route to a node: what it sends towards `prefix` goes to the node that answers for `via`.
    ///
    /// Routes with a longer prefix come first; then what the node's own networks know; then routes with an
    /// empty prefix (the default route). A node without a route that fits and with a single link sends there.
    pub fn add_route<T>(&mut self, node: NodeId<T>, prefix: Prefix, via: IpAddr) {
        let routes = &mut self.nodes[node.index].routes;
        let at = routes.partition_point(|(other, _)| other.bits() >= prefix.bits());
        routes.insert(at, (prefix, via));
    }

    /// Lets a node take an address over on one link's network, as a gratuitous ARP does.
    pub fn announce(&mut self, link: LinkId, address: IpAddr) {
        let network = self.links[link.0].network;
        self.networks[network.0].owners.insert(address, link);
    }

    /// The links of a node, in the order of attaching.
    pub fn links_of<T>(&self, node: NodeId<T>) -> &[LinkId] {
        &self.nodes[node.index].links
    }
}

/// Making things go wrong, and looking.
impl Lab {
    /// Changes what a link does to packets from now on.
    pub fn set_link(&mut self, link: LinkId, config: LinkConfig) {
        self.links[link.0].config = config;
    }

    /// How a link is set.
    pub fn link(&self, link: LinkId) -> LinkConfig {
        self.links[link.0].config
    }

    /// Cuts a link: packets on it are lost, and all that follow until it is [healed](Self::heal).
    pub fn cut(&mut self, link: LinkId) {
        self.links[link.0].up = false;
    }

    /// Mends a link.
    pub fn heal(&mut self, link: LinkId) {
        self.links[link.0].up = true;
    }

    /// What became of the packets of one direction of a link.
    pub fn link_counters(&self, link: LinkId, heading: Heading) -> LinkCounters {
        self.links[link.0].wires[heading as usize].counters
    }

    /// Packets that no route of their sender fits.
    pub fn unroutable(&self) -> u64 {
        self.unroutable
    }

    /// Packets whose next hop nobody on the network answers for.
    pub fn unclaimed(&self) -> u64 {
        self.unclaimed
    }

    /// Packets given to nodes so far.
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// A hash over every packet given to a node, with its time and the node: equal for equal runs.
    pub fn digest(&self) -> u64 {
        self.digest.finish()
    }

    /// Keeps the packets of a link from now on, up to [`MAX_RECORDED`].
    pub fn record(&mut self, link: LinkId, tap: Tap) {
        self.links[link.0].tap = Some(tap);
    }

    /// The packets kept of a link, oldest first.
    pub fn recorded(&self, link: LinkId) -> &[Recorded] {
        &self.links[link.0].recorded
    }

    /// Packets that were not kept because there were too many.
    pub fn unrecorded(&self, link: LinkId) -> u64 {
        self.links[link.0].unrecorded
    }

    /// Writes the packets kept of some links as a capture file, in the order of time.
    ///
    /// # Errors
    /// [`CaptureError`] when `file` cannot be written.
    ///
    /// # Examples
    /// ```
    /// # use lvs_core::lab::{Lab, LinkConfig, Router, Tap};
    /// # let mut lab = Lab::new(1);
    /// # let (lan, router) = (lab.add_network(), lab.add_node(Router::new()));
    /// let link = lab.attach(router, lan, &["10.0.0.1".parse()?], LinkConfig::default());
    /// lab.record(link, Tap::Leaving);
    /// // run the Lab, then:
    /// let mut file = Vec::new();
    /// lab.write_capture(&[link], &mut file)?;
    /// assert_eq!(file[..4], [0x4d, 0x3c, 0xb2, 0xa1]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn write_capture(&self, links: &[LinkId], file: impl Write) -> Result<(), CaptureError> {
        let mut packets: Vec<&Recorded> = links.iter().flat_map(|link| self.recorded(*link)).collect();
        packets.sort_by_key(|packet| packet.order);
        let mut writer = CaptureWriter::new(file, LinkType::Raw)?;
        packets.into_iter().try_for_each(|packet| writer.write(packet.at, &packet.bytes))
    }
}

/// Running.
impl Lab {
    /// The virtual time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// A node, to look at.
    ///
    /// # Panics
    /// When the id is of another Lab.
    pub fn node<T: Node>(&self, id: NodeId<T>) -> &T {
        let node: &dyn Any = &*self.nodes[id.index].node;
        node.downcast_ref().expect("an id names a node of its own Lab and type")
    }

    /// Calls a node's own interface between steps. What it sends goes on its way, and its timer is set anew.
    ///
    /// # Panics
    /// When the id is of another Lab.
    pub fn with<T: Node, R>(
        &mut self,
        id: NodeId<T>,
        call: impl FnOnce(&mut T, Instant, &mut Outbox) -> R,
    ) -> R {
        let node: &mut dyn Any = &mut *self.nodes[id.index].node;
        let node = node.downcast_mut().expect("an id names a node of its own Lab and type");
        let result = call(node, self.now, &mut self.outbox);
        self.settle(id.index);
        result
    }

    /// When the next thing happens; `None` = never.
    pub fn next_event(&self) -> Option<Instant> {
        self.events.peek().map(|Reverse(event)| event.at)
    }

    /// Lets the next thing happen. `false` when nothing is left.
    pub fn step(&mut self) -> bool {
        let Some(Reverse(event)) = self.events.pop() else { return false };
        self.now = self.now.max(event.at);
        match event.what {
            What::Wake { node } => self.wake(node, event.at),
            What::Arrive { link, heading, next_hop, packet } => self.arrive(link, heading, next_hop, packet),
        }
        true
    }

    /// Runs until `end`; the clock then stands there.
    pub fn run_until(&mut self, end: Instant) {
        while self.next_event().is_some_and(|at| at <= end) {
            self.step();
        }
        self.now = self.now.max(end);
    }

    /// Runs as long as `condition` holds, but not past `limit`. Returns whether the condition ended it.
    pub fn run_while(&mut self, mut condition: impl FnMut(&Self) -> bool, limit: Instant) -> bool {
        loop {
            if !condition(self) {
                return true;
            }
            if self.next_event().is_none_or(|at| at > limit) {
                return false;
            }
            self.step();
        }
    }

    fn wake(&mut self, node: usize, at: Instant) {
        let slot = &mut self.nodes[node];
        if slot.wake != Some(at) {
            return; // an earlier wake-up took its place
        }
        slot.wake = None;
        if slot.node.poll_timeout().is_some_and(|due| due <= self.now) {
            slot.node.handle_timeout(self.now, &mut self.outbox);
            self.settle(node);
        } else {
            self.plan_wake(node);
        }
    }

    fn arrive(&mut self, id: LinkId, heading: Heading, next_hop: IpAddr, packet: Vec<u8>) {
        let link = &mut self.links[id.0];
        if !link.up {
            link.wires[heading as usize].counters.cut += 1;
            return;
        }
        self.listen(id, Tap::Leaving, heading, &packet);
        let link = &self.links[id.0];
        match heading {
            Heading::ToNetwork => self.switch(link.network, id, next_hop, packet),
            Heading::ToNode => {
                let node = link.node;
                self.note_delivery(node, &packet);
                self.nodes[node].node.handle_packet(packet, self.now, &mut self.outbox);
                self.settle(node);
            }
        }
    }

    fn note_delivery(&mut self, node: usize, packet: &[u8]) {
        self.delivered += 1;
        self.digest.write_u64(self.now.as_nanos());
        self.digest.write_u64(node as u64);
        self.digest.write_u64(packet.len() as u64);
        self.digest.write(packet);
    }

    /// A packet has reached a network from one of its links.
    fn switch(&mut self, network: NetworkId, from: LinkId, next_hop: IpAddr, packet: Vec<u8>) {
        let network = &self.networks[network.0];
        if is_group(next_hop) {
            let others: Vec<LinkId> = network.links.iter().copied().filter(|link| *link != from).collect();
            for link in others {
                self.carry(link, Heading::ToNode, next_hop, packet.clone());
            }
            return;
        }
        match network.owners.get(&next_hop) {
            Some(link) => self.carry(*link, Heading::ToNode, next_hop, packet),
            None => self.unclaimed += 1,
        }
    }

    /// Sends a packet into a link.
    fn carry(&mut self, id: LinkId, heading: Heading, next_hop: IpAddr, packet: Vec<u8>) {
        self.listen(id, Tap::Entering, heading, &packet);
        let link = &mut self.links[id.0];
        let wire = &mut link.wires[heading as usize];
        if !link.up {
            wire.counters.sent += 1;
            wire.counters.cut += 1;
            return;
        }
        let (events, order) = (&mut self.events, &mut self.order);
        wire.carry(&link.config, packet, self.now, |at, packet| {
            *order += 1;
            let what = What::Arrive { link: id, heading, next_hop, packet };
            events.push(Reverse(Event { at, order: *order, what }));
        });
    }

    fn listen(&mut self, id: LinkId, tap: Tap, heading: Heading, packet: &[u8]) {
        let link = &mut self.links[id.0];
        if link.tap != Some(tap) {
            return;
        }
        if link.recorded.len() == MAX_RECORDED {
            link.unrecorded += 1;
            return;
        }
        self.order += 1;
        link.recorded.push(Recorded { at: self.now, order: self.order, heading, bytes: packet.to_vec() });
    }

    /// Does what a node asked for, then sets its timer.
    fn settle(&mut self, node: usize) {
        let mut outbox = core::mem::take(&mut self.outbox);
        for address in outbox.announcements.drain(..) {
            for index in 0..self.nodes[node].links.len() {
                self.announce(self.nodes[node].links[index], address);
            }
        }
        for (next_hop, packet) in outbox.packets.drain(..) {
            self.route(node, next_hop, packet);
        }
        // Keeps the allocation; nothing can have been put in meanwhile.
        self.outbox = outbox;
        self.plan_wake(node);
    }

    fn route(&mut self, node: usize, next_hop: IpAddr, packet: Vec<u8>) {
        if is_group(next_hop) {
            for index in 0..self.nodes[node].links.len() {
                self.carry(self.nodes[node].links[index], Heading::ToNetwork, next_hop, packet.clone());
            }
            return;
        }
        match self.resolve(node, next_hop) {
            Some((link, hop)) => self.carry(link, Heading::ToNetwork, hop, packet),
            None => self.unroutable += 1,
        }
    }

    /// By which link, and towards whom on its network, a node reaches an address.
    fn resolve(&self, node: usize, next_hop: IpAddr) -> Option<(LinkId, IpAddr)> {
        let slot = &self.nodes[node];
        let near = |addr: IpAddr| {
            let knows = |link: &&LinkId| {
                let owner = self.networks[self.links[link.0].network.0].owners.get(&addr);
                owner.is_some_and(|owner| owner != *link)
            };
            slot.links.iter().find(knows).map(|link| (*link, addr))
        };
        let via = |default: bool| {
            let fits = |(prefix, _): &&(Prefix, IpAddr)| {
                (prefix.bits() == 0) == default && prefix.contains(next_hop)
            };
            slot.routes.iter().find(fits).and_then(|(_, via)| near(*via))
        };
        let alone = || match slot.links.as_slice() {
            [link] => Some((*link, next_hop)),
            _ => None,
        };
        via(false).or_else(|| near(next_hop)).or_else(|| via(true)).or_else(alone)
    }

    fn plan_wake(&mut self, node: usize) {
        let slot = &mut self.nodes[node];
        let Some(due) = slot.node.poll_timeout() else { return };
        let due = if due <= self.now { self.now + SMALLEST_STEP } else { due };
        if slot.wake.is_some_and(|planned| planned <= due) {
            return; // that wake-up will plan the next
        }
        slot.wake = Some(due);
        self.order += 1;
        self.events.push(Reverse(Event { at: due, order: self.order, what: What::Wake { node } }));
    }
}

impl core::fmt::Debug for Lab {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Lab")
            .field("seed", &self.seed)
            .field("now", &self.now)
            .field("nodes", &self.nodes.len())
            .field("delivered", &self.delivered)
            .finish_non_exhaustive()
    }
}

/// Multicast and broadcast.
fn is_group(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(v4) => v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_multicast(),
    }
}

#[cfg(test)]
mod tests;
