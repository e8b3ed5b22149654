//! When to probe what: the schedule of all checks and the state of all servers.
//!
//! It hands out probes, takes their outcomes and tells which servers changed. It opens no socket, judges no
//! answer (that is the check's job) and never holds a director: the owner turns its events into weights.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use lvs_sched::{Endpoint, Instant};

use crate::{Check, DownReason, FallRise, Outcome, Status, Thresholds};

/// Schedules the checks of real servers and tells which servers went up or down.
///
/// `S` is the owner's name of a real server: an [`lvs_sched::ServerId`], a pair of service and server, a
/// string. A server may have several checks and is up when all of them are; it is taken to be up until an
/// event says otherwise, and the events of one server alternate between down and up.
///
/// # One check in time
/// ```text
///             ready            polled                    answered, or the deadline has passed
///   Waiting ────────▶ Ready ──────────▶ Outstanding ──────┬──▶ Waiting for its next regular moment
///      ▲                                                  └──▶ Waiting for delay_before_retry, while the
///      └─────────────────────────────────────────────────────  outcome disagrees with the state
/// ```
/// - There is at most one outstanding probe per check. An answer to any other probe is ignored.
/// - The regular moments of a check are one point in every `delay_loop`, fixed by the seed and the number
///   of the check. The points of all checks lie evenly over the interval (their fractions are multiples of
///   the golden ratio), so probes never come in a burst, also after checks came and went.
/// - When the owner was away for a whole `delay_loop` or more, the missed probe is not made up for: the
///   check waits for its next regular moment. That is done once in a row, so that an owner which is always
///   late still probes.
///
/// # Bounds
/// At most [`max_checks`](Self::with_max_checks) checks; per check one place in the schedule, per server at most
/// one unread event (two changes that nobody read cancel each other).
///
/// # Examples
/// See the [crate's first page](crate#examples).
#[derive(Debug, Clone)]
pub struct Monitor<S> {
    seed: u64,
    max_checks: usize,
    /// Checks added so far: the next check's number.
    added: u64,
    checks: BTreeMap<CheckId, Entry<S>>,
    servers: BTreeMap<S, Tally>,
    /// Waiting checks by the moment they are due.
    waiting: BTreeSet<(Instant, CheckId)>,
    /// Checks that are due, by the moment they became so.
    ready: BTreeSet<(Instant, CheckId)>,
    /// Outstanding probes by their deadline.
    outstanding: BTreeSet<(Instant, CheckId)>,
    unread: BTreeMap<S, HealthEvent<S>>,
    /// The servers of `unread` in the order of their events.
    unread_order: VecDeque<S>,
}

impl<S: Clone + Ord> Monitor<S> {
    /// How many checks a monitor takes unless told otherwise.
    pub const DEFAULT_MAX_CHECKS: usize = 65_536;

    /// Makes a monitor without checks.
    ///
    /// `seed` moves all probes within their intervals: give each director its own, so that several of them
    /// do not probe a server at the same moments.
    pub const fn new(seed: u64) -> Self {
        Self {
            seed,
            max_checks: Self::DEFAULT_MAX_CHECKS,
            added: 0,
            checks: BTreeMap::new(),
            servers: BTreeMap::new(),
            waiting: BTreeSet::new(),
            ready: BTreeSet::new(),
            outstanding: BTreeSet::new(),
            unread: BTreeMap::new(),
            unread_order: VecDeque::new(),
        }
    }

    /// Sets how many checks there may be; checks beyond that stay, but no new one is taken.
    #[must_use]
    pub fn with_max_checks(mut self, max_checks: usize) -> Self {
        self.max_checks = max_checks;
        self
    }

    /// Adds a check of `server`; its first probe comes within [`CheckConfig::warmup`].
    ///
    /// A check whose initial state is down takes a server that was up down, with an event. To replace a
    /// check without a flap, add the new one with the old one's [state](Self::check_status), then remove
    /// the old one.
    ///
    /// # Errors
    /// [`CheckError`] when a delay is out of range, the port is 0 or there are too many checks. Nothing has
    /// changed then.
    pub fn add_check(&mut self, server: S, config: CheckConfig, now: Instant) -> Result<CheckId, CheckError> {
        config.validate()?;
        if self.checks.len() >= self.max_checks {
            return Err(CheckError::TooManyChecks { max: self.max_checks });
        }
        let id = CheckId(self.added);
        let fraction = mix(self.seed).wrapping_add(self.added.wrapping_mul(GOLDEN_RATIO));
        self.added += 1;

        let phase = Instant::ZERO + part_of(config.delay_loop, fraction);
        let due = match config.warmup {
            None => next_regular(phase, config.delay_loop, now),
            Some(warmup) => now + part_of(warmup, fraction),
        };
        let entry = Entry {
            server: server.clone(),
            config,
            phase,
            state: FallRise::new(config.thresholds, config.initial),
            attempts: 0,
            stage: Stage::Waiting { due },
            skipped: false,
        };
        self.checks.insert(id, entry);
        self.waiting.insert((due, id));

        let tally = self.servers.entry(server.clone()).or_default();
        let before = tally.status();
        tally.checks += 1;
        tally.down += usize::from(config.initial == Status::Down);
        let after = tally.status();
        self.tell(server, id, before, after, Cause::NotYetChecked, now);
        Ok(id)
    }

    /// Removes a check; returns whether there was one.
    ///
    /// An answer to its probe will be ignored. The server comes up when this was the last check that held
    /// it down: a server without checks is up.
    pub fn remove_check(&mut self, check: CheckId, now: Instant) -> bool {
        let Some(entry) = self.checks.remove(&check) else { return false };
        self.unschedule(check, entry.stage);
        if let Some(tally) = self.servers.get_mut(&entry.server) {
            let before = tally.status();
            tally.checks -= 1;
            tally.down -= usize::from(entry.state.status() == Status::Down);
            let after = tally.status();
            if tally.checks == 0 {
                self.servers.remove(&entry.server);
            }
            self.tell(entry.server, check, before, after, Cause::CheckRemoved, now);
        }
        true
    }

    /// Forgets a server with all its checks and its unread event; returns how many checks it had.
    ///
    /// No event comes of this. A server that is added again under the same name is a new one.
    pub fn remove_server(&mut self, server: &S) -> usize {
        let ids: Vec<CheckId> =
            self.checks.iter().filter(|(_, entry)| entry.server == *server).map(|(&id, _)| id).collect();
        for id in &ids {
            if let Some(entry) = self.checks.remove(id) {
                self.unschedule(*id, entry.stage);
            }
        }
        self.servers.remove(server);
        self.forget_unread(server);
        ids.len()
    }

    /// Returns whether a server is up: all its checks are. `None` when it has no check.
    pub fn status(&self, server: &S) -> Option<Status> {
        self.servers.get(server).map(Tally::status)
    }

    /// Returns the state of one check.
    pub fn check_status(&self, check: CheckId) -> Option<Status> {
        self.checks.get(&check).map(|entry| entry.state.status())
    }

    /// How many checks there are.
    pub fn len(&self) -> usize {
        self.checks.len()
    }

    /// Whether there is no check.
    pub fn is_empty(&self) -> bool {
        self.checks.is_empty()
    }

    /// Returns the next probe to make now, if any. Call it until it returns `None`.
    ///
    /// The owner carries it out and reports to [`handle_outcome`](Self::handle_outcome). It may give up at
    /// the deadline without a word.
    pub fn poll_probe(&mut self, now: Instant) -> Option<Probe<S>> {
        self.expire_waits(now);
        let (_, id) = self.ready.pop_first()?;
        // Checks leave `ready` when they are removed, so the entry is there.
        let entry = self.checks.get_mut(&id)?;
        debug_assert!(matches!(entry.stage, Stage::Ready { .. }));
        let deadline = now + entry.config.check.timeout();
        let probe = ProbeId { check: id, attempt: entry.attempts };
        entry.attempts += 1;
        entry.skipped = false;
        entry.stage = Stage::Outstanding { probe, deadline };
        self.outstanding.insert((deadline, id));
        Some(Probe { id: probe, server: entry.server.clone(), check: entry.config.check, deadline })
    }

    /// Takes the outcome of a probe; returns whether it counted.
    ///
    /// It is ignored when the probe is not the outstanding one of its check (unknown, answered already,
    /// check removed) or when it comes at or after the deadline: the probe counts as timed out then.
    pub fn handle_outcome(&mut self, probe: ProbeId, outcome: Outcome, now: Instant) -> bool {
        let Some(entry) = self.checks.get(&probe.check) else { return false };
        let Stage::Outstanding { probe: outstanding, deadline } = entry.stage else { return false };
        if outstanding != probe || now >= deadline {
            return false;
        }
        self.outstanding.remove(&(deadline, probe.check));
        self.conclude(probe.check, outcome, now);
        true
    }

    /// Returns the oldest unread change of a server, if any. Call it until it returns `None`.
    pub fn poll_event(&mut self) -> Option<HealthEvent<S>> {
        let server = self.unread_order.pop_front()?;
        self.unread.remove(&server)
    }

    /// Returns when to call [`handle_timeout`](Self::handle_timeout) next; `None` without checks.
    ///
    /// Drain [`poll_probe`](Self::poll_probe) first: a probe that is ready and not yet polled is not
    /// waited for.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let first = |set: &BTreeSet<(Instant, CheckId)>| set.first().map(|&(at, _)| at);
        first(&self.waiting).into_iter().chain(first(&self.outstanding)).min()
    }

    /// Moves on to `now`: probes past their deadline count as timed out, checks that are due become ready.
    ///
    /// [`poll_timeout`](Self::poll_timeout) lies after `now` then.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((_, id)) = pop_until(&mut self.outstanding, now) {
            self.conclude(id, Outcome::Down(DownReason::TimedOut), now);
        }
        self.expire_waits(now);
    }

    /// Makes the checks ready that are due, or puts them off when they missed a whole interval.
    fn expire_waits(&mut self, now: Instant) {
        while let Some((due, id)) = pop_until(&mut self.waiting, now) {
            // Checks leave `waiting` when they are removed, so the entry is there.
            let Some(entry) = self.checks.get_mut(&id) else { continue };
            let missed = now >= due + entry.config.delay_loop;
            if missed && !entry.skipped && !entry.state.is_in_doubt() {
                let due = next_regular(entry.phase, entry.config.delay_loop, now);
                entry.skipped = true;
                entry.stage = Stage::Waiting { due };
                self.waiting.insert((due, id));
            } else {
                entry.stage = Stage::Ready { due };
                self.ready.insert((due, id));
            }
        }
    }

    /// Counts the outcome of a check's outstanding probe and plans the next one.
    fn conclude(&mut self, id: CheckId, outcome: Outcome, now: Instant) {
        let Some(entry) = self.checks.get_mut(&id) else { return };
        debug_assert!(matches!(entry.stage, Stage::Outstanding { .. }));
        let changed = match outcome {
            Outcome::Up => entry.state.observe(true).map(|status| (status, Cause::Passed)),
            Outcome::Down(reason) => entry.state.observe(false).map(|status| (status, Cause::Failed(reason))),
            Outcome::Inconclusive => None,
        };
        let due = if entry.state.is_in_doubt() {
            now + entry.config.delay_before_retry
        } else {
            next_regular(entry.phase, entry.config.delay_loop, now)
        };
        entry.stage = Stage::Waiting { due };
        self.waiting.insert((due, id));

        let (Some((status, cause)), Some(tally)) = (changed, self.servers.get_mut(&entry.server)) else {
            return;
        };
        let before = tally.status();
        match status {
            Status::Up => tally.down -= 1,
            Status::Down => tally.down += 1,
        }
        let after = tally.status();
        let server = entry.server.clone();
        self.tell(server, id, before, after, cause, now);
    }

    /// Queues the event of a server whose status changed. A change back of one that nobody has read yet
    /// takes that one away: the owner knows the right status already.
    fn tell(&mut self, server: S, check: CheckId, before: Status, after: Status, cause: Cause, at: Instant) {
        if before == after || self.forget_unread(&server) {
            return;
        }
        self.unread_order.push_back(server.clone());
        self.unread.insert(server.clone(), HealthEvent { server, status: after, cause, check, at });
    }

    fn forget_unread(&mut self, server: &S) -> bool {
        let was_unread = self.unread.remove(server).is_some();
        if was_unread {
            self.unread_order.retain(|other| other != server);
        }
        was_unread
    }

    fn unschedule(&mut self, id: CheckId, stage: Stage) {
        match stage {
            Stage::Waiting { due } => self.waiting.remove(&(due, id)),
            Stage::Ready { due } => self.ready.remove(&(due, id)),
            Stage::Outstanding { deadline, .. } => self.outstanding.remove(&(deadline, id)),
        };
    }
}

/// A check and its timing; the defaults are keepalived's.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use lvs_health::{CheckConfig, Status, TcpCheck, Thresholds};
///
/// let mut config = CheckConfig::new(TcpCheck::new("192.0.2.10:80".parse()?));
/// assert_eq!(config.delay_loop, Duration::from_secs(60));
/// assert_eq!(config.delay_before_retry, Duration::from_secs(1));
///
/// config.delay_loop = Duration::from_secs(6);
/// config.thresholds = Thresholds::from_retry(3);
/// config.initial = Status::Down; // keepalived's `alpha`
/// # Ok::<(), lvs_sched::ParseEndpointError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckConfig {
    /// What to probe.
    pub check: Check,
    /// Time between regular probes, 1 ms to 1 day.
    pub delay_loop: Duration,
    /// Time from an outcome that disagrees with the state to the next probe, 1 ms to 1 day, until enough
    /// of them have changed the state or one agrees with it again.
    pub delay_before_retry: Duration,
    /// The first probe comes within this time, at most 1 day; `None`: at the first regular moment, so
    /// within `delay_loop`. With zero, all checks that are added together are probed together.
    pub warmup: Option<Duration>,
    /// How many outcomes in a row change the state.
    pub thresholds: Thresholds,
    /// The state before the first probe: up, or down (keepalived's `alpha`).
    pub initial: Status,
}

impl CheckConfig {
    /// keepalived's `delay_loop`: 60 s.
    pub const DELAY_LOOP: Duration = Duration::from_secs(60);
    /// keepalived's `delay_before_retry` of a TCP check: 1 s.
    pub const DELAY_BEFORE_RETRY: Duration = Duration::from_secs(1);
    /// The shortest delay or timeout.
    pub const MIN_DELAY: Duration = Duration::from_millis(1);
    /// The longest delay or timeout.
    pub const MAX_DELAY: Duration = Duration::from_secs(24 * 60 * 60);

    /// Makes the configuration that keepalived would use for a check without further words.
    pub fn new(check: impl Into<Check>) -> Self {
        Self {
            check: check.into(),
            delay_loop: Self::DELAY_LOOP,
            delay_before_retry: Self::DELAY_BEFORE_RETRY,
            warmup: None,
            thresholds: Thresholds::default(),
            initial: Status::Up,
        }
    }

    /// Tells whether [`Monitor::add_check`] would take this.
    ///
    /// # Errors
    /// [`CheckError`] when a delay is out of range or the port is 0.
    pub fn validate(&self) -> Result<(), CheckError> {
        let delays = [
            ("delay_loop", self.delay_loop, Self::MIN_DELAY),
            ("delay_before_retry", self.delay_before_retry, Self::MIN_DELAY),
            ("connect_timeout", self.check.timeout(), Self::MIN_DELAY),
            ("warmup", self.warmup.unwrap_or_default(), Duration::ZERO),
        ];
        for (name, value, min) in delays {
            if value < min || value > Self::MAX_DELAY {
                return Err(CheckError::Delay { name, value, min, max: Self::MAX_DELAY });
            }
        }
        let endpoint = self.check.endpoint();
        if endpoint.port == 0 { Err(CheckError::NoPort { endpoint }) } else { Ok(()) }
    }
}

/// Names one check of one monitor; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckId(u64);

/// Names one probe of one check; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProbeId {
    check: CheckId,
    attempt: u64,
}

impl ProbeId {
    /// The check that this is a probe of.
    pub const fn check(self) -> CheckId {
        self.check
    }
}

/// One probe to make now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe<S> {
    /// What to report its outcome under.
    pub id: ProbeId,
    /// The server that it probes.
    pub server: S,
    /// What to do, and who judges the answer.
    pub check: Check,
    /// An outcome at or after this moment is ignored.
    pub deadline: Instant,
}

impl<S> Probe<S> {
    /// The address and port that it goes to.
    pub const fn endpoint(&self) -> Endpoint {
        self.check.endpoint()
    }
}

/// A server went up or down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthEvent<S> {
    /// Which server.
    pub server: S,
    /// What it is now.
    pub status: Status,
    /// Why.
    pub cause: Cause,
    /// The check that decided it.
    pub check: CheckId,
    /// When it was decided.
    pub at: Instant,
}

/// Why a server changed its status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The last check that held it down has passed often enough.
    Passed,
    /// A check has failed often enough; this was the last failure.
    Failed(DownReason),
    /// A check that starts down was added.
    NotYetChecked,
    /// The last check that held it down was removed.
    CheckRemoved,
}

/// `check passed`, `connection refused`, …: the part of a log line after "because".
impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => f.pad("check passed"),
            Self::Failed(reason) => reason.fmt(f),
            Self::NotYetChecked => f.pad("not yet checked"),
            Self::CheckRemoved => f.pad("check removed"),
        }
    }
}

/// Why a check was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// A delay or timeout is too short or too long.
    #[error("{name} {value:?} is out of range: {min:?} to {max:?}")]
    Delay {
        /// Which one, as the field is called.
        name: &'static str,
        /// What it was.
        value: Duration,
        /// The shortest that is taken.
        min: Duration,
        /// The longest that is taken.
        max: Duration,
    },
    /// The check goes to port 0.
    #[error("cannot check {endpoint}: the port must be 1 to 65535")]
    NoPort {
        /// Where it was to go.
        endpoint: Endpoint,
    },
    /// The monitor is full.
    #[error("there are {max} checks already, which is the limit of this monitor")]
    TooManyChecks {
        /// The limit.
        max: usize,
    },
}

#[derive(Debug, Clone)]
struct Entry<S> {
    server: S,
    config: CheckConfig,
    /// The first regular moment after the epoch; the others follow every `delay_loop`.
    phase: Instant,
    state: FallRise,
    /// Probes handed out so far.
    attempts: u64,
    stage: Stage,
    /// Whether a missed probe was skipped since the last one that was handed out.
    skipped: bool,
}

/// Where a check stands: in the set of that name, under that moment.
#[derive(Debug, Clone, Copy)]
enum Stage {
    Waiting { due: Instant },
    Ready { due: Instant },
    Outstanding { probe: ProbeId, deadline: Instant },
}

/// The checks of one server.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    checks: usize,
    down: usize,
}

impl Tally {
    const fn status(&self) -> Status {
        if self.down == 0 { Status::Up } else { Status::Down }
    }
}

/// Takes out the earliest entry if its moment has come.
fn pop_until(set: &mut BTreeSet<(Instant, CheckId)>, now: Instant) -> Option<(Instant, CheckId)> {
    if set.first()?.0 <= now { set.pop_first() } else { None }
}

/// Returns the first of the moments `phase`, `phase + interval`, … that lies after `now`.
fn next_regular(phase: Instant, interval: Duration, now: Instant) -> Instant {
    if now < phase {
        return phase;
    }
    let interval = nanos(interval);
    let rounds = (now.as_nanos() - phase.as_nanos()) / interval + 1;
    Instant::from_nanos(phase.as_nanos().saturating_add(rounds.saturating_mul(interval)))
}

/// Returns `fraction` / 2⁶⁴ of `whole`.
fn part_of(whole: Duration, fraction: u64) -> Duration {
    let part = (u128::from(nanos(whole)) * u128::from(fraction)) >> 64;
    Duration::from_nanos(part as u64) // smaller than `whole`
}

/// Delays are at most a day, so nothing is cut off here.
fn nanos(delay: Duration) -> u64 {
    u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX)
}

/// Spreads the bits of a seed (the finaliser of splitmix64, Steele, Lea and Flood 2014).
const fn mix(seed: u64) -> u64 {
    let seed = seed.wrapping_add(GOLDEN_RATIO);
    let seed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let seed = (seed ^ (seed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    seed ^ (seed >> 31)
}

/// The golden ratio's fraction in units of 2⁻⁶⁴. Its multiples fill a circle as evenly as can be, however
/// many there are (three-distance theorem).
const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests;
