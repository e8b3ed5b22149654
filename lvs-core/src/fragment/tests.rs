use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;

use lvs_sched::Instant;
use proptest::prelude::*;

use super::*;
use crate::DropReason;
use crate::wire::ipv4::MORE_FRAGMENTS;
use crate::wire::{Fragment, Parsed, Transport};

/// Protocol number of the IPv6 fragment header.
const FRAGMENT_HEADER: u8 = 44;
const T0: Instant = Instant::from_secs(100);

// Recorded from Linux 6.1.192. The payload behind the UDP header is the byte pattern 7·i or 3·i.

#[test]
fn nat_forward_datagram_is_whole_and_leaves_in_the_sizes_it_came_in() {
    let received = [
        recorded("450003fc70012000401130cdac1000090a0900017533005009cce1a6", 7, 1020),
        recorded("450003fc7001207d40113050ac1000090a090001", 7, 1020),
        recorded("45000210700100fa401151bfac1000090a090001", 7, 528),
    ];
    let mut whole = join(&received);
    assert_eq!(whole.sizes, [1020, 1020, 528]);
    assert_eq!((whole.max_size, whole.dont_fragment, whole.id), (1020, false, 0x7001));
    assert_eq!(whole.bytes.len(), 20 + 2508);
    // What LVS/NAT writes: TTL, RIP, ports, UDP checksum.
    whole.bytes[8] -= 1;
    whole.bytes[16..20].copy_from_slice(&[10, 0, 2, 11]);
    whole.bytes[22..24].copy_from_slice(&8080u16.to_be_bytes());
    whole.bytes[26..28].copy_from_slice(&[0xc0, 0x65]);
    let sent = [
        recorded("450003fc700120003f112fccac1000090a00020b75331f9009ccc065", 7, 1020),
        recorded("450003fc7001207d3f112f4fac1000090a00020b", 7, 1020),
        recorded("45000210700100fa3f1150beac1000090a00020b", 7, 528),
    ];
    assert_eq!(cut(&whole.bytes, &whole.sizes, 1500, 0).unwrap(), sent);
}

#[test]
fn nat_reply_keeps_its_unequal_sizes() {
    let received = [
        recorded("4500058c7101200040112c3c0a00020bac1000091f90753307103ef8", 3, 1420),
        recorded("450001ac710100af40114f6d0a00020bac100009", 3, 428),
    ];
    let mut whole = join(&received);
    whole.bytes[8] -= 1;
    whole.bytes[12..16].copy_from_slice(&[10, 9, 0, 1]);
    whole.bytes[20..22].copy_from_slice(&80u16.to_be_bytes());
    whole.bytes[26..28].copy_from_slice(&[0x60, 0x39]);
    let sent = [
        recorded("4500058c710120003f112f3d0a090001ac1000090050753307106039", 3, 1420),
        recorded("450001ac710100af3f11526e0a090001ac100009", 3, 428),
    ];
    assert_eq!(cut(&whole.bytes, &whole.sizes, 1500, 0).unwrap(), sent);
}

#[test]
fn dr_datagram_received_out_of_order_leaves_in_order() {
    let received = [
        recorded("45000210700200fa401151beac1000090a090001", 7, 528),
        recorded("450003fc70022000401130ccac1000090a0900017537005009cce1a2", 7, 1020),
        recorded("450003fc7002207d4011304fac1000090a090001", 7, 1020),
    ];
    let mut whole = join(&received);
    assert_eq!(whole.sizes, [1020, 1020, 528]);
    whole.bytes[8] -= 1;
    let sent = [
        recorded("450003fc700220003f1131ccac1000090a0900017537005009cce1a2", 7, 1020),
        recorded("450003fc7002207d3f11314fac1000090a090001", 7, 1020),
        recorded("45000210700200fa3f1152beac1000090a090001", 7, 528),
    ];
    assert_eq!(cut(&whole.bytes, &whole.sizes, 1500, 0).unwrap(), sent);
}

#[test]
fn tun_wraps_the_datagram_once_and_cuts_the_outer_packet() {
    let received = [
        recorded("450003fc70012000401130cdac1000090a090001753b005009cce19e", 7, 1020),
        recorded("450003fc7001207d40113050ac1000090a090001", 7, 1020),
        recorded("45000210700100fa401151bfac1000090a090001", 7, 528),
    ];
    let mut whole = join(&received);
    whole.bytes[8] -= 1;
    finish_ipv4_header(&mut whole.bytes[..20], 2528, 0);
    assert_eq!(whole.bytes[..20], hex("450009e0700100003f114be9ac1000090a090001"));
    // The outer header of IPIP with the identification the kernel took.
    let mut outer = hex("450009f45bbe00003f0400000a0002010a00020d");
    outer.extend_from_slice(&whole.bytes);

    let sent = cut(&outer, &[], usize::from(whole.max_size), 0).unwrap();

    let headers: Vec<_> = sent.iter().map(|piece| piece[..20].to_vec()).collect();
    assert_eq!(
        headers,
        [
            hex("450003fc5bbe20003f04e4320a0002010a00020d"),
            hex("450003fc5bbe207d3f04e3b50a0002010a00020d"),
            hex("450002245bbe00fa3f0405110a0002010a00020d"),
        ]
    );
    assert_eq!(sent[0][20..52], hex("450009e0700100003f114be9ac1000090a090001753b005009cce19e00070e15"));
    assert_eq!(sent[1][20..24], hex("949ba2a9"));
    assert_eq!(sent[2][20..24], hex("ecf3fa01"));
}

#[test]
fn dr_packet_of_1500_bytes_leaves_over_mtu_1400_as_recorded() {
    let mut packet = hex("450005dc111400003f06aee5ac1000090a0900017555005000000002000000055010faf09c790000");
    packet.resize(1500, 0x6e);
    let mut first = hex("45000574111420003f068f4dac1000090a0900017555005000000002000000055010faf09c790000");
    first.resize(1396, 0x6e);
    let mut second = hex("4500007c111400ac3f06b399ac1000090a090001");
    second.resize(124, 0x6e);
    assert_eq!(cut(&packet, &[], 1400, 0).unwrap(), [first, second]);
}

// Rules of the store.

#[test]
fn exact_copy_is_harmless() {
    let mut store = store();
    let (first, last) = (v4(9, 0, true, &[1; 16]), v4(9, 16, false, &[2; 5]));
    assert_eq!(give(&mut store, &first, T0), Outcome::Held);
    assert_eq!(give(&mut store, &first, T0), Outcome::Held);
    assert_eq!(store.counters().duplicates, 1);
    let Outcome::Complete(whole) = give(&mut store, &last, T0) else { panic!("both pieces were given") };
    assert_eq!(whole.bytes.len(), 20 + 21);
    assert_eq!((store.len(), store.held_bytes()), (0, 0));
}

#[test]
fn copy_with_other_bytes_is_an_overlap_and_kills_what_still_comes() {
    let mut store = store();
    assert_eq!(give(&mut store, &v4(9, 0, true, &[1; 16]), T0), Outcome::Held);
    let overlap = Outcome::Rejected(DropReason::FragmentOverlap);
    assert_eq!(give(&mut store, &v4(9, 0, true, &[3; 16]), T0), overlap);
    assert_eq!(store.take_lost(), LostFragments { overlap: 1, ..LostFragments::default() });
    assert_eq!(give(&mut store, &v4(9, 16, false, &[2; 5]), T0), overlap);
    assert_eq!(store.take_lost(), LostFragments::default());
    assert_eq!(store.held_bytes(), 0);
}

#[test]
fn partial_overlaps_on_either_side_give_the_datagram_up() {
    for second in [
        v6(7, 8, true, &[2; 16]),
        v6(7, 24, true, &[2; 16]),
        v6(7, 8, true, &[2; 40]),
        v6(7, 24, false, &[2]),
    ] {
        let mut store = store();
        assert_eq!(give(&mut store, &v6(7, 16, true, &[1; 16]), T0), Outcome::Held);
        assert_eq!(give(&mut store, &second, T0), Outcome::Rejected(DropReason::FragmentOverlap));
    }
}

#[test]
fn pieces_behind_the_end_and_two_ends_contradict() {
    for (first, second) in [
        (v4(1, 16, false, &[1; 8]), v4(1, 24, true, &[1; 8])),
        (v4(1, 16, false, &[1; 8]), v4(1, 32, false, &[1; 8])),
        (v4(1, 32, true, &[1; 8]), v4(1, 16, false, &[1; 8])),
        (v4(1, 16, false, &[1; 8]), v4(1, 16, true, &[1; 8])),
    ] {
        let mut store = store();
        assert_eq!(give(&mut store, &first, T0), Outcome::Held);
        assert_eq!(give(&mut store, &second, T0), Outcome::Rejected(DropReason::FragmentOverlap));
    }
}

#[test]
fn fragments_that_cannot_be_are_malformed() {
    let mut store = store();
    for packet in [v4(1, 0, true, &[1; 12]), v4(1, 8, false, &[]), v4(1, 65528, false, &[1; 8])] {
        assert_eq!(give(&mut store, &packet, T0), Outcome::Rejected(DropReason::Malformed));
    }
    assert!(store.is_empty());
}

#[test]
fn datagram_longer_than_its_length_field_is_given_up() {
    let mut store = FragmentStore::new(FragmentLimits { fragments: 5, ..FragmentLimits::default() }, 1);
    assert_eq!(give(&mut store, &v4(1, 0, true, &vec![1; 32768]), T0), Outcome::Held);
    // 65,535 bytes of payload and 20 of header.
    let outcome = give(&mut store, &v4(1, 32768, false, &vec![1; 32767]), T0);
    assert_eq!(outcome, Outcome::Rejected(DropReason::Malformed));
    assert_eq!(store.take_lost().overlap, 1);
    assert_eq!(store.held_bytes(), 0);
}

#[test]
fn too_many_fragments_give_the_datagram_up() {
    let mut store = FragmentStore::new(FragmentLimits { fragments: 2, ..FragmentLimits::default() }, 1);
    assert_eq!(give(&mut store, &v4(1, 0, true, &[1; 8]), T0), Outcome::Held);
    assert_eq!(give(&mut store, &v4(1, 8, true, &[1; 8]), T0), Outcome::Held);
    let limit = Outcome::Rejected(DropReason::FragmentLimit);
    assert_eq!(give(&mut store, &v4(1, 16, false, &[1; 8]), T0), limit);
    assert_eq!(store.take_lost().limit, 2);
}

#[test]
fn full_store_evicts_the_oldest_of_both_families() {
    let mut store = FragmentStore::new(FragmentLimits { datagrams: 2, ..FragmentLimits::default() }, 1);
    assert_eq!(give(&mut store, &v6(1, 0, true, &[1; 8]), T0), Outcome::Held);
    assert_eq!(give(&mut store, &v4(2, 0, true, &[1; 8]), T0), Outcome::Held);
    assert_eq!(give(&mut store, &v4(3, 0, true, &[1; 8]), T0), Outcome::Held);
    assert_eq!((store.len(), store.counters().evicted, store.take_lost().limit), (2, 1, 1));
    assert!(matches!(give(&mut store, &v4(2, 8, false, &[1; 8]), T0), Outcome::Complete(_)));
}

#[test]
fn byte_limit_holds_even_for_one_datagram() {
    let mut store = FragmentStore::new(FragmentLimits { bytes: 1000, ..FragmentLimits::default() }, 1);
    assert_eq!(give(&mut store, &v4(1, 0, true, &[1; 400]), T0), Outcome::Held);
    assert_eq!(give(&mut store, &v4(2, 0, true, &[1; 400]), T0), Outcome::Held);
    assert_eq!(give(&mut store, &v4(2, 400, true, &[1; 400]), T0), Outcome::Held);
    assert_eq!((store.counters().evicted, store.take_lost().limit), (1, 1));
    let limit = Outcome::Rejected(DropReason::FragmentLimit);
    assert_eq!(give(&mut store, &v4(2, 800, true, &[1; 400]), T0), limit);
    assert_eq!(store.take_lost().limit, 2);
    assert_eq!(give(&mut store, &v4(3, 0, true, &[1; 1000]), T0), limit);
    assert_eq!(store.held_bytes(), 0);
}

#[test]
fn incomplete_datagrams_expire_after_30_and_60_seconds() {
    let mut store = store();
    assert_eq!(give(&mut store, &v6(1, 0, true, &[1; 8]), T0), Outcome::Held);
    assert_eq!(give(&mut store, &v4(1, 0, true, &[1; 8]), T0), Outcome::Held);
    assert_eq!(give(&mut store, &v4(1, 8, true, &[1; 8]), T0 + Duration::from_secs(20)), Outcome::Held);
    assert_eq!(store.poll_timeout(), Some(T0 + Duration::from_secs(30)));
    assert_eq!(store.handle_timeout(T0 + Duration::from_secs(29)), 0);
    assert_eq!(store.handle_timeout(T0 + Duration::from_secs(30)), 2);
    assert_eq!(store.poll_timeout(), Some(T0 + Duration::from_secs(60)));
    assert_eq!(store.handle_timeout(T0 + Duration::from_secs(60)), 1);
    assert_eq!((store.poll_timeout(), store.held_bytes(), store.counters().timed_out), (None, 0, 2));
}

#[test]
fn late_fragment_does_not_join_an_expired_datagram() {
    let mut store = store();
    assert_eq!(give(&mut store, &v4(1, 0, true, &[1; 8]), T0), Outcome::Held);
    assert_eq!(give(&mut store, &v4(1, 8, false, &[1; 8]), T0 + Duration::from_secs(30)), Outcome::Held);
    assert_eq!(store.take_lost().timeout, 1);
}

#[test]
fn ipv4_protocols_do_not_mix_and_ipv6_ones_do() {
    let mut store = store();
    let mut other = v4(1, 8, false, &[1; 8]);
    other[9] = 6;
    assert_eq!(give(&mut store, &v4(1, 0, true, &[1; 8]), T0), Outcome::Held);
    assert_eq!(give(&mut store, &other, T0), Outcome::Held);
    assert_eq!(store.len(), 2);
    let mut later = v6(1, 8, false, &[1; 8]);
    later[40] = 59;
    assert_eq!(give(&mut store, &v6(1, 0, true, &[1; 8]), T0), Outcome::Held);
    assert!(matches!(give(&mut store, &later, T0), Outcome::Complete(_)));
}

#[test]
fn ipv6_fragment_header_is_gone_and_the_chain_is_mended() {
    // Hop-by-hop options in front of the fragment header.
    let mut first = hex("60000000001800402001db8000000000000000000000000120010db8000000000000000000000002");
    first[4..6].copy_from_slice(&24u16.to_be_bytes());
    first.extend(hex("2c00010400000000"));
    first.extend(hex("1100000100001234"));
    first.extend([1; 8]);
    let mut last = first.clone();
    last[50..52].copy_from_slice(&8u16.to_be_bytes());
    let mut parsed_first = parsed(&first);
    parsed_first.fragment = Some(Fragment { id: 0x1234, offset: 0, more: true, header: 48 });
    let mut parsed_last = parsed_first;
    parsed_last.fragment = Some(Fragment { id: 0x1234, offset: 8, more: false, header: 48 });

    let mut store = store();
    assert_eq!(store.insert(&parsed_last, &last, 5, T0), Outcome::Held);
    let Outcome::Complete(whole) = store.insert(&parsed_first, &first, 6, T0) else {
        panic!("both were given")
    };

    assert_eq!(whole.bytes[4..6], 24u16.to_be_bytes());
    assert_eq!(whole.bytes[40..48], hex("1100010400000000"));
    assert_eq!(whole.bytes[48..], [1; 16]);
    assert_eq!((whole.sizes, whole.id, whole.mark), (vec![64, 64], 0x1234, 6));
    // And back again: the same two packets.
    assert_eq!(cut(&whole.bytes, &[64, 64], 1500, 0x1234).unwrap(), [first, last]);
}

#[test]
fn congestion_mark_of_one_fragment_is_on_the_datagram() {
    let mut store = store();
    let (mut first, mut last) = (v4(1, 0, true, &[1; 8]), v4(1, 8, false, &[1; 8]));
    (first[1], last[1]) = (0x02, 0x03);
    assert_eq!(give(&mut store, &first, T0), Outcome::Held);
    let Outcome::Complete(whole) = give(&mut store, &last, T0) else { panic!("both were given") };
    assert_eq!(whole.bytes[1], 0x03);
    first[1] = 0;
    assert_eq!(give(&mut store, &first, T0), Outcome::Held);
    assert_eq!(give(&mut store, &last, T0), Outcome::Rejected(DropReason::FragmentOverlap));
    assert_eq!(store.take_lost().overlap, 1);
}

#[test]
fn dont_fragment_of_the_largest_fragment_stays() {
    let mut store = store();
    let (mut first, last) = (v4(1, 0, true, &[1; 16]), v4(1, 16, false, &[1; 8]));
    first[6] |= 0x40;
    assert_eq!(give(&mut store, &first, T0), Outcome::Held);
    let Outcome::Complete(whole) = give(&mut store, &last, T0) else { panic!("both were given") };
    assert!(whole.dont_fragment);
    assert_eq!(whole.bytes[6..8], [0x40, 0]);
    assert_eq!(cut(&whole.bytes, &whole.sizes, 1500, 0).unwrap()[1][6..8], [0x40, 2]);
}

// Rules of cutting.

#[test]
fn packet_that_fits_stays_as_it_is_without_link_padding() {
    let mut packet = v4(1, 0, false, &[1; 8]);
    let whole = packet.clone();
    packet.extend([0; 18]);
    assert_eq!(cut(&packet, &[], 28, 0).unwrap(), [whole]);
    let packet = v6(1, 0, false, &[1; 8]);
    assert_eq!(cut(&packet, &[], 56, 0).unwrap(), std::slice::from_ref(&packet));
}

#[test]
fn only_options_with_the_copied_flag_are_in_later_pieces() {
    // Record route (not copied), router alert (copied).
    let mut packet = hex("48000000000100000011000001010101020202020703040194040000000000aa");
    packet[2..4].copy_from_slice(&52u16.to_be_bytes());
    packet.truncate(32);
    packet.extend([1; 20]);
    let pieces = cut(&packet, &[], 48, 0).unwrap();
    assert_eq!(pieces[0][20..32], packet[20..32]);
    assert_eq!(pieces[1][0], 0x46);
    assert_eq!(pieces[1][20..24], hex("94040000"));
    assert_eq!(pieces[1].len(), 24 + 4);
}

#[test]
fn fragment_is_cut_further_with_its_own_place() {
    let packet = v4(1, 800, true, &[1; 64]);
    let fields: Vec<_> = cut(&packet, &[], 52, 0).unwrap().iter().map(|piece| be16(piece, 6)).collect();
    assert_eq!(fields, [MORE_FRAGMENTS | 100, MORE_FRAGMENTS | 104]);
    let packet = v6(1, 800, true, &[1; 64]);
    let pieces = cut(&packet, &[], 80, 99).unwrap();
    let headers: Vec<_> = pieces.iter().map(|piece| piece[40..48].to_vec()).collect();
    assert_eq!(headers, [hex("1100032100000001"), hex("1100034100000001")]);
}

#[test]
fn received_sizes_that_do_not_fit_the_link_give_way_to_its_mtu() {
    let packet = v4(1, 0, false, &[1; 2000]);
    let lens: Vec<_> = cut(&packet, &[1500, 540], 1400, 0).unwrap().iter().map(Vec::len).collect();
    assert_eq!(lens, [1396, 644]);
}

#[test]
fn hostile_bytes_are_errors() {
    assert_eq!(cut(&[], &[], 100, 0), Err(CutError::Truncated { need: 20, have: 0 }));
    assert_eq!(cut(&[0x10], &[], 100, 0), Err(CutError::Version(1)));
    assert_eq!(cut(&[0x45; 10], &[], 100, 0), Err(CutError::Truncated { need: 0x4545, have: 10 }));
    assert_eq!(cut(&[0x60; 10], &[], 100, 0), Err(CutError::Truncated { need: 40 + 0x6060, have: 10 }));
    assert_eq!(cut(&v4(1, 65528, false, &[1; 64]), &[], 52, 0), Err(CutError::Offset(65560)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn cut_pieces_fit_and_join_to_the_same_packet(
        len in 1usize..3000, mtu in 100usize..1600, is_v6: bool, seed: u64, order in any::<prop::sample::Index>(),
    ) {
        let payload: Vec<u8> = (0..len).map(|i| (i as u64).wrapping_mul(seed | 1).to_le_bytes()[1]).collect();
        let packet = if is_v6 { plain_v6(&payload) } else { v4(77, 0, false, &payload) };
        let pieces = cut(&packet, &[], mtu, 77).unwrap();
        prop_assert!(pieces.iter().all(|piece| piece.len() <= mtu));
        // At most 63 pieces: 48 bytes each in IPv6 over the smallest MTU.
        if pieces.len() > 1 {
            let mut store = store();
            let turn = order.index(pieces.len());
            let mut whole = None;
            for piece in pieces[turn..].iter().chain(&pieces[..turn]) {
                match give(&mut store, piece, T0) {
                    Outcome::Complete(datagram) => whole = Some(datagram),
                    outcome => prop_assert_eq!(outcome, Outcome::Held),
                }
            }
            let whole = whole.expect("every piece was given");
            let mut expected = packet.clone();
            if !is_v6 {
                let total = expected.len() as u16;
                finish_ipv4_header(&mut expected[..20], total, 0);
            }
            prop_assert_eq!(&whole.bytes, &expected);
            prop_assert_eq!(cut(&whole.bytes, &whole.sizes, 1600, 77).unwrap(), pieces);
            prop_assert!(store.is_empty() && store.held_bytes() == 0);
        }
    }

    #[test]
    fn no_bytes_make_cutting_or_holding_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 1..200), is_v6: bool, mtu in 0usize..200, header in 0u16..200,
    ) {
        bytes[0] = if is_v6 { 0x60 } else { 0x40 | (bytes[0] & 15) };
        let len = bytes.len();
        if len > 6 {
            let field = if is_v6 { 4 } else { 2 };
            let said = if is_v6 { len.saturating_sub(40) } else { len };
            bytes[field..field + 2].copy_from_slice(&(said as u16).to_be_bytes());
        }
        let _ = cut(&bytes, &[], mtu, 0);
        let parsed = Parsed { len: len as u32, ..place(is_v6, Fragment { id: 1, offset: 0, more: true, header }) };
        let outcome = store().insert(&parsed, &bytes, 0, T0);
        prop_assert!(!matches!(outcome, Outcome::Complete(_)));
    }
}

fn store() -> FragmentStore {
    FragmentStore::new(FragmentLimits::default(), 1)
}

fn give(store: &mut FragmentStore, packet: &[u8], now: Instant) -> Outcome {
    store.insert(&parsed(packet), packet, 0, now)
}

fn join(fragments: &[Vec<u8>]) -> Datagram {
    let mut store = store();
    for fragment in fragments {
        if let Outcome::Complete(whole) = give(&mut store, fragment, T0) {
            return whole;
        }
    }
    panic!("the fragments make no datagram");
}

/// A recorded packet: literal headers, then the payload pattern up to `len` bytes.
fn recorded(headers: &str, step: usize, len: usize) -> Vec<u8> {
    let mut bytes = hex(headers);
    let offset = usize::from(be16(&bytes, 6) & 0x1fff) * 8;
    let mut i = if offset == 0 { 0 } else { offset - 8 };
    while bytes.len() < len {
        bytes.push((i * step) as u8);
        i += 1;
    }
    bytes
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
}

/// An IPv4 packet of UDP from 1.1.1.1 to 2.2.2.2.
fn v4(id: u16, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    let mut bytes = hex("4500000000000000401100000101010102020202");
    bytes[4..6].copy_from_slice(&id.to_be_bytes());
    let total = (20 + payload.len()) as u16;
    finish_ipv4_header(&mut bytes, total, (offset / 8) | if more { MORE_FRAGMENTS } else { 0 });
    bytes.extend_from_slice(payload);
    bytes
}

/// An IPv6 packet of UDP from 2001:db8::1 to 2001:db8::2 with a fragment header.
fn v6(id: u32, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    let mut bytes = plain_v6(payload);
    bytes[4..6].copy_from_slice(&(8 + payload.len() as u16).to_be_bytes());
    bytes[6] = FRAGMENT_HEADER;
    let [offset_high, offset_low] = (offset | u16::from(more)).to_be_bytes();
    let [a, b, c, d] = id.to_be_bytes();
    bytes.splice(40..40, [17, 0, offset_high, offset_low, a, b, c, d]);
    bytes
}

fn plain_v6(payload: &[u8]) -> Vec<u8> {
    let mut bytes = hex("600000000000114020010db800000000000000000000000120010db8000000000000000000000002");
    bytes[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Reads the headers that this module's packets have.
fn parsed(bytes: &[u8]) -> Parsed {
    if bytes[0] >> 4 == 4 {
        let field = be16(bytes, 6);
        let fragment = Fragment {
            id: u32::from(be16(bytes, 4)),
            offset: (field & 0x1fff).wrapping_mul(8),
            more: field & MORE_FRAGMENTS != 0,
            header: 0,
        };
        let addr = |at: usize| IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(&bytes[at..at + 4]).unwrap()));
        let (src, dst) = (addr(12), addr(16));
        Parsed { src, dst, tos: bytes[1], len: u32::from(be16(bytes, 2)), ..place(false, fragment) }
    } else {
        let field = be16(bytes, 42);
        let id = u32::from_be_bytes(bytes[44..48].try_into().unwrap());
        let fragment = Fragment { id, offset: field & 0xfff8, more: field & 1 != 0, header: 40 };
        let addr = |at: usize| IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[at..at + 16]).unwrap()));
        let (src, dst) = (addr(8), addr(24));
        Parsed { src, dst, len: 40 + u32::from(be16(bytes, 4)), ..place(true, fragment) }
    }
}

fn place(is_v6: bool, fragment: Fragment) -> Parsed {
    let addr: IpAddr = if is_v6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
    Parsed {
        src: addr,
        dst: addr,
        protocol: 17,
        tos: 0,
        ttl: 64,
        dont_fragment: false,
        len: 0,
        l4: 0,
        fragment: Some(fragment),
        transport: Transport::LaterFragment,
    }
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}
