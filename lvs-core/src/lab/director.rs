//! A director in the Lab: gives packets to the engine and does what its verdicts say.

use super::{Node, Outbox};
use crate::wire::{HEADROOM, Packet, TAILROOM};
use crate::{Config, Director, Instant, Verdict};

/// A [`Director`] as a node. Attach it with its own addresses and the VIPs.
///
/// Packets that the director [passes](Verdict::Pass) end here, since no host is behind it.
#[derive(Debug)]
pub struct DirectorNode {
    /// The engine.
    pub director: Director,
    buffer: Vec<u8>,
    passed: u64,
}

impl DirectorNode {
    /// Makes a node of a director.
    pub fn new(director: Director) -> Self {
        Self { director, buffer: Vec::new(), passed: 0 }
    }

    /// Makes a node of a new director.
    pub fn with_config(config: Config) -> Self {
        Self::new(Director::new(config))
    }

    /// Packets that the director left to a host.
    pub fn passed(&self) -> u64 {
        self.passed
    }

    fn drain(&mut self, out: &mut Outbox) {
        while let Some(outgoing) = self.director.poll_transmit() {
            match outgoing.verdict.next_hop() {
                Some(next_hop) => out.send(next_hop, outgoing.packet),
                None => self.passed += 1,
            }
        }
    }
}

impl Node for DirectorNode {
    fn handle_packet(&mut self, packet: Vec<u8>, now: Instant, out: &mut Outbox) {
        self.buffer.clear();
        self.buffer.resize(HEADROOM, 0);
        self.buffer.extend_from_slice(&packet);
        self.buffer.resize(HEADROOM + packet.len() + TAILROOM, 0);
        let Some(mut packet) = Packet::new(&mut self.buffer, HEADROOM, HEADROOM + packet.len()) else {
            return;
        };
        match self.director.process(&mut packet, now) {
            Verdict::Transmit { next_hop } | Verdict::Reply { next_hop } => {
                out.send(next_hop, packet.bytes().to_vec());
            }
            Verdict::Pass => self.passed += 1,
            Verdict::Queued | Verdict::Drop(_) => {}
        }
        self.drain(out);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.director.poll_timeout()
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Outbox) {
        self.director.handle_timeout(now);
        self.drain(out);
    }
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;
    use core::time::Duration;

    use super::*;
    use crate::lab::{Failure, Host, Lab, LinkConfig, NodeId, Request, Router};
    use crate::service::{
        Command, ForwardingMethod, RealServer, ServiceKey, Tunnel, TunnelChecksum, VirtualService,
    };
    use crate::{Endpoint, Environment, Protocol, SchedulerKind, Weight};

    const LIMIT: Instant = Instant::from_secs(600);
    const FAMILIES: [Addresses; 2] = [
        Addresses { vip: "10.0.1.100", outside: "10.0.1.", inside: "10.0.2.", default: "0.0.0.0/0" },
        Addresses {
            vip: "2001:db8:1::100",
            outside: "2001:db8:1::",
            inside: "2001:db8:2::",
            default: "::/0",
        },
    ];

    #[derive(Clone, Copy)]
    struct Addresses {
        vip: &'static str,
        outside: &'static str,
        inside: &'static str,
        default: &'static str,
    }

    impl Addresses {
        fn vip(self) -> Endpoint {
            Endpoint::new(self.vip.parse().unwrap(), 80)
        }

        fn key(self) -> ServiceKey {
            ServiceKey::Address { protocol: Protocol::Tcp, endpoint: self.vip() }
        }
    }

    fn addr(net: &str, host: u8) -> IpAddr {
        format!("{net}{host}").parse().unwrap()
    }

    /// Client and director outside, director and two servers inside, a router between.
    fn scene(
        seed: u64,
        method: ForwardingMethod,
        nets: Addresses,
        servers_inside: &str,
        link: LinkConfig,
    ) -> (Lab, NodeId<DirectorNode>, NodeId<Host>) {
        let mut lab = Lab::new(seed);
        let (outside, inside) = (lab.add_network(), lab.add_network());
        let dip = addr(servers_inside, 1);
        let local = addr(nets.inside, 2);
        let environment = Environment { addresses: vec![dip], ..Environment::default() };
        let mut node = DirectorNode::with_config(Config { environment, seed, ..Config::default() });
        let mut service = VirtualService::new(nets.key(), SchedulerKind::RoundRobin);
        if method == ForwardingMethod::FullNat {
            service.local_addresses = vec![local];
        }
        let mut commands = vec![Command::AddService(service)];
        for host in [11, 12] {
            let server = RealServer::new(Endpoint::new(addr(servers_inside, host), 80), method);
            commands.push(Command::AddServer(nets.key(), server));
        }
        node.director.apply(&commands, Instant::ZERO).expect("a sound configuration");
        let director = lab.add_node(node);
        lab.attach(director, outside, &[addr(nets.outside, 1), nets.vip().addr], link);
        lab.attach(director, inside, &[dip, local, addr(nets.inside, 1)], link);
        let router = lab.add_node(Router::new());
        lab.attach(router, outside, &[addr(nets.outside, 254)], link);
        lab.attach(router, inside, &[addr(nets.inside, 254)], link);
        for host in [11, 12] {
            let mut server = Host::new(&format!("server-{host}"), [addr(servers_inside, host)]).serve(80);
            if !method.sees_replies() {
                server = server.loopback(nets.vip().addr).unwrap_tunnels().mtu(1400);
            }
            let id = lab.add_host(inside, server, link);
            let gateway = if method == ForwardingMethod::Masquerade { 1 } else { 254 };
            lab.add_route(id, nets.default.parse().unwrap(), addr(nets.inside, gateway));
        }
        let host = Host::new("client", [addr(nets.outside, 9)]).concurrency(8);
        let client = lab.add_host(outside, host, link);
        (lab, director, client)
    }

    fn fetch(lab: &mut Lab, client: NodeId<Host>, target: Endpoint, count: usize) {
        lab.with(client, |host, now, out| {
            for _ in 0..count {
                host.fetch(Request::new(target, 5000), now, out);
            }
        });
        let done = lab.run_while(|lab| lab.node(client).unfinished() > 0, LIMIT);
        assert!(done, "seed {}: {:?}", lab.seed(), lab.node(client));
    }

    /// Makes twenty exchanges and checks that both servers answered ten.
    fn check(
        what: &str,
        mut lab: Lab,
        director: NodeId<DirectorNode>,
        client: NodeId<Host>,
        nets: Addresses,
    ) {
        fetch(&mut lab, client, nets.vip(), 20);
        for exchange in lab.node(client).exchanges() {
            assert_eq!(exchange.outcome, Ok(()), "{what}: {exchange:?}");
        }
        for name in ["server-11", "server-12"] {
            let answers = lab.node(client).exchanges().iter();
            let count = answers.filter(|exchange| exchange.server.as_deref() == Some(name)).count();
            assert_eq!(count, 10, "{what}: answers of {name}");
        }
        let engine = &lab.node(director).director;
        assert_eq!(engine.traffic().connections, 20, "{what}");
        assert_eq!(engine.connection_count(), 20, "{what}");
        // The engine's own clock goes on: every connection ends in its time.
        lab.run_until(lab.now() + Duration::from_secs(1000));
        assert_eq!(lab.node(director).director.connection_count(), 0, "{what}");
    }

    const METHODS: [ForwardingMethod; 6] = [
        ForwardingMethod::Masquerade,
        ForwardingMethod::DirectRoute,
        ForwardingMethod::FullNat,
        ForwardingMethod::Tunnel(Tunnel::Ipip),
        ForwardingMethod::Tunnel(Tunnel::Gue { port: 6080, checksum: TunnelChecksum::None }),
        ForwardingMethod::Tunnel(Tunnel::Gre { checksum: TunnelChecksum::Full }),
    ];

    #[test]
    fn every_method_and_family_carries_tcp() {
        for (method, nets) in METHODS.iter().flat_map(|method| FAMILIES.map(|nets| (*method, nets))) {
            let (lab, director, client) = scene(1, method, nets, nets.inside, LinkConfig::default());
            check(&format!("{method:?} {}", nets.vip), lab, director, client, nets);
        }
    }

    #[test]
    fn ipip_carries_one_family_in_the_other() {
        let [v4, v6] = FAMILIES;
        for (nets, servers) in [(v4, v6.inside), (v6, v4.inside)] {
            let method = ForwardingMethod::Tunnel(Tunnel::Ipip);
            let (lab, director, client) = scene(1, method, nets, servers, LinkConfig::default());
            check(&format!("{} in {servers}", nets.vip), lab, director, client, nets);
        }
    }

    #[test]
    fn faults_on_every_link_cost_time_but_no_exchange() {
        let link = LinkConfig {
            delay: Duration::from_millis(1),
            jitter: Duration::from_millis(1),
            loss: 0.02,
            duplicate: 0.02,
            reorder: 0.02,
            ..LinkConfig::default()
        };
        for (method, seed) in METHODS.iter().flat_map(|method| (0..3).map(|seed| (*method, seed))) {
            let nets = FAMILIES[0];
            let (mut lab, _, client) = scene(seed, method, nets, nets.inside, link);
            // On one cable only: two flips on a packet's way may cancel out in TCP's checksum.
            let cable = lab.links_of(client)[0];
            lab.set_link(cable, LinkConfig { corrupt: 0.02, ..link });
            fetch(&mut lab, client, nets.vip(), 20);
            for exchange in lab.node(client).exchanges() {
                assert_eq!(exchange.outcome, Ok(()), "{method:?} seed {seed}: {exchange:?}");
            }
        }
    }

    #[test]
    fn a_service_without_servers_is_unreachable_at_once() {
        for nets in FAMILIES {
            let link = LinkConfig::default();
            let (mut lab, director, client) = scene(1, ForwardingMethod::Masquerade, nets, nets.inside, link);
            lab.with(director, |node, _, _| {
                for host in [11, 12] {
                    let server = Endpoint::new(addr(nets.inside, host), 80);
                    node.director.set_weight(nets.key(), server, Weight::QUIESCED).unwrap();
                }
            });
            fetch(&mut lab, client, nets.vip(), 1);
            assert_eq!(lab.node(client).exchanges()[0].outcome, Err(Failure::Unreachable), "{}", nets.vip);
            assert!(lab.now() < Instant::from_millis(10));
        }
    }
}
