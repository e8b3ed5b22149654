use std::num::NonZeroU32;

use proptest::prelude::*;

use super::*;
use crate::TcpCheck;

#[test]
fn keepalived_walk_down_and_up() {
    let mut world = World::new();
    let check = world.add("web", keepalived());

    // First regular moment, within delay_loop: fails, and is retried 1 s later.
    let first = world.next();
    assert!(first <= Instant::from_secs(60));
    world.answer_all(Outcome::Down(DownReason::Refused));
    assert_eq!(world.monitor.poll_event(), None);
    assert_eq!(world.next(), first + Duration::from_secs(1));
    world.answer_all(Outcome::Down(DownReason::TimedOut));
    let down = world.monitor.poll_event().expect("retry used up");
    assert_eq!(
        down,
        HealthEvent {
            server: "web",
            status: Status::Down,
            cause: Cause::Failed(DownReason::TimedOut),
            check,
            at: world.now
        }
    );

    // Down: probed every delay_loop; one success brings it up.
    assert_eq!(world.next(), first + Duration::from_secs(60));
    world.answer_all(Outcome::Up);
    let up = world.monitor.poll_event().expect("one success is enough");
    assert_eq!((up.status, up.cause), (Status::Up, Cause::Passed));
    assert_eq!(world.next(), first + Duration::from_secs(120));
}

#[test]
fn a_flap_below_the_threshold_is_no_event() {
    let mut world = World::new();
    world.add("web", keepalived());
    let first = world.next();
    for outcome in [Outcome::Down(DownReason::Refused), Outcome::Up] {
        world.answer_all(outcome);
        world.next();
    }
    assert_eq!(world.monitor.poll_event(), None);
    assert_eq!(world.now, first + Duration::from_secs(60), "back to the regular moments");
}

#[test]
fn a_probe_without_an_answer_is_a_timeout() {
    let mut world = World::new();
    world.add("web", CheckConfig { thresholds: Thresholds::from_retry(0), ..keepalived() });
    world.next();
    let probe = world.monitor.poll_probe(world.now).unwrap();
    assert_eq!(probe.deadline, world.now + Duration::from_secs(5));
    assert_eq!(world.monitor.poll_timeout(), Some(probe.deadline));

    world.monitor.handle_timeout(probe.deadline);
    assert_eq!(world.monitor.poll_event().unwrap().cause, Cause::Failed(DownReason::TimedOut));
}

#[test]
fn an_answer_at_the_deadline_is_late_whoever_comes_first() {
    for timeout_first in [false, true] {
        let mut world = World::new();
        world.add("web", CheckConfig { thresholds: Thresholds::from_retry(0), ..keepalived() });
        world.next();
        let probe = world.monitor.poll_probe(world.now).unwrap();
        if timeout_first {
            world.monitor.handle_timeout(probe.deadline);
        }
        assert!(!world.monitor.handle_outcome(probe.id, Outcome::Up, probe.deadline));
        world.monitor.handle_timeout(probe.deadline);
        assert_eq!(world.monitor.status(&"web"), Some(Status::Down));
    }
}

#[test]
fn an_answer_just_before_the_deadline_counts() {
    let mut world = World::new();
    world.add("web", CheckConfig { initial: Status::Down, ..keepalived() });
    world.next();
    let probe = world.monitor.poll_probe(world.now).unwrap();
    let last = Instant::from_nanos(probe.deadline.as_nanos() - 1);
    assert!(world.monitor.handle_outcome(probe.id, Outcome::Up, last));
    assert_eq!(world.monitor.status(&"web"), Some(Status::Up));
}

#[test]
fn answers_to_old_probes_and_second_answers_are_ignored() {
    let mut world = World::new();
    world.add("web", keepalived());
    world.next();
    let old = world.monitor.poll_probe(world.now).unwrap();
    world.monitor.handle_timeout(old.deadline); // first failure
    world.next(); // the retry
    let new = world.monitor.poll_probe(world.now).unwrap();
    assert_ne!(old.id, new.id);

    assert!(!world.monitor.handle_outcome(old.id, Outcome::Down(DownReason::Refused), world.now));
    assert_eq!(world.monitor.status(&"web"), Some(Status::Up));
    assert!(world.monitor.handle_outcome(new.id, Outcome::Up, world.now));
    assert!(!world.monitor.handle_outcome(new.id, Outcome::Down(DownReason::Refused), world.now));
    assert_eq!(world.monitor.status(&"web"), Some(Status::Up));
}

#[test]
fn an_answer_to_a_removed_check_is_ignored() {
    let mut world = World::new();
    let check = world.add("web", keepalived());
    world.next();
    let probe = world.monitor.poll_probe(world.now).unwrap();
    assert!(world.monitor.remove_check(check, world.now));
    assert!(!world.monitor.handle_outcome(probe.id, Outcome::Up, world.now));
    assert!(!world.monitor.remove_check(check, world.now));
    assert_eq!((world.monitor.poll_timeout(), world.monitor.status(&"web")), (None, None));
}

#[test]
fn a_removed_check_that_was_ready_is_not_probed() {
    let mut world = World::new();
    let check = world.add("web", keepalived());
    world.next();
    world.monitor.remove_check(check, world.now);
    assert_eq!(world.monitor.poll_probe(world.now), None);
}

#[test]
fn an_inconclusive_probe_changes_nothing_and_is_repeated() {
    let mut world = World::new();
    world.add("web", CheckConfig { thresholds: Thresholds::from_retry(0), ..keepalived() });
    let first = world.next();
    world.answer_all(Outcome::Inconclusive);
    assert_eq!((world.monitor.poll_event(), world.monitor.status(&"web")), (None, Some(Status::Up)));
    assert_eq!(world.next(), first + Duration::from_secs(60));
}

#[test]
fn alpha_is_told_at_once_and_ends_with_the_first_success() {
    let mut world = World::new();
    world.add("web", CheckConfig { initial: Status::Down, ..keepalived() });
    let event = world.monitor.poll_event().unwrap();
    assert_eq!((event.status, event.cause), (Status::Down, Cause::NotYetChecked));
    world.next();
    world.answer_all(Outcome::Up);
    assert_eq!(world.monitor.poll_event().unwrap().status, Status::Up);
}

#[test]
fn a_rising_server_is_probed_at_the_retry_delay() {
    let mut world = World::new();
    let thresholds = Thresholds { fall: NonZeroU32::MIN, rise: NonZeroU32::new(3).unwrap() };
    world.add("web", CheckConfig { thresholds, initial: Status::Down, ..keepalived() });
    world.monitor.poll_event();
    let first = world.next();
    for success in 1..=3 {
        assert_eq!(world.monitor.status(&"web"), Some(Status::Down));
        world.answer_all(Outcome::Up);
        if success < 3 {
            assert_eq!(world.next(), first + Duration::from_secs(success));
        }
    }
    assert_eq!(world.monitor.status(&"web"), Some(Status::Up));
}

#[test]
fn a_server_is_up_when_all_its_checks_are() {
    let mut world = World::new();
    let down = CheckConfig { initial: Status::Down, ..keepalived() };
    let first = world.add("web", down);
    let second = world.add("web", down);
    assert_eq!(world.monitor.poll_event().map(|event| event.check), Some(first));
    assert_eq!(world.monitor.poll_event(), None, "one event for one change");

    world.next();
    world.answer_all(Outcome::Up);
    assert_eq!((world.monitor.poll_event(), world.monitor.status(&"web")), (None, Some(Status::Down)));
    world.next();
    world.answer_all(Outcome::Up);
    assert_eq!(world.monitor.poll_event().unwrap().status, Status::Up);
    assert_eq!(world.monitor.check_status(second), Some(Status::Up));
}

#[test]
fn removing_the_check_that_held_a_server_down_brings_it_up() {
    let mut world = World::new();
    world.add("web", keepalived());
    let bad = world.add("web", CheckConfig { initial: Status::Down, ..keepalived() });
    assert_eq!(world.monitor.poll_event().unwrap().status, Status::Down);
    world.monitor.remove_check(bad, world.now);
    let event = world.monitor.poll_event().unwrap();
    assert_eq!((event.status, event.cause, event.check), (Status::Up, Cause::CheckRemoved, bad));
}

#[test]
fn a_removed_server_is_forgotten_with_its_event() {
    let mut world = World::new();
    world.add("web", CheckConfig { initial: Status::Down, ..keepalived() });
    world.add("web", keepalived());
    world.add("mail", keepalived());
    assert_eq!(world.monitor.remove_server(&"web"), 2);
    assert_eq!((world.monitor.poll_event(), world.monitor.len()), (None, 1));
    assert_eq!(world.monitor.status(&"mail"), Some(Status::Up));
}

#[test]
fn two_changes_that_nobody_read_cancel() {
    let mut world = World::new();
    world.add("web", CheckConfig { thresholds: Thresholds::from_retry(0), ..keepalived() });
    for outcome in [Outcome::Down(DownReason::Refused), Outcome::Up] {
        world.next();
        world.answer_all(outcome);
    }
    assert_eq!(world.monitor.poll_event(), None);
    assert_eq!(world.monitor.status(&"web"), Some(Status::Up));
}

#[test]
fn checks_lie_evenly_over_the_interval_however_many_there_are() {
    for count in [2, 3, 10, 100, 1000] {
        let mut monitor = Monitor::new(42);
        for server in 0..count {
            // Added at different times: the regular moments do not depend on it.
            monitor.add_check(server, keepalived(), Instant::from_millis(server * 37)).unwrap();
        }
        let moments = regular_moments(&mut monitor, Instant::from_secs(120), Instant::from_secs(180));
        assert_eq!(moments.len() as u64, count, "one probe per check and interval");
        let mean = 60_000_000_000 / count;
        for pair in moments.windows(2) {
            assert!(pair[1] - pair[0] < mean * 2, "{count} checks: a hole of {} ns", pair[1] - pair[0]);
            assert!(pair[1] - pair[0] > mean / 3, "{count} checks: a burst within {} ns", pair[1] - pair[0]);
        }
    }
}

#[test]
fn the_seed_alone_fixes_the_moments() {
    let moments = |seed| {
        let mut monitor = Monitor::new(seed);
        for server in 0..10 {
            monitor.add_check(server, keepalived(), Instant::ZERO).unwrap();
        }
        regular_moments(&mut monitor, Instant::ZERO, Instant::from_secs(60))
    };
    assert_eq!(moments(1), moments(1));
    assert_ne!(moments(1), moments(2));
}

#[test]
fn warmup_brings_the_first_probe_forward() {
    let mut world = World::new();
    world.add("web", CheckConfig { warmup: Some(Duration::ZERO), ..keepalived() });
    assert_eq!(world.monitor.poll_timeout(), Some(world.now));
    assert!(world.monitor.poll_probe(world.now).is_some());
}

#[test]
fn after_a_long_pause_there_is_no_burst() {
    let mut monitor = Monitor::new(5);
    for server in 0..100 {
        monitor.add_check(server, keepalived(), Instant::ZERO).unwrap();
    }
    let back = Instant::from_secs(600);
    monitor.handle_timeout(back);
    assert_eq!(monitor.poll_probe(back), None);
    assert!(monitor.poll_timeout().unwrap() > back);
    let moments = regular_moments(&mut monitor, back, Instant::from_secs(660));
    assert_eq!(moments.len(), 100);
    assert!(moments.windows(2).all(|pair| pair[1] > pair[0]));
}

#[test]
fn an_owner_that_is_always_late_still_probes() {
    let mut monitor = Monitor::new(5);
    let config = CheckConfig { delay_loop: Duration::from_secs(1), ..keepalived() };
    monitor.add_check("web", config, Instant::ZERO).unwrap();
    let mut probes = 0;
    for turn in 1..=20 {
        let now = Instant::from_secs(turn * 10);
        monitor.handle_timeout(now);
        while let Some(probe) = monitor.poll_probe(now) {
            probes += 1;
            monitor.handle_outcome(probe.id, Outcome::Up, now);
        }
    }
    assert_eq!(probes, 10, "every other turn");
}

#[test]
fn the_end_of_time_is_survived() {
    let mut monitor = Monitor::new(5);
    let end = Instant::from_nanos(u64::MAX);
    monitor.add_check("web", keepalived(), end).unwrap();
    for _ in 0..3 {
        monitor.handle_timeout(end);
        while monitor.poll_probe(end).is_some() {}
    }
    assert_eq!(monitor.status(&"web"), Some(Status::Down), "every probe times out at once");
}

#[test]
fn bad_configurations_are_named() {
    let mut monitor = Monitor::new(0).with_max_checks(1);
    let mut refused = |config| monitor.add_check("web", config, Instant::ZERO).unwrap_err().to_string();
    let zero = Duration::ZERO;
    let mut slow = TcpCheck::new(endpoint());
    slow.connect_timeout = Duration::from_secs(86_401);
    assert_eq!(
        refused(CheckConfig { delay_loop: zero, ..keepalived() }),
        "delay_loop 0ns is out of range: 1ms to 86400s"
    );
    assert_eq!(
        refused(CheckConfig { delay_before_retry: zero, ..keepalived() }),
        "delay_before_retry 0ns is out of range: 1ms to 86400s"
    );
    assert_eq!(refused(CheckConfig::new(slow)), "connect_timeout 86401s is out of range: 1ms to 86400s");
    assert_eq!(
        refused(CheckConfig { warmup: Some(Duration::MAX), ..keepalived() }),
        "warmup 18446744073709551615.999999999s is out of range: 0ns to 86400s"
    );
    assert_eq!(
        refused(CheckConfig::new(TcpCheck::new("192.0.2.1:0".parse().unwrap()))),
        "cannot check 192.0.2.1:0: the port must be 1 to 65535"
    );
    assert!(monitor.is_empty());

    monitor.add_check("web", keepalived(), Instant::ZERO).unwrap();
    assert_eq!(
        monitor.add_check("mail", keepalived(), Instant::ZERO),
        Err(CheckError::TooManyChecks { max: 1 })
    );
}

/// What the owner of a monitor may do, in any order.
#[derive(Debug, Clone)]
enum Command {
    Add { server: u8, delay: u64, fall: u32, rise: u32, initial: bool },
    RemoveCheck(prop::sample::Index),
    RemoveServer(u8),
    Sleep(u64),
    SleepUntilTimeout,
    Probe,
    Answer(prop::sample::Index, Outcome),
    ReadEvent,
}

fn command() -> impl Strategy<Value = Command> {
    let outcome = prop_oneof![
        Just(Outcome::Up),
        Just(Outcome::Down(DownReason::Refused)),
        Just(Outcome::Down(DownReason::Unreachable)),
        Just(Outcome::Inconclusive),
    ];
    prop_oneof![
        2 => (0u8..4, 1u64..20_000, 1u32..4, 1u32..4, any::<bool>()).prop_map(
            |(server, delay, fall, rise, initial)| Command::Add { server, delay, fall, rise, initial }
        ),
        1 => any::<prop::sample::Index>().prop_map(Command::RemoveCheck),
        1 => (0u8..4).prop_map(Command::RemoveServer),
        2 => (0u64..30_000).prop_map(Command::Sleep),
        6 => Just(Command::SleepUntilTimeout),
        6 => Just(Command::Probe),
        8 => (any::<prop::sample::Index>(), outcome).prop_map(|(which, outcome)| Command::Answer(which, outcome)),
        2 => Just(Command::ReadEvent),
    ]
}

/// One check as an onlooker sees it: what it was told and what that must have come to.
struct Seen {
    id: CheckId,
    server: u8,
    fall: usize,
    rise: usize,
    status: Status,
    /// Outcomes that counted since the last change of state.
    history: Vec<bool>,
    outstanding: Option<(ProbeId, Instant)>,
}

impl Seen {
    fn count(&mut self, outcome: Outcome) {
        self.outstanding = None;
        let success = match outcome {
            Outcome::Up => true,
            Outcome::Down(_) => false,
            Outcome::Inconclusive => return,
        };
        self.history.push(success);
        let (needed, against, other) = match self.status {
            Status::Up => (self.fall, false, Status::Down),
            Status::Down => (self.rise, true, Status::Up),
        };
        if self.history.iter().rev().take_while(|&&s| s == against).count() >= needed {
            self.status = other;
            self.history.clear();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever the owner does, the monitor agrees with an onlooker who only counts.
    #[test]
    fn a_monitor_keeps_its_promises(seed: u64, commands in prop::collection::vec(command(), 1..150)) {
        let mut monitor = Monitor::new(seed);
        let mut now = Instant::from_secs(1);
        let mut seen: Vec<Seen> = Vec::new();
        let mut probes: Vec<ProbeId> = Vec::new();
        let mut told = BTreeMap::new();

        for command in commands {
            match command {
                Command::Add { server, delay, fall, rise, initial } => {
                    let status = if initial { Status::Up } else { Status::Down };
                    let config = CheckConfig {
                        delay_loop: Duration::from_millis(delay),
                        thresholds: Thresholds {
                            fall: NonZeroU32::new(fall).unwrap(),
                            rise: NonZeroU32::new(rise).unwrap(),
                        },
                        initial: status,
                        ..keepalived()
                    };
                    let id = monitor.add_check(server, config, now).unwrap();
                    let (fall, rise) = (fall as usize, rise as usize);
                    seen.push(Seen { id, server, fall, rise, status, history: vec![], outstanding: None });
                }
                Command::RemoveCheck(which) if !seen.is_empty() => {
                    let gone = seen.swap_remove(which.index(seen.len()));
                    prop_assert!(monitor.remove_check(gone.id, now));
                }
                Command::RemoveServer(server) => {
                    let before = seen.len();
                    seen.retain(|check| check.server != server);
                    prop_assert_eq!(monitor.remove_server(&server), before - seen.len());
                    told.remove(&server);
                }
                Command::Sleep(_) | Command::SleepUntilTimeout => {
                    now = match command {
                        Command::Sleep(millis) => now + Duration::from_millis(millis),
                        _ => monitor.poll_timeout().unwrap_or(now).max(now),
                    };
                    monitor.handle_timeout(now);
                    prop_assert!(monitor.poll_timeout().is_none_or(|next| next > now));
                    for check in &mut seen {
                        if check.outstanding.is_some_and(|(_, deadline)| deadline <= now) {
                            check.count(Outcome::Down(DownReason::TimedOut));
                        }
                    }
                }
                Command::Probe => {
                    while let Some(probe) = monitor.poll_probe(now) {
                        let check = seen.iter_mut().find(|check| check.id == probe.id.check()).unwrap();
                        prop_assert!(check.outstanding.is_none(), "a second probe while one is outstanding");
                        prop_assert!(!probes.contains(&probe.id), "a probe id comes twice");
                        prop_assert_eq!(probe.server, check.server);
                        prop_assert_eq!(probe.deadline, now + probe.check.timeout());
                        check.outstanding = Some((probe.id, probe.deadline));
                        probes.push(probe.id);
                    }
                }
                Command::Answer(which, outcome) if !probes.is_empty() => {
                    let probe = probes[which.index(probes.len())];
                    let check = seen.iter_mut().find(|check| {
                        check.outstanding.is_some_and(|(id, deadline)| id == probe && now < deadline)
                    });
                    prop_assert_eq!(monitor.handle_outcome(probe, outcome, now), check.is_some());
                    if let Some(check) = check {
                        check.count(outcome);
                    }
                }
                Command::ReadEvent => {
                    while let Some(event) = monitor.poll_event() {
                        let before = told.insert(event.server, event.status).unwrap_or(Status::Up);
                        prop_assert_ne!(before, event.status, "down and up take turns");
                    }
                    for server in 0..4 {
                        let believed = told.get(&server).copied().unwrap_or(Status::Up);
                        prop_assert_eq!(believed, monitor.status(&server).unwrap_or(Status::Up));
                    }
                }
                Command::RemoveCheck(_) | Command::Answer(..) => {}
            }

            prop_assert_eq!(monitor.len(), seen.len());
            for check in &seen {
                prop_assert_eq!(monitor.check_status(check.id), Some(check.status));
                let up = seen.iter().all(|c| c.server != check.server || c.status == Status::Up);
                prop_assert_eq!(monitor.status(&check.server) == Some(Status::Up), up);
            }
            prop_assert!(monitor.unread.len() <= 4 && monitor.unread.len() == monitor.unread_order.len());
            let places = monitor.waiting.len() + monitor.ready.len() + monitor.outstanding.len();
            prop_assert_eq!(places, seen.len(), "every check stands in one place");
        }
    }

    /// The regular moments are `delay_loop` apart and the next one is never in the past.
    #[test]
    fn the_next_regular_moment_is_the_first_after_now(phase: u32, interval in 1u64..1 << 40, now in 0u64..1 << 60) {
        let phase = u64::from(phase);
        let interval_time = Duration::from_nanos(interval);
        let next = next_regular(Instant::from_nanos(phase), interval_time, Instant::from_nanos(now)).as_nanos();
        prop_assert!(next > now || next == phase && now < phase);
        prop_assert_eq!((next - phase) % interval, 0);
        prop_assert!(next == phase || next - interval <= now);
    }
}

/// A monitor and its clock.
struct World {
    monitor: Monitor<&'static str>,
    now: Instant,
}

impl World {
    fn new() -> Self {
        Self { monitor: Monitor::new(1), now: Instant::ZERO }
    }

    fn add(&mut self, server: &'static str, config: CheckConfig) -> CheckId {
        self.monitor.add_check(server, config, self.now).unwrap()
    }

    /// Sleeps until the next timeout and handles it.
    fn next(&mut self) -> Instant {
        self.now = self.monitor.poll_timeout().expect("something is planned");
        self.monitor.handle_timeout(self.now);
        self.now
    }

    /// Answers every probe that is ready; there must be one.
    fn answer_all(&mut self, outcome: Outcome) {
        let mut answered = 0;
        while let Some(probe) = self.monitor.poll_probe(self.now) {
            assert!(self.monitor.handle_outcome(probe.id, outcome, self.now));
            answered += 1;
        }
        assert_ne!(answered, 0, "a probe was due at {:?}", self.now);
    }
}

/// Runs the loop with healthy servers; returns when probes were made in `from..until`, in nanoseconds.
fn regular_moments<S: Clone + Ord>(monitor: &mut Monitor<S>, from: Instant, until: Instant) -> Vec<u64> {
    let mut moments = Vec::new();
    while let Some(now) = monitor.poll_timeout().filter(|&at| at < until) {
        monitor.handle_timeout(now);
        while let Some(probe) = monitor.poll_probe(now) {
            monitor.handle_outcome(probe.id, Outcome::Up, now);
            if now >= from {
                moments.push(now.as_nanos());
            }
        }
    }
    moments
}

fn keepalived() -> CheckConfig {
    CheckConfig::new(TcpCheck::new(endpoint()))
}

fn endpoint() -> Endpoint {
    "192.0.2.1:80".parse().unwrap()
}
