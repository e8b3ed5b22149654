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

use crate::wire::{ChecksumState, NoRoom, Packet, Parsed, Transport};

/// Length of the option for an IPv4 client in bytes.
pub const IPV4_OPTION_LEN: usize = 8;
/// Length of the option for an IPv6 client in bytes.
pub const IPV6_OPTION_LEN: usize = 20;

const KIND_END: u8 = 0;
const KIND_NOP: u8 = 1;
const KIND_TIMESTAMP: u8 = 8;
const TIMESTAMP_LEN: usize = 10;
const KIND_TOA: u8 = 254;
const KIND_TOA_IPV6_OLD: u8 = 253;
const TCP_HEADER_LEN: usize = 20;
const MAX_TCP_HEADER_LEN: usize = 60;
/// Where the TCP header keeps its own length (in words, upper half of the byte).
const TCP_DATA_OFFSET: usize = 12;
const TCP_CHECKSUM: usize = 16;

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
    let have = MAX_TCP_HEADER_LEN - header_len;
    if have < need {
        return Err(Refused::OptionSpace { need, have });
    }
    let on_link = packet.meta.gso.map_or(len, |gso| l4 + header_len + usize::from(gso.size)) + need;
    if on_link > mtu {
        return Err(Refused::TooBig { len: on_link, mtu });
    }
    // The largest packet whose length field, payload only in IPv6, can say its length.
    let longest = if parsed.is_ipv4() { 65_535 } else { 40 + 65_535 };
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
    let at = l4 + TCP_HEADER_LEN;
    bytes.copy_within(at..len, at + need);
    bytes[at..at + need].copy_from_slice(option);
    let mut sum = Sum::default();
    // The length of the segment is part of the pseudo header.
    sum.add(&((len + need - l4) as u32).to_be_bytes());
    sum.subtract(&((len - l4) as u32).to_be_bytes());
    if !is_partial {
        let words = l4 + TCP_DATA_OFFSET..l4 + TCP_DATA_OFFSET + 2;
        sum.subtract(&bytes[words.clone()]);
        bytes[l4 + TCP_DATA_OFFSET] += (need as u8 / 4) << 4;
        sum.add(&bytes[words]);
        // All that moved, moved by an even number of bytes: its sum is the same.
        sum.add(option);
    } else {
        bytes[l4 + TCP_DATA_OFFSET] += (need as u8 / 4) << 4;
    }
    update_checksum(&mut bytes[l4..], sum, is_partial);

    if parsed.is_ipv4() {
        bytes[2..4].copy_from_slice(&((len + need) as u16).to_be_bytes());
        bytes[10..12].fill(0);
        let checksum = internet_checksum::checksum(&bytes[..l4]);
        bytes[10..12].copy_from_slice(&checksum);
    } else {
        bytes[4..6].copy_from_slice(&((len + need - 40) as u16).to_be_bytes());
    }
    Ok(need)
}

/// Reads the client from the first TOA option of a TCP segment; both kinds are understood for IPv6.
pub fn find(segment: &[u8]) -> Option<Endpoint> {
    options(segment).find_map(|(at, kind, len)| {
        let data = &segment[at + 2..at + len];
        let (port, addr) = data.split_first_chunk::<2>()?;
        let addr = match (kind, len) {
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
    let mut before = [0u8; MAX_TCP_HEADER_LEN];
    before[..header_len].copy_from_slice(&segment[..header_len]);
    let mut found = false;
    for (at, kind, option_len) in options(&before[..header_len]) {
        if kind == KIND_TIMESTAMP && option_len == TIMESTAMP_LEN {
            segment[at..at + option_len].fill(KIND_NOP);
            found = true;
        }
    }
    if found && !is_partial {
        let mut sum = Sum::default();
        sum.subtract(&before[TCP_HEADER_LEN..header_len]);
        sum.add(&segment[TCP_HEADER_LEN..header_len]);
        update_checksum(segment, sum, false);
    }
    found
}

/// Where the TCP header starts, its length, and where the packet ends; all inside the packet.
fn tcp_segment(packet: &Packet<'_>, parsed: &Parsed) -> Result<(usize, usize, usize), Refused> {
    let Transport::Tcp { header_len, .. } = parsed.transport else {
        return Err(Refused::NotTcp);
    };
    let (l4, header_len, len) = (usize::from(parsed.l4), usize::from(header_len), parsed.len as usize);
    let is_sound = (TCP_HEADER_LEN..=MAX_TCP_HEADER_LEN).contains(&header_len)
        && header_len.is_multiple_of(4)
        && l4 >= 20
        && l4 + header_len <= len
        && len <= packet.len()
        && packet.bytes()[l4 + TCP_DATA_OFFSET] >> 4 == (header_len / 4) as u8;
    if is_sound { Ok((l4, header_len, len)) } else { Err(Refused::NotTcp) }
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

/// The options of a TCP segment: where each starts in the segment, its kind, its length (2 or more). Single-byte
/// options are passed over; a length that cannot be ends the list.
fn options(segment: &[u8]) -> impl Iterator<Item = (usize, u8, usize)> {
    let header_len = segment.get(TCP_DATA_OFFSET).map_or(0, |byte| usize::from(byte >> 4) * 4);
    let header = &segment[..header_len.min(segment.len())];
    let mut at = TCP_HEADER_LEN;
    core::iter::from_fn(move || {
        while header.get(at) == Some(&KIND_NOP) {
            at += 1;
        }
        let kind = *header.get(at)?;
        let len = usize::from(*header.get(at + 1)?);
        if kind == KIND_END || len < 2 || at + len > header.len() {
            return None;
        }
        at += len;
        Some((at - len, kind, len))
    })
}

/// What a checksum changes by: words added and words taken away, in ones' complement.
#[derive(Default)]
struct Sum(u64);

impl Sum {
    fn add(&mut self, words: &[u8]) {
        for word in words.chunks_exact(2) {
            self.0 += u64::from(u16::from_be_bytes([word[0], word[1]]));
        }
    }

    fn subtract(&mut self, words: &[u8]) {
        for word in words.chunks_exact(2) {
            self.0 += u64::from(!u16::from_be_bytes([word[0], word[1]]));
        }
    }

    fn folded(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        sum as u16
    }
}

/// Updates the TCP checksum by a change of the words below it (RFC 1624 equation 3). A partial one is the sum itself,
/// a complete one its complement.
fn update_checksum(segment: &mut [u8], mut change: Sum, is_partial: bool) {
    let field = [segment[TCP_CHECKSUM], segment[TCP_CHECKSUM + 1]];
    let updated = if is_partial {
        change.add(&field);
        change.folded()
    } else {
        change.subtract(&field);
        !change.folded()
    };
    segment[TCP_CHECKSUM..TCP_CHECKSUM + 2].copy_from_slice(&updated.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::wire::{Fragment, Gso, Meta, TcpFlags};

    const SYN: &str = "4500003c110e40003f06728aac1000090a00020b75541f900000000100000000a002faf0fc1d0000\
                       020405b40402080a000003e80000000001030307";
    const ACK: &str = "45000028100e00004006b49fac1000090a090001908900500000004d000000585010faf06d420000";

    #[test]
    fn ipv4_client_stands_directly_behind_the_base_header() {
        let (packet, inserted) = with_option(&hex(SYN), client4(), 1500);
        assert_eq!(inserted, Ok(8));
        assert_eq!(packet[..4], hex("45000044"));
        assert_eq!(packet[20..36], hex("75541f900000000100000000c002faf0"));
        assert_eq!(packet[40..], hex("fe087554ac100009020405b40402080a000003e80000000001030307"));
        assert_valid(&packet);
        assert_eq!(find(&packet[20..]), Some(client4()));
    }

    #[test]
    fn ipv6_client_takes_20_bytes_under_either_kind() {
        for (kind, byte) in [(Ipv6Kind::Kind254, 254), (Ipv6Kind::Kind253, 253)] {
            let bytes = v6_segment(&hex(SYN)[20..]);
            let mut buffer = [0u8; 256];
            let mut packet = in_buffer(&mut buffer, &bytes);
            assert_eq!(insert(&mut packet, &parsed(&bytes), client6(), kind, 1500), Ok(20));
            let bytes = packet.bytes();
            assert_eq!(bytes[4..6], [0, 60]);
            assert_eq!(bytes[52], 0xf0);
            assert_eq!(bytes[60..64], [byte, 20, 0x75, 0x54]);
            assert_eq!(bytes[64..80], hex("20010db8000c00000000000000000009"));
            assert_valid(bytes);
            assert_eq!(find(&bytes[40..]), Some(client6()));
        }
    }

    #[test]
    fn payload_moves_and_link_padding_goes() {
        let mut segment = hex(ACK);
        segment[3] = 43;
        segment.extend_from_slice(b"abc");
        repair(&mut segment);
        segment.extend_from_slice(&[0; 3]);
        let (packet, inserted) = with_option(&segment, client4(), 51);
        assert_eq!((inserted, packet.len()), (Ok(8), 51));
        assert_eq!(&packet[48..], b"abc");
        assert_valid(&packet);
    }

    #[test]
    fn wrong_checksum_stays_wrong_by_as_much() {
        let mut segment = hex(ACK);
        segment[37] ^= 0x10;
        let (packet, inserted) = with_option(&segment, client4(), 1500);
        assert_eq!(inserted, Ok(8));
        let mut right = with_option(&hex(ACK), client4(), 1500).0;
        right[37] ^= 0x10;
        assert_ne!(tcp_sum(&packet), [0, 0]);
        assert_eq!(packet, right);
    }

    #[test]
    fn partial_checksum_covers_the_new_length() {
        let mut bytes = hex(ACK);
        let pseudo = pseudo_sum(&bytes);
        bytes[36..38].copy_from_slice(&pseudo);
        let mut buffer = [0u8; 256];
        let mut packet = in_buffer(&mut buffer, &bytes);
        let checksum = ChecksumState::Partial { start: 20, offset: 16 };
        packet.meta.checksum = checksum;
        assert_eq!(insert(&mut packet, &parsed(&bytes), client4(), Ipv6Kind::Kind254, 1500), Ok(8));
        assert_eq!(packet.bytes()[36..38], pseudo_sum(packet.bytes()));
        assert_eq!(packet.meta.checksum, checksum);
    }

    #[test]
    fn packet_for_segmentation_counts_each_segment_against_the_mtu() {
        let mut bytes = hex(ACK);
        bytes.resize(4000, 7);
        bytes[2..4].copy_from_slice(&4000u16.to_be_bytes());
        repair(&mut bytes);
        let mut buffer = vec![0u8; 4100];
        let mut packet = in_buffer(&mut buffer, &bytes);
        let gso = Gso { kind: 1, size: 1460, header_len: 40 };
        packet.meta = Meta { gso: Some(gso), ..Meta::default() };
        let too_big = Err(Refused::TooBig { len: 1508, mtu: 1500 });
        assert_eq!(insert(&mut packet, &parsed(&bytes), client4(), Ipv6Kind::Kind254, 1500), too_big);
        packet.meta.gso = Some(Gso { size: 1448, ..gso });
        assert_eq!(insert(&mut packet, &parsed(&bytes), client4(), Ipv6Kind::Kind254, 1500), Ok(8));
        assert_eq!(packet.meta.gso, Some(Gso { kind: 1, size: 1448, header_len: 48 }));
        assert_valid(packet.bytes());
    }

    #[test]
    fn refusals_name_their_reason_and_change_nothing() {
        let mut full = hex(SYN);
        full.splice(60..60, hex("010101010101010101010101010101010101"));
        full.truncate(60 + 16);
        full[3] = 76;
        full[32] = 0xe0;
        repair(&mut full);
        let cases: [(&[u8], Endpoint, usize, Refused); 3] = [
            (&full, client4(), 1500, Refused::OptionSpace { need: 8, have: 4 }),
            (&v6_segment(&full[20..]), client6(), 1500, Refused::OptionSpace { need: 20, have: 4 }),
            (&hex(SYN), client4(), 67, Refused::TooBig { len: 68, mtu: 67 }),
        ];
        for (bytes, client, mtu, reason) in cases {
            assert_eq!(with_option(bytes, client, mtu), (bytes.to_vec(), Err(reason)));
        }

        let bytes = hex(SYN);
        let mut tight = bytes.clone();
        tight.extend_from_slice(&[0; 7]);
        let mut packet = Packet::new(&mut tight, 0, 60).unwrap();
        let refused = insert(&mut packet, &parsed(&bytes), client4(), Ipv6Kind::Kind254, 1500);
        assert_eq!(refused, Err(Refused::NoRoom(NoRoom { need: 8, have: 7, place: "behind" })));
        assert_eq!(packet.bytes(), bytes);

        let mut buffer = [0u8; 256];
        let mut packet = in_buffer(&mut buffer, &bytes);
        let fragment = Some(Fragment { id: 1, offset: 0, more: true, header: 0 });
        for (parsed, reason) in [
            (Parsed { fragment, ..parsed(&bytes) }, Refused::Fragment),
            (Parsed { transport: Transport::Other, ..parsed(&bytes) }, Refused::NotTcp),
            (Parsed { len: 200, ..parsed(&bytes) }, Refused::NotTcp),
            (Parsed { l4: 30, ..parsed(&bytes) }, Refused::NotTcp),
        ] {
            assert_eq!(insert(&mut packet, &parsed, client4(), Ipv6Kind::Kind254, 1500), Err(reason));
            assert_eq!(packet.bytes(), bytes);
        }
    }

    #[test]
    fn timestamp_becomes_no_operations() {
        let bytes = hex(SYN);
        let mut buffer = [0u8; 256];
        let mut packet = in_buffer(&mut buffer, &bytes);
        assert!(blank_timestamp(&mut packet, &parsed(&bytes)));
        assert_eq!(packet.bytes()[40..], hex("020405b404020101010101010101010101030307"));
        assert_valid(packet.bytes());
        assert!(!blank_timestamp(&mut packet, &parsed(&bytes)));
    }

    #[test]
    fn timestamp_at_an_odd_place_keeps_the_checksum_right() {
        let mut bytes = hex(ACK);
        bytes.extend(hex("01080a000003e80000000001"));
        bytes[3] = 52;
        bytes[32] = 0x80;
        repair(&mut bytes);
        let mut buffer = [0u8; 256];
        let mut packet = in_buffer(&mut buffer, &bytes);
        assert!(blank_timestamp(&mut packet, &parsed(&bytes)));
        assert_eq!(packet.bytes()[40..], [1; 12]);
        assert_valid(packet.bytes());
    }

    #[test]
    fn partial_checksum_is_not_touched_by_blanking() {
        let bytes = hex(SYN);
        let mut buffer = [0u8; 256];
        let mut packet = in_buffer(&mut buffer, &bytes);
        packet.meta.checksum = ChecksumState::Partial { start: 20, offset: 16 };
        assert!(blank_timestamp(&mut packet, &parsed(&bytes)));
        assert_eq!(packet.bytes()[36..38], bytes[36..38]);
    }

    #[test]
    fn segments_without_the_option_have_none() {
        assert_eq!(find(&hex(SYN)[20..]), None);
        assert_eq!(find(&[]), None);
        // Cut off, of another length, behind the end of the list.
        for options in ["fe08755401020304", "fe0a755401020304", "fe06755401020304", "0008755401020304"] {
            let mut segment = hex(ACK)[20..].to_vec();
            segment[12] = 0x70;
            segment.extend(hex(options));
            let expected = (options == "fe08755401020304")
                .then(|| Endpoint::new(Ipv4Addr::new(1, 2, 3, 4).into(), 0x7554));
            assert_eq!(find(&segment), expected, "{options}");
            segment.pop();
            assert_eq!(find(&segment), None);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn checksums_are_right_after_every_insertion(
            payload in prop::collection::vec(any::<u8>(), 0..200), words in 0usize..=10,
            options in prop::collection::vec(any::<u8>(), 40), is_v6: bool, tells_v6: bool, port: u16, timestamp: bool,
        ) {
            let mut bytes = hex(ACK);
            if timestamp && words >= 3 {
                bytes.extend(hex("080a000003e8000000010101"));
                bytes.extend_from_slice(&options[12..words * 4]);
            } else {
                bytes.extend_from_slice(&options[..words * 4]);
            }
            bytes[32] = ((5 + words) << 4) as u8;
            bytes.extend_from_slice(&payload);
            let total = bytes.len() as u16;
            bytes[2..4].copy_from_slice(&total.to_be_bytes());
            repair(&mut bytes);
            if is_v6 {
                bytes = v6_segment(&bytes[20..]);
            }
            let client = Endpoint { port, ..if tells_v6 { client6() } else { client4() } };
            let mut buffer = [0u8; 512];
            let mut packet = in_buffer(&mut buffer, &bytes);
            let blanked = blank_timestamp(&mut packet, &parsed(&bytes));
            prop_assert!(blanked || !timestamp || words < 3);
            assert_valid(packet.bytes());
            let need = if tells_v6 { 20 } else { 8 };
            let inserted = insert(&mut packet, &parsed(&bytes), client, Ipv6Kind::Kind254, 1500);
            prop_assert_eq!(inserted.ok(), (40 - words * 4 >= need).then_some(need));
            assert_valid(packet.bytes());
            if inserted.is_ok() {
                let l4 = if is_v6 { 40 } else { 20 };
                prop_assert_eq!(find(&packet.bytes()[l4..]), Some(client));
                prop_assert!(packet.bytes().ends_with(&payload));
            }
        }

        #[test]
        fn finding_never_panics(segment in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = find(&segment);
        }
    }

    fn client4() -> Endpoint {
        "172.16.0.9:30036".parse().unwrap()
    }

    fn client6() -> Endpoint {
        "[2001:db8:c::9]:30036".parse().unwrap()
    }

    fn with_option(bytes: &[u8], client: Endpoint, mtu: usize) -> (Vec<u8>, Result<usize, Refused>) {
        let mut buffer = [0u8; 256];
        let mut packet = in_buffer(&mut buffer, bytes);
        let inserted = insert(&mut packet, &parsed(bytes), client, Ipv6Kind::Kind254, mtu);
        (packet.bytes().to_vec(), inserted)
    }

    fn in_buffer<'a>(buffer: &'a mut [u8], bytes: &[u8]) -> Packet<'a> {
        buffer[16..16 + bytes.len()].copy_from_slice(bytes);
        Packet::new(buffer, 16, 16 + bytes.len()).unwrap()
    }

    /// The segment in an IPv6 packet, with its checksum.
    fn v6_segment(segment: &[u8]) -> Vec<u8> {
        let mut bytes =
            hex("600000000000064020010db8000c0000000000000000000920010db8000900000000000000000001");
        bytes[4..6].copy_from_slice(&(segment.len() as u16).to_be_bytes());
        bytes.extend_from_slice(segment);
        repair(&mut bytes);
        bytes
    }

    /// Writes both checksums.
    fn repair(bytes: &mut [u8]) {
        let l4 = usize::from(parsed(bytes).l4);
        bytes[l4 + 16..l4 + 18].fill(0);
        let checksum = tcp_sum(bytes);
        bytes[l4 + 16..l4 + 18].copy_from_slice(&checksum);
        if l4 == 20 {
            bytes[10..12].fill(0);
            let checksum = internet_checksum::checksum(&bytes[..20]);
            bytes[10..12].copy_from_slice(&checksum);
        }
    }

    #[track_caller]
    fn assert_valid(bytes: &[u8]) {
        assert_eq!(tcp_sum(bytes), [0, 0], "TCP checksum");
        if bytes[0] >> 4 == 4 {
            assert_eq!(internet_checksum::checksum(&bytes[..20]), [0, 0], "header checksum");
        }
        assert_eq!(parsed(bytes).len as usize, bytes.len(), "length field");
    }

    /// The full sum over pseudo header and segment: zero when the checksum is right.
    fn tcp_sum(bytes: &[u8]) -> [u8; 2] {
        let mut sum = internet_checksum::Checksum::new();
        let parsed = parsed(bytes);
        sum.add_bytes(&pseudo_sum(bytes));
        sum.add_bytes(&bytes[usize::from(parsed.l4)..parsed.len as usize]);
        sum.checksum()
    }

    /// The folded sum of the pseudo header.
    fn pseudo_sum(bytes: &[u8]) -> [u8; 2] {
        let parsed = parsed(bytes);
        let addresses = if parsed.is_ipv4() { &bytes[12..20] } else { &bytes[8..40] };
        let mut sum = internet_checksum::Checksum::new();
        sum.add_bytes(addresses);
        sum.add_bytes(&[0, 6]);
        sum.add_bytes(&(parsed.len - u32::from(parsed.l4)).to_be_bytes());
        sum.checksum().map(|byte| !byte)
    }

    /// Reads a TCP packet without IP options or extension headers.
    fn parsed(bytes: &[u8]) -> Parsed {
        let be16 = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let (l4, len, addr): (u16, u32, IpAddr) = if bytes[0] >> 4 == 4 {
            (20, u32::from(be16(2)), Ipv4Addr::LOCALHOST.into())
        } else {
            (40, 40 + u32::from(be16(4)), core::net::Ipv6Addr::LOCALHOST.into())
        };
        let header_len = (bytes[usize::from(l4) + 12] >> 4) * 4;
        Parsed {
            src: addr,
            dst: addr,
            protocol: 6,
            tos: 0,
            ttl: 64,
            dont_fragment: false,
            len,
            l4,
            fragment: None,
            transport: Transport::Tcp {
                sport: 1,
                dport: 2,
                flags: TcpFlags::ACK,
                seq: 0,
                ack: 0,
                header_len,
            },
        }
    }

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
    }
}
