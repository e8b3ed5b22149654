//! TOA: the client's address as a TCP option, for servers that FULLNAT hides it from.
//!
//! The option goes directly behind the 20 bytes of the TCP base header, in front of the segment's own options, into
//! the SYN and the first segment with data. Layout, in bytes:
//!
//! | kind | length | | |
//! | --- | --- | --- | --- |
//! | 254 | 8 | client port (2, big endian) | IPv4 address (4) |
//! | 254, or 253 for receivers of the older module | 20 | client port (2) | IPv6 address (16) |
//!
//! 253 and 254 are the kinds for experiments (RFC 4727 section 7). Nothing here decides when an option is due; the
//! values in [`Parsed`] that speak of lengths are out of date after an insertion.

use core::net::IpAddr;

use lvs_sched::Endpoint;

use crate::wire::checksum::{self, ipv4_header_checksum};
use crate::wire::tcp::{self, MAX_HEADER_LEN, MIN_HEADER_LEN, TcpOption};
use crate::wire::{ChecksumState, Delta, NoRoom, Packet, Parsed, Transport, ipv4, ipv6};

/// Length of the option for an IPv4 client in bytes.
pub const IPV4_OPTION_LEN: usize = 8;
/// Length of the option for an IPv6 client in bytes.
pub const IPV6_OPTION_LEN: usize = 20;

const KIND_TOA: u8 = 254;
const KIND_TOA_IPV6_OLD: u8 = 253;

/// Which option kind tells of an IPv6 client. An IPv4 client always has 254.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Ipv6Kind {
    /// 254, as DPVS sends it.
    #[default]
    Kind254,
    /// 253, as the LVS of Alibaba sends it.
    Kind253,
}

/// Why a segment stays without the option. It may be forwarded as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not TCP, or shorter than its headers say.
    #[error("not a whole TCP segment")]
    NotTcp,
    /// A fragment cannot grow: the others' offsets would be wrong.
    #[error("a fragment cannot take a TCP option")]
    Fragment,
    /// The options leave too little of the 60 bytes that a TCP header may have.
    #[error("the TCP header has {have} bytes left for options, {need} are needed")]
    OptionSpace {
        /// Bytes of the option.
        need: usize,
        /// Bytes left.
        have: usize,
    },
    /// The packet would be larger than the link takes.
    #[error("the packet would have {len} bytes, the MTU is {mtu}")]
    TooBig {
        /// Length with the option.
        len: usize,
        /// What the link takes.
        mtu: usize,
    },
    /// The buffer has no room behind the packet.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
}

/// Inserts the option that tells of `client` and returns its length in bytes, which is also how much longer the packet
/// is now.
///
/// `parsed` was read of this packet; of it only places and lengths are used, so addresses and ports may have been
/// rewritten since. Corrected are the TCP header length, the IP length, the IPv4 header checksum and the TCP checksum
/// (incrementally, RFC 1624: a wrong one stays wrong; of a partial one only the pseudo header's length). Link padding
/// behind the packet is cut off. When a device will segment the packet, `mtu` is for each segment, and each gets the
/// option.
///
/// # Errors
/// [`Refused`]; the packet is unchanged then.
///
/// # Examples
/// ```
/// use lvs_core::toa;
/// # use lvs_core::wire::{Packet, Parsed, TcpFlags, Transport};
/// # let mut buffer = [0u8; 128];
/// # buffer[0] = 0x45;
/// # buffer[3] = 40;
/// # buffer[32] = 0x50;
/// # let mut packet = Packet::new(&mut buffer, 0, 40).unwrap();
/// # let flags = TcpFlags::SYN;
/// # let parsed = Parsed {
/// #     src: "172.16.0.9".parse()?, dst: "10.9.0.1".parse()?, protocol: 6, tos: 0, ttl: 64, dont_fragment: true,
/// #     len: 40, l4: 20, fragment: None,
/// #     transport: Transport::Tcp { sport: 1, dport: 80, flags, seq: 0, ack: 0, header_len: 20 },
/// # };
/// let client = "172.16.0.9:30005".parse()?;
/// assert_eq!(toa::insert(&mut packet, &parsed, client, toa::Ipv6Kind::Kind254, 1500)?, 8);
/// assert_eq!(packet.bytes()[40..], [254, 8, 0x75, 0x35, 172, 16, 0, 9]);
/// assert_eq!(toa::find(&packet.bytes()[20..]), Some(client));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn insert(
    packet: &mut Packet<'_>,
    parsed: &Parsed,
    client: Endpoint,
    ipv6_kind: Ipv6Kind,
    mtu: usize,
) -> Result<usize, Refused> {
    let (l4, header_len, len) = tcp_segment(packet, parsed)?;
    if parsed.fragment.is_some() {
        return Err(Refused::Fragment);
    }
    let mut buffer = [0u8; IPV6_OPTION_LEN];
    let option = write_option(&mut buffer, client, ipv6_kind);
    let need = option.len();
    let have = MAX_HEADER_LEN - header_len;
    if have < need {
        return Err(Refused::OptionSpace { need, have });
    }
    let on_link = packet.meta.gso.map_or(len, |gso| l4 + header_len + usize::from(gso.size)) + need;
    if on_link > mtu {
        return Err(Refused::TooBig { len: on_link, mtu });
    }
    // The largest packet whose length field, payload only in IPv6, can say its length.
    let longest = if parsed.is_ipv4() { 65_535 } else { ipv6::HEADER_LEN + 65_535 };
    if len + need > longest {
        return Err(Refused::TooBig { len: len + need, mtu: longest });
    }
    packet.set_len(len + need)?;
    let is_partial = matches!(packet.meta.checksum, ChecksumState::Partial { .. });
    if let Some(gso) = &mut packet.meta.gso
        && gso.header_len > 0
    {
        gso.header_len = gso.header_len.saturating_add(need as u16);
    }

    let bytes = packet.bytes_mut();
    let at = l4 + MIN_HEADER_LEN;
    bytes.copy_within(at..len, at + need);
    bytes[at..at + need].copy_from_slice(option);
    let segment = &mut bytes[l4..];
    tcp::set_header_len(segment, header_len + need);
    // The length of the segment is part of the pseudo header.
    let mut delta = Delta::of_u32((len - l4) as u32, (len + need - l4) as u32);
    if !is_partial {
        // The header length is the highest 4 bits of its word. All that moved, moved by an even number of bytes: its
        // sum is the same.
        let header_len = Delta::of_word(0, (need as u16 / 4) << 12);
        delta = delta.plus(header_len).plus(Delta::of_bytes(&[], option));
    }
    update_checksum(segment, delta, is_partial);

    if parsed.is_ipv4() {
        ipv4::set_total_len(bytes, (len + need) as u16);
        let checksum = ipv4_header_checksum(&bytes[..l4]);
        ipv4::set_checksum(bytes, checksum);
    } else {
        ipv6::set_payload_len(bytes, (len + need - ipv6::HEADER_LEN) as u16);
    }
    Ok(need)
}

/// Reads the client from the first TOA option of a TCP segment; both kinds are understood for IPv6.
pub fn find(segment: &[u8]) -> Option<Endpoint> {
    options(segment).find_map(|option| {
        let [_, _, data @ ..] = &segment[option.range.clone()] else { return None };
        let (port, addr) = data.split_first_chunk::<2>()?;
        let addr = match (option.kind, option.range.len()) {
            (KIND_TOA, IPV4_OPTION_LEN) => IpAddr::from(<[u8; 4]>::try_from(addr).ok()?),
            (KIND_TOA | KIND_TOA_IPV6_OLD, IPV6_OPTION_LEN) => IpAddr::from(<[u8; 16]>::try_from(addr).ok()?),
            _ => return None,
        };
        Some(Endpoint::new(addr, u16::from_be_bytes(*port)))
    })
}

/// Overwrites the timestamp options of a TCP segment with no-operation options and returns whether there were any.
///
/// FULLNAT may do so with SYNs: clients that share a local endpoint one after the other have unrelated clocks, and a
/// server that knows the older clock drops the newer client's SYN (PAWS, RFC 7323 section 5). The length stays, the
/// checksum is updated; a partial one does not cover options. Packets that are not whole TCP headers are left alone.
pub fn blank_timestamp(packet: &mut Packet<'_>, parsed: &Parsed) -> bool {
    let Ok((l4, header_len, len)) = tcp_segment(packet, parsed) else {
        return false;
    };
    let is_partial = matches!(packet.meta.checksum, ChecksumState::Partial { .. });
    let segment = &mut packet.bytes_mut()[l4..len];
    let mut before = [0u8; MAX_HEADER_LEN];
    before[..header_len].copy_from_slice(&segment[..header_len]);
    let mut found = false;
    for option in options(&before[..header_len]) {
        if option.kind == tcp::OPTION_TIMESTAMPS && option.range.len() == tcp::OPTION_TIMESTAMPS_LEN {
            segment[option.range].fill(tcp::OPTION_NOP);
            found = true;
        }
    }
    if found && !is_partial {
        let options = MIN_HEADER_LEN..header_len;
        update_checksum(segment, Delta::of_bytes(&before[options.clone()], &segment[options]), false);
    }
    found
}

/// Where the TCP header starts, its length, and where the packet ends; all inside the packet.
fn tcp_segment(packet: &Packet<'_>, parsed: &Parsed) -> Result<(usize, usize, usize), Refused> {
    let Transport::Tcp { header_len, .. } = parsed.transport else {
        return Err(Refused::NotTcp);
    };
    let (l4, header_len, len) = (usize::from(parsed.l4), usize::from(header_len), parsed.len as usize);
    let is_sound = (MIN_HEADER_LEN..=MAX_HEADER_LEN).contains(&header_len)
        && header_len.is_multiple_of(4)
        && l4 >= ipv4::MIN_HEADER_LEN
        && l4 + header_len <= len
        && len <= packet.len()
        && tcp::header_len(&packet.bytes()[l4..]) == header_len;
    if is_sound { Ok((l4, header_len, len)) } else { Err(Refused::NotTcp) }
}

/// Overwrites the options by which a client would pass for another one: servers believe the first that they find, and
/// the director's own may have found no room. The checksum follows; a partial one does not cover options.
pub fn blank_forged(packet: &mut Packet<'_>, parsed: &Parsed) {
    let Transport::Tcp { header_len, .. } = parsed.transport else { return };
    let (l4, header_len) = (usize::from(parsed.l4), usize::from(header_len));
    if header_len == MIN_HEADER_LEN {
        return;
    }
    let partial = packet.meta.checksum != ChecksumState::Complete;
    let Some(header) = packet.bytes_mut().get_mut(l4..l4 + header_len) else { return };
    let mut before = [0; MAX_HEADER_LEN];
    let before = &mut before[..header_len];
    before.copy_from_slice(header);
    let forged =
        tcp::options(before).flatten().filter(|option| matches!(option.kind, KIND_TOA | KIND_TOA_IPV6_OLD));
    let mut found = false;
    for option in forged {
        header[option.range].fill(tcp::OPTION_NOP);
        found = true;
    }
    if found && !partial {
        let delta = Delta::of_bytes(&before[MIN_HEADER_LEN..], &header[MIN_HEADER_LEN..]);
        let field = tcp::CHECKSUM..tcp::CHECKSUM + 2;
        let sum = delta.apply(u16::from_be_bytes([header[field.start], header[field.start + 1]]));
        header[field].copy_from_slice(&sum.to_be_bytes());
    }
}

fn write_option(buffer: &mut [u8; IPV6_OPTION_LEN], client: Endpoint, ipv6_kind: Ipv6Kind) -> &[u8] {
    let option = match client.addr {
        IpAddr::V4(addr) => {
            buffer[..2].copy_from_slice(&[KIND_TOA, IPV4_OPTION_LEN as u8]);
            buffer[4..8].copy_from_slice(&addr.octets());
            &mut buffer[..IPV4_OPTION_LEN]
        }
        IpAddr::V6(addr) => {
            let kind = match ipv6_kind {
                Ipv6Kind::Kind254 => KIND_TOA,
                Ipv6Kind::Kind253 => KIND_TOA_IPV6_OLD,
            };
            buffer[..2].copy_from_slice(&[kind, IPV6_OPTION_LEN as u8]);
            buffer[4..].copy_from_slice(&addr.octets());
            &mut buffer[..]
        }
    };
    option[2..4].copy_from_slice(&client.port.to_be_bytes());
    option
}

/// The options of a TCP segment that may be cut; what is wrong ends the list.
fn options(segment: &[u8]) -> impl Iterator<Item = TcpOption> {
    let header_len = if segment.len() > tcp::DATA_OFFSET { tcp::header_len(segment) } else { 0 };
    tcp::options(&segment[..header_len.min(segment.len())]).map_while(Result::ok)
}

/// Updates the TCP checksum by a change of what it covers.
fn update_checksum(segment: &mut [u8], delta: Delta, is_partial: bool) {
    let field = checksum::field(segment, tcp::CHECKSUM);
    let updated = if is_partial { delta.apply_partial(field) } else { delta.apply(field) };
    checksum::set_field(segment, tcp::CHECKSUM, updated);
}

#[cfg(test)]
mod tests;
