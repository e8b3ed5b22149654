//! Commands: services and servers come, change and go.

use lvs_core::service::{Command, ForwardingMethod, RealServer, ServiceKey, TimeoutSettings, VirtualService};
use lvs_core::{Endpoint, Instant, ServerId};
use lvs_sched::Change;

use super::schedulers::Turn;
use super::{Reference, Server, Service};

impl Reference {
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

    pub(super) fn service_at(&self, key: &ServiceKey) -> Option<usize> {
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
