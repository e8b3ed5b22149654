//! The one place that reads the system's clock.

use std::time;

use crate::Instant;

/// The system's monotonic clock, counted from the moment the value was made.
#[derive(Debug, Clone, Copy)]
pub struct MonotonicClock {
    origin: time::Instant,
}

impl MonotonicClock {
    /// Starts a clock at [`Instant::ZERO`].
    #[expect(
        clippy::disallowed_methods,
        reason = "the edge reads the clock; everything else is told the time"
    )]
    pub fn new() -> Self {
        Self { origin: time::Instant::now() }
    }

    /// Returns the time since the clock was started.
    #[expect(
        clippy::disallowed_methods,
        reason = "the edge reads the clock; everything else is told the time"
    )]
    pub fn now(&self) -> Instant {
        Instant::ZERO + time::Instant::now().saturating_duration_since(self.origin)
    }
}

impl Default for MonotonicClock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_never_goes_back() {
        let clock = MonotonicClock::new();
        let first = clock.now();
        assert!(clock.now() >= first);
    }
}
