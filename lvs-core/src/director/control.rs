//! The control side: ipvsadm's commands on a running director, all or nothing.

use core::net::IpAddr;
use core::time::Duration;

use lvs_sched::{Endpoint, Instant, Protocol, ServerId, Weight};

use super::Director;
use crate::conn::{ConnFlags, ConnId, Connection, Filter, Method, SnapshotError, parse_snapshot};
use crate::environment::Environment;
use crate::rewrite::Deltas;
use crate::service::{
    Command, Family, ForwardingMethod, RealServer, ServiceKey, TimeoutSettings, Tunnel, VirtualService,
};
use crate::stats::Traffic;
use crate::wire::Tuple;

/// A command that cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// `-A` of what is there.
    #[error("virtual service {0} is there already: use -E to change it")]
    DuplicateService(ServiceKey),
    /// A command about what is not there.
    #[error("no virtual service {0}: add it with -A first")]
    UnknownService(ServiceKey),
    /// `-a` of what is there.
    #[error("real server {1} of {0} is there already: use -e to change it")]
    DuplicateServer(ServiceKey, Endpoint),
    /// A command about what is not there.
    #[error("no real server {1} in {0}: add it with -a first")]
    UnknownServer(ServiceKey, Endpoint),
    /// Mark 0 means "no mark".
    #[error("a service by mark needs a mark above 0")]
    ZeroMark,
    /// Port 0 takes all ports, which only makes sense when a client stays with its server.
    #[error("a service of port 0 takes all ports and must be persistent")]
    PortZero,
    /// Only LVS/TUN joins address families.
    #[error("real server {0} is of another address family than its service: only LVS/TUN (-i) can do that")]
    MixedFamilies(Endpoint),
    /// A VIP of this director as a server of it would send packets in a circle.
    #[error("real server {0} is a virtual service of this director: packets would go in a circle")]
    Loop(Endpoint),
    /// FULLNAT needs addresses to speak from.
    #[error("real server {0} needs local addresses of its family on the service: add --laddr ADDRESS to -A")]
    NoLocalAddresses(Endpoint),
    /// GUE needs a UDP port.
    #[error(
        "real server {0} needs a port for its GUE tunnel: add --tun-port PORT (6080 is the registered one)"
    )]
    NoTunnelPort(Endpoint),
    /// The lower threshold is above the upper one.
    #[error("lower threshold {lower} of {server} is above the upper threshold {upper}")]
    Thresholds {
        /// The server.
        server: Endpoint,
        /// `-x`
        upper: u32,
        /// `-y`
        lower: u32,
    },
    /// Something this director does not do.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
}

/// The command of a list that could not be carried out; none of the list was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("command {}: {error}", index + 1)]
pub struct ApplyError {
    /// Which command, counting from 0.
    pub index: usize,
    /// Why.
    #[source]
    pub error: ConfigError,
}

/// The configuration alone, to try commands on.
struct Shadow<'e> {
    environment: &'e Environment,
    services: Vec<(VirtualService, Vec<RealServer>)>,
}

impl Director {
    /// Carries out commands in order, all of them or none.
    ///
    /// Connections, counters and the list order of servers that stay survive. A new server goes to the head
    /// of its service's list, as in the kernel.
    ///
    /// # Errors
    /// [`ApplyError`] names the first command that cannot be carried out; nothing has changed then.
    pub fn apply(&mut self, commands: &[Command], now: Instant) -> Result<(), ApplyError> {
        let mut shadow = self.shadow();
        for (index, command) in commands.iter().enumerate() {
            shadow.apply(command).map_err(|error| ApplyError { index, error })?;
        }
        for command in commands {
            self.execute(command, now);
        }
        Ok(())
    }

    /// Adds a virtual service.
    ///
    /// # Errors
    /// [`ConfigError`]; nothing has changed then.
    pub fn add_service(&mut self, service: VirtualService) -> Result<(), ConfigError> {
        self.one(Command::AddService(service), Instant::ZERO)
    }

    /// Adds a real server at the head of its service's list.
    ///
    /// # Errors
    /// [`ConfigError`]; nothing has changed then.
    pub fn add_server(&mut self, service: ServiceKey, server: RealServer) -> Result<(), ConfigError> {
        self.one(Command::AddServer(service, server), Instant::ZERO)
    }

    /// Changes a real server's weight; 0 quiesces it.
    ///
    /// # Errors
    /// [`ConfigError`] when the service or server is not there.
    pub fn set_weight(
        &mut self,
        service: ServiceKey,
        server: Endpoint,
        weight: Weight,
    ) -> Result<(), ConfigError> {
        let index = self.pool.index_of(&service).ok_or(ConfigError::UnknownService(service))?;
        let known = self.pool.server_at(index, server).and_then(|id| self.pool.server(id));
        let config = known.map(|record| record.config).ok_or(ConfigError::UnknownServer(service, server))?;
        self.one(Command::EditServer(service, RealServer { weight, ..config }), Instant::ZERO)
    }

    /// Removes a real server; what becomes of its connections is `expire_nodest_conn`'s to say.
    ///
    /// # Errors
    /// [`ConfigError`] when the service or server is not there.
    pub fn remove_server(
        &mut self,
        service: ServiceKey,
        server: Endpoint,
        now: Instant,
    ) -> Result<(), ConfigError> {
        self.one(Command::DeleteServer(service, server), now)
    }

    fn one(&mut self, command: Command, now: Instant) -> Result<(), ConfigError> {
        self.shadow().apply(&command)?;
        self.execute(&command, now);
        Ok(())
    }

    /// The configuration as commands that would build it: services in order, servers oldest first.
    pub fn configuration(&self) -> Vec<Command> {
        let mut commands = Vec::new();
        for (service, servers) in self.shadow().services {
            let key = service.key;
            commands.push(Command::AddService(service));
            commands.extend(servers.into_iter().map(|server| Command::AddServer(key, server)));
        }
        commands
    }

    /// Sets the timeouts of `ipvsadm --set`; zero leaves one as it is.
    pub fn set_timeouts(&mut self, settings: TimeoutSettings) {
        self.timeouts.apply(settings);
    }

    /// Takes the director's own addresses and MTUs anew.
    pub fn set_environment(&mut self, environment: Environment) {
        self.config.environment = environment;
    }

    /// Ends connections that match, as if they had timed out. Returns how many.
    pub fn kill(&mut self, filter: Filter) -> usize {
        let doomed: Vec<ConnId> = self.connections(filter).map(|(id, _)| id).collect();
        for &id in &doomed {
            self.end(id);
        }
        doomed.len()
    }

    /// Every connection with its remaining lifetime, as bytes that [`restore`](Self::restore) reads.
    pub fn snapshot(&self, now: Instant) -> Vec<u8> {
        self.conns.snapshot_with(now, |id| self.pool.server(id).map(|record| record.config.endpoint.addr))
    }

    /// Takes connections from a snapshot whose service and server are configured here. Returns how many.
    ///
    /// Connections that are already there, whose server is reached in another way now, or for which there is no
    /// room, are left out.
    ///
    /// # Errors
    /// [`SnapshotError`] when the bytes are no snapshot; nothing has changed then.
    pub fn restore(&mut self, snapshot: &[u8], now: Instant) -> Result<usize, SnapshotError> {
        let mut restored = 0;
        for mut conn in parse_snapshot(snapshot, now)? {
            let tuple = Tuple { protocol: conn.protocol, src: conn.client, dst: conn.service };
            let Some(service) = self.pool.find(&tuple, conn.mark) else { continue };
            let Some(id) = self.server_for(service, &conn) else { continue };
            conn.server_id = id;
            let (family, capacity) = (Family::of(&conn.client.addr), self.conns.capacity());
            let room = if family == Family::V4 { capacity.ipv4 } else { capacity.ipv6 };
            if self.conns.len_of(family) >= room as usize {
                continue;
            }
            let is_fullnat = conn.method == Method::FullNat;
            if is_fullnat && !self.local_ports.reserve(conn.local, self.port_space(&conn), conn.protocol) {
                continue;
            }
            let deltas = Deltas::of(&conn);
            if self.insert(&conn, deltas, now).is_ok() {
                restored += 1;
            } else {
                self.free_local(&conn);
            }
        }
        Ok(restored)
    }

    /// The live server that a connection belongs to; one configured without a port takes any.
    fn server_for(&self, service: usize, conn: &Connection) -> Option<ServerId> {
        let any_port = Endpoint::new(conn.server.addr, 0);
        let id =
            self.pool.server_at(service, conn.server).or_else(|| self.pool.server_at(service, any_port))?;
        let same_way = Method::from(self.pool.server(id)?.config.method) == conn.method;
        (same_way && !conn.flags.contains(ConnFlags::TEMPLATE)).then_some(id)
    }

    fn shadow(&self) -> Shadow<'_> {
        let services = self.pool.services().iter().map(|record| {
            let config = |server: &lvs_sched::Server| self.pool.server(server.id).map(|record| record.config);
            (record.config.clone(), record.servers.iter().rev().filter_map(config).collect())
        });
        Shadow { environment: &self.config.environment, services: services.collect() }
    }

    /// Carries out a command that the shadow has accepted.
    fn execute(&mut self, command: &Command, now: Instant) {
        match command {
            Command::AddService(service) => self.pool.add_service(service.clone()),
            Command::EditService(service) => {
                if let Some(index) = self.pool.index_of(&service.key) {
                    self.pool.edit_service(index, service.clone());
                }
            }
            Command::DeleteService(key) => {
                if let Some(index) = self.pool.index_of(key) {
                    self.pool.remove_service(index, now);
                }
            }
            Command::AddServer(key, server) => {
                if let Some(index) = self.pool.index_of(key) {
                    let server = normal(key, *server, &self.config.environment);
                    self.pool.add_server(index, server);
                }
            }
            Command::EditServer(key, server) => {
                let Some(index) = self.pool.index_of(key) else { return };
                let server = normal(key, *server, &self.config.environment);
                if let Some(id) = self.pool.server_at(index, server.endpoint) {
                    self.pool.edit_server(index, id, server);
                }
            }
            Command::DeleteServer(key, endpoint) => {
                let Some(index) = self.pool.index_of(key) else { return };
                if let Some(id) = self.pool.server_at(index, *endpoint) {
                    self.pool.remove_server(index, id, now);
                }
            }
            Command::Flush => {
                while !self.pool.services().is_empty() {
                    self.pool.remove_service(self.pool.services().len() - 1, now);
                }
            }
            Command::Zero(key) => {
                let index = key.as_ref().and_then(|key| self.pool.index_of(key));
                self.pool.zero(index);
                if key.is_none() {
                    self.traffic = Traffic::default();
                }
            }
            Command::SetTimeouts(settings) => self.set_timeouts(*settings),
        }
    }
}

/// The server as the kernel takes it: DR and TUN keep the service's port, an own address is the local node.
fn normal(key: &ServiceKey, mut server: RealServer, environment: &Environment) -> RealServer {
    if let ServiceKey::Address { endpoint, .. } = key
        && !server.method.sees_replies()
    {
        server.endpoint.port = endpoint.port;
    }
    if environment.is_own(server.endpoint.addr) {
        server.method = ForwardingMethod::Local;
    }
    server
}

impl Shadow<'_> {
    fn apply(&mut self, command: &Command) -> Result<(), ConfigError> {
        match command {
            Command::AddService(service) => {
                check_service(service)?;
                if self.position(&service.key).is_some() {
                    return Err(ConfigError::DuplicateService(service.key));
                }
                let vip = service.key.endpoint().map(|endpoint| endpoint.addr);
                let servers = self.services.iter().flat_map(|(_, servers)| servers);
                let mut looped = servers.filter(|server| server.method != ForwardingMethod::Local);
                if let Some(server) = looped.find(|server| Some(server.endpoint.addr) == vip) {
                    return Err(ConfigError::Loop(server.endpoint));
                }
                self.services.push((service.clone(), Vec::new()));
            }
            Command::EditService(service) => {
                check_service(service)?;
                let index = self.known(&service.key)?;
                for server in &self.services[index].1 {
                    self.check_server(service, server)?;
                }
                self.services[index].0 = service.clone();
            }
            Command::DeleteService(key) => {
                let index = self.known(key)?;
                self.services.remove(index);
            }
            Command::AddServer(key, server) => {
                let index = self.known(key)?;
                let server = normal(key, *server, self.environment);
                self.check_server(&self.services[index].0, &server)?;
                if self.services[index].1.iter().any(|other| other.endpoint == server.endpoint) {
                    return Err(ConfigError::DuplicateServer(*key, server.endpoint));
                }
                self.services[index].1.push(server);
            }
            Command::EditServer(key, server) => {
                let index = self.known(key)?;
                let server = normal(key, *server, self.environment);
                self.check_server(&self.services[index].0, &server)?;
                let servers = &mut self.services[index].1;
                let known = servers.iter_mut().find(|other| other.endpoint == server.endpoint);
                *known.ok_or(ConfigError::UnknownServer(*key, server.endpoint))? = server;
            }
            Command::DeleteServer(key, endpoint) => {
                let index = self.known(key)?;
                let servers = &mut self.services[index].1;
                let at = servers.iter().position(|server| server.endpoint == *endpoint);
                servers.remove(at.ok_or(ConfigError::UnknownServer(*key, *endpoint))?);
            }
            Command::Flush => self.services.clear(),
            Command::Zero(Some(key)) => {
                self.known(key)?;
            }
            Command::Zero(None) | Command::SetTimeouts(_) => {}
        }
        Ok(())
    }

    fn position(&self, key: &ServiceKey) -> Option<usize> {
        self.services.iter().position(|(service, _)| service.key == *key)
    }

    fn is_vip(&self, addr: IpAddr) -> bool {
        self.services.iter().any(|(service, _)| service.key.endpoint().is_some_and(|vip| vip.addr == addr))
    }

    fn known(&self, key: &ServiceKey) -> Result<usize, ConfigError> {
        self.position(key).ok_or(ConfigError::UnknownService(*key))
    }

    fn check_server(&self, service: &VirtualService, server: &RealServer) -> Result<(), ConfigError> {
        let family = Family::of(&server.endpoint.addr);
        let (service_family, vip) = match service.key {
            ServiceKey::Address { endpoint, .. } => (Family::of(&endpoint.addr), Some(endpoint.addr)),
            ServiceKey::Mark { family, .. } => (family, None),
        };
        if family != service_family && !matches!(server.method, ForwardingMethod::Tunnel(_)) {
            return Err(ConfigError::MixedFamilies(server.endpoint));
        }
        let own_vip = vip == Some(server.endpoint.addr);
        if (own_vip || self.is_vip(server.endpoint.addr)) && server.method != ForwardingMethod::Local {
            return Err(ConfigError::Loop(server.endpoint));
        }
        match server.method {
            ForwardingMethod::Tunnel(Tunnel::Gue { port: 0, .. }) => {
                return Err(ConfigError::NoTunnelPort(server.endpoint));
            }
            ForwardingMethod::FullNat if is_one_packet(service) => {
                return Err(ConfigError::Unsupported(
                    "one-packet scheduling (-o) with --fullnat, whose local port would be free before the reply,",
                ));
            }
            ForwardingMethod::FullNat => {
                let usable = |addr: &IpAddr| Family::of(addr) == family;
                if !service.local_addresses.iter().any(usable) {
                    return Err(ConfigError::NoLocalAddresses(server.endpoint));
                }
            }
            _ => {}
        }
        if server.lower_threshold > server.upper_threshold {
            return Err(ConfigError::Thresholds {
                server: server.endpoint,
                upper: server.upper_threshold,
                lower: server.lower_threshold,
            });
        }
        Ok(())
    }
}

/// Whether the service schedules single datagrams; TCP and SCTP never are.
fn is_one_packet(service: &VirtualService) -> bool {
    let udp = match service.key {
        ServiceKey::Address { protocol, .. } => protocol == Protocol::Udp,
        ServiceKey::Mark { .. } => true,
    };
    udp && service.one_packet
}

fn check_service(service: &VirtualService) -> Result<(), ConfigError> {
    if matches!(service.key, ServiceKey::Mark { mark: 0, .. }) {
        return Err(ConfigError::ZeroMark);
    }
    if service.key.endpoint().is_some_and(|endpoint| endpoint.port == 0) && service.persistence.is_none() {
        return Err(ConfigError::PortZero);
    }
    if service.persistence.is_some_and(|persistence| persistence.timeout > Duration::ZERO) {
        return Err(ConfigError::Unsupported("persistence (-p)"));
    }
    Ok(())
}
