//! How a packet leaves by its forwarding method, or the ICMP error that says why it does not.

use std::net::IpAddr;

use lvs_core::service::ForwardingMethod;
use lvs_core::wire::Parsed;
use lvs_core::{DropReason, Endpoint};

use super::connections::Conn;
use super::rewriting::{cut, readdress, tell_client};
use super::{Answer, Reference};
use crate::packets::{self, flags, ip_header, word};

/// How a packet leaves.
pub(super) struct Plan {
    pub(super) src: Endpoint,
    pub(super) dst: Endpoint,
    /// Source and destination of the outer header.
    pub(super) tunnel: Option<(IpAddr, IpAddr)>,
    pub(super) next_hop: IpAddr,
    /// Whose address a TCP option tells the server (TOA).
    pub(super) tell: Option<Endpoint>,
}

/// Why a packet may not leave.
pub(super) enum Refusal {
    Ttl,
    TooBig(usize),
    Silent(DropReason),
}

impl Reference {
    /// The director's own address of a family.
    pub(super) fn own(&self, v4: bool) -> Option<IpAddr> {
        self.config.environment.addresses.iter().copied().find(|addr| addr.is_ipv4() == v4)
    }

    fn mtu(&self, to: IpAddr) -> usize {
        let environment = &self.config.environment;
        let mut best: Option<(u8, u16)> = None;
        for route in environment.routes.iter().filter(|route| route.prefix.contains(to)) {
            if best.is_none_or(|(bits, _)| route.prefix.bits() > bits) {
                best = Some((route.prefix.bits(), route.mtu));
            }
        }
        usize::from(best.map_or(environment.mtu, |(_, mtu)| mtu))
    }

    pub(super) fn plan_in(&self, conn: &Conn, tcp: u8) -> Result<Plan, DropReason> {
        let rip = conn.server.addr;
        let (src, dst, tunnel) = match conn.method {
            ForwardingMethod::Masquerade | ForwardingMethod::FullNat => (conn.local, conn.server, None),
            ForwardingMethod::DirectRoute => (conn.client, conn.service, None),
            ForwardingMethod::Tunnel(_) => {
                let own = self.own(rip.is_ipv4()).ok_or(DropReason::NoTunnelSource)?;
                (conn.client, conn.service, Some((own, rip)))
            }
            other => panic!("the reference does not know {other:?}"),
        };
        // With each SYN, and with the packet behind it.
        let due = tcp & flags::SYN != 0 || (conn.packets == 1 || conn.state == "SR") && tcp & 0x3f != 0;
        let told = self.config.fullnat.toa && conn.method == ForwardingMethod::FullNat && due;
        Ok(Plan { src, dst, tunnel, next_hop: rip, tell: told.then_some(conn.client) })
    }

    pub(super) fn leave(&self, bytes: &[u8], parsed: &Parsed, plan: &Plan) -> Result<Answer, Refusal> {
        if parsed.ttl <= 1 {
            return Err(Refusal::Ttl);
        }
        let v4 = parsed.src.is_ipv4();
        let whole = parsed.len as usize;
        let mtu = self.mtu(plan.next_hop);
        let overhead = match plan.tunnel {
            None => 0,
            Some((IpAddr::V4(_), _)) => 20,
            Some((IpAddr::V6(_), _)) => 40,
        };
        let obeys_df = plan.tunnel.is_none() || self.config.sysctl.pmtu_disc;
        let too_big = whole + overhead > mtu;
        // An IPv6 sender cannot be asked for less than 1280 bytes: the tunnel's packet is cut.
        let keeps_whole = if v4 { parsed.dont_fragment && obeys_df } else { overhead == 0 || whole > 1280 };
        if too_big && keeps_whole {
            let fits = mtu.saturating_sub(overhead);
            return Err(match (v4, fits) {
                (true, 0..68) => Refusal::Silent(DropReason::TooBig),
                (true, _) => Refusal::TooBig(fits),
                (false, _) => Refusal::TooBig(fits.max(1280)),
            });
        }

        let mut out = bytes[..whole].to_vec();
        packets::set_ttl(&mut out, parsed.ttl - 1);
        let error = packets::transport_checksum_error(bytes);
        if packets::endpoints(bytes) != (plan.src, plan.dst) {
            readdress(&mut out, plan.src, plan.dst);
            let at = packets::checksum_at(&out).expect("TCP and UDP have one");
            let udp = parsed.protocol == 17;
            let none = udp && word(bytes, at) == 0;
            if let Some(client) = plan.tell {
                tell_client(&mut out, client, mtu);
            }
            packets::set_transport_checksum(&mut out);
            if error != 0 && !none {
                // What came wrong leaves as wrong as it came.
                let field = packets::fold(u64::from(word(&out, at)) + u64::from(error));
                let field = if udp && field == 0 { 0xffff } else { field };
                out[at..at + 2].copy_from_slice(&field.to_be_bytes());
            }
        }
        packets::set_ipv4_checksum(&mut out);
        let own_header = plan.tunnel.is_some();
        if let Some((src, dst)) = plan.tunnel {
            let shape = packets::Shape {
                ttl: parsed.ttl - 1,
                // RFC 6040: congestion inside is not shown outside.
                tos: if parsed.tos & 3 == 3 { parsed.tos - 1 } else { parsed.tos },
                id: 0,
                dont_fragment: v4 && parsed.dont_fragment && self.config.sysctl.pmtu_disc,
                ..packets::Shape::default()
            };
            let mut outer = ip_header(src, dst, if v4 { 4 } else { 41 }, &shape, out.len());
            outer.extend(out);
            out = outer;
        }
        let pieces = if too_big { cut(&out, mtu) } else { vec![out] };
        Ok(Answer::Transmit { next_hop: plan.next_hop, pieces, own_header, wrong_checksum: error != 0 })
    }

    pub(super) fn refuse(
        &self,
        bytes: &[u8],
        refusal: Refusal,
        from: Option<IpAddr>,
        decremented: bool,
    ) -> Answer {
        let v4 = bytes[0] >> 4 == 4;
        match refusal {
            Refusal::Silent(reason) => Answer::Drop(reason),
            Refusal::Ttl => match from {
                Some(from) => error_reply(bytes, if v4 { (11, 0, 0) } else { (3, 0, 0) }, from),
                None => Answer::Drop(DropReason::TtlExceeded),
            },
            Refusal::TooBig(mtu) => {
                let mut quote = bytes.to_vec();
                if decremented {
                    let ttl = packets::ttl(&quote) - 1;
                    packets::set_ttl(&mut quote, ttl);
                    packets::set_ipv4_checksum(&mut quote);
                }
                let says = if v4 { (3, 4, mtu as u32) } else { (2, 0, mtu as u32) };
                match from {
                    Some(from) => error_reply(&quote, says, from),
                    None => Answer::Drop(DropReason::TooBig),
                }
            }
        }
    }
}

pub(super) fn unreachable(bytes: &[u8], from: Option<IpAddr>) -> Answer {
    let says = if bytes[0] >> 4 == 4 { (3, 3, 0) } else { (1, 4, 0) };
    match from {
        Some(from) => error_reply(bytes, says, from),
        None => Answer::Drop(DropReason::NoServer),
    }
}

fn error_reply(quote: &[u8], (kind, code, rest): (u8, u8, u32), from: IpAddr) -> Answer {
    let (to, _) = packets::addresses(quote);
    let mut packet = packets::icmp_error(from, to, kind, code, rest, quote);
    if packet[0] >> 4 == 4 {
        packet[1] = quote[1] & 0x1c | 0xc0;
        packets::set_ipv4_checksum(&mut packet);
    }
    Answer::Reply { to, packet }
}
