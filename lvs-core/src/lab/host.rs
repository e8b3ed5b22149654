//! A host: TCP/IP by smoltcp, an HTTP server and an HTTP client.
//!
//! Every connection has a socket set of its own, found by its endpoints: a packet costs the same however many
//! connections are open, and memory follows the open ones. The host knows addresses and time; what is said on a
//! connection is `http`'s business.

use core::fmt;
use core::net::IpAddr;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use pnet_packet::icmp::IcmpTypes;
use pnet_packet::icmp::destination_unreachable::IcmpCodes;
use pnet_packet::icmpv6::Icmpv6Types;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp;
use smoltcp::wire::{HardwareAddress, IpEndpoint, IpListenEndpoint};

use super::http::{Exchange, Failure, Fetching, OpenExchange, Request, Serving};
use super::port::{Port, lab_time, stack_time};
use super::{Node, Outbox, unwrap};
use crate::wire::{self, IcmpBody, Parsed, TcpFlags, Transport};
use crate::{Endpoint, Instant, Protocol};

/// The most connections that a host has at a time; more are refused.
pub const MAX_CONNECTIONS: usize = 1 << 16;

/// How long a closed connection is remembered, so that a lost last segment can be answered.
const TIME_WAIT: Duration = Duration::from_secs(1);

/// How long a client goes on closing a connection whose exchange is over.
const CLOSING: Duration = Duration::from_secs(10);

/// How long a server keeps a connection on which nothing comes.
const IDLE: Duration = Duration::from_secs(60);

/// Ports that a client connects from, taken in turn.
const FIRST_PORT: u16 = 10_000;
const LAST_PORT: u16 = 60_999;

/// Socket buffers, in bytes: the side that sends the body has the large one.
const SMALL_BUFFER: usize = 2 * 1024;
const LARGE_BUFFER: usize = 16 * 1024;

/// A host with its own TCP/IP stack.
///
/// It is a server when told to [`serve`](Self::serve), and a client when told to [`fetch`](Self::fetch). Real
/// servers of LVS/DR and LVS/TUN own the VIP by [`loopback`](Self::loopback); those of LVS/TUN also
/// [`unwrap_tunnels`](Self::unwrap_tunnels). Answers leave towards their destination; routes of the
/// [`Lab`](super::Lab) say by whom.
pub struct Host {
    name: Arc<str>,
    addresses: Vec<IpAddr>,
    loopback: Vec<IpAddr>,
    unwraps: bool,
    alive: bool,
    interface: Interface,
    device: Port,
    connections: BTreeMap<Key, Connection>,
    deadlines: BTreeSet<(Instant, Key)>,
    /// Port of the HTTP server and the body of its front page.
    ports: BTreeMap<u16, u64>,
    accepted: u64,
    concurrency: usize,
    waiting: VecDeque<Request>,
    next_id: u64,
    next_port: u16,
    fetching: usize,
    exchanges: Vec<Exchange>,
    ignored: u64,
}

/// A connection's two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    local: (IpAddr, u16),
    remote: (IpAddr, u16),
}

struct Connection {
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    role: Role,
    /// Its entry in `Host::deadlines`.
    deadline: Option<Instant>,
    /// When it is given up whatever the socket says.
    end: Option<Instant>,
}

enum Role {
    Server(Serving),
    Client(Fetching),
    /// The exchange is over, the connection not yet.
    Closing,
}

impl Host {
    /// Makes a host. `name` is what its server says in the answers.
    pub fn new(name: &str, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let mut device = Port { mtu: 1500, received: None, sent: Vec::new() };
        let interface = interface(&mut device, 0);
        Self {
            name: name.into(),
            addresses: addresses.into_iter().collect(),
            loopback: Vec::new(),
            unwraps: false,
            alive: true,
            interface,
            device,
            connections: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            ports: BTreeMap::new(),
            accepted: 0,
            concurrency: usize::MAX,
            waiting: VecDeque::new(),
            next_id: 0,
            next_port: FIRST_PORT,
            fetching: 0,
            exchanges: Vec::new(),
            ignored: 0,
        }
    }

    /// Owns an address too, without telling the network (the VIP of a real server).
    #[must_use]
    pub fn loopback(mut self, address: IpAddr) -> Self {
        self.loopback.push(address);
        self
    }

    /// Takes outer headers (IPIP, GRE, GUE on UDP port 6080) off packets to itself.
    #[must_use]
    pub fn unwrap_tunnels(mut self) -> Self {
        self.unwraps = true;
        self
    }

    /// Serves HTTP on a TCP port: `GET /5000` is answered with 5000 bytes.
    #[must_use]
    pub fn serve(self, port: u16) -> Self {
        self.serve_page(port, 0)
    }

    /// Serves HTTP on a TCP port, and `GET /` with this many bytes.
    #[must_use]
    pub fn serve_page(mut self, port: u16, body: u64) -> Self {
        self.ports.insert(port, body);
        self
    }

    /// Has at most this many exchanges under way; others wait.
    #[must_use]
    pub fn concurrency(mut self, most: usize) -> Self {
        self.concurrency = most;
        self
    }

    /// Packets larger than this are never sent, and peers are asked for none, in bytes. Servers of LVS/TUN need
    /// room for the outer header.
    #[must_use]
    pub fn mtu(mut self, mtu: u16) -> Self {
        self.device.mtu = mtu;
        self.rebuild(0);
        self
    }

    /// Starts the numbers that the stack draws (initial sequence numbers). A Lab does that when the host is added.
    pub(super) fn seed(&mut self, seed: u64) {
        self.rebuild(seed);
    }

    pub(super) fn limit_mtu(&mut self, mtu: u16) {
        if mtu < self.device.mtu {
            self.device.mtu = mtu;
            self.rebuild(0);
        }
    }

    fn rebuild(&mut self, seed: u64) {
        self.interface = interface(&mut self.device, seed);
    }

    /// What its server says in the answers.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The addresses that the network knows.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Connections accepted by the server so far.
    pub fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Connections that exist now, those in TIME_WAIT included.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Packets that were for another host, damaged, or of a kind that a host has no use for.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    /// Whether it was not killed, or was revived.
    pub fn is_alive(&self) -> bool {
        self.alive
    }

    /// Exchanges that are over, in the order of ending.
    pub fn exchanges(&self) -> &[Exchange] {
        &self.exchanges
    }

    /// Exchanges under way, in the order of the client's addresses and ports.
    pub fn open_exchanges(&self) -> impl Iterator<Item = OpenExchange> {
        self.connections.iter().filter_map(|(key, connection)| match &connection.role {
            Role::Client(fetching) => Some(OpenExchange {
                id: fetching.id,
                local: Endpoint::new(key.local.0, key.local.1),
                request: fetching.request,
                connected: fetching.connected,
            }),
            Role::Server(_) | Role::Closing => None,
        })
    }

    /// Exchanges that wait for others to end.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Exchanges asked for and not over.
    pub fn unfinished(&self) -> usize {
        self.waiting.len() + self.fetching
    }

    /// Makes an exchange as soon as the [concurrency](Self::concurrency) lets it.
    pub fn fetch(&mut self, request: Request, now: Instant, out: &mut Outbox) {
        self.waiting.push_back(request);
        self.start_waiting(now, out);
    }

    /// Dies at once: nothing more is said on any connection, and none is remembered. Exchanges under way fail;
    /// those that wait are forgotten.
    pub fn kill(&mut self, now: Instant) {
        self.alive = false;
        self.deadlines.clear();
        for (key, connection) in core::mem::take(&mut self.connections) {
            if let Role::Client(fetching) = connection.role {
                self.finish(key, fetching, Err(Failure::Killed), now);
            }
        }
        self.waiting.clear();
    }

    /// Comes back after [`kill`](Self::kill), with nothing but its settings and records.
    pub fn revive(&mut self) {
        self.alive = true;
    }

    fn owns(&self, addr: IpAddr) -> bool {
        self.addresses.contains(&addr) || self.loopback.contains(&addr)
    }

    fn receive(&mut self, packet: Vec<u8>, parsed: &Parsed, now: Instant, out: &mut Outbox) {
        if let Transport::Icmp(icmp) = parsed.transport {
            return self.receive_icmp(parsed.is_ipv4(), icmp, now, out);
        }
        let Some(tuple) = parsed.tuple().filter(|tuple| tuple.protocol == Protocol::Tcp) else {
            self.ignored += 1;
            return;
        };
        let key = Key { local: (tuple.dst.addr, tuple.dst.port), remote: (tuple.src.addr, tuple.src.port) };
        if !self.connections.contains_key(&key) && !self.accept(key, parsed.tcp_flags()) {
            // Nobody has a use for it: the stack says so.
            self.device.received = Some(packet);
            self.interface.poll(stack_time(now), &mut self.device, &mut SocketSet::new(Vec::new()));
            self.flush(out);
            return;
        }
        self.device.received = Some(packet);
        self.drive(key, now, out);
    }

    /// Makes a socket for a SYN to an open port.
    fn accept(&mut self, key: Key, flags: TcpFlags) -> bool {
        let is_syn = flags & (TcpFlags::SYN | TcpFlags::ACK | TcpFlags::RST | TcpFlags::FIN) == TcpFlags::SYN;
        if !is_syn || !self.ports.contains_key(&key.local.1) || self.connections.len() >= MAX_CONNECTIONS {
            return false;
        }
        let mut socket = new_socket(SMALL_BUFFER, LARGE_BUFFER);
        if socket.listen(IpListenEndpoint::from(key.local)).is_err() {
            return false;
        }
        self.accepted += 1;
        self.connections.insert(key, Connection::new(socket, Role::Server(Serving::default()), None));
        true
    }

    /// RFC 1122 4.2.3.9: an unreachable destination ends an attempt to connect, never an open connection.
    fn receive_icmp(&mut self, is_ipv4: bool, icmp: wire::Icmp, now: Instant, out: &mut Outbox) {
        let unreachable = if is_ipv4 {
            icmp.kind == IcmpTypes::DestinationUnreachable.0
                && icmp.code != IcmpCodes::FragmentationRequiredAndDFFlagSet.0
        } else {
            icmp.kind == Icmpv6Types::DestinationUnreachable.0
        };
        let tuple = match icmp.body {
            IcmpBody::Error(quoted) if unreachable => quoted.tuple(),
            _ => None,
        };
        let Some(tuple) = tuple else {
            self.ignored += 1;
            return;
        };
        let key = Key { local: (tuple.src.addr, tuple.src.port), remote: (tuple.dst.addr, tuple.dst.port) };
        let attempt = self.connections.get(&key).is_some_and(
            |connection| matches!(&connection.role, Role::Client(fetching) if !fetching.connected),
        );
        if attempt {
            self.give_up(key, Failure::Unreachable, now);
            self.start_waiting(now, out);
        }
    }

    /// Starts waiting exchanges as far as the concurrency lets it.
    fn start_waiting(&mut self, now: Instant, out: &mut Outbox) {
        while self.alive && self.fetching < self.concurrency {
            let Some(request) = self.waiting.pop_front() else { return };
            let fetching = Fetching::new(self.next_id, request, now);
            self.next_id += 1;
            self.fetching += 1;
            match self.connect(request.target) {
                Some((key, socket)) => {
                    let end = Some(now + request.timeout);
                    self.connections.insert(key, Connection::new(socket, Role::Client(fetching), end));
                    self.drive(key, now, out);
                }
                None => {
                    let target = (request.target.addr, request.target.port);
                    let key = Key { local: (request.target.addr, 0), remote: target };
                    self.finish(key, fetching, Err(Failure::NoPort), now);
                }
            }
        }
    }

    fn connect(&mut self, target: Endpoint) -> Option<(Key, tcp::Socket<'static>)> {
        let source = *self.addresses.iter().find(|addr| addr.is_ipv4() == target.addr.is_ipv4())?;
        let remote = (target.addr, target.port);
        let key = (FIRST_PORT..=LAST_PORT).find_map(|_| {
            let port = self.next_port;
            self.next_port = if port == LAST_PORT { FIRST_PORT } else { port + 1 };
            let key = Key { local: (source, port), remote };
            (!self.connections.contains_key(&key)).then_some(key)
        })?;
        let mut socket = new_socket(LARGE_BUFFER, SMALL_BUFFER);
        let local = IpListenEndpoint::from(key.local);
        socket.connect(self.interface.context(), IpEndpoint::from(remote), local).ok()?;
        Some((key, socket))
    }

    /// Lets the stack and then the application work on one connection, with the packet that the port holds.
    fn drive(&mut self, key: Key, now: Instant, out: &mut Outbox) {
        let time = stack_time(now);
        let Some(connection) = self.connections.get_mut(&key) else { return };
        if matches!(connection.role, Role::Server(_)) && self.device.received.is_some() {
            connection.end = Some(now + IDLE);
        }
        self.interface.poll(time, &mut self.device, &mut connection.sockets);
        let socket = connection.sockets.get_mut::<tcp::Socket<'_>>(connection.socket);
        let outcome = match &mut connection.role {
            Role::Server(serving) => {
                let page = self.ports.get(&key.local.1).copied().unwrap_or(0);
                serving.drive(socket, &self.name, page);
                None
            }
            Role::Client(fetching) => fetching.drive(socket),
            Role::Closing => {
                // What still comes is of no interest, but must not stop the connection from closing.
                while socket.can_recv() && socket.recv(|bytes| (bytes.len(), ())).is_ok() {}
                None
            }
        };
        if outcome.is_some() {
            match outcome {
                Some(Ok(())) => socket.close(),
                _ => socket.abort(),
            }
        }
        self.interface.poll(time, &mut self.device, &mut connection.sockets);
        let socket = connection.sockets.get::<tcp::Socket<'_>>(connection.socket);
        let gone = matches!(socket.state(), tcp::State::Closed | tcp::State::Listen);
        if matches!(socket.state(), tcp::State::TimeWait) && matches!(connection.role, Role::Server(_)) {
            connection.role = Role::Closing;
            connection.end = Some(now + TIME_WAIT);
        }
        let role = outcome.map(|outcome| {
            connection.end = Some(now + CLOSING);
            (core::mem::replace(&mut connection.role, Role::Closing), outcome)
        });
        let due = self.interface.poll_at(time, &connection.sockets).map(lab_time);
        let due = [due, connection.end].into_iter().flatten().min();
        if due != connection.deadline || gone {
            if let Some(old) = connection.deadline.take() {
                self.deadlines.remove(&(old, key));
            }
            if let Some(due) = due.filter(|_| !gone) {
                connection.deadline = Some(due);
                self.deadlines.insert((due, key));
            }
        }
        if gone {
            self.connections.remove(&key);
        }
        self.flush(out);
        if let Some((Role::Client(fetching), outcome)) = role {
            self.finish(key, fetching, outcome, now);
            self.start_waiting(now, out);
        }
    }

    /// Ends an exchange whose connection is not worth a RST.
    fn give_up(&mut self, key: Key, failure: Failure, now: Instant) {
        let Some(connection) = self.connections.remove(&key) else { return };
        if let Some(deadline) = connection.deadline {
            self.deadlines.remove(&(deadline, key));
        }
        if let Role::Client(fetching) = connection.role {
            self.finish(key, fetching, Err(failure), now);
        }
    }

    fn finish(&mut self, key: Key, fetching: Fetching, outcome: Result<(), Failure>, now: Instant) {
        self.fetching -= 1;
        self.exchanges.push(Exchange {
            id: fetching.id,
            local: Endpoint::new(key.local.0, key.local.1),
            request: fetching.request,
            server: fetching.server,
            started: fetching.started,
            ended: now,
            received: fetching.received,
            outcome,
        });
    }

    /// Hands what the stack sent to the network.
    fn flush(&mut self, out: &mut Outbox) {
        for packet in self.device.sent.drain(..) {
            if let Some(destination) = destination(&packet) {
                out.send(destination, packet);
            }
        }
    }
}

impl Connection {
    fn new(socket: tcp::Socket<'static>, role: Role, end: Option<Instant>) -> Self {
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let socket = sockets.add(socket);
        Self { sockets, socket, role, deadline: None, end }
    }
}

impl Node for Host {
    fn handle_packet(&mut self, packet: Vec<u8>, now: Instant, out: &mut Outbox) {
        if !self.alive {
            return;
        }
        let Ok(mut parsed) = wire::parse(&packet) else {
            self.ignored += 1;
            return;
        };
        let mut packet = packet;
        if self.unwraps
            && self.owns(parsed.dst)
            && let Some(inner) = unwrap::inner(&packet, &parsed)
        {
            match wire::parse(&inner) {
                Ok(inside) => (packet, parsed) = (inner, inside),
                Err(_) => {
                    self.ignored += 1;
                    return;
                }
            }
        }
        if !self.owns(parsed.dst) {
            self.ignored += 1;
            return;
        }
        self.receive(packet, &parsed, now, out);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Outbox) {
        while let Some((at, key)) = self.deadlines.first().copied()
            && at <= now
        {
            self.deadlines.pop_first();
            let Some(connection) = self.connections.get_mut(&key) else { continue };
            connection.deadline = None;
            if connection.end.is_some_and(|end| end <= now) {
                self.give_up(key, Failure::TimedOut, now);
                self.start_waiting(now, out);
            } else {
                self.drive(key, now, out);
                // A socket that is due again at once waits for the next step of the clock.
                let Some(connection) = self.connections.get_mut(&key) else { continue };
                if let Some(due) = connection.deadline.filter(|due| *due <= now) {
                    self.deadlines.remove(&(due, key));
                    let later = now + Duration::from_micros(1);
                    connection.deadline = Some(later);
                    self.deadlines.insert((later, key));
                }
            }
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host")
            .field("name", &self.name)
            .field("addresses", &self.addresses)
            .field("alive", &self.alive)
            .field("connections", &self.connections.len())
            .field("exchanges", &self.exchanges.len())
            .finish_non_exhaustive()
    }
}

fn interface(device: &mut Port, seed: u64) -> Interface {
    let mut config = Config::new(HardwareAddress::Ip);
    config.random_seed = seed;
    let mut interface = Interface::new(config, device, smoltcp::time::Instant::ZERO);
    // The host itself knows its addresses; the stack's own list is short.
    interface.set_any_ip(true);
    interface
}

fn new_socket(receive: usize, send: usize) -> tcp::Socket<'static> {
    let buffer = |len| tcp::SocketBuffer::new(vec![0; len]);
    let mut socket = tcp::Socket::new(buffer(receive), buffer(send));
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(None);
    socket
}

fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(IpAddr::from(*packet.get(wire::ipv4::DST..)?.first_chunk::<4>()?)),
        _ => Some(IpAddr::from(*packet.get(wire::ipv6::DST..)?.first_chunk::<16>()?)),
    }
}
