//! ICMP errors about packets of known connections: they follow the connection, translated where it is.

use core::net::IpAddr;

use pnet_packet::ip::IpNextHeaderProtocols as protocol;

use super::refuse::Refusal;
use super::{Director, Job, PassPolicy, Step};
use crate::answer::{self, IcmpError};
use crate::conn::{Connection, Direction, Lookup, Method};
use crate::environment::MIN_MTU_V6;
use crate::rewrite::{Deltas, IcmpRewrite, Rewrite};
use crate::service::{Family, Tunnel};
use crate::verdict::{DropReason, Verdict};
use crate::wire::{self, Icmp, IcmpBody, Parsed, Quoted, gre, gue, udp};

impl Director {
    /// An ICMP message: an error about a flow, or the host's.
    pub(super) fn icmp(&mut self, job: &mut Job<'_, '_>, icmp: Icmp) -> Verdict {
        let quoted = match icmp.body {
            IcmpBody::Error(quoted) => quoted,
            IcmpBody::BadQuote => return Verdict::Drop(DropReason::Malformed),
            IcmpBody::EchoRequest | IcmpBody::Other => return self.host(job),
        };
        // The quote travelled the other way: what answers to it belongs to the same connection.
        let found = quoted.tuple().filter(|_| !quoted.later_fragment).map(|tuple| {
            let tuple = tuple.reversed();
            self.conns.lookup(&tuple, job.now)
        });
        let Some(Lookup::Hit(id, direction)) = found else {
            let bytes = &job.packet.bytes()[..job.parsed.len as usize];
            return match self.tunnelled(bytes, &quoted) {
                Some(inner) => self.about_tunnel(job, icmp, &quoted, inner),
                None => self.unrelated(job),
            };
        };
        let Some(conn) = self.conns.get(id) else { return self.unrelated(job) };
        self.trace.note(|| Step::Related { connection: conn, direction });
        self.follow(job, &conn, direction, &quoted)
    }

    /// Sends an error the way its connection goes.
    fn follow(
        &mut self,
        job: &mut Job<'_, '_>,
        conn: &Connection,
        direction: Direction,
        quoted: &Quoted,
    ) -> Verdict {
        if conn.method == Method::Local {
            return self.local_node();
        }
        let translated = match self.pool.server(conn.server_id) {
            Some(_) => conn.method.sees_replies(),
            None => return Verdict::Drop(DropReason::ServerGone),
        };
        let route = if translated {
            if !icmp_checksum_is_right(job.packet.bytes(), job.parsed) {
                return Verdict::Drop(DropReason::BadIcmpChecksum);
            }
            let translation = IcmpRewrite::new(conn, direction, job.parsed);
            let mtu = self.config.environment.mtu_to(translation.dst);
            Rewrite::readdress(job.parsed, translation.src, translation.dst, mtu)
        } else {
            let id = self.take_id();
            match self.rewrite_of(conn, direction, Deltas::default(), id) {
                Ok(route) => route,
                Err(reason) => return Verdict::Drop(reason),
            }
        };
        self.trace.note(|| Step::Rewrite(route));
        match self.fit(job, &route) {
            Ok(fit) => {
                self.count_packet(conn.server_id, job.parsed.len, direction);
                if translated {
                    let translation = IcmpRewrite::new(conn, direction, job.parsed);
                    translation.apply(job.packet.bytes_mut(), job.parsed, quoted);
                }
                self.send(job, &route, fit, None)
            }
            Err(Refusal::Silent(reason)) => Verdict::Drop(reason),
            // No ICMP error about an ICMP error (RFC 1122 3.2.2).
            Err(Refusal::Ttl) => Verdict::Drop(DropReason::TtlExceeded),
            Err(_) => Verdict::Drop(DropReason::TooBig),
        }
    }

    /// An error about no flow that is known here.
    fn unrelated(&mut self, job: &mut Job<'_, '_>) -> Verdict {
        let host_knows = self.config.pass == PassPolicy::Pass
            || !self.pool.is_vip(job.parsed.dst) && !self.config.environment.is_own(job.parsed.dst);
        if host_knows { self.host(job) } else { Verdict::Drop(DropReason::UnrelatedIcmp) }
    }

    /// Where the client's packet starts in a quoted one that may be the director's own tunnel packet.
    fn tunnelled(&self, bytes: &[u8], quoted: &Quoted) -> Option<usize> {
        let own = self.config.environment.is_own(quoted.src) && self.pool.is_server_addr(quoted.dst);
        if !own || quoted.later_fragment {
            return None;
        }
        let at = usize::from(quoted.l4_offset);
        let header = match quoted.protocol {
            IPIP | IPV6_IN_IP => 0,
            UDP => {
                let header = bytes.get(at + udp::HEADER_LEN..)?;
                // The director sends variant 0 only.
                udp::HEADER_LEN + gue::header_len(header).filter(|len| *len >= gue::MIN_HEADER_LEN)?
            }
            GRE => gre::header_len(bytes.get(at..)?)?,
            _ => return None,
        };
        Some(at + header)
    }

    /// A router could not carry a tunnel packet: learn the path's MTU and tell the client, whose packet it was.
    ///
    /// The kernel relays in the same way, but tells the MTU from before this message; the right one follows
    /// with the client's next large packet. Here the client learns it at once.
    fn about_tunnel(&mut self, job: &mut Job<'_, '_>, icmp: Icmp, outer: &Quoted, at: usize) -> Verdict {
        if !icmp_checksum_is_right(job.packet.bytes(), job.parsed) {
            return Verdict::Drop(DropReason::BadIcmpChecksum);
        }
        // Link padding behind the packet is nobody's word.
        let bytes = &job.packet.bytes()[..job.parsed.len as usize];
        let Some(inner) = wire::parse_quoted(bytes, at) else { return self.unrelated(job) };
        let Some(tuple) = inner.tuple() else { return self.unrelated(job) };
        let Lookup::Hit(id, Direction::In) = self.conns.lookup(&tuple, job.now) else {
            return self.unrelated(job);
        };
        let Some(conn) = self.conns.get(id) else { return self.unrelated(job) };
        let tunnelled = self
            .pool
            .server(conn.server_id)
            .filter(|record| conn.method == Method::Tunnel && record.config.endpoint.addr == outer.dst)
            .is_some_and(|record| match record.tunnel {
                Tunnel::Ipip => matches!(outer.protocol, IPIP | IPV6_IN_IP),
                Tunnel::Gue { port, .. } => {
                    outer.protocol == UDP && outer.ports.is_some_and(|(_, to)| to == port)
                }
                Tunnel::Gre { .. } => outer.protocol == GRE,
            });
        if !tunnelled {
            return self.unrelated(job);
        }
        self.trace.note(|| Step::Related { connection: conn, direction: Direction::Out });
        let too_big = match job.parsed.src {
            IpAddr::V4(_) => icmp.kind == V4_UNREACHABLE && icmp.code == V4_FRAGMENTATION_NEEDED,
            IpAddr::V6(_) => icmp.kind == V6_TOO_BIG,
        };
        let error = if too_big {
            // 16 bits in ICMP, 32 in ICMPv6.
            let said = if job.parsed.is_ipv4() { icmp.rest & 0xffff } else { icmp.rest };
            let told = u16::try_from(said).unwrap_or(u16::MAX);
            self.path_mtu.learn(outer.dst, told, job.now);
            if inner.src.is_ipv4() && !inner.dont_fragment {
                return Verdict::Drop(DropReason::LocalSilent);
            }
            let mtu = self.path_mtu.limit(outer.dst, self.config.environment.mtu_to(outer.dst));
            let overhead = at - usize::from(outer.offset);
            let fits = usize::from(mtu).saturating_sub(overhead) as u32;
            let least = if inner.src.is_ipv4() { 0 } else { u32::from(MIN_MTU_V6) };
            IcmpError::TooBig { mtu: fits.max(least) }
        } else if inner.src.is_ipv4() == job.parsed.is_ipv4() {
            IcmpError::Relayed { kind: icmp.kind, code: icmp.code, rest: icmp.rest }
        } else {
            IcmpError::HostUnreachable
        };
        let id = self.take_id();
        let quote = &job.packet.bytes()[at..job.parsed.len as usize];
        let mut message = core::mem::take(&mut self.answer);
        message.clear();
        let verdict = match answer::icmp_error(&mut message, quote, error, conn.service.addr, id) {
            Some(to) => self.reply(job, &message, to),
            None => Verdict::Drop(DropReason::Malformed),
        };
        self.answer = message;
        verdict
    }
}

const IPIP: u8 = protocol::Ipv4.0;
const IPV6_IN_IP: u8 = protocol::Ipv6.0;
const UDP: u8 = protocol::Udp.0;
const GRE: u8 = protocol::Gre.0;
const V4_UNREACHABLE: u8 = 3;
const V4_FRAGMENTATION_NEEDED: u8 = 4;
const V6_TOO_BIG: u8 = 2;

fn icmp_checksum_is_right(bytes: &[u8], parsed: &Parsed) -> bool {
    let Some(message) = bytes.get(usize::from(parsed.l4)..parsed.len as usize) else { return false };
    match Family::of(&parsed.src) {
        Family::V4 => wire::checksum::icmp_checksum_is_right(message),
        Family::V6 => {
            wire::checksum::transport_checksum_is_right(parsed.src, parsed.dst, parsed.protocol, message)
        }
    }
}
