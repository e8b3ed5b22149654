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
        let expected =
            (options == "fe08755401020304").then(|| Endpoint::new(Ipv4Addr::new(1, 2, 3, 4).into(), 0x7554));
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
    let mut bytes = hex("600000000000064020010db8000c0000000000000000000920010db8000900000000000000000001");
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
        transport: Transport::Tcp { sport: 1, dport: 2, flags: TcpFlags::ACK, seq: 0, ack: 0, header_len },
    }
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
}
