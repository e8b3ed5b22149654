//! ICMP errors of a flow: the quoted packet is translated so that the receiver recognises its own.

use core::net::IpAddr;

use lvs_sched::Endpoint;

use crate::conn::{Connection, Direction};
use crate::wire::{self, Delta, Parsed, Quoted};

/// The translation of one ICMP error that belongs to a NAT or FULLNAT connection.
///
/// The quote is a packet that travelled the other way, so its source is what the error's receiver called its
/// peer. As the kernel does, the quoted IP header's checksum follows the addresses, the quoted transport
/// checksum is left alone.
///
/// | error travels | outer source | outer destination | quoted source | quoted destination |
/// |---|---|---|---|---|
/// | in (from the client's side) | NAT: kept; FULLNAT: LIP | VIP → RIP | VIP:vport → RIP:rport | CIP → LIP:lport in FULLNAT |
/// | out (from the server's side) | any → VIP | LIP → CIP in FULLNAT | LIP → CIP:cport in FULLNAT | RIP:rport → VIP:vport |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IcmpRewrite {
    /// Source of the error itself.
    pub src: IpAddr,
    /// Destination of the error itself.
    pub dst: IpAddr,
    /// Source in the quote.
    pub quoted_src: Endpoint,
    /// Destination in the quote.
    pub quoted_dst: Endpoint,
}

impl IcmpRewrite {
    /// The translation of an error of `conn` that travels in `direction`.
    pub fn new(conn: &Connection, direction: Direction, error: &Parsed) -> Self {
        match direction {
            Direction::In => Self {
                src: if conn.local == conn.client { error.src } else { conn.local.addr },
                dst: conn.server.addr,
                quoted_src: conn.server,
                quoted_dst: conn.local,
            },
            Direction::Out => Self {
                src: conn.service.addr,
                dst: conn.client.addr,
                quoted_src: conn.client,
                quoted_dst: conn.service,
            },
        }
    }

    /// Changes the quote and the ICMP checksum; the outer addresses are left to [`Rewrite::apply`].
    ///
    /// [`Rewrite::apply`]: super::Rewrite::apply
    pub fn apply(&self, bytes: &mut [u8], error: &Parsed, quoted: &Quoted) {
        let at = usize::from(quoted.offset);
        match (self.quoted_src.addr, self.quoted_dst.addr) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let delta =
                    Delta::of_addr(quoted.src, src.into()).plus(Delta::of_addr(quoted.dst, dst.into()));
                let field = u16::from_be_bytes([bytes[at + 10], bytes[at + 11]]);
                bytes[at + 10..at + 12].copy_from_slice(&delta.apply(field).to_be_bytes());
                bytes[at + 12..at + 16].copy_from_slice(&src.octets());
                bytes[at + 16..at + 20].copy_from_slice(&dst.octets());
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                bytes[at + 8..at + 24].copy_from_slice(&src.octets());
                bytes[at + 24..at + 40].copy_from_slice(&dst.octets());
            }
            _ => debug_assert!(false, "NAT stays within one address family"),
        }
        let l4 = usize::from(quoted.l4_offset);
        bytes[l4..l4 + 2].copy_from_slice(&self.quoted_src.port.to_be_bytes());
        bytes[l4 + 2..l4 + 4].copy_from_slice(&self.quoted_dst.port.to_be_bytes());
        set_icmp_checksum(bytes, error, self.src, self.dst);
    }
}

/// Computes the whole ICMP or ICMPv6 checksum anew, with `src` and `dst` in the pseudo-header.
fn set_icmp_checksum(bytes: &mut [u8], error: &Parsed, src: IpAddr, dst: IpAddr) {
    let message = usize::from(error.l4)..error.len as usize;
    let at = message.start + 2;
    let sum = match src {
        IpAddr::V4(_) => wire::checksum::icmp_checksum(&bytes[message]),
        IpAddr::V6(_) => wire::checksum::transport_checksum(src, dst, error.protocol, &bytes[message]),
    };
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}
