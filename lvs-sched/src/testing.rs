//! A service with one scheduler for the unit tests of this crate.

use std::boxed::Box;
use std::net::Ipv4Addr;
use std::vec::Vec;

use crate::{Change, Endpoint, Flow, Instant, Protocol, Scheduler, Server, ServerId, Weight};

/// Servers 10.0.1.1:80, 10.0.1.2:80, … with the ids 1, 2, …; each is added at the head of the list.
pub(crate) struct Service {
    scheduler: Box<dyn Scheduler>,
    pub(crate) servers: Vec<Server>,
    flow: Flow,
}

impl Service {
    pub(crate) fn new(scheduler: impl Scheduler + 'static, weights: &[u32]) -> Self {
        let flow = Flow {
            protocol: Protocol::Tcp,
            client: Endpoint::new(Ipv4Addr::new(192, 0, 2, 1).into(), 40_000),
            service: Endpoint::new(Ipv4Addr::new(10, 0, 0, 1).into(), 80),
        };
        let mut service = Self { scheduler: Box::new(scheduler), servers: Vec::new(), flow };
        for (id, &weight) in (1..).zip(weights) {
            service.add(id, weight);
        }
        service
    }

    pub(crate) fn add(&mut self, id: u32, weight: u32) {
        let rip = Ipv4Addr::from_bits(0x0a00_0100 + id);
        let weight = Weight::new(weight).expect("a test's weight is in range");
        self.servers.insert(0, Server::new(ServerId(id), Endpoint::new(rip.into(), 80), weight));
        self.scheduler.changed(Change::Added { index: 0 }, &self.servers);
    }

    pub(crate) fn remove(&mut self, id: u32) {
        let index = self.position(id);
        self.servers.remove(index);
        self.scheduler.changed(Change::Removed { index, id: ServerId(id) }, &self.servers);
    }

    pub(crate) fn overload(&mut self, id: u32, overloaded: bool) {
        self.server(id).load.set_overloaded(overloaded);
    }

    pub(crate) fn server(&self, id: u32) -> &Server {
        &self.servers[self.position(id)]
    }

    pub(crate) fn client(&mut self, client: &str) {
        self.flow.client = client.parse().expect("a literal endpoint");
    }

    /// The id of the next choice.
    pub(crate) fn schedule(&mut self) -> Option<u32> {
        let index = self.scheduler.schedule(&self.flow, &self.servers, Instant::ZERO)?;
        Some(self.servers[index].id.0)
    }

    fn position(&self, id: u32) -> usize {
        self.servers.iter().position(|server| server.id == ServerId(id)).expect("the server is in the list")
    }
}

/// The next `count` choices; somebody must be available each time.
pub(crate) fn picks(service: &mut Service, count: usize) -> Vec<u32> {
    (0..count).map(|_| service.schedule().expect("a server is available")).collect()
}
