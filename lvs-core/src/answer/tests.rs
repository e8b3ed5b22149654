use core::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use crate::wire::ipv6::HEADER_LEN as IPV6_HEADER_LEN;
use crate::wire::{Fragment, Quoted};

// Recorded from Linux 6.1.192. Identifications are passed in; the IPv6 flow label, random there, is 0 here.

const PROTOCOL_ICMPV6: u8 = 58;
const VIP4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1));
const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 1));
const CLIENT4: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 16, 0, 9));

#[test]
fn ttl_1_gets_time_exceeded_that_quotes_the_packet_as_received() {
    let original = "45000028100700000106f3a6ac1000090a09000175310050000003fe0000139f5010faf071a20000";
    let answer = error(&hex(original), IcmpError::TimeExceeded, VIP4, 0x34e6);
    assert_eq!(answer, hex(&format!("45c0004434e6000040018ef00a090001ac1000090b00ab3d00000000{original}")));
}

#[test]
fn service_without_servers_gets_port_unreachable() {
    let syn = "4500003c1116400040067383ac1000090a090001714900500000000100000000a002faf0216a0000020405b40402080a000003e800\
               00000001030307";
    let answer = error(&hex(syn), IcmpError::PortUnreachable, VIP4, 0x4355);
    assert_eq!(answer, hex(&format!("45c00058435500004001806d0a090001ac1000090303b34e00000000{syn}")));

    let dgram = format!("45000044111700004011b36fac1000090a090001714a005000306e67{}", "78".repeat(40));
    let answer = error(&hex(&dgram), IcmpError::PortUnreachable, VIP4, 0x437b);
    assert_eq!(answer, hex(&format!("45c00060437b00004001803f0a090001ac1000090303b36100000000{dgram}")));
}

#[test]
fn df_packet_over_mtu_1400_gets_fragmentation_needed_of_576_bytes() {
    let mut original =
        hex("450005dc110f40003f066eeaac1000090a0900017554005000000002000000055010faf03d1b0000");
    original.resize(1500, 0x64);
    let mut expected = hex("45c00240429e000040017f3c0a090001ac10000903045e2000000578");
    expected.extend_from_slice(&original[..548]);
    assert_eq!(error(&original, IcmpError::TooBig { mtu: 1400 }, VIP4, 0x429e), expected);
}

#[test]
fn tunnel_tells_the_mtu_that_is_left_inside() {
    let mut original =
        hex("450005dc105e40003f066f9bac1000090a090001753c005000000002000000055010faf03d330000");
    original.resize(1500, 0x64);
    let mut expected = hex("45c002403c430000400185970a090001ac10000903045dd0000005c8");
    expected.extend_from_slice(&original[..548]);
    assert_eq!(error(&original, IcmpError::TooBig { mtu: 1480 }, VIP4, 0x3c43), expected);
}

#[test]
fn error_about_the_outer_packet_is_told_again_about_the_inner_one() {
    let quoted = "450005c8106040003f066fadac1000090a090001753c005000000002";
    let relayed = IcmpError::Relayed { kind: 3, code: 1, rest: 0 };
    let answer = error(&hex(quoted), relayed, VIP4, 0x3c52);
    assert_eq!(answer, hex(&format!("45c000383c520000400187900a090001ac1000090301877000000000{quoted}")));
}

#[test]
fn server_without_connection_gets_port_unreachable_from_an_own_address() {
    let quoted = "4500002a111c00003f06b28e0a00020bac1000091f90714c00000001000000025018faf0f15b00007a7a";
    let own = IpAddr::from([10, 0, 2, 1]);
    let answer = error(&hex(quoted), IcmpError::PortUnreachable, own, 0xcde8);
    assert_eq!(answer, hex(&format!("45c00046cde80000400194030a0002010a00020b0303b53d00000000{quoted}")));
}

#[test]
fn hop_limit_1_gets_time_exceeded() {
    let original = "600000000014060120010db8000c0000000000000000000920010db8000900000000000000000001\
                    75560050000003e9000013895010faf0cc3a0000";
    let header = "6000000000443a4020010db800090000000000000000000120010db8000c000000000000000000090300\
                  3af500000000";
    let answer = error(&hex(original), IcmpError::TimeExceeded, VIP6, 0);
    assert_eq!(answer, hex(&format!("{header}{original}")));
}

#[test]
fn too_big_for_a_tunnel_over_ipv6_is_1280_bytes_long() {
    let mut original = hex(
        "6000000005b4063f20010db8000c0000000000000000000920010db800090000000000000000000175580050000003f1000013895010faf0\
         11dc0000",
    );
    original.resize(1500, 0x62);
    let mut expected = hex(
        "6000000004d83a4020010db800090000000000000000000120010db8000c000000000000000000090200b0ee000005b4",
    );
    expected.extend_from_slice(&original[..1232]);
    assert_eq!(error(&original, IcmpError::TooBig { mtu: 1460 }, VIP6, 0), expected);
}

#[test]
fn link_padding_is_not_quoted() {
    let mut original = hex("4500001c00000000401100000a0000010a000002aaaaaaaaaaaaaaaa");
    original.extend([0; 18]);
    assert_eq!(error(&original, IcmpError::TimeExceeded, VIP4, 0).len(), 20 + 8 + 28);
}

#[test]
fn error_keeps_tos_but_neither_precedence_nor_ecn() {
    let mut original = hex("4500001c00000000401100000a0000010a000002aaaaaaaaaaaaaaaa");
    original[1] = 0x3b;
    assert_eq!(error(&original, IcmpError::TimeExceeded, VIP4, 0)[1], 0xd8);
}

#[test]
fn segments_without_a_connection_are_reset_as_recorded() {
    for (segment, reset) in [
        // ACK on a port of a service.
        (
            "45000028100e00004006b49fac1000090a090001908900500000004d000000585010faf06d420000",
            "4500002800004000400684ad0a090001ac10000900509089000000580000000050040000688c0000",
        ),
        // SYN to a port without a service.
        (
            "4500003c1118400040067381ac1000090a090001714b00510000000100000000a002faf021670000020405b40402080a000003e80000000\
             001030307",
            "4500002800004000400684ad0a090001ac1000090051714b000000000000000250140000880f0000",
        ),
        // ACK with data, and FIN with ACK.
        (
            "45000029111f00004006b38dac1000090a09000171ac00500000000a000000145010faf014a5000078",
            "4500002800004000400684ad0a090001ac100009005071ac00000014000000005004000087ad0000",
        ),
        (
            "45000028112100004006b38cac1000090a09000171c000500000000a000000095011faf08c9c0000",
            "4500002800004000400684ad0a090001ac100009005071c000000009000000005004000087a40000",
        ),
    ] {
        let mut out = vec![1, 2, 3];
        assert_eq!(tcp_reset(&mut out, &parsed(&hex(segment))), Some(CLIENT4));
        assert_eq!(out, hex(reset));
    }
}

#[test]
fn reset_without_ack_acknowledges_data_and_fin() {
    // FIN, sequence number 0xffffffff, 3 bytes of data.
    let segment = parsed(&hex(
        "4503002b000000004006000001010101020202020001000200000000000000000000000000000000000000",
    ));
    let segment = Parsed {
        transport: Transport::Tcp {
            sport: 1,
            dport: 2,
            flags: TcpFlags::FIN,
            seq: 0xffff_ffff,
            ack: 9,
            header_len: 20,
        },
        tos: 0xbb,
        ..segment
    };
    let mut out = Vec::new();
    assert!(tcp_reset(&mut out, &segment).is_some());
    assert_eq!(out[24..34], hex("00000000000000035014"));
    assert_eq!(out[1], 0xb8);
}

#[test]
fn ipv6_reset_has_a_right_checksum() {
    let mut segment =
        parsed(&hex("450000280000000040060000010101010202020200010002000000000000000750100000000000000000"));
    segment.src = "2001:db8:c::9".parse().unwrap();
    segment.dst = VIP6;
    let mut out = Vec::new();
    assert_eq!(tcp_reset(&mut out, &segment), Some(segment.src));
    assert_eq!(out[..8], hex("6000000000140640"));
    assert_eq!(sum(&out[40..], Some((VIP6, segment.src, 6))), [0, 0]);
}

#[test]
fn resets_fragments_and_other_protocols_are_not_reset() {
    let ack =
        parsed(&hex("45000028100e00004006b49fac1000090a090001908900500000004d000000585010faf06d420000"));
    let rst = Transport::Tcp { sport: 1, dport: 2, flags: TcpFlags::RST, seq: 0, ack: 0, header_len: 20 };
    let fragment = Some(Fragment { id: 1, offset: 0, more: true, header: 0 });
    let mut out = Vec::new();
    assert_eq!(tcp_reset(&mut out, &Parsed { transport: rst, ..ack }), None);
    assert_eq!(tcp_reset(&mut out, &Parsed { fragment, ..ack }), None);
    assert_eq!(tcp_reset(&mut out, &Parsed { transport: Transport::Other, ..ack }), None);
}

#[test]
fn ping_of_the_vip_is_answered_as_recorded() {
    let request = hex("45000024102200004001b494ac1000090a09000108006667000100026162636465666768");
    let mut out = Vec::new();
    assert_eq!(echo_reply(&mut out, &request, &parsed(&request), 0x36a2), Some(CLIENT4));
    assert_eq!(out, hex("4500002436a2000040018e140a090001ac10000900006e67000100026162636465666768"));
}

#[test]
fn ping_over_ipv6_is_answered() {
    let message = hex("80000000000100026162");
    let client = "2001:db8:c::9".parse().unwrap();
    let mut request = Vec::new();
    put_ip_header(&mut request, client, VIP6, 58, 0, (0, 0), message.len()).unwrap();
    request.extend_from_slice(&message);
    finish_checksum(&mut request, 40, 2, Some((client, VIP6, 58)));
    let echo = Transport::Icmp(Icmp { kind: 128, code: 0, rest: 0x0001_0002, body: IcmpBody::EchoRequest });
    let base = parsed(&hex("45000024102200004001b494ac1000090a09000108006667000100026162636465666768"));
    let parsed = Parsed { src: client, dst: VIP6, len: 50, l4: 40, transport: echo, ..base };

    let mut out = Vec::new();
    assert_eq!(echo_reply(&mut out, &request, &parsed, 0), Some(client));

    assert_eq!(out[..8], hex("60000000000a3a40"));
    assert_eq!((out[40], &out[44..]), (129, &message[4..]));
    assert_eq!(sum(&out[40..], Some((VIP6, client, 58))), [0, 0]);
}

#[test]
fn ping_with_a_wrong_checksum_is_not_answered() {
    let request = hex("45000024102200004001b494ac1000090a09000108006666000100026162636465666768");
    assert_eq!(echo_reply(&mut Vec::new(), &request, &parsed(&request), 1), None);
}

#[test]
fn errors_broadcasts_and_later_fragments_are_not_answered() {
    let syn =
        parsed(&hex("45000028100e00004006b49fac1000090a090001908900500000004d000000585010faf06d420000"));
    assert!(may_answer(&syn));
    let first = Fragment { id: 1, offset: 0, more: true, header: 0 };
    assert!(may_answer(&Parsed { fragment: Some(first), ..syn }));
    assert!(!may_answer(&Parsed { fragment: Some(Fragment { offset: 8, ..first }), ..syn }));
    assert!(!may_answer(&Parsed { transport: Transport::LaterFragment, ..syn }));
    for src in [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "ff02::1",
    ] {
        assert!(!may_answer(&Parsed { src: src.parse().unwrap(), ..syn }), "source {src}");
    }
    for dst in ["224.0.0.18", "255.255.255.255", "0.0.0.0", "ff02::1"] {
        assert!(!may_answer(&Parsed { dst: dst.parse().unwrap(), ..syn }), "destination {dst}");
    }
}

#[test]
fn icmp_queries_are_answered_and_icmp_errors_are_not() {
    let base = parsed(&hex("45000024102200004001b494ac1000090a09000108006667000100026162636465666768"));
    let icmp = |kind, body| Transport::Icmp(Icmp { kind, code: 0, rest: 0, body });
    let quoted = Quoted {
        offset: 28,
        l4_offset: 48,
        src: VIP4,
        dst: CLIENT4,
        protocol: 6,
        ports: None,
        later_fragment: false,
        dont_fragment: false,
    };
    assert!(may_answer(&base));
    assert!(may_answer(&Parsed { transport: icmp(13, IcmpBody::Other), ..base }));
    assert!(!may_answer(&Parsed { transport: icmp(3, IcmpBody::Error(quoted)), ..base }));
    for kind in [3, 4, 5, 11, 12, 200] {
        assert!(!may_answer(&Parsed { transport: icmp(kind, IcmpBody::Other), ..base }), "type {kind}");
    }
    let client = "2001:db8:c::9".parse().unwrap();
    let v6 = |kind| Parsed { src: client, dst: VIP6, transport: icmp(kind, IcmpBody::Other), ..base };
    assert!(may_answer(&v6(128)));
    assert!(!may_answer(&v6(100)));
    assert!(!may_answer(&v6(137)));
}

#[test]
fn only_too_big_is_free_of_the_rate_limit() {
    assert!(IcmpError::PortUnreachable.is_rate_limited());
    assert!(IcmpError::TimeExceeded.is_rate_limited());
    assert!(!IcmpError::TooBig { mtu: 1400 }.is_rate_limited());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_bytes_are_quoted_within_the_limits_and_summed_right(
        mut bytes in prop::collection::vec(any::<u8>(), 0..2000), is_v6: bool, id: u16,
    ) {
        let (source, limit, ip) =
            if is_v6 { (VIP6, MAX_ICMPV6_ERROR, IPV6_HEADER_LEN) } else { (VIP4, MAX_ICMPV4_ERROR, 20) };
        if let Some(first) = bytes.first_mut() {
            *first = if is_v6 { 0x60 } else { 0x45 };
        }
        let mut out = Vec::new();
        match icmp_error(&mut out, &bytes, IcmpError::TimeExceeded, source, id) {
            None => prop_assert!(bytes.len() < ip),
            Some(to) => {
                prop_assert!(out.len() <= limit);
                let pseudo = is_v6.then_some((source, to, PROTOCOL_ICMPV6));
                prop_assert_eq!(sum(&out[ip..], pseudo), [0, 0]);
            }
        }
    }
}

fn error(original: &[u8], error: IcmpError, source: IpAddr, id: u16) -> Vec<u8> {
    let mut out = vec![9; 3000];
    assert!(icmp_error(&mut out, original, error, source, id).is_some());
    out
}

/// Reads an IPv4 packet without options that holds TCP or an echo request.
fn parsed(bytes: &[u8]) -> Parsed {
    let be32 = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    let be16 = |at: usize| u16::from_be_bytes(bytes[at..at + 2].try_into().unwrap());
    let transport = match bytes[9] {
        6 => Transport::Tcp {
            sport: be16(20),
            dport: be16(22),
            flags: TcpFlags::from_bits_retain(bytes[33]),
            seq: be32(24),
            ack: be32(28),
            header_len: (bytes[32] >> 4) * 4,
        },
        _ => Transport::Icmp(Icmp {
            kind: bytes[20],
            code: bytes[21],
            rest: be32(24),
            body: IcmpBody::EchoRequest,
        }),
    };
    Parsed {
        src: IpAddr::V4(Ipv4Addr::from(be32(12))),
        dst: IpAddr::V4(Ipv4Addr::from(be32(16))),
        protocol: bytes[9],
        tos: bytes[1],
        ttl: bytes[8],
        dont_fragment: bytes[6] & 0x40 != 0,
        len: u32::from(be16(2)),
        l4: 20,
        fragment: None,
        transport,
    }
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
}

/// The full sum over a message and, if there is one, the pseudo header of `(source, destination, protocol)`: zero when
/// the checksum inside is right.
fn sum(message: &[u8], pseudo: Option<(IpAddr, IpAddr, u8)>) -> [u8; 2] {
    let mut sum = internet_checksum::Checksum::new();
    if let Some((source, to, protocol)) = pseudo {
        for addr in [source, to] {
            match addr {
                IpAddr::V4(addr) => sum.add_bytes(&addr.octets()),
                IpAddr::V6(addr) => sum.add_bytes(&addr.octets()),
            }
        }
        sum.add_bytes(&[0, protocol]);
        sum.add_bytes(&(message.len() as u32).to_be_bytes());
    }
    sum.add_bytes(message);
    sum.checksum()
}
