//! The table against plain lists, and its rules one by one.

use super::super::index::Index;
use super::super::store::EVICTION_WINDOW;
use super::*;
use crate::conn::{ConnFlags, Method, NO_COLD, State};
use lvs_sched::{Endpoint, Protocol, ServerId};
use proptest::prelude::*;

const CAPACITY: Capacity = Capacity { ipv4: 1000, ipv6: 1000 };

#[test]
fn nat_is_found_from_both_sides() {
    let mut table = ConnTable::new(CAPACITY, 1);
    let conn = nat(1);
    let id = table.insert(&conn, at(0)).unwrap();
    assert_eq!(table.lookup(&from_client(&conn), at(0)), Lookup::Hit(id, Direction::In));
    assert_eq!(table.lookup(&from_server(&conn), at(0)), Lookup::Hit(id, Direction::Out));
    assert_eq!(table.lookup(&from_client(&conn).reversed(), at(0)), Lookup::Miss);
    assert_eq!(table.get(id), Some(conn));
}

#[test]
fn direct_route_is_found_from_the_client_only() {
    let mut table = ConnTable::new(CAPACITY, 1);
    let conn = Connection { method: Method::DirectRoute, ..nat(1) };
    let id = table.insert(&conn, at(0)).unwrap();
    assert_eq!(table.lookup(&from_client(&conn), at(0)), Lookup::Hit(id, Direction::In));
    assert_eq!(table.lookup(&from_server(&conn), at(0)), Lookup::Miss);
}

#[test]
fn ipv6_has_its_own_slots() {
    let mut table = ConnTable::new(Capacity { ipv4: 0, ipv6: 1 }, 1);
    assert_eq!(table.insert(&nat(1), at(0)), Err(InsertError::Full));
    let conn = nat6(1);
    let id = table.insert(&conn, at(0)).unwrap();
    assert_eq!(id.family(), Family::V6);
    assert_eq!(table.lookup(&from_server(&conn), at(0)), Lookup::Hit(id, Direction::Out));
    assert_eq!(table.get(id), Some(conn));
    assert_eq!(table.insert(&nat6(2), at(0)), Err(InsertError::Full));
    assert_eq!((table.len_of(Family::V4), table.len_of(Family::V6)), (0, 1));
}

#[test]
fn protocols_do_not_meet() {
    let mut table = ConnTable::new(CAPACITY, 1);
    let tcp = nat(1);
    let udp = Connection { protocol: Protocol::Udp, state: State::Udp, ..tcp };
    let first = table.insert(&tcp, at(0)).unwrap();
    let second = table.insert(&udp, at(0)).unwrap();
    assert_eq!(table.lookup(&from_client(&tcp), at(0)), Lookup::Hit(first, Direction::In));
    assert_eq!(table.lookup(&from_server(&udp), at(0)), Lookup::Hit(second, Direction::Out));
}

#[test]
fn a_taken_return_tuple_leaves_nothing_behind() {
    let mut table = ConnTable::new(CAPACITY, 1);
    let conn = nat(1);
    let id = table.insert(&conn, at(0)).unwrap();
    let other_vip = Connection { service: endpoint("198.51.100.2:80"), ..conn };
    assert_eq!(table.insert(&other_vip, at(0)), Err(InsertError::ReturnTupleTaken(id)));
    assert_eq!(table.lookup(&from_client(&other_vip), at(0)), Lookup::Miss);
    assert_eq!(table.insert(&conn, at(0)), Err(InsertError::TupleTaken(id)));
    assert_eq!(table.len(), 1);
    table.v4.check();
}

#[test]
fn an_expired_flow_is_no_hit_and_gives_way_when_removed() {
    let mut table = ConnTable::new(CAPACITY, 1);
    let conn = nat(1);
    let id = table.insert(&conn, at(0)).unwrap();
    assert_eq!(table.lookup(&from_client(&conn), at(60)), Lookup::Expired(id));
    let again = Connection { expires: at(120), ..conn };
    assert_eq!(table.insert(&again, at(60)), Err(InsertError::TupleTaken(id)));
    assert_eq!(table.remove(id).unwrap().connection, conn);
    let next = table.insert(&again, at(60)).unwrap();
    assert_eq!(next.slot(), id.slot());
    assert_ne!(next, id);
}

#[test]
fn an_id_of_an_ended_connection_names_nothing() {
    let mut table = ConnTable::new(CAPACITY, 1);
    let old = table.insert(&nat(1), at(0)).unwrap();
    table.remove(old);
    let new = table.insert(&nat(2), at(0)).unwrap();
    assert_eq!(new.slot(), old.slot());
    assert_eq!(table.get(old), None);
    assert!(table.hot(old).is_none());
    assert!(table.hot_mut(old).is_none());
    assert!(!table.touch(old, at(1)));
    assert_eq!(table.remove(old), None);
    assert_eq!(table.set_client_port(old, 1), Err(InsertError::Stale));
    assert_eq!(table.get(new), Some(nat(2)));
}

#[test]
fn a_template_is_not_what_a_packet_finds() {
    let mut table = ConnTable::new(CAPACITY, 1);
    let template = Connection {
        client: endpoint("192.0.2.0:0"),
        local: endpoint("192.0.2.0:0"),
        flags: ConnFlags::TEMPLATE,
        state: State::None,
        ..nat(0)
    };
    let id = table.insert(&template, at(0)).unwrap();
    assert_eq!(table.lookup(&from_client(&template), at(0)), Lookup::Miss);
    assert_eq!(table.lookup(&from_server(&template), at(0)), Lookup::Miss);
    assert_eq!(table.lookup_template(&from_client(&template), at(0)), Lookup::Hit(id, Direction::In));
    let flow = Connection { flags: ConnFlags::empty(), ..template };
    table.insert(&flow, at(0)).unwrap();
    assert_eq!(table.get(id), Some(template));
    table.v4.check();
}

#[test]
fn a_template_goes_on_while_its_connections_live() {
    let mut table = ConnTable::new(CAPACITY, 1);
    let template = Connection { flags: ConnFlags::TEMPLATE, ..nat(0) };
    let id = table.insert(&template, at(0)).unwrap();
    table.hot_mut(id).unwrap().children = 1;
    assert!(matches!(table.lookup_template(&from_client(&template), at(61)), Lookup::Hit(..)));
    assert_eq!(table.expire(at(60), &mut 10), None);
    assert_eq!(table.poll_timeout(), Some(at(120)));
    assert_eq!(table.evict(Family::V4, at(121)), None);
    table.hot_mut(id).unwrap().children = 0;
    let mut budget = 10;
    assert_eq!(table.expire(at(120), &mut budget).unwrap().id, id);
    assert_eq!(table.expire(at(120), &mut budget), None);
    assert_eq!(table.poll_timeout(), None);
}

#[test]
fn a_flow_without_client_port_is_found_by_port_0_until_it_has_one() {
    let mut table = ConnTable::new(CAPACITY, 1);
    let conn = Connection { flags: ConnFlags::NO_CLIENT_PORT, ..nat(4000) };
    let id = table.insert(&conn, at(0)).unwrap();
    let held = table.get(id).unwrap();
    assert_eq!((held.client.port, held.local.port), (0, 0));
    assert!(matches!(table.lookup(&from_client(&held), at(0)), Lookup::Hit(..)));
    table.set_client_port(id, 4001).unwrap();
    let held = table.get(id).unwrap();
    assert_eq!((held.client.port, held.local.port, held.flags), (4001, 4001, ConnFlags::empty()));
    assert_eq!(table.lookup(&from_client(&held), at(0)), Lookup::Hit(id, Direction::In));
    assert_eq!(table.lookup(&from_server(&held), at(0)), Lookup::Hit(id, Direction::Out));
    assert_eq!(table.lookup(&from_client(&conn), at(0)), Lookup::Miss);
    table.v4.check();
}

#[test]
fn a_client_port_that_is_taken_changes_nothing() {
    let mut table = ConnTable::new(CAPACITY, 1);
    let holder = table.insert(&nat(4001), at(0)).unwrap();
    let id = table.insert(&Connection { flags: ConnFlags::NO_CLIENT_PORT, ..nat(1) }, at(0)).unwrap();
    let before = table.get(id);
    assert_eq!(table.set_client_port(id, 4001), Err(InsertError::TupleTaken(holder)));
    assert_eq!(table.get(id), before);
    table.v4.check();
}

#[test]
fn a_server_of_the_other_family_is_known_by_its_id() {
    let mut table = ConnTable::new(CAPACITY, 1);
    let conn = Connection { server: endpoint("[2001:db8::2]:80"), method: Method::Tunnel, ..nat(1) };
    let id = table.insert(&conn, at(0)).unwrap();
    let held = table.get(id).unwrap();
    assert_eq!(held.server, endpoint("0.0.0.0:80"));
    assert_eq!(Connection { server: conn.server, ..held }, conn);
    let nat64 = Connection { method: Method::Masquerade, ..conn };
    assert_eq!(table.insert(&nat64, at(0)), Err(InsertError::MixedFamilies));
    let odd = Connection { service: endpoint("[2001:db8::1]:80"), ..nat(1) };
    assert_eq!(table.insert(&odd, at(0)), Err(InsertError::MixedFamilies));
}

#[test]
fn a_server_that_is_its_own_client_holds_one_key() {
    let mut table = ConnTable::new(CAPACITY, 1);
    let conn = Connection { server: nat(1).client, local: nat(1).service, ..nat(1) };
    let id = table.insert(&conn, at(0)).unwrap();
    table.v4.check();
    assert_eq!(table.lookup(&from_server(&conn), at(0)), Lookup::Hit(id, Direction::In));
    table.remove(id);
    table.v4.check();
}

#[test]
fn expiry_rounds_up_to_a_sixteenth() {
    let mut table = ConnTable::new(CAPACITY, 1);
    let conn = Connection { expires: Instant::from_millis(1001), ..nat(1) };
    let id = table.insert(&conn, at(0)).unwrap();
    assert_eq!(table.expires(id), Some(Instant::from_nanos(1_062_500_000)));
    assert!(matches!(table.lookup(&from_client(&conn), Instant::from_millis(1062)), Lookup::Hit(..)));
    assert!(matches!(table.lookup(&from_client(&conn), Instant::from_millis(1063)), Lookup::Expired(_)));
}

#[test]
fn a_longer_life_is_found_by_the_sweep_later() {
    let mut table = ConnTable::new(CAPACITY, 1);
    let id = table.insert(&nat(1), at(0)).unwrap();
    assert_eq!(table.poll_timeout(), Some(at(60)));
    table.touch(id, at(900));
    assert_eq!(table.poll_timeout(), Some(at(60)), "early, which costs one look");
    assert_eq!(table.expire(at(60), &mut 10), None);
    assert_eq!(table.poll_timeout(), Some(at(900)));
    table.touch(id, at(100));
    assert_eq!(table.poll_timeout(), Some(at(100)));
    let ended = table.expire(at(100), &mut 10).unwrap();
    assert_eq!((ended.id, ended.connection.expires, ended.cold), (id, at(100), NO_COLD));
    assert_eq!(table.expire(at(100), &mut 10), None);
    assert!(table.is_empty());
}

#[test]
fn a_budget_bounds_the_sweep_and_it_goes_on_later() {
    let mut table = ConnTable::new(CAPACITY, 1);
    for port in 0..640 {
        table.insert(&nat(port), at(0)).unwrap();
    }
    let mut ended = 0;
    for _ in 0..10 {
        let mut budget = 1;
        while table.expire(at(60), &mut budget).is_some() {
            ended += 1;
        }
        assert_eq!(ended % 64, 0);
        assert!(table.poll_timeout().is_none_or(|when| when <= at(60)));
    }
    assert_eq!(ended, 640);
    assert_eq!(table.expire(at(60), &mut 2), None);
    assert_eq!(table.poll_timeout(), None);
    table.v4.check();
}

#[test]
fn a_touch_between_sight_and_handing_out_saves_a_flow() {
    let mut table = ConnTable::new(CAPACITY, 1);
    let ids: Vec<_> = (0..3).map(|port| table.insert(&nat(port), at(0)).unwrap()).collect();
    let mut budget = 10;
    assert_eq!(table.expire(at(60), &mut budget).unwrap().id, ids[0]);
    table.touch(ids[1], at(200));
    table.remove(ids[2]);
    assert_eq!(table.expire(at(60), &mut budget), None);
    assert_eq!(table.poll_timeout(), Some(at(200)));
    table.v4.check();
}

#[test]
fn the_clock_may_run_for_years() {
    let year = 365 * 24 * 3600;
    let mut table = ConnTable::new(CAPACITY, 1);
    let old = table.insert(&nat(1), at(0)).unwrap();
    assert_eq!(table.lookup(&from_client(&nat(1)), at(500 * year)), Lookup::Expired(old));
    for years in (5..100).step_by(5) {
        let now = at(years * year);
        let conn = Connection { expires: at(years * year + 60), ..nat(2) };
        let id = table.insert(&conn, now).unwrap();
        assert_eq!(table.get(id), Some(conn));
        assert_eq!(table.lookup(&from_client(&conn), at(years * year + 59)), Lookup::Hit(id, Direction::In));
        table.v4.check();
        while table.expire(at(years * year + 60), &mut 10).is_some() {}
        assert!(table.is_empty());
    }
}

#[test]
fn eviction_takes_the_cheapest_first() {
    let mut table = ConnTable::new(CAPACITY, 1);
    let mut add = |port, state, flags, packets, expires| {
        let protocol = if state == State::Udp { Protocol::Udp } else { Protocol::Tcp };
        let conn = Connection { protocol, state, flags, packets, expires: at(expires), ..nat(port) };
        table.insert(&conn, at(0)).unwrap()
    };
    let (none, inactive, template) = (ConnFlags::empty(), ConnFlags::INACTIVE, ConnFlags::TEMPLATE);
    let active = add(1, State::Established, none, 9, 900);
    let assured = add(2, State::Assured, template, 0, 900);
    let closing = add(3, State::TimeWait, inactive, 9, 900);
    let talk = add(4, State::Udp, inactive, 2, 900);
    let datagram = add(5, State::Udp, inactive, 1, 900);
    let parent = add(6, State::None, template, 0, 900);
    let unproved = add(7, State::None, template, 0, 900);
    let half_open = add(8, State::SynRecv, none, 1, 900);
    let over = add(9, State::Established, none, 9, 10);
    table.hot_mut(parent).unwrap().children = 1;

    let mut order = Vec::new();
    while let Some(ended) = table.evict(Family::V4, at(10)) {
        order.push(ended.id);
    }
    assert_eq!(order, [unproved, half_open, over, datagram, closing, talk, assured]);
    assert!(table.hot(active).is_some() && table.hot(parent).is_some());
    table.v4.check();
}

#[test]
fn eviction_takes_half_open_flows_oldest_first() {
    let mut table = ConnTable::new(Capacity { ipv4: 4, ipv6: 0 }, 1);
    let ids: Vec<_> = (0..4).map(|port| table.insert(&nat(port), at(0)).unwrap()).collect();
    for (round, id) in ids.into_iter().enumerate() {
        assert_eq!(table.insert(&nat(100), at(0)), Err(InsertError::Full));
        assert_eq!(table.evict(Family::V4, at(0)).unwrap().id, id);
        table.insert(&nat(10 + round as u16), at(0)).unwrap();
    }
}

#[test]
fn eviction_looks_at_a_bounded_number_of_slots() {
    let mut table = ConnTable::new(Capacity { ipv4: 2000, ipv6: 0 }, 1);
    let established = |port| Connection { state: State::Established, ..nat(port) };
    for port in 0..EVICTION_WINDOW as u16 {
        table.insert(&established(port), at(0)).unwrap();
    }
    let half_open = table.insert(&nat(1000), at(0)).unwrap();
    assert_eq!(table.evict(Family::V4, at(0)), None);
    assert_eq!(table.evict(Family::V4, at(0)).unwrap().id, half_open);
    assert_eq!(table.evict(Family::V6, at(0)), None);
}

#[test]
fn fills_to_capacity_exactly_and_empties() {
    const COUNT: u32 = 100_000;
    let mut table = ConnTable::new(Capacity { ipv4: COUNT, ipv6: 0 }, 99);
    let conn = |n: u32| Connection {
        client: Endpoint::new(Ipv4Addr::from_bits(0x0A00_0000 + n / 50_000).into(), (n % 50_000) as u16),
        local: Endpoint::new(Ipv4Addr::from_bits(0x0A00_0000 + n / 50_000).into(), (n % 50_000) as u16),
        ..nat(1)
    };
    for n in 0..COUNT {
        table.insert(&conn(n), at(0)).unwrap();
    }
    assert_eq!(table.insert(&conn(COUNT), at(0)), Err(InsertError::Full));
    assert_eq!(table.len(), COUNT as usize);
    for n in (0..COUNT).step_by(7) {
        assert!(matches!(table.lookup(&from_server(&conn(n)), at(0)), Lookup::Hit(_, Direction::Out)));
    }
    table.v4.check();
    assert!(table.memory_bytes() <= 96 * COUNT as usize, "{} bytes", table.memory_bytes());
    let mut budget = u32::MAX;
    let mut ended = 0;
    while table.expire(at(60), &mut budget).is_some() {
        ended += 1;
    }
    assert_eq!((ended, table.len()), (COUNT, 0));
    assert!(u32::MAX - budget < 2 * COUNT / 64);
    table.v4.check();
}

#[test]
fn prefetching_reads_nothing_out_of_range() {
    let table = ConnTable::new(Capacity { ipv4: 0, ipv6: 3 }, 1);
    for conn in [nat(1), nat6(1)] {
        let tuple = from_client(&conn);
        table.prefetch_bucket(&tuple, table.hash(&tuple));
        table.prefetch_entry(&tuple, table.hash(&tuple));
        assert_eq!(table.lookup(&tuple, at(0)), Lookup::Miss);
    }
    let mixed = Tuple { dst: nat(1).service, ..from_client(&nat6(1)) };
    table.prefetch_entry(&mixed, table.hash(&mixed));
    assert_eq!(table.lookup(&mixed, at(0)), Lookup::Miss);
}

#[test]
fn listings_follow_the_slots_and_the_filter() {
    let mut table = ConnTable::new(CAPACITY, 1);
    let six = table.insert(&nat6(9), at(0)).unwrap();
    let ids: Vec<_> = (0..5).map(|port| table.insert(&nat(port), at(0)).unwrap()).collect();
    table.remove(ids[2]);
    let all: Vec<_> = table.iter().map(|(id, _)| id).collect();
    assert_eq!(all, [ids[0], ids[1], ids[3], ids[4], six]);
    let filter = Filter { client: Some(("192.0.2.0".parse().unwrap(), 24)), ..Filter::default() };
    assert_eq!(table.iter_filtered(filter).count(), 4);
    let rest: Vec<_> = table.iter_from(Family::V4, ids[1].slot() + 1).map(|(id, _)| id).collect();
    assert_eq!(rest, [ids[3], ids[4]]);
    let filter = Filter { state: Some(State::Established), ..Filter::default() };
    assert_eq!(table.iter_filtered(filter).count(), 0);
}

#[test]
fn hash_depends_on_the_seed() {
    let tuple = from_client(&nat(1));
    let hash = |seed| ConnTable::new(Capacity { ipv4: 1, ipv6: 1 }, seed).hash(&tuple);
    assert_eq!(hash(1), hash(1));
    assert_ne!(hash(1), hash(2));
}

#[test]
fn tuples_that_meet_under_one_seed_part_under_another() {
    let table = |seed| ConnTable::new(Capacity { ipv4: 1, ipv6: 1 }, seed);
    let (known, secret) = (table(1), table(0xdead_beef));
    let mut heaps = [[0_u32; 256]; 2];
    for port in 0..=u16::MAX {
        for (heap, conn) in heaps.iter_mut().zip([nat(port), nat6(port)]) {
            let tuple = from_client(&conn);
            if known.hash(&tuple) >> 56 == 0 {
                heap[(secret.hash(&tuple) >> 56) as usize] += 1;
            }
        }
    }
    for heap in heaps {
        assert!((150..400).contains(&heap.iter().sum::<u32>()), "about one of 256 meets");
        assert!(heap.iter().max() <= Some(&12), "{heap:?}");
    }
}

/// One step of a random history.
#[derive(Debug, Clone)]
enum Step {
    Insert { which: u16, life: u64 },
    Remove(usize),
    Touch(usize, u64),
    Wait(u64),
    Expire(u32),
    Evict,
    ClientPort(usize, u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (any::<u16>(), 0_u64..3000).prop_map(|(which, life)| Step::Insert { which, life }),
        2 => any::<usize>().prop_map(Step::Remove),
        4 => (any::<usize>(), 0_u64..3000).prop_map(|(which, life)| Step::Touch(which, life)),
        2 => (0_u64..1000).prop_map(Step::Wait),
        2 => (0_u32..4).prop_map(Step::Expire),
        1 => Just(Step::Evict),
        1 => (any::<usize>(), 0_u16..4).prop_map(|(which, port)| Step::ClientPort(which, port)),
    ];
    proptest::collection::vec(step, 1..150)
}

/// One of few connections, so that tuples collide often.
fn candidate(which: u16, expires: Instant) -> Connection {
    let pick = |shift: u32, of: u16| (which >> shift) % of;
    let client = Endpoint::new(Ipv4Addr::new(192, 0, 2, pick(0, 2) as u8).into(), pick(1, 4));
    let method = [Method::Masquerade, Method::FullNat, Method::DirectRoute, Method::Tunnel];
    let flags = [ConnFlags::empty(), ConnFlags::INACTIVE, ConnFlags::NO_CLIENT_PORT, ConnFlags::TEMPLATE];
    let state = [State::SynRecv, State::Established, State::FinWait, State::None];
    let method = method[usize::from(pick(3, 4))];
    let local = match method {
        Method::FullNat => Endpoint::new(Ipv4Addr::new(10, 9, 9, 9).into(), pick(5, 8)),
        _ => client,
    };
    Connection {
        client,
        local,
        method,
        service: Endpoint::new(Ipv4Addr::new(198, 51, 100, pick(8, 2) as u8).into(), 80),
        server: Endpoint::new(Ipv4Addr::new(10, 0, 0, pick(9, 2) as u8).into(), 80),
        flags: flags[usize::from(pick(10, 4))],
        state: state[usize::from(pick(12, 4))],
        expires,
        ..nat(0)
    }
}

/// What a list of connections says about a tuple.
fn expected(list: &[(ConnId, Connection)], tuple: &Tuple, template: bool, now: Instant) -> Lookup {
    let answer = |id: ConnId, conn: &Connection, direction| {
        if conn.expires > now { Lookup::Hit(id, direction) } else { Lookup::Expired(id) }
    };
    for (id, conn) in list {
        if conn.flags.contains(ConnFlags::TEMPLATE) != template {
            continue;
        }
        if from_client(conn) == *tuple {
            return answer(*id, conn, Direction::In);
        }
        if !template && conn.method.sees_replies() && from_server(conn) == *tuple {
            return answer(*id, conn, Direction::Out);
        }
    }
    Lookup::Miss
}

/// The connection as a table holds it.
fn held(conn: Connection) -> Connection {
    let tick = 62_500_000;
    let mut held = conn;
    held.expires = Instant::from_nanos(conn.expires.as_nanos().div_ceil(tick) * tick);
    if conn.flags.contains(ConnFlags::NO_CLIENT_PORT) {
        held.client.port = 0;
        if conn.local == conn.client {
            held.local.port = 0;
        }
    }
    held
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]
    #[test]
    fn agrees_with_a_list(steps in steps(), mask in prop_oneof![Just(u64::MAX), Just(0), Just(3)], tight: bool) {
        const SLOTS: u32 = 24;
        let mut table = ConnTable::new(Capacity { ipv4: SLOTS, ipv6: 0 }, 7);
        if tight {
            table.v4 = Store::with_index(SLOTS, Index::with_buckets(SLOTS as usize * 2 / 12));
        }
        table.hasher.mask = mask;
        let mut list: Vec<(ConnId, Connection)> = Vec::new();
        let mut now = at(100);
        let later = |now: Instant, sixteenths: u64| now + core::time::Duration::from_millis(sixteenths);
        for step in steps {
            match step {
                Step::Insert { which, life } => {
                    let conn = candidate(which, later(now, life));
                    let as_held = held(conn);
                    let template = conn.flags.contains(ConnFlags::TEMPLATE);
                    let holder = |tuple: &Tuple| match expected(&list, tuple, template, now) {
                        Lookup::Hit(id, _) | Lookup::Expired(id) => Some(id),
                        Lookup::Miss => None,
                    };
                    let client = holder(&from_client(&as_held));
                    let server = holder(&from_server(&as_held))
                        .filter(|_| conn.method.sees_replies() && !template);
                    let result = table.insert(&conn, now);
                    match (client, server) {
                        (Some(id), _) => prop_assert_eq!(result, Err(InsertError::TupleTaken(id))),
                        (None, Some(id)) => prop_assert_eq!(result, Err(InsertError::ReturnTupleTaken(id))),
                        _ if list.len() == SLOTS as usize => prop_assert_eq!(result, Err(InsertError::Full)),
                        _ => {
                            let id = result.unwrap();
                            prop_assert!(list.iter().all(|(other, _)| *other != id));
                            list.push((id, as_held));
                        }
                    }
                }
                Step::Remove(which) if !list.is_empty() => {
                    let (id, conn) = list.swap_remove(which % list.len());
                    prop_assert_eq!(table.remove(id).map(|ended| ended.connection), Some(conn));
                    prop_assert_eq!(table.remove(id), None);
                }
                Step::Touch(which, life) if !list.is_empty() => {
                    let which = which % list.len();
                    let (id, conn) = &mut list[which];
                    conn.expires = later(now, life);
                    prop_assert!(table.touch(*id, conn.expires));
                    conn.expires = held(*conn).expires;
                }
                Step::ClientPort(which, port) if !list.is_empty() => {
                    let which = which % list.len();
                    let (id, before) = list[which];
                    if before.flags.contains(ConnFlags::NO_CLIENT_PORT) {
                        let result = table.set_client_port(id, port);
                        let after = table.get(id).unwrap();
                        if result.is_ok() {
                            prop_assert_eq!(after.client.port, port);
                            prop_assert!(!after.flags.contains(ConnFlags::NO_CLIENT_PORT));
                            list[which].1 = after;
                        } else {
                            prop_assert_eq!(after, before);
                        }
                    }
                }
                Step::Wait(millis) => now = later(now, millis),
                Step::Expire(mut budget) => {
                    while let Some(ended) = table.expire(now, &mut budget) {
                        prop_assert!(ended.connection.expires <= now);
                        let position = list.iter().position(|(id, _)| *id == ended.id).unwrap();
                        prop_assert_eq!(list.swap_remove(position).1, ended.connection);
                    }
                    if budget > 0 {
                        prop_assert!(list.iter().all(|(_, conn)| conn.expires > now));
                    }
                }
                Step::Evict => {
                    if let Some(ended) = table.evict(Family::V4, now) {
                        let position = list.iter().position(|(id, _)| *id == ended.id).unwrap();
                        let (_, conn) = list.swap_remove(position);
                        prop_assert!(conn.expires <= now || conn.state != State::Established
                            || conn.flags.intersects(ConnFlags::INACTIVE | ConnFlags::TEMPLATE));
                    }
                }
                _ => {}
            }
            table.v4.check();
            prop_assert_eq!(table.len(), list.len());
            for (id, conn) in &list {
                prop_assert_eq!(table.get(*id), Some(*conn));
            }
            for (_, conn) in &list {
                for tuple in [from_client(conn), from_server(conn), from_client(conn).reversed()] {
                    prop_assert_eq!(table.lookup(&tuple, now), expected(&list, &tuple, false, now));
                    prop_assert_eq!(table.lookup_template(&tuple, now), expected(&list, &tuple, true, now));
                }
            }
            if let Some(first) = list.iter().map(|(_, conn)| conn.expires).min() {
                prop_assert!(table.poll_timeout().unwrap() <= first);
            }
        }
        // Whatever the history: at the end of time all of it goes.
        let mut budget = 100;
        while table.expire(at(10_000), &mut budget).is_some() {}
        prop_assert!(budget > 0 && table.is_empty() && table.poll_timeout().is_none());
        table.v4.check();
    }
}

fn at(secs: u64) -> Instant {
    Instant::from_secs(secs)
}

fn endpoint(text: &str) -> Endpoint {
    text.parse().unwrap()
}

fn from_client(conn: &Connection) -> Tuple {
    Tuple { protocol: conn.protocol, src: conn.client, dst: conn.service }
}

fn from_server(conn: &Connection) -> Tuple {
    Tuple { protocol: conn.protocol, src: conn.server, dst: conn.local }
}

/// A half-open NAT connection of a client's port that ends at 60 s.
fn nat(port: u16) -> Connection {
    let client = Endpoint::new(Ipv4Addr::new(192, 0, 2, 7).into(), port);
    Connection {
        protocol: Protocol::Tcp,
        client,
        service: endpoint("198.51.100.1:80"),
        server: endpoint("10.0.0.2:8080"),
        local: client,
        method: Method::Masquerade,
        server_id: ServerId(3),
        state: State::SynRecv,
        flags: ConnFlags::empty(),
        mark: 5,
        packets: 1,
        expires: at(60),
    }
}

fn nat6(port: u16) -> Connection {
    let client = Endpoint::new(endpoint("[2001:db8::7]:0").addr, port);
    Connection {
        client,
        local: client,
        service: endpoint("[2001:db8:1::1]:80"),
        server: endpoint("[fd00::2]:8080"),
        ..nat(port)
    }
}
