//! Datagrams in pieces.

use lvs_core::{Config, Director, DropReason, Environment, Instant, TRASH_TIME, Verdict};

use super::helpers::*;

fn udp_rules(method: &str) -> String {
    format!("-A -u 10.9.0.1:53 -s rr\n-a -u 10.9.0.1:53 -r 10.0.2.11:53 {method}")
}

fn large(src: &str, dst: &str) -> Vec<u8> {
    udp_with(at(src), at(dst), Shape { df: false, payload: 2500, ..PLAIN })
}

/// Feeds pieces; all but the last wait. Returns what left.
fn feed_all(director: &mut Director, pieces: &[Vec<u8>], now: Instant) -> Vec<Vec<u8>> {
    let (last, first) = pieces.split_last().unwrap();
    for piece in first {
        let out = feed(director, piece, now);
        assert_eq!((out.verdict, out.beside.len()), (Verdict::Queued, 0));
    }
    let out = feed(director, last, now);
    assert_eq!(out.verdict, Verdict::Queued);
    out.beside.into_iter().map(|(_, bytes)| bytes).collect()
}

#[test]
fn translated_both_ways_in_any_order_and_in_their_sizes() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let mut director = director(config(), &udp_rules("-m"));
        for (src, dst, new_src, new_dst) in
            [(CLIENT, "10.9.0.1:53", CLIENT, "10.0.2.11:53"), ("10.0.2.11:53", CLIENT, "10.9.0.1:53", CLIENT)]
        {
            let pieces = fragments(&large(src, dst), 1000);
            let sizes: Vec<_> = pieces.iter().map(Vec::len).collect();
            let out = feed_all(&mut director, &order.map(|n| pieces[n].clone()), secs(1));
            assert_eq!(out.iter().map(Vec::len).collect::<Vec<_>>(), sizes);
            assert!(out.iter().all(|piece| piece[8] == 63 && piece[4..6] == [0x12, 0x34]));
            assert_eq!(checked(&joined(&out)), (at(new_src), at(new_dst)));
        }
        assert_eq!(director.connection_count(), 1);
    }
}

#[test]
fn forwarded_and_tunnelled() {
    let pieces = fragments(&large(CLIENT, "10.9.0.1:53"), 1000);
    let mut direct = director(config(), &udp_rules("-g"));
    let out = feed_all(&mut direct, &pieces, secs(1));
    assert_eq!((out.len(), checked(&joined(&out))), (3, (at(CLIENT), at("10.9.0.1:53"))));
    let mut tunnel = director(config(), &udp_rules("-i"));
    let out = feed_all(&mut tunnel, &pieces, secs(1));
    assert!(out.iter().all(|piece| piece.len() <= 1000), "cut to the largest that came");
    let whole = joined(&out);
    assert_eq!(checked(&whole[20..]), (at(CLIENT), at("10.9.0.1:53")));
    assert_eq!(whole[26..28], [0, 0], "inside it is no fragment");
}

#[test]
fn ipv6_keeps_its_identification() {
    let rules = "-A -u [2001:db8::1]:53 -s rr\n-a -u [2001:db8::1]:53 -r [2001:db8:2::11]:53 -m";
    let mut director = director(config(), rules);
    let packet = large("[2001:db8:9::9]:30000", "[2001:db8::1]:53");
    let mut pieces = fragments(&packet, 1280);
    pieces.reverse();
    let out = feed_all(&mut director, &pieces, secs(1));
    assert!(out.iter().all(|piece| piece[44..48] == [0, 0, 0xfe, 0xed] && piece[7] == 63));
    assert_eq!(checked(&joined(&out)).1, at("[2001:db8:2::11]:53"));
}

#[test]
fn a_smaller_link_cuts_finer_or_is_told() {
    let narrow = || Config { environment: Environment { mtu: 600, ..config().environment }, ..config() };
    let mut director = director(narrow(), &udp_rules("-m"));
    let pieces = fragments(&large(CLIENT, "10.9.0.1:53"), 1000);
    let out = feed_all(&mut director, &pieces, secs(1));
    assert!(out.iter().all(|piece| piece.len() <= 600));
    checked(&joined(&out));
    // IPv6 is cut by its sender only.
    let rules = "-A -u [2001:db8::1]:53 -s rr\n-a -u [2001:db8::1]:53 -r [2001:db8:2::11]:53 -m";
    let wide = fragments(&large("[2001:db8:9::9]:30000", "[2001:db8::1]:53"), 1400);
    let mut director = super::helpers::director(
        Config { environment: Environment { mtu: 1300, ..config().environment }, ..config() },
        rules,
    );
    let (last, first) = wide.split_last().unwrap();
    for piece in first {
        feed(&mut director, piece, secs(1));
    }
    let out = feed(&mut director, last, secs(1));
    assert_eq!((out.verdict, out.beside.len()), (Verdict::Queued, 1));
    let (verdict, answer) = &out.beside[0];
    assert_eq!(*verdict, Verdict::Reply { next_hop: ip("2001:db8:9::9") });
    assert_eq!((icmp_parts(answer).0, icmp_parts(answer).2), (2, 1300));
    assert_eq!(director.connection_count(), 0);
}

/// Senders may set DF on fragments. The outer packet is the director's: cut, so it needs an identification of its
/// own and no DF.
#[test]
fn a_tunnel_cuts_with_an_identification_of_its_own() {
    let mut director = director(config(), &udp_rules("-i"));
    let mut ids = Vec::new();
    for _ in 0..2 {
        let packet = udp_with(at(CLIENT), at("10.9.0.1:53"), Shape { df: true, payload: 2500, ..PLAIN });
        let out = feed_all(&mut director, &fragments(&packet, 1000), secs(1));
        assert!(out.iter().all(|piece| piece[6] & 0x40 == 0), "no DF outside");
        checked(&joined(&out)[20..]);
        ids.push([out[0][4], out[0][5]]);
    }
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn fragments_that_wait_in_vain_are_counted() {
    let mut director = director(config(), &udp_rules("-m"));
    let pieces = fragments(&large(CLIENT, "10.9.0.1:53"), 1000);
    feed(&mut director, &pieces[0], secs(1));
    feed(&mut director, &pieces[2], secs(1));
    director.handle_timeout(secs(31));
    assert_eq!(director.counters().dropped(DropReason::FragmentTimeout), 2);
    director.handle_timeout(secs(32));
    assert_eq!(director.counters().dropped(DropReason::FragmentTimeout), 2, "once");
}

#[test]
fn overlapping_fragments_are_given_up() {
    let mut director = director(config(), &udp_rules("-m"));
    let pieces = fragments(&large(CLIENT, "10.9.0.1:53"), 1000);
    feed(&mut director, &pieces[0], secs(1));
    let mut other = pieces[0].clone();
    other[50] ^= 1;
    assert_eq!(feed(&mut director, &other, secs(1)).verdict, Verdict::Drop(DropReason::FragmentOverlap));
    assert_eq!(director.counters().dropped(DropReason::FragmentOverlap), 2, "the one that waited too");
    for piece in &pieces[1..] {
        assert_eq!(feed(&mut director, piece, secs(1)).verdict, Verdict::Drop(DropReason::FragmentOverlap));
    }
    assert_eq!(director.connection_count(), 0);
}

/// A deleted server still answers its flows; so must it in fragments.
#[test]
fn replies_of_a_deleted_server_are_put_together() {
    let mut director = director(config(), &udp_rules("-m"));
    feed(&mut director, &udp(at(CLIENT), at("10.9.0.1:53")), secs(1));
    apply(&mut director, "-d -u 10.9.0.1:53 -r 10.0.2.11:53", secs(2));
    let pieces = fragments(&large("10.0.2.11:53", CLIENT), 1000);
    let out = feed_all(&mut director, &pieces, secs(3));
    assert_eq!(checked(&joined(&out)).0, at("10.9.0.1:53"));
    // Forgotten, it is a stranger.
    director.handle_timeout(secs(303));
    director.handle_timeout(secs(303) + TRASH_TIME);
    assert_eq!(feed(&mut director, &pieces[0], secs(600)).verdict, Verdict::Pass);
}

/// A datagram that is a fragment again when it is put together is nobody's.
#[test]
fn fragments_of_fragments_are_dropped() {
    let rules = "-A -u [2001:db8::1]:53 -s rr\n-a -u [2001:db8::1]:53 -r [2001:db8:2::11]:53 -m";
    let mut director = director(config(), rules);
    let (client, vip) = (at("[2001:db8:9::9]:30000"), at("[2001:db8::1]:53"));
    let datagram = udp_with(client, vip, PLAIN);
    // Destination options (8 bytes), then a fragment header with "more", then UDP; cut behind the options.
    let mut inner = vec![44, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0, 1, 0, 0, 0, 9];
    inner.extend_from_slice(&datagram[40..]);
    let piece = |offset: u16, more: bool, data: &[u8]| {
        let mut bytes = vec![60, 0];
        bytes.extend((offset | u16::from(more)).to_be_bytes());
        bytes.extend([0, 0, 0, 7]);
        bytes.extend_from_slice(data);
        packet(client.addr, vip.addr, 44, PLAIN, &bytes)
    };
    assert_eq!(feed(&mut director, &piece(0, true, &inner[..8]), secs(1)).verdict, Verdict::Queued);
    dropped(&mut director, &piece(8, false, &inner[8..]), secs(1), DropReason::Malformed);
    assert_eq!(director.connection_count(), 0);
}
