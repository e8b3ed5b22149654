//! Too large: who is told what, and what is cut.

use lvs_core::wire::checksum::{finish_checksum, pseudo_header_sum};
use lvs_core::wire::{ChecksumState, Gso, Meta};
use lvs_core::{Config, Director, DropReason, Environment, Verdict};

use super::helpers::*;

fn rules(method: &str) -> String {
    let rip = if method.starts_with("-6") { "[2001:db8:2::11]" } else { "10.0.2.11" };
    let method = method.trim_start_matches("-6 ");
    format!("-A -t 10.9.0.1:80 -s rr --laddr 10.0.2.201\n-a -t 10.9.0.1:80 -r {rip}:80 {method}")
}

fn rules_v6(method: &str) -> String {
    format!("-A -t [2001:db8::1]:80 -s rr\n-a -t [2001:db8::1]:80 -r [2001:db8:2::11]:80 {method}")
}

fn with_mtu(mtu: u16) -> Config {
    let config = config();
    Config { environment: Environment { mtu, ..config.environment }, ..config }
}

#[test]
fn with_df_the_client_is_told_what_fits() {
    for (method, mtu) in [
        ("-m", 1500),
        ("-g", 1500),
        ("--fullnat", 1500),
        ("-i", 1480),
        ("-i --tun-type gue --tun-port 6080", 1468),
        ("-i --tun-type gre", 1476),
        ("-i --tun-type gre --tun-csum", 1472),
        ("-6 -i", 1460),
        ("-6 -i --tun-type gue --tun-port 6080", 1448),
    ] {
        let mut director = director(config(), &rules(method));
        let fits = tcp_with(at(CLIENT), at(VIP), SYN, Shape { payload: mtu - 40, ..PLAIN });
        assert!(matches!(feed(&mut director, &fits, secs(1)).verdict, Verdict::Transmit { .. }), "{method}");
        let large = tcp_with(at(CLIENT), at(VIP), ACK, Shape { payload: mtu - 39, ..PLAIN });
        let out = feed(&mut director, &large, secs(1));
        let (kind, code, rest, quote) = icmp_parts(out.replied("172.16.0.9"));
        assert_eq!((kind, code, rest as usize), (3, 4, mtu), "{method}");
        assert_eq!((src_of(&out.bytes), quote[8], out.bytes.len()), (ip("10.9.0.1"), 63, 576), "{method}");
    }
}

#[test]
fn ipv6_clients_are_told_what_fits() {
    let client = at("[2001:db8:9::9]:30000");
    for (method, mtu) in [("-m", 1500), ("-g", 1500), ("-i", 1460), ("-i --tun-type gre", 1456)] {
        let mut director = director(config(), &rules_v6(method));
        let large = tcp_with(client, at("[2001:db8::1]:80"), SYN, Shape { payload: mtu - 59, ..PLAIN });
        let out = feed(&mut director, &large, secs(1));
        let (kind, code, rest, _) = icmp_parts(out.replied("2001:db8:9::9"));
        assert_eq!((kind, code, rest as usize, out.bytes.len()), (2, 0, mtu, 1280), "{method}");
        assert_eq!(director.connection_count(), 0);
    }
}

/// RFC 2473 section 7.1: what may be 1280 bytes must get through, so the tunnel's own packet is cut.
#[test]
fn an_ipv6_packet_that_cannot_become_smaller_is_cut_in_the_tunnel() {
    let client = at("[2001:db8:9::9]:30000");
    let mut director = director(with_mtu(1280), &rules_v6("-i"));
    let packet = tcp_with(client, at("[2001:db8::1]:80"), SYN, Shape { payload: 1220, ..PLAIN });
    let out = feed(&mut director, &packet, secs(1));
    assert_eq!((out.verdict, out.beside.len()), (Verdict::Queued, 2));
    let pieces: Vec<_> = out.beside.into_iter().map(|(_, bytes)| bytes).collect();
    assert!(pieces.iter().all(|piece| piece.len() <= 1280));
    assert_eq!(joined(&pieces)[40..].len(), 1280);
    let larger = tcp_with(client, at("[2001:db8::1]:80"), ACK, Shape { payload: 1221, ..PLAIN });
    assert_eq!(icmp_parts(feed(&mut director, &larger, secs(1)).replied("2001:db8:9::9")).2, 1280);
}

#[test]
fn without_df_it_is_cut() {
    for method in ["-m", "-g", "-i", "-6 -i"] {
        let mut director = director(config(), &rules(method));
        feed(&mut director, &tcp(at(CLIENT), at(VIP), SYN), secs(1));
        let mut ids = Vec::new();
        for _ in 0..2 {
            let large = tcp_with(at(CLIENT), at(VIP), ACK, Shape { payload: 2000, df: false, ..PLAIN });
            let out = feed(&mut director, &large, secs(1));
            assert_eq!(out.verdict, Verdict::Queued, "{method}");
            let pieces: Vec<_> = out.beside.into_iter().map(|(_, bytes)| bytes).collect();
            assert!(pieces.len() == 2 && pieces.iter().all(|piece| piece.len() <= 1500), "{method}");
            let whole = joined(&pieces);
            let inner = match method {
                "-i" => &whole[20..],
                "-6 -i" => &whole[40..],
                _ => &whole,
            };
            assert_eq!(inner.len(), 2040);
            checked(inner);
            ids.push(lvs_core::wire::parse(&pieces[0]).unwrap().fragment.unwrap().id);
        }
        if method.contains("-i") {
            assert_ne!(ids[0], ids[1], "{method}: fragments of two packets must not be mixed up");
        }
    }
}

/// 65,535 bytes and an outer header are more than a length field can say.
#[test]
fn a_packet_that_a_tunnel_would_make_too_long_is_dropped_whole() {
    for (method, most) in [("-i", 65_515), ("-i --tun-type gue --tun-port 6080", 65_503), ("-6 -i", 65_535)] {
        let mut director = director(with_mtu(1500), &rules(method));
        feed(&mut director, &tcp(at(CLIENT), at(VIP), SYN), secs(1));
        let packet =
            |len: usize| tcp_with(at(CLIENT), at(VIP), ACK, Shape { payload: len - 40, df: false, ..PLAIN });
        let out = feed(&mut director, &packet(most), secs(1));
        let pieces: Vec<_> = out.beside.into_iter().map(|(_, bytes)| bytes).collect();
        let whole = joined(&pieces);
        checked(&whole[whole.len() - most..]);
        if most < 65_535 {
            dropped(&mut director, &packet(most + 1), secs(1), DropReason::TooBig);
            assert!(director.poll_transmit().is_none(), "not even a part of it leaves");
        }
    }
}

#[test]
fn a_used_up_ttl_is_told_with_the_original() {
    for method in ["-m", "-g", "-i", "--fullnat"] {
        let mut director = director(config(), &rules(method));
        feed(&mut director, &tcp(at(CLIENT), at(VIP), SYN), secs(1));
        let late = tcp_with(at(CLIENT), at(VIP), ACK, Shape { ttl: 1, ..PLAIN });
        let out = feed(&mut director, &late, secs(1));
        let (kind, code, _, quote) = icmp_parts(out.replied("172.16.0.9"));
        assert_eq!((kind, code, quote), (11, 0, &late[..]), "{method}");
        let out = feed(&mut director, &tcp(at(CLIENT), at(VIP), ACK), secs(1));
        let inner = out.bytes.len() - if out.bytes[9] == 4 { 40 } else { out.bytes.len() };
        assert_eq!(out.bytes[inner + 8], 63, "{method}");
    }
}

fn gue_director() -> Director {
    director(config(), &rules("-i --tun-type gue --tun-port 6080"))
}

/// Feeds a large packet and returns what the client is told, if anything.
fn told(director: &mut Director) -> Option<u32> {
    let large = tcp_with(at(CLIENT), at(VIP), ACK, Shape { payload: 1420, ..PLAIN });
    let out = feed(director, &large, secs(2));
    matches!(out.verdict, Verdict::Reply { .. }).then(|| icmp_parts(&out.bytes).2)
}

#[test]
fn a_router_on_a_tunnels_path_is_believed_for_every_kind_of_tunnel() {
    for (method, overhead) in [
        ("-i", 20),
        ("-i --tun-type gue --tun-port 6080", 32),
        ("-i --tun-type gue --tun-port 6080 --tun-csum", 32),
        ("-i --tun-type gre", 24),
        ("-i --tun-type gre --tun-csum", 28),
    ] {
        let mut director = director(config(), &rules(method));
        feed(&mut director, &tcp(at(CLIENT), at(VIP), SYN), secs(1));
        let sent = tcp_with(at(CLIENT), at(VIP), ACK, Shape { payload: 1420, ..PLAIN });
        let outer = feed(&mut director, &sent, secs(1)).bytes;
        let error = icmp("10.0.7.7", "10.0.2.1", 3, 4, 1300, &outer[..120]);
        let out = feed(&mut director, &error, secs(1));
        let (kind, code, rest, quote) = icmp_parts(out.replied("172.16.0.9"));
        assert_eq!((kind, code, rest), (3, 4, 1300 - overhead), "{method}");
        assert_eq!(src_of(&out.bytes), ip("10.9.0.1"));
        assert_eq!(quote[12..20], sent[12..20], "the client's own packet");
        assert_eq!(told(&mut director), Some(1300 - overhead), "{method}");
    }
}

#[test]
fn a_path_mtu_has_a_floor_and_never_grows_by_a_message() {
    let mut director = gue_director();
    feed(&mut director, &tcp(at(CLIENT), at(VIP), SYN), secs(1));
    let sent = tcp_with(at(CLIENT), at(VIP), ACK, Shape { payload: 1420, ..PLAIN });
    let outer = feed(&mut director, &sent, secs(1)).bytes;
    let say = |director: &mut Director, mtu: u32| {
        let error = icmp("10.0.7.7", "10.0.2.1", 3, 4, mtu, &outer[..120]);
        feed(director, &error, secs(1));
    };
    say(&mut director, 1300);
    say(&mut director, 1400);
    assert_eq!(told(&mut director), Some(1300 - 32));
    // 552 is Linux' `min_pmtu`.
    say(&mut director, 0);
    assert_eq!(told(&mut director), Some(552 - 32));
    // Forgotten after ten minutes.
    director.handle_timeout(secs(602));
    assert_eq!(told(&mut director), None);
}

/// Bytes behind the packet (link padding) say nothing: no checksum covers them.
#[test]
fn padding_behind_an_error_is_no_quote() {
    let mut director = director(config(), &rules("-i"));
    feed(&mut director, &tcp(at(CLIENT), at(VIP), SYN), secs(1));
    let sent = tcp_with(at(CLIENT), at(VIP), ACK, Shape { payload: 1420, ..PLAIN });
    let outer = feed(&mut director, &sent, secs(1)).bytes;
    let mut error = icmp("10.0.7.7", "10.0.2.1", 3, 4, 1300, &outer[..20]);
    error.extend_from_slice(&outer[20..120]);
    feed(&mut director, &error, secs(1));
    assert_eq!(told(&mut director), None);
}

/// A large packet that a device will cut counts by its segments, and the place of its checksum moves with it.
#[test]
fn a_gso_packet_leaves_whole_when_its_segments_fit() {
    let large = tcp_with(at(CLIENT), at(VIP), ACK, Shape { payload: 60_000, ..PLAIN });
    for (method, most, outer) in [("-m", 1460, 0), ("-g", 1460, 0), ("-i", 1440, 20), ("-6 -i", 1420, 40)] {
        for (size, fits) in [(most, true), (most + 1, false)] {
            let mut director = director(config(), &rules(method));
            feed(&mut director, &tcp(at(CLIENT), at(VIP), SYN), secs(1));
            let mut packet = large.clone();
            let pseudo = pseudo_header_sum(ip("172.16.0.9"), ip("10.9.0.1"), 6, 60_020);
            packet[36..38].copy_from_slice(&pseudo.to_be_bytes());
            let meta = Meta {
                checksum: ChecksumState::Partial { start: 20, offset: 16 },
                gso: Some(Gso { kind: 1, size, header_len: 40 }),
                ..Meta::default()
            };
            let out = feed_with(&mut director, &packet, meta, secs(1));
            if !fits {
                assert_eq!(icmp_parts(out.replied("172.16.0.9")).2, 1500 - u32::from(outer), "{method}");
                continue;
            }
            assert!(matches!(out.verdict, Verdict::Transmit { .. }) && out.beside.is_empty(), "{method}");
            let start = 20 + outer;
            assert_eq!(out.meta.checksum, ChecksumState::Partial { start, offset: 16 });
            assert_eq!(out.meta.gso, Some(Gso { kind: 1, size, header_len: 40 + outer }));
            let mut inner = out.bytes;
            finish_checksum(&mut inner, start, 16);
            checked(&inner[usize::from(outer)..]);
        }
    }
}

/// What is cut here needs its checksum first.
#[test]
fn a_partial_checksum_is_finished_before_cutting() {
    for method in ["-m", "-g", "-i", "-i --tun-type gre --tun-csum", "--fullnat"] {
        let mut director = director(config(), &rules(method));
        feed(&mut director, &tcp(at(CLIENT), at(VIP), SYN), secs(1));
        let mut packet = tcp_with(at(CLIENT), at(VIP), ACK, Shape { payload: 3000, df: false, ..PLAIN });
        let pseudo = pseudo_header_sum(ip("172.16.0.9"), ip("10.9.0.1"), 6, 3020);
        packet[36..38].copy_from_slice(&pseudo.to_be_bytes());
        let meta = Meta { checksum: ChecksumState::Partial { start: 20, offset: 16 }, ..Meta::default() };
        let out = feed_with(&mut director, &packet, meta, secs(1));
        assert_eq!(out.verdict, Verdict::Queued, "{method}");
        let pieces: Vec<_> = out.beside.into_iter().map(|(_, bytes)| bytes).collect();
        let whole = joined(&pieces);
        checked(&whole[whole.len() - 3040..]);
    }
}
