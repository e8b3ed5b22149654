//! Packets that the director makes itself: ICMP errors, TCP resets and echo replies.
//!
//! Each function writes one whole IP packet into `out` (cleared first; a buffer that is kept is allocated once)
//! and returns whom it is for. Whether an answer is due is asked before: [`may_answer`] for the rules of RFC 1122
//! and RFC 4443, [`IcmpLimiter`] for the rate. The bytes are those that Linux sends in the same place.
//! Nothing here sends, and nothing here knows a service or a connection.

use core::net::IpAddr;

use pnet_packet::icmp::IcmpTypes;
use pnet_packet::icmpv6::Icmpv6Types;
use pnet_packet::ip::IpNextHeaderProtocols as next_header;

use crate::wire::checksum::{
    self, ICMP_CHECKSUM, icmp_checksum, icmp_checksum_is_right, transport_checksum,
    transport_checksum_is_right,
};
use crate::wire::{Icmp, IcmpBody, Parsed, TcpFlags, Transport, ipv4, ipv6, tcp};

mod limiter;

pub use limiter::{IcmpLimiter, IcmpLimits, IcmpRate};

/// Longest ICMPv4 error in bytes, IP header included (RFC 1812 section 4.3.2.3).
pub const MAX_ICMPV4_ERROR: usize = 576;
/// Longest ICMPv6 error in bytes, IP header included (RFC 4443 section 2.4 c).
pub const MAX_ICMPV6_ERROR: usize = 1280;
/// TTL and hop limit of all answers.
pub const ANSWER_TTL: u8 = 64;

const ICMP_HEADER_LEN: usize = 8;
/// "Internetwork control" in the precedence bits (RFC 1812 section 4.3.2.5).
const PRECEDENCE_CONTROL: u8 = 0xc0;
/// The bits of TOS between precedence and ECN.
const TOS_WITHOUT_PRECEDENCE: u8 = 0x1c;
/// The bits of TOS without ECN: an answer does not take part in congestion notification.
const DSCP: u8 = 0xfc;

/// What an ICMP error says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IcmpError {
    /// Nothing listens there: v4 type 3 code 3, v6 type 1 code 4.
    PortUnreachable,
    /// The host cannot be reached: v4 type 3 code 1, v6 type 1 code 3.
    HostUnreachable,
    /// TTL or hop limit ran out: v4 type 11 code 0, v6 type 3 code 0.
    TimeExceeded,
    /// Larger than the next link takes: v4 type 3 code 4 ("fragmentation needed"), v6 type 2.
    TooBig {
        /// What the next link takes, in bytes.
        mtu: u32,
    },
    /// An error received about an outer packet, told again about the inner one.
    Relayed {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// Bytes 4 to 8.
        rest: u32,
    },
}

impl IcmpError {
    /// Whether the rate limit counts this error. Path MTU discovery depends on `TooBig`, which Linux does not limit
    /// either (`icmp_ratemask`, `icmpv6_ratemask`).
    pub const fn is_rate_limited(self) -> bool {
        !matches!(self, Self::TooBig { .. })
    }

    /// Type, code and bytes 4 to 8 in IPv4.
    const fn v4(self) -> (u8, u8, u32) {
        match self {
            Self::PortUnreachable => (3, 3, 0),
            Self::HostUnreachable => (3, 1, 0),
            Self::TimeExceeded => (11, 0, 0),
            // The field has 16 bits; no IPv4 packet is longer than that.
            Self::TooBig { mtu } => (3, 4, if mtu > 0xffff { 0xffff } else { mtu }),
            Self::Relayed { kind, code, rest } => (kind, code, rest),
        }
    }

    /// Type, code and bytes 4 to 8 in IPv6.
    const fn v6(self) -> (u8, u8, u32) {
        match self {
            Self::PortUnreachable => (1, 4, 0),
            Self::HostUnreachable => (1, 3, 0),
            Self::TimeExceeded => (3, 0, 0),
            Self::TooBig { mtu } => (2, 0, mtu),
            Self::Relayed { kind, code, rest } => (kind, code, rest),
        }
    }
}

/// Whether a packet may be answered with an error or a reset at all.
///
/// No for an ICMP error (also a redirect, or a v4 type that means nothing), a fragment other than the first, a
/// destination that is not one host, and a source that is not: unspecified, loopback, multicast, broadcast, reserved
/// (RFC 1122 section 3.2.2, RFC 1812 section 4.3.2.7, RFC 4443 section 2.4 e). A directed broadcast cannot be told
/// from its address; the owner, who knows the links, drops it before.
pub fn may_answer(parsed: &Parsed) -> bool {
    let is_error = match parsed.transport {
        Transport::Icmp(Icmp { kind, body, .. }) => {
            matches!(body, IcmpBody::Error(_) | IcmpBody::BadQuote)
                || if parsed.is_ipv4() { !is_icmpv4_query(kind) } else { kind < 128 || kind == 137 }
        }
        Transport::LaterFragment => return false,
        _ => false,
    };
    let is_later = parsed.fragment.is_some_and(|fragment| fragment.offset > 0);
    !is_error && !is_later && is_one_host(parsed.src) && !is_loopback(parsed.src) && is_one_host(parsed.dst)
}

/// Echo, router discovery, timestamp, information, address mask, and their replies.
const fn is_icmpv4_query(kind: u8) -> bool {
    matches!(kind, 0 | 8 | 9 | 10 | 13..=18)
}

fn is_one_host(addr: IpAddr) -> bool {
    match addr {
        // 0/8 is "this network", 240/4 is reserved and holds the limited broadcast.
        IpAddr::V4(addr) => addr.octets()[0] != 0 && !addr.is_multicast() && addr.octets()[0] < 240,
        IpAddr::V6(addr) => !addr.is_unspecified() && !addr.is_multicast(),
    }
}

fn is_loopback(addr: IpAddr) -> bool {
    addr.to_canonical().is_loopback()
}

/// Writes the ICMP or ICMPv6 error `error` about `original` and returns `original`'s sender, for whom it is.
///
/// `original` starts at its IP header and is quoted as it stands: whole if 576 bytes (IPv4) or 1280 (IPv6) are
/// enough for all, else cut. Bytes behind its own length are not quoted. `source` is the VIP or an own address.
///
/// | field | IPv4 | IPv6 |
/// | --- | --- | --- |
/// | TOS / traffic class | `original`'s with precedence 6 (0xC0), no ECN | 0 |
/// | identification | `id`, DF clear | |
/// | TTL / hop limit | 64 | 64 |
/// | flow label | | 0 |
///
/// Returns `None` when `original` has no whole IP header of `source`'s family.
///
/// # Examples
/// ```
/// use lvs_core::answer::{IcmpError, icmp_error};
/// let mut original = [0u8; 28];
/// original[..4].copy_from_slice(&[0x45, 0, 0, 28]);
/// original[12..16].copy_from_slice(&[172, 16, 0, 9]);
/// let mut out = Vec::new();
/// let vip = "10.9.0.1".parse()?;
/// let to = icmp_error(&mut out, &original, IcmpError::PortUnreachable, vip, 1);
/// assert_eq!(to, Some("172.16.0.9".parse()?));
/// assert_eq!((out.len(), out[20], out[21]), (20 + 8 + 28, 3, 3));
/// # Ok::<(), core::net::AddrParseError>(())
/// ```
pub fn icmp_error(
    out: &mut Vec<u8>,
    original: &[u8],
    error: IcmpError,
    source: IpAddr,
    id: u16,
) -> Option<IpAddr> {
    let version = original.first()? >> 4;
    let (to, tos, said_len, limit, (kind, code, rest)) = match source {
        IpAddr::V4(_) if version == 4 => {
            let header = original.first_chunk::<{ ipv4::MIN_HEADER_LEN }>()?;
            let to = IpAddr::from(ipv4::src(header));
            let tos = (header[ipv4::TOS] & TOS_WITHOUT_PRECEDENCE) | PRECEDENCE_CONTROL;
            let len = usize::from(ipv4::total_len(header));
            (to, tos, len, MAX_ICMPV4_ERROR - ipv4::MIN_HEADER_LEN - ICMP_HEADER_LEN, error.v4())
        }
        IpAddr::V6(_) if version == 6 => {
            let header = original.first_chunk::<{ ipv6::HEADER_LEN }>()?;
            let to = IpAddr::from(ipv6::src(header));
            let len = ipv6::HEADER_LEN + usize::from(ipv6::payload_len(header));
            (to, 0, len, MAX_ICMPV6_ERROR - ipv6::HEADER_LEN - ICMP_HEADER_LEN, error.v6())
        }
        _ => return None,
    };
    let quote = &original[..original.len().min(said_len).min(limit)];
    let protocol = if version == 4 { next_header::Icmp.0 } else { next_header::Icmpv6.0 };
    let start = put_ip_header(out, source, to, protocol, tos, (id, 0), ICMP_HEADER_LEN + quote.len())?;
    out.extend_from_slice(&[kind, code, 0, 0]);
    out.extend_from_slice(&rest.to_be_bytes());
    out.extend_from_slice(quote);
    finish_checksum(out, start, ICMP_CHECKSUM, (version == 6).then_some((source, to, protocol)));
    Some(to)
}

/// Writes the TCP reset that answers a segment of no connection, and returns the segment's sender.
///
/// With ACK in the segment the reset's sequence number is its acknowledgment number; without, it is 0 and the reset
/// acknowledges all that the segment held (RFC 9293 section 3.10.7.1). The IPv4 header has identification 0, DF and
/// the segment's DSCP, as in Linux.
///
/// Returns `None` for a reset (never answered), for a fragment and for what is not TCP.
pub fn tcp_reset(out: &mut Vec<u8>, parsed: &Parsed) -> Option<IpAddr> {
    let Transport::Tcp { sport, dport, flags, seq, ack, header_len } = parsed.transport else {
        return None;
    };
    if flags.contains(TcpFlags::RST) || parsed.fragment.is_some() {
        return None;
    }
    let (seq, ack, flags) = if flags.contains(TcpFlags::ACK) {
        (ack, 0, TcpFlags::RST)
    } else {
        let headers = u32::from(parsed.l4) + u32::from(header_len);
        let data = parsed.len.saturating_sub(headers);
        let controls = u32::from(flags.contains(TcpFlags::SYN)) + u32::from(flags.contains(TcpFlags::FIN));
        (0, seq.wrapping_add(data).wrapping_add(controls), TcpFlags::RST | TcpFlags::ACK)
    };
    let (from, to) = (parsed.dst, parsed.src);
    let protocol = next_header::Tcp.0;
    let (tos, df) = (parsed.tos & DSCP, ipv4::DONT_FRAGMENT);
    let start = put_ip_header(out, from, to, protocol, tos, (0, df), tcp::MIN_HEADER_LEN)?;
    out.extend_from_slice(&dport.to_be_bytes());
    out.extend_from_slice(&sport.to_be_bytes());
    out.extend_from_slice(&seq.to_be_bytes());
    out.extend_from_slice(&ack.to_be_bytes());
    // Header of 5 words, window 0, no checksum yet, no urgent data.
    out.extend_from_slice(&[0x50, flags.bits(), 0, 0, 0, 0, 0, 0]);
    finish_checksum(out, start, tcp::CHECKSUM, Some((from, to, protocol)));
    Some(to)
}

/// Writes the reply to the echo request `original`, of which `parsed` was read, and returns who asked.
///
/// The data come back as they are, the reply's source is the request's destination, IP options are not copied.
/// The IPv4 header has identification `id` and DF clear.
///
/// Returns `None` for what is no echo request, for a fragment and for a wrong ICMP checksum.
pub fn echo_reply(out: &mut Vec<u8>, original: &[u8], parsed: &Parsed, id: u16) -> Option<IpAddr> {
    let Transport::Icmp(Icmp { body: IcmpBody::EchoRequest, .. }) = parsed.transport else {
        return None;
    };
    let message = original.get(usize::from(parsed.l4)..parsed.len as usize)?;
    if parsed.fragment.is_some() || message.len() < ICMP_HEADER_LEN {
        return None;
    }
    let (from, to) = (parsed.dst, parsed.src);
    let (protocol, kind, is_right) = if parsed.is_ipv4() {
        (next_header::Icmp.0, IcmpTypes::EchoReply.0, icmp_checksum_is_right(message))
    } else {
        let protocol = next_header::Icmpv6.0;
        let is_right = transport_checksum_is_right(to, from, protocol, message);
        (protocol, Icmpv6Types::EchoReply.0, is_right)
    };
    if !is_right {
        return None;
    }
    let start = put_ip_header(out, from, to, protocol, parsed.tos & DSCP, (id, 0), message.len())?;
    out.extend_from_slice(&[kind, 0]);
    out.extend_from_slice(&message[2..]);
    finish_checksum(out, start, ICMP_CHECKSUM, (!parsed.is_ipv4()).then_some((from, to, protocol)));
    Some(to)
}

/// Clears `out`, writes the IP header of an answer and returns where the next header starts.
///
/// `None` when the families differ or the packet would be longer than a length field can say.
fn put_ip_header(
    out: &mut Vec<u8>,
    source: IpAddr,
    to: IpAddr,
    protocol: u8,
    tos: u8,
    (id, flags): (u16, u16),
    payload_len: usize,
) -> Option<usize> {
    out.clear();
    match (source, to) {
        (IpAddr::V4(source), IpAddr::V4(to)) => {
            let total_len = u16::try_from(ipv4::MIN_HEADER_LEN + payload_len).ok()?;
            out.extend_from_slice(&[0x45, tos]);
            out.extend_from_slice(&total_len.to_be_bytes());
            out.extend_from_slice(&id.to_be_bytes());
            out.extend_from_slice(&flags.to_be_bytes());
            out.extend_from_slice(&[ANSWER_TTL, protocol, 0, 0]);
            out.extend_from_slice(&source.octets());
            out.extend_from_slice(&to.octets());
            ipv4::fill_checksum(out);
        }
        (IpAddr::V6(source), IpAddr::V6(to)) => {
            let payload_len = u16::try_from(payload_len).ok()?;
            out.extend_from_slice(&[0x60 | (tos >> 4), tos << 4, 0, 0]);
            out.extend_from_slice(&payload_len.to_be_bytes());
            out.extend_from_slice(&[protocol, ANSWER_TTL]);
            out.extend_from_slice(&source.octets());
            out.extend_from_slice(&to.octets());
        }
        _ => return None,
    }
    Some(out.len())
}

/// Writes the checksum of the message that starts at `start` into its field at `start + field`, with the pseudo
/// header of `(source, destination, protocol)` if there is one.
fn finish_checksum(out: &mut [u8], start: usize, field: usize, pseudo: Option<(IpAddr, IpAddr, u8)>) {
    let message = &mut out[start..];
    let checksum = match pseudo {
        Some((source, to, protocol)) => transport_checksum(source, to, protocol, message),
        None => icmp_checksum(message),
    };
    checksum::set_field(message, field, checksum);
}

#[cfg(test)]
mod tests;
