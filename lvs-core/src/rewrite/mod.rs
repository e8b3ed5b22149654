//! What happens to a packet of a known connection, as plain data that is then only applied.
//!
//! | method | direction | source | destination | outer header | link's next hop |
//! |---|---|---|---|---|---|
//! | NAT | in | CIP:cport | VIP:vport → RIP:rport | – | RIP |
//! | NAT | out | RIP:rport → VIP:vport | CIP:cport | – | CIP |
//! | FULLNAT | in | CIP:cport → LIP:lport | VIP:vport → RIP:rport | – | RIP |
//! | FULLNAT | out | RIP:rport → VIP:vport | LIP:lport → CIP:cport | – | CIP |
//! | DR | in | – | – | – | RIP |
//! | TUN | in | – | – | DIP → RIP | RIP |
//!
//! There is one [`Rewrite::apply`] for all of them. It knows no connection table and no service; TCP options,
//! fragments and ICMP errors are steps of their own.

mod header;
mod icmp;
mod tunnel;

use core::net::IpAddr;

use lvs_sched::Endpoint;

pub use icmp::IcmpRewrite;
pub use tunnel::Outer;

use crate::conn::{Connection, Direction};
use crate::wire::{self, ChecksumState, Delta, NoRoom, Packet, Parsed, Transport};

/// The finished decision for one direction of a connection. Fixed size, no references: it can be printed,
/// compared, synchronised, or put into a flow map that another machine applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rewrite {
    /// New source address and port.
    pub src: Option<Endpoint>,
    /// New destination address and port.
    pub dst: Option<Endpoint>,
    /// What the new addresses and ports do to the checksums.
    pub deltas: Deltas,
    /// Header to put in front (LVS/TUN).
    pub outer: Option<Outer>,
    /// Whom the packet must reach next.
    pub next_hop: IpAddr,
    /// Largest packet that may leave, outer header included, in bytes.
    pub mtu: u16,
}

impl Rewrite {
    /// A packet that leaves as it came, but for its TTL.
    pub fn forward(next_hop: IpAddr, mtu: u16) -> Self {
        Self { src: None, dst: None, deltas: Deltas::default(), outer: None, next_hop, mtu }
    }

    /// New addresses for a packet without ports (an ICMP error of a translated connection).
    pub fn readdress(parsed: &Parsed, src: IpAddr, dst: IpAddr, mtu: u16) -> Self {
        let changed = |old: IpAddr, new: IpAddr| (old != new).then_some(Endpoint::new(new, 0));
        let addr = Delta::of_addr(parsed.src, src).plus(Delta::of_addr(parsed.dst, dst));
        Self {
            src: changed(parsed.src, src),
            dst: changed(parsed.dst, dst),
            deltas: Deltas { addr, port: Delta::ZERO },
            ..Self::forward(dst, mtu)
        }
    }

    /// The translation of one direction of a NAT or FULLNAT connection; `deltas` are those of the way in.
    #[inline]
    pub fn translate(conn: &Connection, direction: Direction, deltas: Deltas, mtu: u16) -> Self {
        let (src, dst, deltas) = match direction {
            Direction::In => ((&conn.client, &conn.local), (&conn.service, &conn.server), deltas),
            Direction::Out => ((&conn.server, &conn.service), (&conn.local, &conn.client), deltas.inverse()),
        };
        let changed = |(old, new): (&Endpoint, &Endpoint)| (old != new).then_some(*new);
        Self { src: changed(src), dst: changed(dst), deltas, outer: None, next_hop: dst.1.addr, mtu }
    }

    /// Bytes that are put in front of the packet.
    pub fn overhead(&self) -> u16 {
        self.outer.map_or(0, |outer| outer.overhead())
    }

    /// Changes the packet: TTL, addresses, ports, checksums, then the outer header.
    ///
    /// The caller has checked TTL and length; `parsed` describes the packet as it is now.
    ///
    /// # Errors
    /// [`NoRoom`] when the outer header does not fit in front; nothing is changed then.
    pub fn apply(&self, packet: &mut Packet<'_>, parsed: &Parsed) -> Result<(), NoRoom> {
        if usize::from(self.overhead()) > packet.headroom() {
            return Err(NoRoom {
                need: usize::from(self.overhead()),
                have: packet.headroom(),
                place: "before",
            });
        }
        let partial = packet.meta.checksum != ChecksumState::Complete;
        let bytes = packet.bytes_mut();
        let (src, dst) = (self.src.map(|e| e.addr), self.dst.map(|e| e.addr));
        if parsed.is_ipv4() {
            header::rewrite_ipv4(bytes, src, dst, self.deltas.addr);
        } else {
            header::rewrite_ipv6(bytes, src, dst);
        }
        if self.src.is_some() || self.dst.is_some() {
            self.apply_transport(bytes, parsed, partial);
        }
        match self.outer {
            Some(outer) => outer.prepend(packet, parsed),
            None => Ok(()),
        }
    }

    fn apply_transport(&self, bytes: &mut [u8], parsed: &Parsed, partial: bool) {
        let l4 = usize::from(parsed.l4);
        let (checksum_at, is_udp) = match parsed.transport {
            Transport::Tcp { .. } => (l4 + wire::tcp::CHECKSUM, false),
            Transport::Udp { .. } => (l4 + wire::udp::CHECKSUM, true),
            Transport::Sctp { .. } => {
                self.apply_sctp(&mut bytes[l4..parsed.len as usize]);
                return;
            }
            Transport::Icmp(_) | Transport::LaterFragment | Transport::Other => return,
        };
        self.set_ports(bytes, l4);
        let field = u16::from_be_bytes([bytes[checksum_at], bytes[checksum_at + 1]]);
        let new = if partial {
            self.deltas.addr.apply_partial(field)
        } else if is_udp && field == 0 {
            // The sender gave no checksum; behind NAT the kernel sends a full one.
            let (src, dst) =
                (self.src.map_or(parsed.src, |e| e.addr), self.dst.map_or(parsed.dst, |e| e.addr));
            let end = parsed.len as usize;
            wire::checksum::transport_checksum(src, dst, parsed.protocol, &bytes[l4..end])
        } else if is_udp {
            self.deltas.addr.plus(self.deltas.port).apply_udp(field)
        } else {
            self.deltas.addr.plus(self.deltas.port).apply(field)
        };
        bytes[checksum_at..checksum_at + 2].copy_from_slice(&new.to_be_bytes());
    }

    /// SCTP's CRC32c covers the ports but no addresses; a wrong one stays wrong.
    fn apply_sctp(&self, segment: &mut [u8]) {
        let field = wire::sctp::CHECKSUM..wire::sctp::HEADER_LEN;
        let was_right = segment[field.clone()] == wire::sctp::checksum(segment);
        self.set_ports(segment, 0);
        if was_right {
            let checksum = wire::sctp::checksum(segment);
            segment[field].copy_from_slice(&checksum);
        }
    }

    fn set_ports(&self, bytes: &mut [u8], l4: usize) {
        if let Some(src) = self.src {
            bytes[l4..l4 + 2].copy_from_slice(&src.port.to_be_bytes());
        }
        if let Some(dst) = self.dst {
            bytes[l4 + 2..l4 + 4].copy_from_slice(&dst.port.to_be_bytes());
        }
    }
}

/// What a translation does to the one's complement sums: computed once per connection, stored in its entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Deltas {
    /// Over the addresses: IPv4 header, pseudo-header.
    pub addr: Delta,
    /// Over the ports.
    pub port: Delta,
}

impl Deltas {
    /// Those of the way in (client to server); the way out has the inverse ones.
    pub fn of(conn: &Connection) -> Self {
        if !conn.method.sees_replies() {
            return Self::default();
        }
        let addr = Delta::of_addr(conn.client.addr, conn.local.addr)
            .plus(Delta::of_addr(conn.service.addr, conn.server.addr));
        let port = Delta::of_word(conn.client.port, conn.local.port)
            .plus(Delta::of_word(conn.service.port, conn.server.port));
        Self { addr, port }
    }

    /// The change back.
    #[inline]
    #[must_use]
    pub fn inverse(self) -> Self {
        Self { addr: self.addr.inverse(), port: self.port.inverse() }
    }
}
