//! Directors with a service, its servers and any number of established connections.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lvs_core::conn::Capacity;
use lvs_core::service::{ForwardingMethod, RealServer, ServiceKey, Tunnel, VirtualService};
use lvs_core::wire::{HEADROOM, Packet};
use lvs_core::{
    Config, Director, Endpoint, Environment, Instant, Limits, Protocol, SchedulerKind, Server, ServerId,
    Verdict, Weight,
};

use crate::burst::BUFFER;
use crate::packet::{Kind, Template};

/// When everything happens: a standing clock, so that nothing expires while it is measured.
pub const NOW: Instant = Instant::from_secs(1);

/// Port of all clients.
pub const CLIENT_PORT: u16 = 30_000;

/// Port of the virtual service.
pub const SERVICE_PORT: u16 = 80;

/// The address family that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ip {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Ip {
    /// `v4` or `v6`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
        }
    }

    fn addr(self, v4: [u8; 2], number: u32) -> IpAddr {
        let low = number.to_be_bytes();
        match self {
            Self::V4 => (u32::from(Ipv4Addr::from([v4[0], v4[1], 0, 0])) + number).to_be_bytes().into(),
            Self::V6 => Ipv6Addr::from([
                0x20, 1, 0xd, 0xb8, v4[0], v4[1], 0, 0, 0, 0, 0, 0, low[0], low[1], low[2], low[3],
            ])
            .into(),
        }
    }
}

/// The forwarding method that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// LVS/NAT.
    Nat,
    /// LVS/DR.
    Dr,
    /// LVS/TUN.
    Tun,
    /// FULLNAT.
    FullNat,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Nat, Self::Dr, Self::Tun, Self::FullNat];

    /// `nat`, `dr`, `tun` or `fullnat`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Dr => "dr",
            Self::Tun => "tun",
            Self::FullNat => "fullnat",
        }
    }

    const fn forwarding(self) -> ForwardingMethod {
        match self {
            Self::Nat => ForwardingMethod::Masquerade,
            Self::Dr => ForwardingMethod::DirectRoute,
            Self::Tun => ForwardingMethod::Tunnel(Tunnel::Ipip),
            Self::FullNat => ForwardingMethod::FullNat,
        }
    }
}

/// The client of a number: all differ in the last four bytes of their address.
pub fn client(ip: Ip, number: u32) -> Endpoint {
    Endpoint::new(ip.addr([172, 16], number), CLIENT_PORT)
}

/// The virtual service's VIP and port.
pub fn vip(ip: Ip) -> Endpoint {
    Endpoint::new(ip.addr([10, 9], 1), SERVICE_PORT)
}

fn server(ip: Ip, number: u32) -> Endpoint {
    Endpoint::new(ip.addr([10, 0], 256 + number), 8080)
}

/// A list of servers with weights 1 to 4 for measuring a scheduler alone.
pub fn servers(ip: Ip, count: u32) -> Vec<Server> {
    let weight = |number: u32| Weight::new(1 + number % 4).expect("a small number");
    (0..count).map(|number| Server::new(ServerId(number), server(ip, number), weight(number))).collect()
}

/// What a measured director has.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// Address family of clients, service and servers.
    pub ip: Ip,
    /// How packets reach the servers.
    pub method: Method,
    /// How servers are chosen.
    pub scheduler: SchedulerKind,
    /// How many servers there are, with weights 1 to 4.
    pub servers: u32,
    /// Connections that fit into the table.
    pub capacity: u32,
}

impl Setup {
    /// Sixteen servers by round robin, and room for `capacity` connections.
    pub const fn new(ip: Ip, method: Method, capacity: u32) -> Self {
        Self { ip, method, scheduler: SchedulerKind::RoundRobin, servers: 16, capacity }
    }

    /// Makes the director without connections.
    ///
    /// # Panics
    /// Panics when the director refuses this configuration.
    pub fn director(&self) -> Director {
        let connections = match self.ip {
            Ip::V4 => Capacity { ipv4: self.capacity, ipv6: 0 },
            Ip::V6 => Capacity { ipv4: 0, ipv6: self.capacity },
        };
        let mut director = Director::new(Config {
            limits: Limits { connections, ..Limits::default() },
            environment: Environment { addresses: vec![self.ip.addr([10, 8], 1)], ..Environment::default() },
            seed: 0x5eed,
            ..Config::default()
        });
        let key = ServiceKey::Address { protocol: Protocol::Tcp, endpoint: vip(self.ip) };
        let mut service = VirtualService::new(key, self.scheduler);
        if self.method == Method::FullNat {
            service.local_addresses = (1..=4).map(|number| self.ip.addr([10, 7], number)).collect();
        }
        director.add_service(service).expect("the service is right");
        for server in servers(self.ip, self.servers) {
            let real =
                RealServer { weight: server.weight, ..RealServer::new(server.key, self.method.forwarding()) };
            director.add_server(key, real).expect("the server is right");
        }
        director
    }

    /// The packets of this setup's clients with 16 bytes of payload (none on a SYN).
    pub fn template(&self, kind: Kind) -> Template {
        let payload = if kind == Kind::Syn { 0 } else { 16 };
        Template::new(kind, client(self.ip, 0), vip(self.ip), payload)
    }

    /// Makes the director with its table full: every client has sent a SYN and an ACK.
    ///
    /// # Panics
    /// Panics when a packet is not forwarded or a connection is missing afterwards.
    pub fn filled(&self) -> Director {
        let mut director = self.director();
        let mut buffer = [0; BUFFER];
        for kind in [Kind::Syn, Kind::Ack] {
            let template = self.template(kind);
            for number in 0..self.capacity {
                template.write(number, &mut buffer[HEADROOM..]);
                let mut packet = Packet::new(&mut buffer, HEADROOM, HEADROOM + template.len())
                    .expect("the packet is inside its buffer");
                let verdict = director.process(&mut packet, NOW);
                assert!(
                    matches!(verdict, Verdict::Transmit { .. }),
                    "{self:?} {kind:?} {number}: {verdict:?}"
                );
            }
        }
        assert_eq!(director.connection_count(), self.capacity as usize, "every client has a connection");
        director
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::burst::{BURST, Burst, Order};
    use lvs_core::conn::{Filter, State};
    use lvs_core::wire;
    use lvs_core::wire::checksum::{ipv4_header_checksum, transport_checksum_is_right};

    #[test]
    fn a_filled_director_has_established_connections_and_right_checksums() {
        for ip in [Ip::V4, Ip::V6] {
            for method in Method::ALL {
                let setup = Setup::new(ip, method, 100);
                let mut director = setup.filled();
                let states: Vec<_> = director.connections(Filter::default()).map(|(_, c)| c.state).collect();
                assert_eq!(states, [State::Established; 100]);

                let (mut burst, mut order) = (Burst::new(), Order::new(100));
                let mut packets = burst.fill(&setup.template(Kind::Ack), &mut order);
                let mut verdicts = Vec::new();
                director.process_batch(&mut packets, NOW, &mut verdicts);
                assert_eq!(verdicts.len(), BURST);
                for packet in &packets {
                    let bytes = packet.bytes();
                    if bytes[0] >> 4 == 4 {
                        assert_eq!(
                            ipv4_header_checksum(&bytes[..20]),
                            u16::from_be_bytes([bytes[10], bytes[11]])
                        );
                    }
                    let parsed = wire::parse(bytes).expect("a forwarded packet is whole");
                    if method != Method::Tun {
                        let segment = &bytes[usize::from(parsed.l4)..];
                        assert!(transport_checksum_is_right(parsed.src, parsed.dst, 6, segment));
                    }
                }
                assert_eq!(director.connection_count(), 100, "no packet opened a connection");
            }
        }
    }
}
