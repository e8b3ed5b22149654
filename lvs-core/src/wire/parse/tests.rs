//! One packet per behaviour, then every packet cut, mutated, and held against another parser.

use etherparse::{SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::*;
use crate::wire::Tuple;
use crate::wire::checksum::ipv4_header_checksum;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const ESP: u8 = 50;
const AH: u8 = 51;
const NO_NEXT: u8 = 59;
const DEST_OPTIONS: u8 = 60;

/// 43210 > 80, SYN, sequence number 0x01020304, maximum segment size 1460.
const TCP_SYN: [u8; 24] =
    [0xa8, 0xca, 0x00, 0x50, 1, 2, 3, 4, 5, 6, 7, 8, 0x60, 0x02, 0xfa, 0xf0, 0x12, 0x34, 0, 0, 2, 4, 5, 0xb4];
/// 12345 > 53, 4 bytes.
const UDP_SEGMENT: [u8; 12] = [0x30, 0x39, 0, 53, 0, 12, 0xab, 0xcd, 1, 2, 3, 4];
/// 7 > 9, INIT.
const SCTP_PACKET: [u8; 16] = [0, 7, 0, 9, 0, 0, 0, 0, 1, 2, 3, 4, 1, 0, 0, 4];
const ECHO_REQUEST: [u8; 8] = [8, 0, 0xf7, 0xfe, 0, 0, 0, 1];

/// A TCP SYN from 192.0.2.1:43210 to 198.51.100.7:80, DF, TTL 63, byte for byte.
const IPV4_SYN: [u8; 44] = [
    0x45, 0x10, 0x00, 0x2c, 0x1c, 0x46, 0x40, 0x00, 0x3f, 0x06, 0x33, 0x3a, 192, 0, 2, 1, 198, 51, 100,
    7, // IPv4
    0xa8, 0xca, 0x00, 0x50, 1, 2, 3, 4, 5, 6, 7, 8, 0x60, 0x02, 0xfa, 0xf0, 0x12, 0x34, 0, 0, // TCP
    2, 4, 5, 0xb4, // maximum segment size
];

mod v4 {
    use super::*;

    #[test]
    fn tcp() {
        let right = Parsed {
            src: "192.0.2.1".parse().expect("address"),
            dst: "198.51.100.7".parse().expect("address"),
            protocol: TCP,
            tos: 0x10,
            ttl: 63,
            dont_fragment: true,
            len: 44,
            l4: 20,
            fragment: None,
            transport: Transport::Tcp {
                sport: 43210,
                dport: 80,
                flags: TcpFlags::SYN,
                seq: 0x0102_0304,
                ack: 0x0506_0708,
                header_len: 24,
            },
        };
        assert_eq!(parse(&IPV4_SYN), Ok(right));
    }

    #[test]
    fn ecn_bits_are_no_flags() {
        let mut segment = TCP_SYN;
        segment[tcp::FLAGS] = 0xc2;
        assert_eq!(ok(&ipv4(TCP, &segment)).tcp_flags(), TcpFlags::SYN);
    }

    #[test]
    fn link_padding_is_no_part_of_the_packet() {
        let mut frame = ipv4(UDP, &UDP_SEGMENT);
        frame.resize(46, 0xee);
        assert_eq!(ok(&frame).len, 32);
    }

    #[test]
    fn udp() {
        let parsed = ok(&ipv4(UDP, &UDP_SEGMENT));
        assert_eq!(parsed.transport, Transport::Udp { sport: 12345, dport: 53, no_checksum: false });
        let mut segment = UDP_SEGMENT;
        segment[6..8].fill(0);
        let parsed = ok(&ipv4(UDP, &segment));
        assert_eq!(parsed.transport, Transport::Udp { sport: 12345, dport: 53, no_checksum: true });
    }

    #[test]
    fn udp_may_be_shorter_than_the_packet() {
        assert!(ok(&ipv4(UDP, &[0, 1, 0, 2, 0, 8, 0, 0, 0xee])).tuple().is_some());
    }

    #[test]
    fn sctp() {
        let parsed = ok(&ipv4(SCTP, &SCTP_PACKET));
        assert_eq!(parsed.transport, Transport::Sctp { sport: 7, dport: 9, chunk: Some(1), second: None });
        let parsed = ok(&ipv4(SCTP, &SCTP_PACKET[..12]));
        assert_eq!(parsed.transport, Transport::Sctp { sport: 7, dport: 9, chunk: None, second: None });
    }

    #[test]
    fn icmp_that_is_no_error() {
        let icmp = |kind: u8| icmp_of(&ipv4(ICMP, &[kind, 0, 0, 0, 1, 2, 3, 4])).body;
        assert_eq!(icmp(8), IcmpBody::EchoRequest);
        // Echo reply, redirect, parameter problem, timestamp.
        for kind in [0, 5, 12, 13, 255] {
            assert_eq!(icmp(kind), IcmpBody::Other);
        }
        let echo = icmp_of(&ipv4(ICMP, &ECHO_REQUEST));
        assert_eq!((echo.kind, echo.code, echo.rest), (8, 0, 1));
    }

    #[test]
    fn other_protocols_and_the_wrong_icmp() {
        for protocol in [ESP, AH, 47, 4, ICMPV6, NO_NEXT, HOP_BY_HOP] {
            let parsed = ok(&ipv4(protocol, &[0; 3]));
            assert_eq!((parsed.protocol, parsed.transport), (protocol, Transport::Other));
        }
    }

    #[test]
    fn fragmentation_needed_quotes_a_flow() {
        let mut quote = ipv4(TCP, &TCP_SYN)[..28].to_vec();
        // Routers decrement the TTL and may leave the checksum as it was; some change the total length.
        quote[ipv4::TTL] = 1;
        quote[ipv4::TOTAL_LEN] = 0xff;
        quote[ipv4::FLAGS] = 0x40;
        let icmp = icmp_of(&ipv4(ICMP, &error(3, 4, 1400, &quote)));
        assert_eq!((icmp.kind, icmp.code, icmp.rest), (3, 4, 1400));
        let quoted = quoted(icmp);
        assert_eq!((quoted.offset, quoted.l4_offset), (28, 48));
        assert!(quoted.dont_fragment && !quoted.later_fragment);
        let tuple = quoted.tuple().expect("ports");
        assert_eq!(tuple.src.to_string(), "10.0.0.1:43210");
        assert_eq!(tuple.dst.to_string(), "10.0.0.2:80");
    }

    #[test]
    fn errors_that_concern_flows() {
        let quote = &ipv4(UDP, &UDP_SEGMENT)[..28];
        for kind in [3, 4, 11] {
            let quoted = quoted(icmp_of(&ipv4(ICMP, &error(kind, 0, 0, quote))));
            assert_eq!((quoted.protocol, quoted.ports), (UDP, Some((12345, 53))));
            assert!(!quoted.dont_fragment);
        }
    }

    #[test]
    fn quoted_options_are_stepped_over() {
        let quote = ipv4_with(&[0x83, 3, 4, 0], 0, SCTP, &SCTP_PACKET);
        let quoted = quoted(icmp_of(&ipv4(ICMP, &error(11, 0, 0, &quote))));
        assert_eq!((quoted.l4_offset, quoted.ports), (52, Some((7, 9))));
    }

    #[test]
    fn quotes_without_ports() {
        let short = &ipv4(TCP, &TCP_SYN)[..23];
        let later = ipv4_with(&[], 1, TCP, &TCP_SYN);
        let echo = ipv4(ICMP, &ECHO_REQUEST);
        for (quote, later_fragment) in [(short, false), (&later, true), (&echo, false)] {
            let quoted = quoted(icmp_of(&ipv4(ICMP, &error(3, 1, 0, quote))));
            assert_eq!((quoted.ports, quoted.later_fragment), (None, later_fragment));
        }
    }

    #[test]
    fn quotes_that_cannot_be_read() {
        let whole = ipv4(TCP, &TCP_SYN);
        let with = |at: usize, byte: u8| {
            let mut quote = whole.clone();
            quote[at] = byte;
            quote
        };
        let cut = whole[..19].to_vec();
        let long_header = with(0, 0x4f);
        for quote in [vec![], cut, with(0, 0x65), with(0, 0x44), long_header] {
            assert_eq!(icmp_of(&ipv4(ICMP, &error(3, 1, 0, &quote))).body, IcmpBody::BadQuote);
        }
    }

    #[test]
    fn fragments() {
        let fragment = |word: u16, payload: &[u8]| {
            let parsed = ok(&ipv4_with(&[], word, UDP, payload));
            (parsed.fragment.expect("fragment"), parsed.transport, parsed.l4)
        };
        let mut long = UDP_SEGMENT;
        long[4] = 0x05;
        let place = |offset, more| Fragment { id: 0x1c46, offset, more, header: 0 };
        // The first states the length of the whole datagram.
        let ports = Transport::Udp { sport: 12345, dport: 53, no_checksum: false };
        assert_eq!(fragment(0x2000, &long), (place(0, true), ports, 20));
        assert_eq!(fragment(0x2001, &[1; 16]), (place(8, true), Transport::LaterFragment, 20));
        assert_eq!(fragment(0x1ffb, &[1; 3]), (place(0xffd8, false), Transport::LaterFragment, 20));
        // Flags that make no fragment: DF, the reserved bit.
        assert_eq!(ok(&ipv4_with(&[], 0xc000, UDP, &UDP_SEGMENT)).fragment, None);
    }

    #[test]
    fn a_first_fragment_with_half_a_header_is_left_to_reassembly() {
        for (protocol, whole) in [(TCP, &TCP_SYN[..]), (UDP, &UDP_SEGMENT[..8]), (SCTP, &SCTP_PACKET[..12])] {
            for len in 0..whole.len() {
                let parsed = ok(&ipv4_with(&[], 0x2000, protocol, &whole[..len]));
                assert_eq!(parsed.transport, Transport::LaterFragment);
                assert_eq!(parsed.fragment.map(|fragment| fragment.offset), Some(0));
            }
            assert!(ok(&ipv4_with(&[], 0x2000, protocol, whole)).tuple().is_some());
        }
        assert_eq!(ok(&ipv4_with(&[], 0x2000, ICMP, &[3, 1, 0])).transport, Transport::LaterFragment);
    }

    #[test]
    fn a_fragment_beyond_the_longest_datagram() {
        assert!(parse(&ipv4_with(&[], 0x1ffc, UDP, &[1; 11])).is_ok());
        let right = ParseError::FragmentBeyondEnd { layer: Layer::Ipv4, is: 0x1_0000 };
        assert_eq!(parse(&ipv4_with(&[], 0x1ffc, UDP, &[1; 12])), Err(right));
    }

    #[test]
    fn options() {
        // No operation, record route, end of list, then bytes that count no more.
        for list in [&[1, 7, 7, 4, 0, 0, 0, 0][..], &[0, 131, 3, 4], &[1, 1, 1, 1], &[0x94, 4, 0, 0]] {
            let parsed = ok(&ipv4_with(list, 0, UDP, &UDP_SEGMENT));
            assert_eq!(usize::from(parsed.l4), 20 + list.len());
            assert!(parsed.tuple().is_some());
        }
    }

    #[test]
    fn source_routes() {
        let right = Err(ParseError::SourceRoute { layer: Layer::Ipv4 });
        for kind in [131, 137] {
            let list = [1, kind, 7, 4, 10, 0, 0, 9];
            assert_eq!(parse(&ipv4_with(&list, 0, UDP, &UDP_SEGMENT)), right);
            assert_eq!(parse(&ipv4_with(&[1, 1, 1, kind], 0, UDP, &UDP_SEGMENT)), right);
        }
    }

    #[test]
    fn malformed_options() {
        let result = |list: &[u8]| parse(&ipv4_with(list, 0, UDP, &UDP_SEGMENT));
        let bad = |at, len, most| Err(ParseError::BadOption { layer: Layer::Ipv4, at, len, most });
        assert_eq!(result(&[7, 0, 0, 0]), bad(20, 0, 4));
        assert_eq!(result(&[7, 1, 0, 0]), bad(20, 1, 4));
        assert_eq!(result(&[1, 7, 4, 0]), bad(21, 4, 3));
        assert_eq!(result(&[1, 1, 1, 7]), bad(23, 0, 1));
    }

    #[test]
    fn the_longest_packet() {
        let packet = ipv4_with(&[], 0, 255, &vec![0; 65515]);
        assert_eq!(ok(&packet).len, 65535);
    }

    #[test]
    fn wrong_headers() {
        let with = |at: usize, bytes: &[u8]| {
            let mut packet = ipv4(UDP, &UDP_SEGMENT);
            packet[at..at + bytes.len()].copy_from_slice(bytes);
            parse(&packet).expect_err("wrong")
        };
        let small = |field, least, is| ParseError::TooSmall { layer: Layer::Ipv4, field, least, is };
        assert_eq!(with(0, &[0x44]), small("header length", 20, 16));
        assert_eq!(with(2, &[0, 19]), small("total length", 20, 19));
        assert_eq!(with(2, &[0, 33]), truncated(Layer::Ipv4, 33, 32));
        assert_eq!(with(0, &[0x55]), ParseError::BadVersion { version: 5 });
        assert!(matches!(with(10, &[0, 0]), ParseError::BadHeaderChecksum { is: 0, right } if right != 0));
        assert_eq!(with(0, &[0x46]).drop_reason(), crate::DropReason::BadHeaderChecksum);
        assert_eq!(parse(&[]), Err(truncated(Layer::Ip, 20, 0)));
        assert_eq!(parse(&[0x45]), Err(truncated(Layer::Ipv4, 20, 1)));
    }

    #[test]
    fn wrong_transport_headers() {
        let tcp = |byte: u8| {
            let mut segment = TCP_SYN;
            segment[tcp::DATA_OFFSET] = byte;
            parse(&ipv4(TCP, &segment))
        };
        let small = ParseError::TooSmall { layer: Layer::Tcp, field: "data offset", least: 20, is: 16 };
        assert_eq!(tcp(0x4f), Err(small));
        assert_eq!(tcp(0x70), Err(truncated(Layer::Tcp, 28, 24)));
        let udp = |len: u8| {
            let mut segment = UDP_SEGMENT;
            segment[5] = len;
            parse(&ipv4(UDP, &segment))
        };
        let small = ParseError::TooSmall { layer: Layer::Udp, field: "length", least: 8, is: 7 };
        assert_eq!(udp(7), Err(small));
        assert_eq!(udp(13), Err(truncated(Layer::Udp, 13, 12)));
    }

    #[test]
    fn transport_headers_cut_at_every_byte() {
        for (protocol, layer, whole) in [
            (TCP, Layer::Tcp, &TCP_SYN[..20]),
            (UDP, Layer::Udp, &UDP_SEGMENT[..8]),
            (SCTP, Layer::Sctp, &SCTP_PACKET[..12]),
            (ICMP, Layer::Icmp, &ECHO_REQUEST[..8]),
        ] {
            for len in 0..whole.len() {
                let right = truncated(layer, whole.len(), len);
                assert_eq!(parse(&ipv4(protocol, &whole[..len])), Err(right));
            }
        }
    }
}

mod v6 {
    use super::*;

    /// Hop-by-hop options, destination options (both 6 bytes of padding).
    const PADDING: [u8; 6] = [1, 4, 0, 0, 0, 0];

    #[test]
    fn udp() {
        // 2001:db8::1 > 2001:db8::2, class 0xb8, label 0x12345, hop limit 64, byte for byte.
        let mut packet = vec![
            0x6b, 0x81, 0x23, 0x45, 0, 12, 17, 64, 0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
            0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2,
        ];
        packet.extend_from_slice(&UDP_SEGMENT);
        let right = Parsed {
            src: "2001:db8::1".parse().expect("address"),
            dst: "2001:db8::2".parse().expect("address"),
            protocol: UDP,
            tos: 0xb8,
            ttl: 64,
            dont_fragment: true,
            len: 52,
            l4: 40,
            fragment: None,
            transport: Transport::Udp { sport: 12345, dport: 53, no_checksum: false },
        };
        packet.push(0xee);
        assert_eq!(parse(&packet), Ok(right));
    }

    #[test]
    fn tcp_sctp_and_others() {
        assert_eq!(ok(&ipv6(TCP, &TCP_SYN)).tcp_flags(), TcpFlags::SYN);
        assert_eq!(ok(&ipv6(SCTP, &SCTP_PACKET)).tuple().map(|tuple| tuple.dst.port), Some(9));
        for next in [ESP, NO_NEXT, ICMP, 41, 135] {
            let parsed = ok(&ipv6(next, &[]));
            assert_eq!((parsed.protocol, parsed.l4, parsed.transport), (next, 40, Transport::Other));
        }
    }

    #[test]
    fn the_whole_chain() {
        let payload = [
            &[DEST_OPTIONS, 0, 1, 4, 0, 0, 0, 0][..],                 // hop-by-hop
            &[ROUTING, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], // destination options, 16 bytes
            &[AH, 0, 4, 0, 0, 0, 0, 0],                               // routing, no segments left
            &[FRAGMENT, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2],             // AH of 3 words
            &[TCP, 0, 0, 0, 0, 0, 0, 9],                              // atomic fragment
            &TCP_SYN,
        ]
        .concat();
        let parsed = ok(&ipv6(HOP_BY_HOP, &payload));
        assert_eq!((parsed.protocol, parsed.l4, parsed.fragment), (TCP, 92, None));
        assert_eq!(parsed.tuple().map(|tuple| (tuple.src.port, tuple.dst.port)), Some((43210, 80)));
    }

    #[test]
    fn esp_ends_the_chain() {
        let parsed = ok(&ipv6(DEST_OPTIONS, &extension(ESP, &PADDING, &[0; 8])));
        assert_eq!((parsed.protocol, parsed.l4, parsed.transport), (ESP, 48, Transport::Other));
    }

    #[test]
    fn first_fragment() {
        let mut segment = UDP_SEGMENT;
        segment[4] = 0x05;
        let inner = fragment_header(UDP, 0, true, &segment);
        let parsed = ok(&ipv6(DEST_OPTIONS, &extension(FRAGMENT, &PADDING, &inner)));
        let right = Fragment { id: 0xdead_beef, offset: 0, more: true, header: 48 };
        assert_eq!((parsed.fragment, parsed.l4), (Some(right), 56));
        assert_eq!(parsed.tuple().map(|tuple| tuple.dst.port), Some(53));
    }

    #[test]
    fn later_fragment() {
        let parsed = ok(&ipv6(FRAGMENT, &fragment_header(UDP, 1448, false, &UDP_SEGMENT)));
        let right = Fragment { id: 0xdead_beef, offset: 1448, more: false, header: 40 };
        assert_eq!((parsed.fragment, parsed.l4), (Some(right), 48));
        assert_eq!((parsed.protocol, parsed.transport), (UDP, Transport::LaterFragment));
        // What a later fragment carries is data, whatever its next header says.
        let parsed = ok(&ipv6(FRAGMENT, &fragment_header(DEST_OPTIONS, 8, true, &[])));
        assert_eq!((parsed.protocol, parsed.transport), (DEST_OPTIONS, Transport::LaterFragment));
    }

    #[test]
    fn a_first_fragment_with_half_a_chain_is_left_to_reassembly() {
        let chain = extension(TCP, &PADDING, &TCP_SYN);
        for len in 0..chain.len() {
            let parsed = ok(&ipv6(FRAGMENT, &fragment_header(DEST_OPTIONS, 0, true, &chain[..len])));
            assert_eq!(parsed.transport, Transport::LaterFragment);
            assert_eq!(parsed.l4, if len < 8 { 48 } else { 56 });
        }
        let whole = ok(&ipv6(FRAGMENT, &fragment_header(DEST_OPTIONS, 0, true, &chain)));
        assert!(whole.tuple().is_some());
    }

    #[test]
    fn a_fragment_beyond_the_longest_datagram() {
        let result = |bytes| parse(&ipv6(FRAGMENT, &fragment_header(UDP, 65528, false, &vec![0; bytes])));
        assert!(result(7).is_ok());
        let beyond = |is| Err(ParseError::FragmentBeyondEnd { layer: Layer::Ipv6Extension, is });
        assert_eq!(result(8), beyond(65536));
        // Headers in front of the fragment header stay in the datagram.
        let inner = fragment_header(UDP, 65528, false, &[0]);
        assert_eq!(parse(&ipv6(DEST_OPTIONS, &extension(FRAGMENT, &PADDING, &inner))), beyond(65537));
    }

    #[test]
    fn routing_headers() {
        let result = |kind: u8, left: u8| {
            parse(&ipv6(ROUTING, &[&[TCP, 0, kind, left, 0, 0, 0, 0], &TCP_SYN[..]].concat()))
        };
        for left in [0, 1] {
            assert_eq!(result(0, left), Err(ParseError::SourceRoute { layer: Layer::Ipv6Extension }));
        }
        assert!(result(4, 0).expect("well-formed").tuple().is_some());
        let on_the_way = result(4, 1).expect("well-formed");
        assert_eq!(
            (on_the_way.protocol, on_the_way.transport, on_the_way.l4),
            (ROUTING, Transport::Other, 40)
        );
    }

    #[test]
    fn headers_out_of_place() {
        let late = extension(HOP_BY_HOP, &PADDING, &extension(TCP, &PADDING, &TCP_SYN));
        assert_eq!(parse(&ipv6(DEST_OPTIONS, &late)), Err(ParseError::HopByHopNotFirst { at: 48 }));
        let twice = fragment_header(FRAGMENT, 0, false, &fragment_header(TCP, 0, true, &TCP_SYN));
        assert_eq!(parse(&ipv6(FRAGMENT, &twice)), Err(ParseError::SecondFragmentHeader { at: 48 }));
    }

    #[test]
    fn the_chain_is_bounded() {
        let chain = |count: usize| {
            let inner = (1..count).fold(extension(TCP, &PADDING, &TCP_SYN), |inner, _| {
                extension(DEST_OPTIONS, &PADDING, &inner)
            });
            parse(&ipv6(DEST_OPTIONS, &inner))
        };
        assert_eq!(chain(MAX_EXTENSION_HEADERS).expect("at the limit").l4, 104);
        assert_eq!(chain(9), Err(ParseError::TooManyExtensions { headers: 9, bytes: 72 }));
        let long = |len: usize| parse(&ipv6(DEST_OPTIONS, &extension(TCP, &vec![0; len - 2], &TCP_SYN)));
        assert_eq!(
            usize::from(long(MAX_EXTENSION_BYTES).expect("at the limit").l4),
            40 + MAX_EXTENSION_BYTES
        );
        assert_eq!(long(264), Err(ParseError::TooManyExtensions { headers: 1, bytes: 264 }));
    }

    #[test]
    fn extension_headers_cut_at_every_byte() {
        let header = extension(TCP, &[0; 14], &[]);
        for len in 0..16 {
            let need = if len < 8 { 8 } else { 16 };
            let right = truncated(Layer::Ipv6Extension, need, len);
            assert_eq!(parse(&ipv6(DEST_OPTIONS, &header[..len])), Err(right));
        }
    }

    #[test]
    fn jumbogram() {
        let mut packet = ipv6(HOP_BY_HOP, &[TCP, 0, 0xc2, 4, 0, 1, 0, 0]);
        packet[4..6].fill(0);
        assert_eq!(parse(&packet), Err(ParseError::Jumbogram));
    }

    #[test]
    fn the_longest_packet() {
        let parsed = ok(&ipv6(NO_NEXT, &vec![0; 65535]));
        assert_eq!(parsed.len, 65575);
    }

    #[test]
    fn wrong_lengths() {
        let packet = ipv6(UDP, &UDP_SEGMENT);
        assert_eq!(parse(&packet[..39]), Err(truncated(Layer::Ipv6, 40, 39)));
        assert_eq!(parse(&packet[..51]), Err(truncated(Layer::Ipv6, 52, 51)));
        assert_eq!(parse(&ipv6(ICMPV6, &[1; 7])), Err(truncated(Layer::Icmpv6, 8, 7)));
    }

    #[test]
    fn icmpv6_kinds() {
        let icmp = |kind: u8| icmp_of(&ipv6(ICMPV6, &[kind, 0, 0, 0, 0, 0, 5, 0xdc])).body;
        assert_eq!(icmp(128), IcmpBody::EchoRequest);
        for kind in [0, 129, 135, 255] {
            assert_eq!(icmp(kind), IcmpBody::Other);
        }
        for kind in [1, 2, 3, 4, 127] {
            assert_eq!(icmp(kind), IcmpBody::BadQuote);
        }
    }

    #[test]
    fn packet_too_big_quotes_a_flow_behind_extensions() {
        let quote = &ipv6(DEST_OPTIONS, &extension(TCP, &PADDING, &TCP_SYN))[..56];
        let icmp = icmp_of(&ipv6(ICMPV6, &error(2, 0, 1280, quote)));
        assert_eq!((icmp.kind, icmp.rest), (2, 1280));
        let quoted = quoted(icmp);
        assert_eq!((quoted.offset, quoted.l4_offset, quoted.protocol), (48, 96, TCP));
        assert_eq!(quoted.ports, Some((43210, 80)));
        assert!(!quoted.later_fragment && !quoted.dont_fragment);
        assert_eq!(quoted.tuple().expect("ports").src.to_string(), "[2001:db8::1]:43210");
    }

    #[test]
    fn quotes_without_ports() {
        let later = ipv6(FRAGMENT, &fragment_header(TCP, 1448, true, &TCP_SYN));
        let cut_chain = &ipv6(DEST_OPTIONS, &extension(TCP, &PADDING, &TCP_SYN))[..47];
        let no_ports = &ipv6(TCP, &TCP_SYN)[..43];
        for (quote, protocol, l4_offset, later_fragment) in
            [(&later[..], TCP, 96, true), (cut_chain, DEST_OPTIONS, 88, false), (no_ports, TCP, 88, false)]
        {
            let quoted = quoted(icmp_of(&ipv6(ICMPV6, &error(1, 0, 0, quote))));
            assert_eq!((quoted.protocol, quoted.l4_offset), (protocol, l4_offset));
            assert_eq!((quoted.ports, quoted.later_fragment), (None, later_fragment));
        }
    }

    #[test]
    fn a_quoted_first_fragment_has_its_ports() {
        let quote = ipv6(FRAGMENT, &fragment_header(UDP, 0, true, &UDP_SEGMENT));
        let quoted = quoted(icmp_of(&ipv6(ICMPV6, &error(3, 0, 0, &quote))));
        assert_eq!((quoted.ports, quoted.later_fragment), (Some((12345, 53)), false));
    }

    #[test]
    fn quotes_that_cannot_be_read() {
        let twice = fragment_header(FRAGMENT, 0, false, &fragment_header(TCP, 0, true, &TCP_SYN));
        for quote in [ipv6(TCP, &TCP_SYN)[..39].to_vec(), ipv4(TCP, &TCP_SYN), ipv6(FRAGMENT, &twice)] {
            assert_eq!(icmp_of(&ipv6(ICMPV6, &error(1, 0, 0, &quote))).body, IcmpBody::BadQuote);
        }
    }
}

#[test]
fn every_packet_cut_at_every_byte_is_truncated() {
    for packet in corpus() {
        for len in 0..packet.len() {
            let error = parse(&packet[..len]).expect_err("the header states more");
            assert!(matches!(error, ParseError::Truncated { have, .. } if have == len), "{error} at {len}");
        }
    }
}

/// Cuts that the length fields know of reach every check behind the IP header.
#[test]
fn every_packet_shortened_to_every_length_is_read_or_refused() {
    for packet in corpus() {
        for len in 20..packet.len() {
            let mut cut = packet[..len].to_vec();
            repair(&mut cut);
            check(&cut);
        }
    }
}

/// 200,000 packets of the corpus with up to four bytes changed, half of them with a right header checksum.
#[test]
fn mutated_packets_are_read_or_refused() {
    let corpus = corpus();
    let mut random = XorShift(0x9e37_79b9_7f4a_7c15);
    let mut read = 0;
    for round in 0..200_000 {
        let mut packet = corpus[random.below(corpus.len())].clone();
        for _ in 0..=random.below(4) {
            let at = random.below(packet.len());
            packet[at] = random.next() as u8;
        }
        if round % 2 == 0 && packet[0] >> 4 == 4 {
            let checksum =
                ipv4_header_checksum(&packet[..20.max(ipv4::header_len(&packet)).min(packet.len())]);
            ipv4::set_checksum(&mut packet, checksum);
        }
        read += usize::from(check(&packet));
    }
    assert!(read > 50_000, "the mutations must leave many packets readable: {read}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn random_bytes_are_read_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..200), version in 4u8..7) {
        if let Some(first) = bytes.first_mut() {
            *first = *first & 0x0f | version << 4;
        }
        check(&bytes);
    }

    #[test]
    fn built_packets_agree_with_etherparse(
        (sport, dport, seq, ttl) in (any::<u16>(), any::<u16>(), any::<u32>(), 1u8..),
        (v6, tcp) in (any::<bool>(), any::<bool>()),
        payload in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        use etherparse::PacketBuilder;
        let builder =
            if v6 { PacketBuilder::ipv6([1; 16], [2; 16], ttl) } else { PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], ttl) };
        let mut packet = Vec::new();
        if tcp {
            builder.tcp(sport, dport, seq, 1024).syn().ack(7).write(&mut packet, &payload).expect("a Vec takes it");
        } else {
            builder.udp(sport, dport).write(&mut packet, &payload).expect("a Vec takes it");
        }
        let parsed = ok(&packet);
        let tuple = parsed.tuple().expect("TCP or UDP");
        prop_assert_eq!((tuple.src.port, tuple.dst.port, parsed.ttl), (sport, dport, ttl));
        prop_assert_eq!(parsed.len as usize, packet.len());
        if tcp {
            let flags = TcpFlags::SYN | TcpFlags::ACK;
            prop_assert_eq!(parsed.transport, Transport::Tcp { sport, dport, flags, seq, ack: 7, header_len: 20 });
        }
        prop_assert!(check(&packet));
    }
}

/// Reads a packet and checks what must hold for every packet; tells whether it could be read.
fn check(bytes: &[u8]) -> bool {
    let Ok(parsed) = parse(bytes) else { return false };
    let len = parsed.len as usize;
    assert!(len <= bytes.len() && usize::from(parsed.l4) <= len);
    assert_eq!(parsed.src.is_ipv4(), bytes[0] >> 4 == 4);
    if let Some(fragment) = parsed.fragment {
        assert!(fragment.offset % 8 == 0 && (fragment.offset > 0 || fragment.more));
        assert!(fragment.offset == 0 || parsed.transport == Transport::LaterFragment);
        assert!(usize::from(fragment.header) < len);
    }
    if let Transport::Icmp(Icmp { body: IcmpBody::Error(quoted), .. }) = parsed.transport {
        assert!(parsed.l4 < quoted.offset && quoted.offset < quoted.l4_offset);
        assert!(usize::from(quoted.l4_offset) <= len);
        if let Some((sport, dport)) = quoted.ports {
            let at = usize::from(quoted.l4_offset);
            assert_eq!(bytes[at..at + 4], [sport.to_be_bytes(), dport.to_be_bytes()].concat());
        }
    }
    compare_with_etherparse(bytes, &parsed);
    true
}

/// Where etherparse finds TCP or UDP, it must be the same place and the same ports.
fn compare_with_etherparse(bytes: &[u8], parsed: &Parsed) {
    let Some(tuple) = parsed.tuple().filter(|_| parsed.fragment.is_none()) else { return };
    let Ok(other) = SlicedPacket::from_ip(bytes) else { return };
    let (header, ports) = match other.transport {
        Some(TransportSlice::Tcp(tcp)) => (tcp.slice(), (tcp.source_port(), tcp.destination_port())),
        Some(TransportSlice::Udp(udp)) => (udp.slice(), (udp.source_port(), udp.destination_port())),
        _ => return,
    };
    let Tuple { src, dst, .. } = tuple;
    assert_eq!((src.port, dst.port), ports, "{bytes:02x?}");
    let at = header.as_ptr() as usize - bytes.as_ptr() as usize;
    assert_eq!(usize::from(parsed.l4), at, "{bytes:02x?}");
}

/// One well-formed packet of each kind.
fn corpus() -> Vec<Vec<u8>> {
    let chain = |inner: &[u8]| extension(DEST_OPTIONS, &[0; 6], &extension(TCP, &[0; 14], inner));
    vec![
        IPV4_SYN.to_vec(),
        ipv4_with(&[1, 7, 7, 4, 0, 0, 0, 0], 0x4000, TCP, &TCP_SYN),
        ipv4(UDP, &UDP_SEGMENT),
        ipv4(SCTP, &SCTP_PACKET),
        ipv4(ICMP, &ECHO_REQUEST),
        ipv4(ICMP, &error(3, 4, 1400, &IPV4_SYN)),
        ipv4(ICMP, &error(11, 0, 0, &ipv4_with(&[1, 1, 1, 0], 0, UDP, &UDP_SEGMENT))),
        ipv4_with(&[], 0x2000, TCP, &TCP_SYN),
        ipv4_with(&[], 0x00b9, TCP, &TCP_SYN),
        ipv6(TCP, &TCP_SYN),
        ipv6(UDP, &UDP_SEGMENT),
        ipv6(SCTP, &SCTP_PACKET),
        ipv6(HOP_BY_HOP, &chain(&TCP_SYN)),
        ipv6(FRAGMENT, &fragment_header(TCP, 0, true, &TCP_SYN)),
        ipv6(FRAGMENT, &fragment_header(TCP, 0, false, &TCP_SYN)),
        ipv6(FRAGMENT, &fragment_header(TCP, 1448, true, &TCP_SYN)),
        ipv6(ICMPV6, &[128, 0, 0, 0, 0, 1, 0, 2]),
        ipv6(ICMPV6, &error(2, 0, 1280, &ipv6(DEST_OPTIONS, &chain(&TCP_SYN)))),
        ipv6(ROUTING, &[&[UDP, 0, 4, 0, 0, 0, 0, 0], &UDP_SEGMENT[..]].concat()),
    ]
}

/// Makes length fields and header checksum fit the bytes there are.
fn repair(packet: &mut [u8]) {
    if packet[0] >> 4 == 4 {
        let len = packet.len() as u16;
        ipv4::set_total_len(packet, len);
        if ipv4::header_len(packet) <= packet.len() {
            ipv4::fill_checksum(packet);
        }
    } else if let Some(len) = packet.len().checked_sub(ipv6::HEADER_LEN) {
        ipv6::set_payload_len(packet, len as u16);
    }
}

fn ok(packet: &[u8]) -> Parsed {
    parse(packet).unwrap_or_else(|error| panic!("{error}: {packet:02x?}"))
}

fn icmp_of(packet: &[u8]) -> Icmp {
    match ok(packet).transport {
        Transport::Icmp(icmp) => icmp,
        other => panic!("not ICMP: {other:?}"),
    }
}

fn quoted(icmp: Icmp) -> Quoted {
    match icmp.body {
        IcmpBody::Error(quoted) => quoted,
        other => panic!("no quote: {other:?}"),
    }
}

/// 10.0.0.1 > 10.0.0.2 without options or flags.
fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_with(&[], 0, protocol, payload)
}

/// 10.0.0.1 > 10.0.0.2, identification 0x1c46, with options (a multiple of 4 bytes) and the word of the flags.
fn ipv4_with(options: &[u8], flags: u16, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0x1c, 0x46, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    packet[0] += (options.len() / 4) as u8;
    packet.extend_from_slice(options);
    packet.extend_from_slice(payload);
    ipv4::set_flags(&mut packet, flags);
    repair(&mut packet);
    packet
}

/// 2001:db8::1 > 2001:db8::2.
fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, next, 64];
    for host in [1, 2] {
        packet.extend_from_slice(&[0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
    }
    packet.extend_from_slice(payload);
    repair(&mut packet);
    packet
}

/// A hop-by-hop or destination options header (`options` is 6 more than a multiple of 8 bytes) and what follows.
fn extension(next: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let units = (options.len() + 2) / 8 - 1;
    [&[next, units as u8], options, payload].concat()
}

/// A fragment header with identification 0xdeadbeef and what follows.
fn fragment_header(next: u8, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    let [high, low] = (offset | u16::from(more)).to_be_bytes();
    [&[next, 0, high, low, 0xde, 0xad, 0xbe, 0xef], payload].concat()
}

/// An ICMP or ICMPv6 error; its checksum is not looked at here.
fn error(kind: u8, code: u8, rest: u32, quote: &[u8]) -> Vec<u8> {
    [&[kind, code, 0, 0], &rest.to_be_bytes()[..], quote].concat()
}

/// A small generator, the same on every run.
struct XorShift(u64);

impl XorShift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() >> 32) as usize % end
    }
}
