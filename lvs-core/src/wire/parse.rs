//! The one walk over a packet's headers, from the IP version to the transport header (and, in ICMP errors,
//! over the quoted packet). It changes nothing, allocates nothing and knows no service or connection.
//!
//! Transport checksums are not verified here: a director passes them on as it got them, wrong ones too.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pnet_packet::icmp::{IcmpType, IcmpTypes};
use pnet_packet::icmpv6::{Icmpv6Type, Icmpv6Types};
use pnet_packet::ip::{IpNextHeaderProtocol, IpNextHeaderProtocols as next_header};

use super::checksum::ipv4_header_checksum;
use super::error::{Layer, ParseError};
use super::parsed::{Fragment, Icmp, IcmpBody, Parsed, Quoted, TcpFlags, Transport};
use super::{ipv4, ipv6, sctp, tcp, udp};

/// Most IPv6 extension headers that are walked in one packet.
pub const MAX_EXTENSION_HEADERS: usize = 8;

/// Most bytes of IPv6 extension headers that are walked in one packet.
pub const MAX_EXTENSION_BYTES: usize = 256;

/// The largest value of a 16-bit length field.
const MAX_LENGTH: usize = 0xffff;

/// Length of the part that every ICMP and ICMPv6 message begins with, in bytes.
const ICMP_HEADER_LEN: usize = 8;

/// Reads a packet that starts at its IP header; `bytes` may be longer than the packet (link padding).
///
/// What is checked: the lengths of every layer, the IPv4 header checksum and options, and the IPv6 extension
/// chain. What is left to others: addresses, transport checksums, reassembly.
///
/// - Fragments: one with an offset is [`Transport::LaterFragment`]. So is a *first* fragment that ends inside
///   its transport header (RFC 1858, RFC 7112): it is told by `fragment.offset == 0`, and reassembly may still
///   complete it. For later fragments of IPv6 `protocol` is what the fragment header names, which may be a
///   further extension header; `l4` is where the fragment's payload starts.
/// - IPv6: an atomic fragment (RFC 6946) is no fragment. A routing header with segments left says that the
///   destination is only a stop on the way: `protocol` is then 43 and `transport` is [`Transport::Other`].
/// - ESP, no-next-header and everything that is not TCP, UDP, SCTP or the family's own ICMP is
///   [`Transport::Other`].
/// - The packet in an ICMP error is read leniently, since it is cut by design (RFC 792: 8 bytes of it).
///
/// # Errors
/// [`ParseError`] says which layer is wrong and what would be right.
///
/// # Examples
/// ```
/// use lvs_core::wire::{ParseError, parse};
/// let packet = [
///     0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0x66, 0xcf, 10, 0, 0, 1, 10, 0, 0, 2, // IPv4
///     0x30, 0x39, 0, 53, 0, 8, 0, 0, // UDP
/// ];
/// let parsed = parse(&packet)?;
/// assert_eq!(parsed.tuple().expect("UDP has ports").dst.to_string(), "10.0.0.2:53");
/// assert!(matches!(parse(&packet[..27]), Err(ParseError::Truncated { need: 28, have: 27, .. })));
/// # Ok::<(), ParseError>(())
/// ```
#[inline]
pub fn parse(bytes: &[u8]) -> Result<Parsed, ParseError> {
    match bytes.first().map(|first| first >> 4) {
        Some(4) => parse_ipv4(bytes),
        Some(6) => parse_ipv6(bytes),
        Some(version) => Err(ParseError::BadVersion { version }),
        None => Err(truncated(Layer::Ip, ipv4::MIN_HEADER_LEN, 0)),
    }
}

#[inline(always)]
fn parse_ipv4(bytes: &[u8]) -> Result<Parsed, ParseError> {
    let Some(header) = bytes.first_chunk::<{ ipv4::MIN_HEADER_LEN }>() else {
        return Err(truncated(Layer::Ipv4, ipv4::MIN_HEADER_LEN, bytes.len()));
    };
    let header_len = usize::from(header[0] & 0x0f) * 4;
    if header_len < ipv4::MIN_HEADER_LEN {
        return Err(too_small(Layer::Ipv4, "header length", ipv4::MIN_HEADER_LEN, header_len));
    }
    let len = usize::from(u16_at(header, ipv4::TOTAL_LEN));
    if len < header_len {
        return Err(too_small(Layer::Ipv4, "total length", header_len, len));
    }
    let Some(packet) = bytes.get(..len) else {
        return Err(truncated(Layer::Ipv4, len, bytes.len()));
    };
    if !header_sum_is_right(&packet[..header_len]) {
        return Err(bad_header_checksum(&packet[..header_len]));
    }
    if header_len > ipv4::MIN_HEADER_LEN {
        scan_ipv4_options(&packet[..header_len])?;
    }

    let word = u16_at(header, ipv4::FLAGS);
    let fragment = if word & (ipv4::OFFSET_MASK | ipv4::MORE_FRAGMENTS) == 0 {
        None
    } else {
        let offset = (word & ipv4::OFFSET_MASK) * 8;
        let end = usize::from(offset) + len;
        if end > MAX_LENGTH {
            return Err(ParseError::FragmentBeyondEnd { layer: Layer::Ipv4, is: end });
        }
        let id = u32::from(u16_at(header, ipv4::ID));
        Some(Fragment { id, offset, more: word & ipv4::MORE_FRAGMENTS != 0, header: 0 })
    };
    let protocol = header[ipv4::PROTOCOL];
    Ok(Parsed {
        src: ipv4_at(header, ipv4::SRC),
        dst: ipv4_at(header, ipv4::DST),
        protocol,
        tos: header[ipv4::TOS],
        ttl: header[ipv4::TTL],
        dont_fragment: word & ipv4::DONT_FRAGMENT != 0,
        len: len as u32,
        l4: header_len as u16,
        fragment,
        transport: transport(packet, header_len, protocol, Family::V4, fragment)?,
    })
}

#[inline]
fn parse_ipv6(bytes: &[u8]) -> Result<Parsed, ParseError> {
    let Some(header) = bytes.first_chunk::<{ ipv6::HEADER_LEN }>() else {
        return Err(truncated(Layer::Ipv6, ipv6::HEADER_LEN, bytes.len()));
    };
    let payload_len = usize::from(u16_at(header, ipv6::PAYLOAD_LEN));
    let mut protocol = header[ipv6::NEXT_HEADER];
    if payload_len == 0 && protocol == next_header::Hopopt.0 {
        return Err(ParseError::Jumbogram);
    }
    let len = ipv6::HEADER_LEN + payload_len;
    let Some(packet) = bytes.get(..len) else {
        return Err(truncated(Layer::Ipv6, len, bytes.len()));
    };

    let mut l4 = ipv6::HEADER_LEN;
    let mut fragment = None;
    let mut whole_chain = true;
    if is_extension(protocol) {
        let chain = walk_extensions(packet, 0, protocol)?;
        (protocol, l4, fragment) = (chain.next, chain.at, chain.fragment);
        match chain.end {
            ChainEnd::Transport => {}
            ChainEnd::Truncated { need, have } if fragment.is_none() => {
                return Err(truncated(Layer::Ipv6Extension, need, have));
            }
            ChainEnd::Truncated { .. } | ChainEnd::LaterFragment | ChainEnd::OnTheWay => whole_chain = false,
        }
        if let Some(Fragment { offset, header, .. }) = fragment {
            // What the payload length of the whole datagram would be (RFC 8200 section 4.5): the extension
            // headers in front of the fragment header, then everything up to this fragment's end.
            let payload_at = usize::from(header) + ipv6::FRAGMENT_LEN;
            let end = usize::from(header) - ipv6::HEADER_LEN + usize::from(offset) + (len - payload_at);
            if end > MAX_LENGTH {
                return Err(ParseError::FragmentBeyondEnd { layer: Layer::Ipv6Extension, is: end });
            }
        }
    }
    let transport = if whole_chain {
        transport(packet, l4, protocol, Family::V6, fragment)?
    } else if fragment.is_some() {
        Transport::LaterFragment
    } else {
        Transport::Other
    };
    Ok(Parsed {
        src: ipv6_at(header, ipv6::SRC),
        dst: ipv6_at(header, ipv6::DST),
        protocol,
        tos: header[0] << 4 | header[1] >> 4,
        ttl: header[ipv6::HOP_LIMIT],
        dont_fragment: true,
        len: len as u32,
        l4: l4 as u16,
        fragment,
        transport,
    })
}

/// The IP version that carries a transport header: it decides which ICMP is meant.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

/// Reads the transport header at `at`; `packet` ends where the IP packet ends.
///
/// Inlined so that the result of the common protocols is built in place: the walk takes 12 ns instead of 19.
/// What is rare ([`read_icmp`], [`walk_extensions`]) stays out of line and returns a value of its own.
#[inline(always)]
fn transport(
    packet: &[u8],
    at: usize,
    protocol: u8,
    family: Family,
    fragment: Option<Fragment>,
) -> Result<Transport, ParseError> {
    if fragment.is_some_and(|fragment| fragment.offset != 0) {
        return Ok(Transport::LaterFragment);
    }
    let segment = &packet[at..];
    let read = match (IpNextHeaderProtocol(protocol), family) {
        (next_header::Tcp, _) => read_tcp(segment),
        (next_header::Udp, _) => read_udp(segment, fragment.is_some()),
        (next_header::Sctp, _) => read_sctp(segment),
        (next_header::Icmp, Family::V4) => read_icmp(packet, at, Family::V4).map(Transport::Icmp),
        (next_header::Icmpv6, Family::V6) => read_icmp(packet, at, Family::V6).map(Transport::Icmp),
        _ => Ok(Transport::Other),
    };
    match read {
        // The rest of the header is in a later fragment.
        Err(ParseError::Truncated { .. }) if fragment.is_some() => Ok(Transport::LaterFragment),
        read => read,
    }
}

#[inline]
fn read_tcp(segment: &[u8]) -> Result<Transport, ParseError> {
    let Some(header) = segment.first_chunk::<{ tcp::MIN_HEADER_LEN }>() else {
        return Err(truncated(Layer::Tcp, tcp::MIN_HEADER_LEN, segment.len()));
    };
    let header_len = header[tcp::DATA_OFFSET] >> 4 << 2;
    let need = usize::from(header_len);
    if need < tcp::MIN_HEADER_LEN {
        return Err(too_small(Layer::Tcp, "data offset", tcp::MIN_HEADER_LEN, need));
    }
    if need > segment.len() {
        return Err(truncated(Layer::Tcp, need, segment.len()));
    }
    Ok(Transport::Tcp {
        sport: u16_at(header, tcp::SRC_PORT),
        dport: u16_at(header, tcp::DST_PORT),
        flags: TcpFlags::from_bits_truncate(header[tcp::FLAGS]),
        seq: u32_at(header, tcp::SEQ),
        ack: u32_at(header, tcp::ACK),
        header_len,
    })
}

#[inline]
fn read_udp(segment: &[u8], is_fragment: bool) -> Result<Transport, ParseError> {
    let Some(header) = segment.first_chunk::<{ udp::HEADER_LEN }>() else {
        return Err(truncated(Layer::Udp, udp::HEADER_LEN, segment.len()));
    };
    let len = usize::from(u16_at(header, udp::LENGTH));
    if len < udp::HEADER_LEN {
        return Err(too_small(Layer::Udp, "length", udp::HEADER_LEN, len));
    }
    if len > segment.len() && !is_fragment {
        return Err(truncated(Layer::Udp, len, segment.len()));
    }
    Ok(Transport::Udp {
        sport: u16_at(header, udp::SRC_PORT),
        dport: u16_at(header, udp::DST_PORT),
        no_checksum: u16_at(header, udp::CHECKSUM) == 0,
    })
}

#[inline]
fn read_sctp(segment: &[u8]) -> Result<Transport, ParseError> {
    let Some(header) = segment.first_chunk::<{ sctp::HEADER_LEN }>() else {
        return Err(truncated(Layer::Sctp, sctp::HEADER_LEN, segment.len()));
    };
    Ok(Transport::Sctp {
        sport: u16_at(header, sctp::SRC_PORT),
        dport: u16_at(header, sctp::DST_PORT),
        chunk: segment.get(sctp::HEADER_LEN).copied(),
        second: sctp::second_chunk(segment),
    })
}

#[inline(never)]
fn read_icmp(packet: &[u8], at: usize, family: Family) -> Result<Icmp, ParseError> {
    let message = &packet[at..];
    let Some(header) = message.first_chunk::<ICMP_HEADER_LEN>() else {
        let layer = if family == Family::V4 { Layer::Icmp } else { Layer::Icmpv6 };
        return Err(truncated(layer, ICMP_HEADER_LEN, message.len()));
    };
    let quote = at + ICMP_HEADER_LEN;
    let body = match family {
        Family::V4 => match IcmpType(header[0]) {
            IcmpTypes::DestinationUnreachable | IcmpTypes::SourceQuench | IcmpTypes::TimeExceeded => {
                read_ipv4_quote(packet, quote).map_or(IcmpBody::BadQuote, IcmpBody::Error)
            }
            IcmpTypes::EchoRequest => IcmpBody::EchoRequest,
            _ => IcmpBody::Other,
        },
        Family::V6 => match Icmpv6Type(header[0]) {
            // RFC 4443 section 2.1: errors have the highest bit clear. 0 is not assigned.
            Icmpv6Type(1..=127) => read_ipv6_quote(packet, quote).map_or(IcmpBody::BadQuote, IcmpBody::Error),
            Icmpv6Types::EchoRequest => IcmpBody::EchoRequest,
            _ => IcmpBody::Other,
        },
    };
    Ok(Icmp { kind: header[0], code: header[1], rest: u32_at(header, 4), body })
}

/// Reads an IP packet that is quoted at `at` within `packet`, as far as it is there: one inside the quoted outer
/// packet of a tunnel, for instance. `None` when its header is not whole.
pub fn parse_quoted(packet: &[u8], at: usize) -> Option<Quoted> {
    match packet.get(at)? >> 4 {
        4 => read_ipv4_quote(packet, at),
        6 => read_ipv6_quote(packet, at),
        _ => None,
    }
}

/// Reads the IPv4 packet quoted at `at`. Its checksum and total length are not looked at: routers change them.
fn read_ipv4_quote(packet: &[u8], at: usize) -> Option<Quoted> {
    let quote = &packet[at..];
    let header = quote.first_chunk::<{ ipv4::MIN_HEADER_LEN }>()?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || header_len < ipv4::MIN_HEADER_LEN || header_len > quote.len() {
        return None;
    }
    let word = u16_at(header, ipv4::FLAGS);
    let later_fragment = word & ipv4::OFFSET_MASK != 0;
    let protocol = header[ipv4::PROTOCOL];
    let l4 = at + header_len;
    Some(Quoted {
        offset: at as u16,
        l4_offset: l4 as u16,
        src: ipv4_at(header, ipv4::SRC),
        dst: ipv4_at(header, ipv4::DST),
        protocol,
        ports: if later_fragment { None } else { quoted_ports(packet, l4, protocol) },
        later_fragment,
        dont_fragment: word & ipv4::DONT_FRAGMENT != 0,
    })
}

/// Reads the IPv6 packet quoted at `at`. When its extension chain is cut, `protocol` is the header it is cut at.
fn read_ipv6_quote(packet: &[u8], at: usize) -> Option<Quoted> {
    let header = packet[at..].first_chunk::<{ ipv6::HEADER_LEN }>()?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let chain = walk_extensions(packet, at, header[ipv6::NEXT_HEADER]).ok()?;
    let ports = match chain.end {
        ChainEnd::Transport => quoted_ports(packet, chain.at, chain.next),
        ChainEnd::Truncated { .. } | ChainEnd::LaterFragment | ChainEnd::OnTheWay => None,
    };
    Some(Quoted {
        offset: at as u16,
        l4_offset: chain.at as u16,
        src: ipv6_at(header, ipv6::SRC),
        dst: ipv6_at(header, ipv6::DST),
        protocol: chain.next,
        ports,
        later_fragment: matches!(chain.end, ChainEnd::LaterFragment),
        dont_fragment: false,
    })
}

/// The ports at `at`, which TCP, UDP and SCTP all have in their first four bytes.
fn quoted_ports(packet: &[u8], at: usize, protocol: u8) -> Option<(u16, u16)> {
    lvs_sched::Protocol::from_number(protocol)?;
    let ports = packet.get(at..)?.first_chunk::<4>()?;
    Some((u16_at(ports, 0), u16_at(ports, 2)))
}

/// What the walk over IPv6 extension headers came to.
struct Chain {
    /// The header that was not walked over.
    next: u8,
    /// Where it starts, in bytes from the start of `packet`.
    at: usize,
    /// Present when there was a fragment header that is not atomic.
    fragment: Option<Fragment>,
    /// Why the walk ended.
    end: ChainEnd,
}

enum ChainEnd {
    /// At a header that is no extension header.
    Transport,
    /// The bytes end inside an extension header.
    Truncated { need: usize, have: usize },
    /// Behind a fragment header with an offset.
    LaterFragment,
    /// At a routing header with segments left: the destination is not the last one.
    OnTheWay,
}

/// Whether the walk continues over this header.
#[inline]
const fn is_extension(next: u8) -> bool {
    matches!(
        IpNextHeaderProtocol(next),
        next_header::Hopopt
            | next_header::Ipv6Route
            | next_header::Ipv6Frag
            | next_header::Ah
            | next_header::Ipv6Opts
    )
}

/// Walks from the first extension header of the IPv6 header at `ip` to the transport header (RFC 8200 section 4).
#[inline(never)]
fn walk_extensions(packet: &[u8], ip: usize, first: u8) -> Result<Chain, ParseError> {
    let start = ip + ipv6::HEADER_LEN;
    let (mut next, mut at, mut fragment) = (first, start, None);
    let (mut count, mut fragment_header_seen) = (0, false);
    loop {
        let done = |end| Ok(Chain { next, at, fragment, end });
        if !is_extension(next) {
            return done(ChainEnd::Transport);
        }
        count += 1;
        let header = packet.get(at..).unwrap_or_default();
        let Some(fixed) = header.first_chunk::<8>() else {
            return done(ChainEnd::Truncated { need: 8, have: header.len() });
        };
        let units = usize::from(fixed[1]);
        let len = match IpNextHeaderProtocol(next) {
            next_header::Hopopt if at != start => {
                return Err(ParseError::HopByHopNotFirst { at: at - ip });
            }
            next_header::Ipv6Route => {
                if fixed[2] == 0 {
                    return Err(ParseError::SourceRoute { layer: Layer::Ipv6Extension });
                }
                if fixed[3] != 0 {
                    return done(ChainEnd::OnTheWay);
                }
                (units + 1) * 8
            }
            next_header::Ipv6Frag => {
                if fragment_header_seen {
                    return Err(ParseError::SecondFragmentHeader { at: at - ip });
                }
                fragment_header_seen = true;
                let word = u16_at(fixed, 2);
                let (offset, more) = (word & ipv6::OFFSET_MASK, word & ipv6::MORE_FRAGMENTS != 0);
                if offset != 0 || more {
                    fragment = Some(Fragment { id: u32_at(fixed, 4), offset, more, header: at as u16 });
                }
                ipv6::FRAGMENT_LEN
            }
            // RFC 4302 section 2.2: in words of 4 bytes, minus 2.
            next_header::Ah => (units + 2) * 4,
            _ => (units + 1) * 8,
        };
        if count > MAX_EXTENSION_HEADERS || at + len - start > MAX_EXTENSION_BYTES {
            return Err(ParseError::TooManyExtensions { headers: count, bytes: at + len - start });
        }
        if len > header.len() {
            return Ok(Chain {
                next,
                at,
                fragment,
                end: ChainEnd::Truncated { need: len, have: header.len() },
            });
        }
        (next, at) = (fixed[0], at + len);
        if fragment.is_some_and(|fragment| fragment.offset != 0) {
            return Ok(Chain { next, at, fragment, end: ChainEnd::LaterFragment });
        }
    }
}

/// Looks for source routes (RFC 791) in the options behind the fixed part of `header`.
#[cold]
fn scan_ipv4_options(header: &[u8]) -> Result<(), ParseError> {
    let mut at = ipv4::MIN_HEADER_LEN;
    while let Some(&kind) = header.get(at) {
        match kind {
            ipv4::OPTION_END => break,
            ipv4::OPTION_NOP => at += 1,
            ipv4::OPTION_LOOSE_ROUTE | ipv4::OPTION_STRICT_ROUTE => {
                return Err(ParseError::SourceRoute { layer: Layer::Ipv4 });
            }
            _ => {
                // An option type that is the last byte has no length; 0 says so.
                let len = header.get(at + 1).map_or(0, |&len| usize::from(len));
                let most = header.len() - at;
                if !(2..=most).contains(&len) {
                    return Err(ParseError::BadOption { layer: Layer::Ipv4, at, len, most });
                }
                at += len;
            }
        }
    }
    Ok(())
}

/// Whether the words of an IPv4 header, checksum included, sum up to all ones; `header` is a multiple of 4 long.
///
/// The one's-complement sum is the same in any byte order (RFC 1071 section 2), so native words do.
#[inline]
fn header_sum_is_right(header: &[u8]) -> bool {
    let (words, _) = header.as_chunks::<4>();
    let sum = words.iter().fold(0u64, |sum, word| sum + u64::from(u32::from_ne_bytes(*word)));
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    sum == 0xffff
}

#[inline]
fn u16_at<const N: usize>(bytes: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[inline]
fn u32_at<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[inline]
fn ipv4_at(header: &[u8; ipv4::MIN_HEADER_LEN], at: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(u32_at(header, at)))
}

#[inline]
fn ipv6_at(header: &[u8; ipv6::HEADER_LEN], at: usize) -> IpAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&header[at..at + 16]);
    IpAddr::V6(Ipv6Addr::from_octets(octets))
}

#[cold]
fn truncated(layer: Layer, need: usize, have: usize) -> ParseError {
    ParseError::Truncated { layer, need, have }
}

#[cold]
fn too_small(layer: Layer, field: &'static str, least: usize, is: usize) -> ParseError {
    ParseError::TooSmall { layer, field, least, is }
}

#[cold]
fn bad_header_checksum(header: &[u8]) -> ParseError {
    let is = u16::from_be_bytes([header[ipv4::CHECKSUM], header[ipv4::CHECKSUM + 1]]);
    ParseError::BadHeaderChecksum { is, right: ipv4_header_checksum(header) }
}

#[cfg(test)]
mod tests;
