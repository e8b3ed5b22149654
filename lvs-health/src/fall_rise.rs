//! Hysteresis: how many probes in a row must disagree with a state before it changes.
//!
//! Counts outcomes and nothing else; knows neither time nor what was probed.

use core::fmt;
use core::num::NonZeroU32;

use lvs_sched::Weight;

/// Whether a server (or one check of it) is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// It takes new connections.
    Up,
    /// It does not.
    Down,
}

impl Status {
    /// Returns the weight to give a server of this status: `configured` when up, 0 when down.
    ///
    /// This is keepalived's `inhibit_on_failure`: existing connections stay. An owner that removes the
    /// server instead does not need it.
    pub const fn weight(self, configured: Weight) -> Weight {
        match self {
            Self::Up => configured,
            Self::Down => Weight::QUIESCED,
        }
    }

    const fn other(self) -> Self {
        match self {
            Self::Up => Self::Down,
            Self::Down => Self::Up,
        }
    }
}

/// `up` or `down`.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Up => "up",
            Self::Down => "down",
        })
    }
}

/// How many outcomes in a row change the state.
///
/// The default is keepalived's: two failures (the first and one retry) and one success.
///
/// # Examples
/// ```
/// use lvs_health::Thresholds;
/// assert_eq!(Thresholds::default(), Thresholds::from_retry(1));
/// assert_eq!(Thresholds::from_retry(3).fall.get(), 4);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Thresholds {
    /// Failures in a row that take it down.
    pub fall: NonZeroU32,
    /// Successes in a row that bring it up.
    pub rise: NonZeroU32,
}

impl Thresholds {
    /// keepalived's `retry` of a TCP check.
    pub const RETRY: u32 = 1;

    /// keepalived's rule: down when a failure was followed by `retry` more, up at the first success.
    pub const fn from_retry(retry: u32) -> Self {
        Self { fall: NonZeroU32::MIN.saturating_add(retry), rise: NonZeroU32::MIN }
    }
}

impl Default for Thresholds {
    fn default() -> Self {
        Self::from_retry(Self::RETRY)
    }
}

/// The state of one check under [`Thresholds`].
///
/// ```text
///        fall failures in a row
///   Up ───────────────────────────▶ Down      an outcome that agrees with the state
///      ◀───────────────────────────           sets the count back to 0
///        rise successes in a row
/// ```
///
/// # Examples
/// ```
/// use lvs_health::{FallRise, Status, Thresholds};
/// let mut state = FallRise::new(Thresholds::default(), Status::Up);
/// assert_eq!(state.observe(false), None); // the first failure only asks for a retry
/// assert_eq!(state.observe(false), Some(Status::Down));
/// assert_eq!(state.observe(true), Some(Status::Up));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FallRise {
    thresholds: Thresholds,
    status: Status,
    /// Outcomes in a row that disagree with `status`; always below the threshold that would change it.
    against: u32,
}

impl FallRise {
    /// Starts in `initial`: keepalived starts up, with `alpha` down.
    pub const fn new(thresholds: Thresholds, initial: Status) -> Self {
        Self { thresholds, status: initial, against: 0 }
    }

    /// The present state.
    pub const fn status(&self) -> Status {
        self.status
    }

    /// Whether the last outcome disagreed with the state without changing it yet.
    pub const fn is_in_doubt(&self) -> bool {
        self.against > 0
    }

    /// Counts one outcome; returns the new state when it changed.
    pub fn observe(&mut self, success: bool) -> Option<Status> {
        let (agrees, needed) = match self.status {
            Status::Up => (success, self.thresholds.fall),
            Status::Down => (!success, self.thresholds.rise),
        };
        if agrees {
            self.against = 0;
            return None;
        }
        self.against += 1;
        debug_assert!(self.against <= needed.get(), "the count was below the threshold");
        if self.against < needed.get() {
            return None;
        }
        self.against = 0;
        self.status = self.status.other();
        Some(self.status)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn no_retry_means_down_at_the_first_failure() {
        let mut state = FallRise::new(Thresholds::from_retry(0), Status::Up);
        assert_eq!(state.observe(false), Some(Status::Down));
    }

    #[test]
    fn a_success_forgets_earlier_failures() {
        let mut state = FallRise::new(thresholds(3, 1), Status::Up);
        let outcomes = [false, false, true, false, false, false];
        let changes = outcomes.map(|success| state.observe(success));
        assert_eq!(changes, [None, None, None, None, None, Some(Status::Down)]);
    }

    #[test]
    fn a_failure_forgets_earlier_successes() {
        let mut state = FallRise::new(thresholds(1, 2), Status::Down);
        let outcomes = [true, false, true, true];
        let changes = outcomes.map(|success| state.observe(success));
        assert_eq!(changes, [None, None, None, Some(Status::Up)]);
    }

    #[test]
    fn alpha_starts_down_and_the_first_success_brings_it_up() {
        let mut state = FallRise::new(Thresholds::default(), Status::Down);
        assert_eq!((state.observe(false), state.status()), (None, Status::Down));
        assert_eq!(state.observe(true), Some(Status::Up));
    }

    #[test]
    fn doubt_lasts_from_the_first_disagreement_to_the_change() {
        let mut state = FallRise::new(thresholds(2, 1), Status::Up);
        assert!(!state.is_in_doubt());
        state.observe(false);
        assert!(state.is_in_doubt());
        state.observe(false);
        assert!(!state.is_in_doubt());
    }

    #[test]
    fn the_largest_retry_does_not_overflow() {
        assert_eq!(Thresholds::from_retry(u32::MAX).fall, NonZeroU32::MAX);
    }

    #[test]
    fn a_server_that_is_down_gets_weight_0() {
        assert_eq!(Status::Down.weight(Weight::ONE), Weight::QUIESCED);
        assert_eq!(Status::Up.weight(Weight::ONE), Weight::ONE);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// The state changes exactly when the last `needed` outcomes since the last change all disagree.
        #[test]
        fn a_change_needs_its_count_in_a_row(
            fall in 1u32..5,
            rise in 1u32..5,
            start_up: bool,
            outcomes in prop::collection::vec(any::<bool>(), 0..200),
        ) {
            let mut status = if start_up { Status::Up } else { Status::Down };
            let mut state = FallRise::new(thresholds(fall, rise), status);
            let mut since_change = 0;
            for (index, &success) in outcomes.iter().enumerate() {
                let needed = if status == Status::Up { fall } else { rise } as usize;
                let recent = &outcomes[since_change..=index];
                let enough = recent.len() >= needed
                    && recent[recent.len() - needed..].iter().all(|&up| up == (status == Status::Down));
                let changed = state.observe(success);
                prop_assert_eq!(changed.is_some(), enough);
                if let Some(new) = changed {
                    prop_assert_ne!(new, status);
                    (status, since_change) = (new, index + 1);
                }
                prop_assert_eq!(state.status(), status);
            }
        }
    }

    fn thresholds(fall: u32, rise: u32) -> Thresholds {
        Thresholds { fall: NonZeroU32::new(fall).unwrap(), rise: NonZeroU32::new(rise).unwrap() }
    }
}
