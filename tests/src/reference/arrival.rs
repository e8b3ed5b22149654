//! What comes in: a packet of a connection, one that opens a connection, or none of the director's.

use std::net::IpAddr;

use lvs_core::service::{ForwardingMethod, ServiceKey};
use lvs_core::wire::{self, Parsed};
use lvs_core::{DropReason, Endpoint, Flow, Instant, Protocol};

use super::connections::Conn;
use super::forwarding::{Plan, unreachable};
use super::tcp::{is_active, tcp_flags};
use super::{Answer, Reference, Way};
use crate::packets::{self, flags};

impl Reference {
    /// Takes one packet. `chosen` is the local endpoint that the engine gave this packet, should it have opened
    /// a FULLNAT connection; an endpoint that it must not give ends the program.
    pub fn process(&mut self, bytes: &[u8], chosen: Option<Endpoint>, now: Instant) -> Answer {
        let parsed = match wire::parse(bytes) {
            Ok(parsed) => parsed,
            Err(error) => return Answer::Drop(error.drop_reason()),
        };
        let martian = match parsed.src {
            IpAddr::V4(src) => {
                matches!(src.octets()[0], 127 | 224..=239) || src.to_bits() == 0 || src.to_bits() == u32::MAX
            }
            IpAddr::V6(src) => src.octets()[0] == 0xff || src.to_bits() <= 1,
        };
        if martian || parsed.src == parsed.dst {
            return Answer::Drop(DropReason::Martian);
        }
        let Some(tuple) = parsed.tuple() else { return Answer::Pass };
        let (protocol, src, dst) = (tuple.protocol, tuple.src, tuple.dst);
        let found = self.conns.iter().position(|conn| conn.has_key(protocol, src, dst));
        if let Some(at) = found {
            if self.conns[at].expires <= now {
                self.end(at);
            } else if let Some(answer) = self.known(bytes, &parsed, at, (src, dst), now) {
                return answer;
            }
        }
        self.unknown(bytes, &parsed, protocol, (src, dst), chosen, now)
    }

    /// A packet of a connection; `None` when that ended and the packet counts as new.
    fn known(
        &mut self,
        bytes: &[u8],
        parsed: &Parsed,
        at: usize,
        (src, dst): (Endpoint, Endpoint),
        now: Instant,
    ) -> Option<Answer> {
        let conn = self.conns[at].clone();
        let way = if (src, dst) == (conn.client, conn.service) { Way::In } else { Way::Out };
        let sysctl = self.config.sysctl.clone();
        let server = &self.servers[&conn.server_id];
        let tcp = tcp_flags(parsed);
        if way == Way::In {
            if conn.protocol == Protocol::Tcp && tcp & flags::SYN != 0 {
                let quiesced = sysctl.expire_nodest_conn && server.config.weight.get() == 0;
                let closed = conn.state == "TW" || conn.state == "CL";
                let half_closed = conn.state == "FW" && conn.no_output && sysctl.conn_reuse_mode & 2 != 0;
                if quiesced || sysctl.conn_reuse_mode != 0 && (closed || half_closed) {
                    self.end(at);
                    return None;
                }
            }
            if server.deleted.is_some() {
                if !sysctl.expire_nodest_conn {
                    return Some(Answer::Drop(DropReason::ServerGone));
                }
                self.end(at);
                return None;
            }
        }
        let record = self.servers.get_mut(&conn.server_id).expect("a connection's server is kept");
        record.count(way, parsed.len);
        self.advance(at, way, tcp);
        self.conns[at].expires = now + self.timeout(self.conns[at].state);
        let plan = match way {
            Way::In => match self.plan_in(&conn, tcp) {
                Ok(plan) => plan,
                Err(reason) => return Some(Answer::Drop(reason)),
            },
            Way::Out => Plan {
                src: conn.service,
                dst: conn.client,
                tunnel: None,
                next_hop: conn.client.addr,
                tell: None,
            },
        };
        Some(match self.leave(bytes, parsed, &plan) {
            Ok(answer) => {
                self.conns[at].packets += u32::from(way == Way::In);
                answer
            }
            Err(refusal) => {
                let from = if way == Way::In { Some(parsed.dst) } else { self.own(parsed.dst.is_ipv4()) };
                self.refuse(bytes, refusal, from, way == Way::In)
            }
        })
    }

    /// A packet of no connection.
    fn unknown(
        &mut self,
        bytes: &[u8],
        parsed: &Parsed,
        protocol: Protocol,
        (src, dst): (Endpoint, Endpoint),
        chosen: Option<Endpoint>,
        now: Instant,
    ) -> Answer {
        let tcp = tcp_flags(parsed);
        let key = ServiceKey::Address { protocol, endpoint: dst };
        let Some(service) = self.service_at(&key) else {
            let nat_server = self.services.iter().any(|service| {
                let same =
                    matches!(service.config.key, ServiceKey::Address { protocol: p, .. } if p == protocol);
                let at_source = |id: &u32| {
                    let config = &self.servers[id].config;
                    config.endpoint == src && config.method == ForwardingMethod::Masquerade
                };
                same && service.order.iter().any(at_source)
            });
            if self.config.sysctl.nat_icmp_send && parsed.ttl > 1 && tcp & flags::RST == 0 && nat_server {
                let from = self.own(src.addr.is_ipv4());
                // The kernel refuses it on its way through: the TTL has gone down.
                let mut quote = bytes.to_vec();
                packets::set_ttl(&mut quote, parsed.ttl.saturating_sub(1));
                packets::set_ipv4_checksum(&mut quote);
                return unreachable(&quote, from);
            }
            return Answer::Pass;
        };
        if protocol == Protocol::Tcp {
            let may_open = tcp & flags::SYN != 0 || self.config.sysctl.sloppy_tcp;
            if src.port == 20 || tcp & flags::RST != 0 || !may_open {
                return Answer::Pass;
            }
        }
        let flow = Flow { protocol, client: src, service: dst };
        let Some(first) = self.schedule(service, &flow, now) else {
            return unreachable(bytes, Some(dst.addr));
        };
        let others = self.services[service].order.clone();
        let candidates = std::iter::once(first)
            .chain(others.into_iter().filter(|id| *id != first && self.is_available(*id)));
        for id in candidates.collect::<Vec<_>>() {
            let config = self.servers[&id].config;
            let translates =
                matches!(config.method, ForwardingMethod::Masquerade | ForwardingMethod::FullNat);
            let local = if config.method == ForwardingMethod::FullNat {
                match self.local_of(service, config.endpoint, protocol, chosen) {
                    Ok(local) => local,
                    Err(reason) => return Answer::Drop(reason),
                }
            } else {
                src
            };
            let no_output = !translates;
            let state = match protocol {
                Protocol::Tcp => self.machine.next("NO", Way::In, no_output, tcp),
                _ => "UDP",
            };
            let conn = Conn {
                protocol,
                client: src,
                service: dst,
                server: config.endpoint,
                local,
                method: config.method,
                server_id: id,
                state,
                no_output,
                active: is_active(state),
                packets: 1,
                expires: now + self.timeout(state),
            };
            let plan = match self.plan_in(&conn, tcp) {
                Ok(plan) => plan,
                Err(reason) => return Answer::Drop(reason),
            };
            let answer = match self.leave(bytes, parsed, &plan) {
                Ok(answer) => answer,
                Err(refusal) => return self.refuse(bytes, refusal, Some(dst.addr), true),
            };
            if !self.make_room(&conn, now) {
                continue;
            }
            if config.method == ForwardingMethod::FullNat {
                assert!(chosen.is_some(), "the engine did not open {conn:?}");
            }
            let server = self.servers.get_mut(&id).expect("a listed server has a record");
            if conn.active {
                server.active += 1;
            } else {
                server.inactive += 1;
            }
            let upper = server.config.upper_threshold;
            if upper != 0 && server.active + server.inactive >= upper {
                server.overloaded = true;
            }
            server.numbers[0] += 1;
            server.count(Way::In, parsed.len);
            self.conns.push(conn);
            return answer;
        }
        Answer::Drop(DropReason::ReturnTupleTaken)
    }
}
