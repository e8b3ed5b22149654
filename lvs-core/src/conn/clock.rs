//! Moments in 32 bits: ticks of a sixteenth of a second since the table's epoch.

use lvs_sched::Instant;

/// Length of a tick in nanoseconds.
pub(super) const TICK: u64 = 1_000_000_000 / 16;

/// The last tick an expiry can have.
const LAST: u32 = u32::MAX - 1;

/// No moment: the bound of a group without live entries.
pub(super) const NEVER: u32 = u32::MAX;

/// Age of the epoch (ticks) at which it is moved: 4.25 years. A lifetime of 4.25 years always fits.
const MOVE_AFTER: u64 = 1 << 31;

/// Converts between [`Instant`]s and ticks.
#[derive(Debug, Clone, Default)]
pub(super) struct Clock {
    /// The epoch, in ticks of the owner's clock; set at the first insertion.
    epoch: Option<u64>,
}

impl Clock {
    /// The tick that `now` lies in. A moment before the epoch is in tick 0.
    #[inline]
    pub(super) fn tick(&self, now: Instant) -> u32 {
        let ticks = (now.as_nanos() / TICK).saturating_sub(self.epoch.unwrap_or(0));
        u32::try_from(ticks).map_or(LAST, |ticks| ticks.min(LAST))
    }

    /// The first tick at which something that ends at `end` is over: rounded up, so never early.
    #[inline]
    pub(super) fn expiry(&self, end: Instant) -> u32 {
        let ticks = end.as_nanos().div_ceil(TICK).saturating_sub(self.epoch.unwrap_or(0));
        u32::try_from(ticks).map_or(LAST, |ticks| ticks.min(LAST))
    }

    /// The beginning of a tick.
    #[inline]
    pub(super) fn instant(&self, tick: u32) -> Instant {
        let ticks = self.epoch.unwrap_or(0).saturating_add(u64::from(tick));
        Instant::from_nanos(ticks.saturating_mul(TICK))
    }

    /// Sets the epoch at the first call and moves it when it is too long ago. `Some(n)`: every stored tick must
    /// be lowered by `n`.
    pub(super) fn advance(&mut self, now: Instant) -> Option<u64> {
        let now = now.as_nanos() / TICK;
        let epoch = *self.epoch.get_or_insert(now);
        let age = now.saturating_sub(epoch);
        if age < MOVE_AFTER {
            return None;
        }
        self.epoch = Some(now);
        Some(age)
    }
}

/// A stored tick after the epoch moved by `by` ticks.
pub(super) fn moved(tick: u32, by: u64) -> u32 {
    if tick == NEVER { NEVER } else { u64::from(tick).saturating_sub(by) as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expiry_rounds_up_and_now_rounds_down() {
        let mut clock = Clock::default();
        clock.advance(Instant::from_nanos(10 * TICK + 1));
        assert_eq!(clock.tick(Instant::from_nanos(11 * TICK - 1)), 0);
        assert_eq!(clock.tick(Instant::from_nanos(11 * TICK)), 1);
        assert_eq!(clock.expiry(Instant::from_nanos(11 * TICK)), 1);
        assert_eq!(clock.expiry(Instant::from_nanos(11 * TICK + 1)), 2);
        assert_eq!(clock.instant(1), Instant::from_nanos(11 * TICK));
    }

    #[test]
    fn moments_out_of_range_stop_at_the_ends() {
        let mut clock = Clock::default();
        clock.advance(Instant::from_secs(100));
        assert_eq!(clock.tick(Instant::ZERO), 0);
        assert_eq!(clock.expiry(Instant::from_nanos(u64::MAX)), LAST);
        assert_eq!(clock.tick(Instant::from_nanos(u64::MAX)), LAST);
    }

    #[test]
    fn the_epoch_moves_after_four_years() {
        let mut clock = Clock::default();
        assert_eq!(clock.advance(Instant::ZERO), None);
        let late = Instant::from_nanos(MOVE_AFTER * TICK);
        assert_eq!(clock.advance(late), Some(MOVE_AFTER));
        assert_eq!((clock.tick(late), clock.instant(0)), (0, late));
        assert_eq!((moved(NEVER, 5), moved(4, 5), moved(9, 5)), (NEVER, 0, 4));
    }
}
