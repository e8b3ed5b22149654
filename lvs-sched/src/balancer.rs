//! The front for proxies that forward no packets themselves: choose, count up, count down. No I/O, no clock.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;

use parking_lot::Mutex;

use crate::{
    Change, Endpoint, Flow, Instant, Load, Scheduler, SchedulerFlags, SchedulerKind, Server, ServerId,
    Thresholds, Weight,
};

/// Chooses servers for the connections of a proxy and counts them; any number of threads may share it.
///
/// Clones are handles of the same balancer. Every choice is a [`Lease`]: as long as it lives, its connection
/// counts as an active one of its server.
///
/// # Examples
/// ```
/// use lvs_sched::{Balancer, Flow, Instant, Protocol, SchedulerKind, Weight};
/// let balancer = Balancer::new(SchedulerKind::WeightedLeastConnection);
/// balancer.update([("10.0.1.1:80".parse()?, Weight::ONE), ("10.0.1.2:80".parse()?, Weight::new(3)?)])?;
///
/// let flow = Flow { protocol: Protocol::Tcp, client: "192.0.2.1:40000".parse()?, service: "10.0.0.1:80".parse()? };
/// let lease = balancer.pick(&flow, Instant::ZERO).ok_or("no server is available")?;
/// assert_eq!(lease.to_string(), "10.0.1.2:80"); // connect there, keep the lease beside the socket
/// assert_eq!(balancer.connections(*lease), 1);
///
/// let server = *lease;
/// drop(lease); // the connection has ended
/// assert_eq!(balancer.connections(server), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Balancer {
    state: Arc<Mutex<State>>,
}

impl Balancer {
    /// Makes a balancer without servers and without scheduler flags.
    pub fn new(kind: SchedulerKind) -> Self {
        Self::with_flags(kind, SchedulerFlags::empty())
    }

    /// Makes a balancer without servers.
    pub fn with_flags(kind: SchedulerKind, flags: SchedulerFlags) -> Self {
        Self::with_scheduler(kind.build(flags))
    }

    /// Makes a balancer without servers from any scheduler, your own included.
    ///
    /// The scheduler is called under the balancer's lock, so it must not use this balancer.
    pub fn with_scheduler(scheduler: Box<dyn Scheduler>) -> Self {
        let state = State { scheduler, servers: Vec::new(), known: BTreeMap::new(), next_id: 0 };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Makes the list of servers equal to `wanted`, changing only what differs.
    ///
    /// Servers that stay keep their place and their counts. Servers that are missing leave the list; their
    /// leases stay valid, and when such a server comes back it finds them counted. New servers go to the head
    /// of the list, one after another, as with ipvsadm: the last one named stands first.
    ///
    /// # Errors
    /// [`DuplicateServer`] when a server is named twice; nothing has changed then.
    ///
    /// # Examples
    /// ```
    /// use lvs_sched::{Balancer, Endpoint, SchedulerKind, ServerConfig, Thresholds, Weight};
    /// let balancer = Balancer::new(SchedulerKind::RoundRobin);
    /// let key: Endpoint = "10.0.1.1:80".parse()?;
    /// balancer.update([ServerConfig { key, weight: Weight::ONE, thresholds: Thresholds::new(100, 80)? }])?;
    /// assert!(balancer.update([(key, Weight::ONE), (key, Weight::ONE)]).is_err());
    /// assert_eq!(balancer.servers().len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn update<I>(&self, wanted: I) -> Result<(), DuplicateServer>
    where
        I: IntoIterator,
        I::Item: Into<ServerConfig>,
    {
        // The caller's iterator runs before the lock is taken: it may use this balancer.
        let wanted: Vec<ServerConfig> = wanted.into_iter().map(Into::into).collect();
        let mut by_key = BTreeMap::new();
        for config in &wanted {
            if by_key.insert(config.key, *config).is_some() {
                return Err(DuplicateServer(config.key));
            }
        }
        let mut state = self.state.lock();
        for index in (0..state.servers.len()).rev() {
            match by_key.get(&state.servers[index].key) {
                Some(config) => state.edit(index, *config),
                None => state.remove(index),
            }
        }
        for config in wanted {
            if !state.is_listed(config.key) {
                state.add(config);
            }
        }
        Ok(())
    }

    /// Sets one server's weight, for health checks and drains. Returns whether the server is in the list.
    pub fn set_weight(&self, key: Endpoint, weight: Weight) -> bool {
        let mut state = self.state.lock();
        let Some(index) = state.servers.iter().position(|server| server.key == key) else { return false };
        let thresholds = state.known.get(&key).map_or(Thresholds::NONE, |known| known.thresholds);
        state.edit(index, ServerConfig { key, weight, thresholds });
        true
    }

    /// Chooses a server for a new connection and counts it, `None` when no server may take it.
    pub fn pick(&self, flow: &Flow, now: Instant) -> Option<Lease> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let index = state.scheduler.schedule(flow, &state.servers, now)?;
        // An own scheduler may answer with an index that is out of range.
        let server = state.servers.get(index)?;
        server.load.add_active();
        if let Some(known) = state.known.get(&server.key) {
            known.thresholds.opened(&server.load);
        }
        Some(Lease { server: server.key, load: Arc::clone(&server.load), state: Arc::clone(&self.state) })
    }

    /// Connections of a server that live now, also of one that has left the list.
    pub fn connections(&self, key: Endpoint) -> u32 {
        self.state.lock().known.get(&key).map_or(0, |known| known.load.active())
    }

    /// A copy of the list, in list order, for status pages.
    pub fn servers(&self) -> Vec<ServerStatus> {
        let status = |server: &Server| ServerStatus {
            key: server.key,
            weight: server.weight,
            connections: server.load.active(),
            is_overloaded: server.load.is_overloaded(),
        };
        self.state.lock().servers.iter().map(status).collect()
    }
}

impl fmt::Debug for Balancer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.state.try_lock() {
            Some(state) => f
                .debug_struct("Balancer")
                .field("scheduler", &state.scheduler)
                .field("servers", &state.servers)
                .finish_non_exhaustive(),
            None => f.debug_struct("Balancer").finish_non_exhaustive(),
        }
    }
}

/// One server as [`Balancer::update`] wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ServerConfig {
    /// Address and port.
    pub key: Endpoint,
    /// Share of new connections; 0 quiesces.
    pub weight: Weight,
    /// Connection limits.
    pub thresholds: Thresholds,
}

/// Without limits.
impl From<(Endpoint, Weight)> for ServerConfig {
    fn from((key, weight): (Endpoint, Weight)) -> Self {
        Self { key, weight, thresholds: Thresholds::NONE }
    }
}

/// With weight 1, without limits.
impl From<Endpoint> for ServerConfig {
    fn from(key: Endpoint) -> Self {
        (key, Weight::ONE).into()
    }
}

/// One server as [`Balancer::servers`] shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ServerStatus {
    /// Address and port.
    pub key: Endpoint,
    /// Current weight.
    pub weight: Weight,
    /// Leases that live.
    pub connections: u32,
    /// Whether it is passed over until connections end.
    pub is_overloaded: bool,
}

/// A server that was named twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("server {0} is named twice: expected each address and port once")]
pub struct DuplicateServer(pub Endpoint);

/// One connection to a chosen server; dropping it counts the connection down.
///
/// It gives the server's [`Endpoint`] and outlives every change of the list and the [`Balancer`] itself.
/// [`core::mem::forget`] leaves the connection counted for ever.
#[must_use = "dropping the lease counts the connection down at once"]
pub struct Lease {
    server: Endpoint,
    load: Arc<Load>,
    state: Arc<Mutex<State>>,
}

impl Lease {
    /// The server to connect to.
    pub const fn server(&self) -> Endpoint {
        self.server
    }
}

impl Deref for Lease {
    type Target = Endpoint;

    fn deref(&self) -> &Endpoint {
        &self.server
    }
}

impl fmt::Display for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.server.fmt(f)
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lease").field(&self.server).finish()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        self.load.sub_active();
        let Some(known) = state.known.get(&self.server) else { return };
        known.thresholds.closed(&self.load);
        if !known.is_listed && self.load.active() == 0 {
            state.known.remove(&self.server);
        }
    }
}

/// Everything behind the lock.
struct State {
    scheduler: Box<dyn Scheduler>,
    servers: Vec<Server>,
    /// Servers in the list, and those that have left it but still have leases.
    known: BTreeMap<Endpoint, Known>,
    next_id: u32,
}

struct Known {
    id: ServerId,
    load: Arc<Load>,
    thresholds: Thresholds,
    is_listed: bool,
}

impl State {
    fn is_listed(&self, key: Endpoint) -> bool {
        self.known.get(&key).is_some_and(|known| known.is_listed)
    }

    fn add(&mut self, config: ServerConfig) {
        let next_id = &mut self.next_id;
        let known = self.known.entry(config.key).or_insert_with(|| {
            let id = ServerId(*next_id);
            *next_id = next_id.wrapping_add(1);
            Known { id, load: Arc::default(), thresholds: config.thresholds, is_listed: true }
        });
        config.thresholds.replaced(known.thresholds, &known.load);
        known.thresholds = config.thresholds;
        known.is_listed = true;
        let mut server = Server::new(known.id, config.key, config.weight);
        server.load = Arc::clone(&known.load);
        self.servers.insert(0, server);
        self.scheduler.changed(Change::Added { index: 0 }, &self.servers);
    }

    fn edit(&mut self, index: usize, config: ServerConfig) {
        let server = &mut self.servers[index];
        let Some(known) = self.known.get_mut(&config.key) else { return };
        if server.weight == config.weight && known.thresholds == config.thresholds {
            return;
        }
        server.set_weight(config.weight);
        config.thresholds.replaced(known.thresholds, &known.load);
        known.thresholds = config.thresholds;
        self.scheduler.changed(Change::Edited { index }, &self.servers);
    }

    fn remove(&mut self, index: usize) {
        let server = self.servers.remove(index);
        if let Some(known) = self.known.get_mut(&server.key) {
            known.is_listed = false;
            if known.load.active() == 0 {
                self.known.remove(&server.key);
            }
        }
        self.scheduler.changed(Change::Removed { index, id: server.id }, &self.servers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Protocol;
    use std::thread;

    const FLOW: Flow = Flow { protocol: Protocol::Tcp, client: endpoint(200), service: endpoint(100) };

    const fn endpoint(host: u8) -> Endpoint {
        Endpoint::new(core::net::IpAddr::V4(core::net::Ipv4Addr::new(10, 0, 0, host)), 80)
    }

    fn balancer(kind: SchedulerKind, hosts: &[u8]) -> Balancer {
        let balancer = Balancer::new(kind);
        update(&balancer, hosts);
        balancer
    }

    fn update(balancer: &Balancer, hosts: &[u8]) {
        balancer.update(hosts.iter().map(|&host| endpoint(host))).expect("no duplicates");
    }

    fn pick(balancer: &Balancer) -> Option<Lease> {
        balancer.pick(&FLOW, Instant::ZERO)
    }

    #[test]
    fn it_is_send_and_sync() {
        const fn check<T: Send + Sync>() {}
        const { check::<Balancer>() };
        const { check::<Lease>() };
    }

    #[test]
    fn the_last_one_named_stands_first() {
        let balancer = balancer(SchedulerKind::RoundRobin, &[1, 2, 3]);
        let chosen = [(); 4].map(|()| pick(&balancer).map(|lease| *lease));
        assert_eq!(chosen, [3, 2, 1, 3].map(|host| Some(endpoint(host))));
    }

    #[test]
    fn a_lease_counts_until_it_is_dropped() {
        let balancer = balancer(SchedulerKind::LeastConnection, &[1, 2]);
        let first = pick(&balancer).expect("available");
        let second = pick(&balancer).expect("available");
        assert_ne!(first.server(), second.server());
        drop(second);
        assert_eq!(*pick(&balancer).expect("available"), endpoint(1));
        drop(first);
        assert!(balancer.servers().iter().all(|server| server.connections == 0));
    }

    #[test]
    fn servers_that_stay_keep_counts_and_place() {
        let balancer = balancer(SchedulerKind::LeastConnection, &[1, 2, 3]);
        let lease = pick(&balancer).expect("available");
        assert_eq!(*lease, endpoint(3));
        update(&balancer, &[3, 4, 1]);
        let order: Vec<(Endpoint, u32)> = balancer.servers().iter().map(|s| (s.key, s.connections)).collect();
        assert_eq!(order, [(endpoint(4), 0), (endpoint(3), 1), (endpoint(1), 0)]);
        drop(lease);
        assert_eq!(balancer.connections(endpoint(3)), 0);
    }

    #[test]
    fn a_removed_server_with_leases_finds_them_again() {
        let balancer = balancer(SchedulerKind::LeastConnection, &[1]);
        let leases = [pick(&balancer), pick(&balancer)];
        update(&balancer, &[]);
        assert!(pick(&balancer).is_none());
        assert_eq!(balancer.connections(endpoint(1)), 2);
        update(&balancer, &[1]);
        assert_eq!(balancer.servers()[0].connections, 2);
        drop(leases);
        assert_eq!(balancer.servers()[0].connections, 0);
    }

    #[test]
    fn a_removed_server_is_forgotten_with_its_last_lease() {
        let balancer = balancer(SchedulerKind::RoundRobin, &[1]);
        let lease = pick(&balancer);
        update(&balancer, &[2]);
        assert_eq!(balancer.state.lock().known.len(), 2);
        drop(lease);
        assert_eq!(balancer.state.lock().known.len(), 1);
    }

    #[test]
    fn a_lease_outlives_its_balancer() {
        let lease = pick(&balancer(SchedulerKind::RoundRobin, &[1])).expect("available");
        assert_eq!(lease.server(), endpoint(1));
        drop(lease);
    }

    #[test]
    fn a_full_server_is_passed_over_until_a_lease_ends() {
        let balancer = Balancer::new(SchedulerKind::RoundRobin);
        let config = |upper| ServerConfig {
            key: endpoint(1),
            weight: Weight::ONE,
            thresholds: Thresholds::new(upper, 0).expect("no lower limit"),
        };
        balancer.update([config(2)]).expect("no duplicates");
        let (first, _second) = (pick(&balancer), pick(&balancer));
        assert!(pick(&balancer).is_none());
        drop(first);
        assert!(pick(&balancer).is_some());
        let _third = pick(&balancer);
        assert!(pick(&balancer).is_none());
        balancer.update([config(3)]).expect("no duplicates");
        assert!(pick(&balancer).is_some(), "a higher limit frees at once");
    }

    #[test]
    fn two_servers_of_three_connections_each_take_six() {
        let balancer = Balancer::new(SchedulerKind::RoundRobin);
        let thresholds = Thresholds::new(3, 0).expect("no lower limit");
        let config = |host| ServerConfig { key: endpoint(host), weight: Weight::ONE, thresholds };
        balancer.update([config(1), config(2)]).expect("no duplicates");
        let leases: Vec<Lease> = (0..10).map_while(|_| pick(&balancer)).collect();
        assert_eq!(leases.len(), 6);
        assert!(balancer.servers().iter().all(|server| server.is_overloaded && server.connections == 3));
    }

    #[test]
    fn quiescing_keeps_leases() {
        let balancer = balancer(SchedulerKind::MaglevHashing, &[1]);
        let lease = pick(&balancer);
        assert!(balancer.set_weight(endpoint(1), Weight::QUIESCED));
        assert!(pick(&balancer).is_none());
        assert_eq!(balancer.connections(endpoint(1)), 1);
        assert!(!balancer.set_weight(endpoint(9), Weight::ONE));
        drop(lease);
    }

    #[test]
    fn a_duplicate_changes_nothing() {
        let balancer = balancer(SchedulerKind::RoundRobin, &[1]);
        assert_eq!(
            balancer.update([endpoint(2), endpoint(3), endpoint(2)]),
            Err(DuplicateServer(endpoint(2)))
        );
        assert_eq!(balancer.servers().len(), 1);
    }

    #[test]
    fn a_scheduler_that_answers_nonsense_chooses_nobody() {
        #[derive(Debug)]
        struct OutOfRange;
        impl Scheduler for OutOfRange {
            fn schedule(&mut self, _: &Flow, servers: &[Server], _: Instant) -> Option<usize> {
                Some(servers.len())
            }
            fn changed(&mut self, _: Change, _: &[Server]) {}
        }
        let balancer = Balancer::with_scheduler(Box::new(OutOfRange));
        update(&balancer, &[1]);
        assert!(pick(&balancer).is_none());
    }

    #[test]
    fn threads_that_pick_while_the_list_changes_leave_no_count_behind() {
        let balancer = balancer(SchedulerKind::WeightedLeastConnection, &[1, 2, 3, 4]);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut held = Vec::new();
                    for round in 0..2000 {
                        held.extend(pick(&balancer));
                        if round % 3 == 0 && !held.is_empty() {
                            drop(held.swap_remove(round % held.len()));
                        }
                    }
                });
            }
            for round in 0..500u32 {
                let hosts: Vec<u8> =
                    (1..=4).filter(|host| !round.is_multiple_of(u32::from(*host) + 1)).collect();
                update(&balancer, &hosts);
            }
        });
        update(&balancer, &[1, 2, 3, 4]);
        assert!(balancer.servers().iter().all(|server| server.connections == 0), "{balancer:?}");
        assert_eq!(balancer.state.lock().known.len(), 4);
    }
}
