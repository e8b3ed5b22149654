//! The records behind the configuration: services with their schedulers, servers with their counters.
//!
//! A service's scheduler sees a contiguous list of [`Server`]s in list order (a new server goes to the
//! head, as in the kernel); everything else about a server is in its [`ServerRecord`], found by [`ServerId`].
//! A record outlives its server while connections refer to it (the kernel's trash).

use core::net::IpAddr;
use core::time::Duration;
use std::collections::HashMap;

use lvs_sched::{Change, Endpoint, Instant, Protocol, Scheduler, Server, ServerId, Thresholds};

use crate::service::{Family, ForwardingMethod, RealServer, ServiceKey, Tunnel, VirtualService};
use crate::stats::Traffic;
use crate::wire::Tuple;

/// How long a deleted server can be revived with its counters (the kernel's trash time).
pub const TRASH_TIME: Duration = Duration::from_secs(120);

type Map<K, V> = HashMap<K, V, ahash::RandomState>;

/// A virtual service at work.
#[derive(Debug)]
pub(crate) struct ServiceRecord {
    pub(crate) config: VirtualService,
    pub(crate) scheduler: Box<dyn Scheduler>,
    /// In list order: the newest first.
    pub(crate) servers: Vec<Server>,
    pub(crate) traffic: Traffic,
    /// FULLNAT's local addresses by family, IPv4 first.
    locals: [Vec<IpAddr>; 2],
}

impl ServiceRecord {
    /// FULLNAT's local addresses of one family.
    pub(crate) fn locals(&self, family: Family) -> &[IpAddr] {
        &self.locals[family as usize]
    }
}

fn by_family(addrs: &[IpAddr]) -> [Vec<IpAddr>; 2] {
    let (v4, v6) = addrs.iter().partition(|addr| addr.is_ipv4());
    [v4, v6]
}

/// A real server at work, or a deleted one that connections still refer to.
#[derive(Debug)]
pub(crate) struct ServerRecord {
    pub(crate) service: ServiceKey,
    /// Where the service stands in the pool, while it is there.
    pub(crate) service_index: Option<usize>,
    pub(crate) config: RealServer,
    /// The outer headers of its tunnels: also when it is no tunnel any more, connections that began so go on.
    pub(crate) tunnel: Tunnel,
    pub(crate) thresholds: Thresholds,
    pub(crate) server: Server,
    /// Connections that refer to this record.
    pub(crate) connections: u32,
    pub(crate) deleted: Option<Instant>,
    pub(crate) traffic: Traffic,
}

impl ServerRecord {
    fn configure(&mut self, config: RealServer) {
        self.config = config;
        if let ForwardingMethod::Tunnel(tunnel) = config.method {
            self.tunnel = tunnel;
        }
    }
}

/// All services and servers of one director.
#[derive(Debug)]
pub(crate) struct Pool {
    services: Vec<ServiceRecord>,
    by_key: Map<ServiceKey, usize>,
    servers: Vec<Option<ServerRecord>>,
    /// How many services have this VIP.
    vips: Map<IpAddr, u32>,
    /// How many servers whose replies come through the director stand at this endpoint, by their service's
    /// protocol; those of a service by mark answer in every protocol.
    reply_sources: Map<(Option<Protocol>, Endpoint), u32>,
    /// How many servers have this address, deleted ones included as long as they are remembered.
    server_addrs: Map<IpAddr, u32>,
}

/// The control side has checked that the lower threshold is not above the upper one.
fn thresholds_of(config: &RealServer) -> Thresholds {
    Thresholds::new(config.upper_threshold, config.lower_threshold).unwrap_or(Thresholds::NONE)
}

fn count_up<K: Eq + core::hash::Hash>(map: &mut Map<K, u32>, key: K) {
    *map.entry(key).or_insert(0) += 1;
}

fn count_down<K: Eq + core::hash::Hash>(map: &mut Map<K, u32>, key: &K) {
    if let Some(count) = map.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            map.remove(key);
        }
    }
}

impl Pool {
    pub(crate) fn new(seed: u64) -> Self {
        let state = ahash::RandomState::with_seeds(seed, !seed, seed.rotate_left(32), 0x6c76_732d_706f_6f6c);
        Self {
            services: Vec::new(),
            by_key: Map::with_hasher(state.clone()),
            servers: Vec::new(),
            vips: Map::with_hasher(state.clone()),
            reply_sources: Map::with_hasher(state.clone()),
            server_addrs: Map::with_hasher(state),
        }
    }

    /// The service that a packet belongs to: by mark, by address and port, by address with port 0.
    pub(crate) fn find(&self, tuple: &Tuple, mark: u32) -> Option<usize> {
        if mark != 0 {
            let key = ServiceKey::Mark { family: Family::of(&tuple.dst.addr), mark };
            if let Some(&index) = self.by_key.get(&key) {
                return Some(index);
            }
        }
        let exact = ServiceKey::Address { protocol: tuple.protocol, endpoint: tuple.dst };
        let any =
            ServiceKey::Address { protocol: tuple.protocol, endpoint: Endpoint::new(tuple.dst.addr, 0) };
        self.by_key.get(&exact).or_else(|| self.by_key.get(&any)).copied()
    }

    pub(crate) fn index_of(&self, key: &ServiceKey) -> Option<usize> {
        self.by_key.get(key).copied()
    }

    pub(crate) fn service(&self, index: usize) -> &ServiceRecord {
        &self.services[index]
    }

    pub(crate) fn service_mut(&mut self, index: usize) -> &mut ServiceRecord {
        &mut self.services[index]
    }

    pub(crate) fn services(&self) -> &[ServiceRecord] {
        &self.services
    }

    pub(crate) fn server(&self, id: ServerId) -> Option<&ServerRecord> {
        self.servers.get(id.0 as usize)?.as_ref()
    }

    pub(crate) fn server_mut(&mut self, id: ServerId) -> Option<&mut ServerRecord> {
        self.servers.get_mut(id.0 as usize)?.as_mut()
    }

    pub(crate) fn is_vip(&self, addr: IpAddr) -> bool {
        self.vips.contains_key(&addr)
    }

    /// Whether a service goes by mark, so that no address tells whether a packet is its.
    pub(crate) fn has_marks(&self) -> bool {
        self.services.iter().any(|record| matches!(record.config.key, ServiceKey::Mark { .. }))
    }

    /// Whether a server whose replies come through the director stands there.
    pub(crate) fn is_reply_source(&self, protocol: Protocol, endpoint: Endpoint) -> bool {
        [Some(protocol), None].iter().any(|protocol| self.reply_sources.contains_key(&(*protocol, endpoint)))
    }

    pub(crate) fn is_server_addr(&self, addr: IpAddr) -> bool {
        self.server_addrs.contains_key(&addr)
    }

    /// The live server of a service at an endpoint.
    pub(crate) fn server_at(&self, service: usize, endpoint: Endpoint) -> Option<ServerId> {
        self.services[service].servers.iter().find(|server| server.key == endpoint).map(|server| server.id)
    }

    pub(crate) fn add_service(&mut self, config: VirtualService) {
        let scheduler = config.scheduler.build(config.flags);
        if let ServiceKey::Address { endpoint, .. } = config.key {
            count_up(&mut self.vips, endpoint.addr);
        }
        self.by_key.insert(config.key, self.services.len());
        let locals = by_family(&config.local_addresses);
        let traffic = Traffic::default();
        self.services.push(ServiceRecord { config, scheduler, servers: Vec::new(), traffic, locals });
    }

    /// Takes the new settings; a new scheduler starts with the list as it is.
    pub(crate) fn edit_service(&mut self, index: usize, config: VirtualService) {
        let record = &mut self.services[index];
        if (record.config.scheduler, record.config.flags) != (config.scheduler, config.flags) {
            record.scheduler = config.scheduler.build(config.flags);
            for index in 0..record.servers.len() {
                record.scheduler.changed(Change::Edited { index }, &record.servers);
            }
        }
        record.locals = by_family(&config.local_addresses);
        record.config = config;
    }

    pub(crate) fn remove_service(&mut self, index: usize, now: Instant) {
        let ids: Vec<_> = self.services[index].servers.iter().map(|server| server.id).collect();
        for id in ids {
            self.remove_server(index, id, now);
        }
        let record = self.services.remove(index);
        if let ServiceKey::Address { endpoint, .. } = record.config.key {
            count_down(&mut self.vips, &endpoint.addr);
        }
        self.by_key.remove(&record.config.key);
        for other in self.by_key.values_mut() {
            *other -= usize::from(*other > index);
        }
        for record in self.servers.iter_mut().flatten() {
            record.service_index = match record.service_index {
                Some(at) if at == index => None,
                Some(at) => Some(at - usize::from(at > index)),
                None => None,
            };
        }
    }

    /// Puts a server at the head of its service's list; a deleted one that is still known is revived.
    pub(crate) fn add_server(&mut self, service: usize, config: RealServer) -> ServerId {
        let key = self.services[service].config.key;
        let trashed = self.servers.iter().position(|record| {
            record.as_ref().is_some_and(|record| {
                record.deleted.is_some() && record.service == key && record.config.endpoint == config.endpoint
            })
        });
        let slot = trashed.unwrap_or_else(|| {
            self.servers.iter().position(Option::is_none).unwrap_or_else(|| {
                self.servers.push(None);
                self.servers.len() - 1
            })
        });
        let id = ServerId(u32::try_from(slot).unwrap_or(u32::MAX));
        let thresholds = thresholds_of(&config);
        if trashed.is_none() {
            count_up(&mut self.server_addrs, config.endpoint.addr);
        }
        let mut record = self.servers[slot].take().unwrap_or_else(|| ServerRecord {
            service: key,
            service_index: None,
            config,
            tunnel: Tunnel::default(),
            thresholds,
            server: Server::new(id, config.endpoint, config.weight),
            connections: 0,
            deleted: None,
            traffic: Traffic::default(),
        });
        record.service_index = Some(service);
        record.configure(config);
        thresholds.replaced(record.thresholds, &record.server.load);
        record.thresholds = thresholds;
        record.server.set_weight(config.weight);
        record.deleted = None;
        let server = record.server.clone();
        self.servers[slot] = Some(record);
        self.watch(&key, &config, true);
        let record = &mut self.services[service];
        record.servers.insert(0, server);
        record.scheduler.changed(Change::Added { index: 0 }, &record.servers);
        id
    }

    pub(crate) fn edit_server(&mut self, service: usize, id: ServerId, config: RealServer) {
        let key = self.services[service].config.key;
        let Some(record) = self.server_mut(id) else { return };
        let old = record.config;
        record.configure(config);
        let thresholds = thresholds_of(&config);
        thresholds.replaced(record.thresholds, &record.server.load);
        record.thresholds = thresholds;
        record.server.set_weight(config.weight);
        self.watch(&key, &old, false);
        self.watch(&key, &config, true);
        let record = &mut self.services[service];
        if let Some(index) = record.servers.iter().position(|server| server.id == id) {
            record.servers[index].set_weight(config.weight);
            record.scheduler.changed(Change::Edited { index }, &record.servers);
        }
    }

    pub(crate) fn remove_server(&mut self, service: usize, id: ServerId, now: Instant) {
        let record = &mut self.services[service];
        if let Some(index) = record.servers.iter().position(|server| server.id == id) {
            record.servers.remove(index);
            record.scheduler.changed(Change::Removed { index, id }, &record.servers);
        }
        if let Some(record) = self.server_mut(id) {
            record.deleted = Some(now);
            let (key, config) = (record.service, record.config);
            self.watch(&key, &config, false);
        }
    }

    /// Forgets deleted servers whose trash time is over and that no connection refers to. Returns endpoints where no
    /// server is left, with the protocols of their services.
    pub(crate) fn collect_trash(&mut self, now: Instant) -> Vec<(Endpoint, Protocol)> {
        let mut gone = Vec::new();
        for slot in &mut self.servers {
            let over = slot.take_if(|record| {
                record.connections == 0 && record.deleted.is_some_and(|since| now - since >= TRASH_TIME)
            });
            let Some(record) = over else { continue };
            let endpoint = record.config.endpoint;
            count_down(&mut self.server_addrs, &endpoint.addr);
            let serves = |protocol: &Protocol| match record.service {
                ServiceKey::Address { protocol: own, .. } => own == *protocol,
                ServiceKey::Mark { .. } => true,
            };
            let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().filter(serves);
            gone.extend(protocols.map(|protocol| (endpoint, protocol)));
        }
        gone.retain(|(endpoint, _)| {
            self.servers.iter().flatten().all(|record| record.config.endpoint != *endpoint)
        });
        gone
    }

    /// When [`collect_trash`](Self::collect_trash) may have something to do.
    pub(crate) fn trash_due(&self) -> Option<Instant> {
        let idle = |record: &&ServerRecord| record.connections == 0;
        let deleted = self.servers.iter().flatten().filter(idle).filter_map(|record| record.deleted);
        deleted.min().map(|since| since + TRASH_TIME)
    }

    pub(crate) fn zero(&mut self, service: Option<usize>) {
        for (index, record) in self.services.iter_mut().enumerate() {
            if service.is_none_or(|only| only == index) {
                record.traffic = Traffic::default();
                for server in &record.servers {
                    if let Some(Some(record)) = self.servers.get_mut(server.id.0 as usize) {
                        record.traffic = Traffic::default();
                    }
                }
            }
        }
    }

    fn watch(&mut self, service: &ServiceKey, config: &RealServer, add: bool) {
        let protocol = match service {
            ServiceKey::Address { protocol, .. } => Some(*protocol),
            ServiceKey::Mark { .. } => None,
        };
        if config.method == ForwardingMethod::Masquerade {
            if add {
                count_up(&mut self.reply_sources, (protocol, config.endpoint));
            } else {
                count_down(&mut self.reply_sources, &(protocol, config.endpoint));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use lvs_sched::SchedulerKind;

    use super::*;

    #[test]
    fn an_endpoint_is_gone_with_its_last_server() {
        let server = |text: &str| RealServer::new(text.parse().unwrap(), ForwardingMethod::FullNat);
        let mut pool = Pool::new(1);
        let mark = ServiceKey::Mark { family: Family::V4, mark: 7 };
        let vip = ServiceKey::Address { protocol: Protocol::Udp, endpoint: "10.9.0.1:53".parse().unwrap() };
        for key in [mark, vip] {
            pool.add_service(VirtualService::new(key, SchedulerKind::RoundRobin));
        }
        let shared = server("10.0.2.11:53");
        let (by_mark, by_vip) = (pool.add_server(0, shared), pool.add_server(1, shared));
        pool.remove_server(0, by_mark, Instant::ZERO);
        assert_eq!(pool.collect_trash(Instant::from_secs(119)), []);
        assert_eq!(pool.collect_trash(Instant::from_secs(120)), [], "the other service has one there");
        pool.remove_server(1, by_vip, Instant::from_secs(200));
        assert!(pool.is_server_addr(shared.endpoint.addr), "its replies may still come");
        assert_eq!(pool.collect_trash(Instant::from_secs(320)), [(shared.endpoint, Protocol::Udp)]);
        assert!(!pool.is_server_addr(shared.endpoint.addr));
    }
}
