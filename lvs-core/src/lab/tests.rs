//! The Lab without a director: what everything else stands on.

use core::time::Duration;

use super::*;
use crate::Endpoint;

const LIMIT: Instant = Instant::from_secs(600);

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn endpoint(text: &str) -> Endpoint {
    text.parse().unwrap()
}

/// A server and a client on one network; the client asks `exchanges` times for 20,000 bytes.
fn pair(seed: u64, link: LinkConfig, exchanges: usize) -> (Lab, NodeId<Host>, NodeId<Host>) {
    let mut lab = Lab::new(seed);
    let lan = lab.add_network();
    let server = lab.add_host(lan, Host::new("web", [addr("10.0.0.2")]).serve(80), link);
    let client = lab.add_host(lan, Host::new("client", [addr("10.0.0.9")]).concurrency(4), link);
    fetch(&mut lab, client, "10.0.0.2:80", 20_000, exchanges);
    (lab, server, client)
}

fn fetch(lab: &mut Lab, client: NodeId<Host>, target: &str, body: u64, exchanges: usize) {
    lab.with(client, |host, now, out| {
        for _ in 0..exchanges {
            host.fetch(Request::new(endpoint(target), body), now, out);
        }
    });
}

fn finish(lab: &mut Lab, client: NodeId<Host>) {
    let done = lab.run_while(|lab| lab.node(client).unfinished() > 0, LIMIT);
    assert!(done, "seed {}: {:?} after {:?}", lab.seed(), lab.node(client), lab.now());
}

fn outcomes(lab: &Lab, client: NodeId<Host>) -> Vec<Result<(), Failure>> {
    lab.node(client).exchanges().iter().map(|exchange| exchange.outcome).collect()
}

fn faulty() -> LinkConfig {
    LinkConfig {
        delay: Duration::from_millis(5),
        jitter: Duration::from_millis(2),
        loss: 0.05,
        duplicate: 0.05,
        reorder: 0.05,
        corrupt: 0.01,
        ..LinkConfig::default()
    }
}

#[test]
fn exchanges_complete_without_faults() {
    let (mut lab, server, client) = pair(1, LinkConfig::default(), 20);
    finish(&mut lab, client);
    assert_eq!(outcomes(&lab, client), [Ok(()); 20]);
    assert_eq!(lab.node(server).accepted(), 20);
    assert!(lab.node(client).exchanges().iter().all(|exchange| exchange.server.as_deref() == Some("web")));
}

#[test]
fn exchanges_complete_in_spite_of_faults() {
    for seed in 0..5 {
        let (mut lab, _, client) = pair(seed, faulty(), 20);
        finish(&mut lab, client);
        assert_eq!(outcomes(&lab, client), [Ok(()); 20], "seed {seed}");
        let link = lab.links_of(client)[0];
        let counters = lab.link_counters(link, Heading::ToNode);
        assert!(counters.lost > 0 && counters.duplicated > 0 && counters.reordered > 0, "{counters:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes_at_the_same_time() {
    let run = |seed| {
        let (mut lab, _, client) = pair(seed, faulty(), 10);
        finish(&mut lab, client);
        (lab.digest(), lab.now(), lab.delivered())
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1).0, run(2).0);
}

#[test]
fn closed_connections_are_forgotten() {
    let (mut lab, server, client) = pair(1, faulty(), 50);
    finish(&mut lab, client);
    lab.run_until(lab.now() + Duration::from_secs(120));
    assert_eq!((lab.node(server).connections(), lab.node(client).connections()), (0, 0));
    assert_eq!(lab.next_event(), None, "nothing is left to happen");
}

#[test]
fn a_closed_port_refuses() {
    let (mut lab, _, client) = pair(1, LinkConfig::default(), 0);
    fetch(&mut lab, client, "10.0.0.2:81", 1, 1);
    finish(&mut lab, client);
    assert_eq!(outcomes(&lab, client), [Err(Failure::Refused)]);
}

#[test]
fn a_killed_server_says_nothing_and_a_revived_one_resets() {
    let (mut lab, server, client) = pair(1, LinkConfig::default(), 1);
    lab.run_while(|lab| lab.node(server).accepted() == 0, LIMIT);
    lab.with(server, |host, now, _| host.kill(now));
    fetch(&mut lab, client, "10.0.0.2:80", 1, 1);
    finish(&mut lab, client);
    assert_eq!(outcomes(&lab, client), [Err(Failure::TimedOut); 2]);

    let (mut lab, server, client) = pair(1, LinkConfig { delay: Duration::from_millis(50), ..faulty() }, 1);
    lab.run_while(|lab| lab.node(server).accepted() == 0, LIMIT);
    lab.with(server, |host, now, _| {
        host.kill(now);
        host.revive();
    });
    finish(&mut lab, client);
    assert_eq!(outcomes(&lab, client), [Err(Failure::Reset)]);
}

#[test]
fn a_cut_link_loses_packets_until_it_is_healed() {
    let (mut lab, server, client) = pair(1, LinkConfig::default(), 1);
    let link = lab.links_of(server)[0];
    lab.cut(link);
    lab.run_until(Instant::from_millis(2500));
    assert_eq!(lab.node(server).accepted(), 0);
    assert!(lab.link_counters(link, Heading::ToNode).cut >= 2, "the SYN and a repetition");
    lab.heal(link);
    finish(&mut lab, client);
    assert_eq!(outcomes(&lab, client), [Ok(())]);
}

#[test]
fn packets_travel_through_a_router() {
    for (client_addr, server_addr, inside, outside) in [
        ("192.0.2.9", "10.0.0.2", "10.0.0.254", "192.0.2.254"),
        ("2001:db8:1::9", "2001:db8:2::2", "2001:db8:2::fe", "2001:db8:1::fe"),
    ] {
        let mut lab = Lab::new(3);
        let (near, far) = (lab.add_network(), lab.add_network());
        let router = lab.add_node(Router::new());
        lab.attach(router, near, &[addr(outside)], LinkConfig::default());
        lab.attach(router, far, &[addr(inside)], LinkConfig::default());
        let server =
            lab.add_host(far, Host::new("web", [addr(server_addr)]).serve(80), LinkConfig::default());
        let client = lab.add_host(near, Host::new("client", [addr(client_addr)]), LinkConfig::default());
        let default: Prefix = if addr(inside).is_ipv4() { "0.0.0.0/0" } else { "::/0" }.parse().unwrap();
        lab.add_route(server, default, addr(inside));
        lab.add_route(client, default, addr(outside));
        let target = Endpoint::new(addr(server_addr), 80).to_string();
        fetch(&mut lab, client, &target, 30_000, 3);
        finish(&mut lab, client);
        assert_eq!(outcomes(&lab, client), [Ok(()); 3]);
        assert!(lab.node(router).forwarded > 60, "{}", lab.node(router).forwarded);
    }
}

#[test]
fn an_announcement_moves_an_address() {
    let mut lab = Lab::new(1);
    let lan = lab.add_network();
    let vip = addr("10.0.0.100");
    let first = lab.add_host(
        lan,
        Host::new("first", [addr("10.0.0.1")]).loopback(vip).serve(80),
        LinkConfig::default(),
    );
    let second = lab.add_host(
        lan,
        Host::new("second", [addr("10.0.0.2")]).loopback(vip).serve(80),
        LinkConfig::default(),
    );
    let client = lab.add_host(lan, Host::new("client", [addr("10.0.0.9")]), LinkConfig::default());
    for owner in [first, second] {
        lab.with(owner, |_, _, out| out.announce(vip));
        fetch(&mut lab, client, "10.0.0.100:80", 10, 1);
        finish(&mut lab, client);
    }
    let servers: Vec<_> =
        lab.node(client).exchanges().iter().map(|exchange| exchange.server.as_deref()).collect();
    assert_eq!(servers, [Some("first"), Some("second")]);
}

#[test]
fn a_recorded_link_gives_a_capture() {
    let (mut lab, _, client) = pair(1, LinkConfig::default(), 1);
    let link = lab.links_of(client)[0];
    lab.record(link, Tap::Leaving);
    finish(&mut lab, client);
    let mut file = Vec::new();
    lab.write_capture(&[link], &mut file).unwrap();
    let frames: Vec<_> = crate::io::CaptureReader::new(&file[..]).unwrap().collect::<Result<_, _>>().unwrap();
    let recorded = lab.recorded(link);
    assert!(recorded.len() > 20, "{}", recorded.len());
    assert_eq!(frames.len(), recorded.len());
    for (frame, packet) in frames.iter().zip(recorded) {
        assert_eq!((frame.at, &frame.bytes), (packet.at, &packet.bytes));
        let parsed = crate::wire::parse(&frame.bytes).expect("a sound packet");
        assert!(parsed.tuple().is_some());
    }
}

#[test]
fn a_packet_to_nobody_is_counted() {
    let (mut lab, _, client) = pair(1, LinkConfig::default(), 0);
    fetch(&mut lab, client, "10.0.0.77:80", 1, 1);
    lab.run_until(Instant::from_millis(500));
    assert_eq!(lab.unclaimed(), 1);
}

#[test]
fn multicast_reaches_everybody_else() {
    struct Ear(usize);
    impl Node for Ear {
        fn handle_packet(&mut self, _: Vec<u8>, _: Instant, _: &mut Outbox) {
            self.0 += 1;
        }
    }
    let mut lab = Lab::new(1);
    let lan = lab.add_network();
    let ears = [(); 3].map(|()| lab.add_node(Ear(0)));
    for ear in ears {
        lab.attach(ear, lan, &[], LinkConfig::default());
    }
    lab.with(ears[0], |_, _, out| out.send(addr("224.0.0.18"), vec![0x45; 20]));
    while lab.step() {}
    assert_eq!(ears.map(|ear| lab.node(ear).0), [0, 1, 1]);
}

#[test]
fn a_node_that_is_always_due_does_not_stop_the_clock() {
    struct Eager(u64);
    impl Node for Eager {
        fn handle_packet(&mut self, _: Vec<u8>, _: Instant, _: &mut Outbox) {}
        fn poll_timeout(&self) -> Option<Instant> {
            Some(Instant::ZERO)
        }
        fn handle_timeout(&mut self, _: Instant, _: &mut Outbox) {
            self.0 += 1;
        }
    }
    let mut lab = Lab::new(1);
    let eager = lab.add_node(Eager(0));
    lab.run_until(Instant::from_millis(1));
    assert_eq!(lab.node(eager).0, 1000);
}
