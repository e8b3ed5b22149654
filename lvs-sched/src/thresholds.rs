//! Connection limits of one server: when its [`Load`] counts as overloaded.

use crate::Load;

/// Upper and lower connection limits of a server (`ipvsadm -x`, `-y`); active and inactive connections count.
///
/// At the upper limit the server is marked [overloaded](Load::is_overloaded) and schedulers pass it over;
/// below the lower one the mark goes. Without a lower limit it goes below three quarters of the upper one.
///
/// # Examples
/// ```
/// use lvs_sched::{Load, Thresholds};
/// let limits = Thresholds::new(2, 0)?;
/// let load = Load::default();
/// load.add_active();
/// limits.opened(&load);
/// assert!(!load.is_overloaded());
/// load.add_active();
/// limits.opened(&load);
/// assert!(load.is_overloaded());
/// load.sub_active();
/// limits.closed(&load);
/// assert!(!load.is_overloaded());
/// # Ok::<(), lvs_sched::ThresholdsError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Thresholds {
    upper: u32,
    lower: u32,
}

impl Thresholds {
    /// No limits.
    pub const NONE: Self = Self { upper: 0, lower: 0 };

    /// Joins an upper and a lower limit in connections; 0 means none.
    ///
    /// # Errors
    /// [`ThresholdsError`] when the lower limit is above the upper one.
    pub const fn new(upper: u32, lower: u32) -> Result<Self, ThresholdsError> {
        if lower <= upper { Ok(Self { upper, lower }) } else { Err(ThresholdsError { upper, lower }) }
    }

    /// Connections at which the server is overloaded; 0: never.
    pub const fn upper(self) -> u32 {
        self.upper
    }

    /// Connections below which it no longer is; 0: three quarters of the upper limit.
    pub const fn lower(self) -> u32 {
        self.lower
    }

    /// To be called when a connection of this server was counted up.
    pub fn opened(self, load: &Load) {
        if self.upper != 0 && load.connections() >= u64::from(self.upper) {
            load.set_overloaded(true);
        }
    }

    /// To be called when a connection of this server was counted down.
    pub fn closed(self, load: &Load) {
        let lower = if self.lower != 0 { self.lower } else { self.upper - self.upper / 4 };
        if self.upper == 0 || load.connections() < u64::from(lower) {
            load.set_overloaded(false);
        }
    }

    /// To be called when these limits have replaced `old`: no or higher limits free the server at once, lower
    /// ones take hold with its next connection.
    pub fn replaced(self, old: Self, load: &Load) {
        if self.upper == 0 || self.upper > old.upper {
            load.set_overloaded(false);
        }
    }
}

/// A lower limit above the upper one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("lower threshold {lower} is above the upper threshold {upper}: expected at most {upper}")]
pub struct ThresholdsError {
    /// The upper limit.
    pub upper: u32,
    /// The lower limit.
    pub lower: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(connections: u32) -> Load {
        let load = Load::default();
        (0..connections).for_each(|_| load.add_inactive());
        load
    }

    #[test]
    fn the_default_lower_limit_is_three_quarters() {
        for (upper, freed_at) in [(3, 2), (4, 2), (5, 3), (6, 4), (100, 74)] {
            let limits = Thresholds::new(upper, 0).expect("no lower limit");
            let load = loaded(freed_at + 1);
            load.set_overloaded(true);
            limits.closed(&load);
            assert!(load.is_overloaded(), "{upper}");
            load.sub_inactive();
            limits.closed(&load);
            assert!(!load.is_overloaded(), "{upper}");
        }
    }

    #[test]
    fn a_lower_limit_holds() {
        let limits = Thresholds::new(4, 1).expect("in order");
        let load = loaded(1);
        load.set_overloaded(true);
        limits.closed(&load);
        assert!(load.is_overloaded());
        load.sub_inactive();
        limits.closed(&load);
        assert!(!load.is_overloaded());
    }

    #[test]
    fn higher_limits_free_and_lower_ones_wait() {
        let old = Thresholds::new(4, 0).expect("no lower limit");
        for (upper, freed) in [(0, true), (3, false), (4, false), (5, true)] {
            let load = loaded(4);
            load.set_overloaded(true);
            Thresholds::new(upper, 0).expect("no lower limit").replaced(old, &load);
            assert_eq!(!load.is_overloaded(), freed, "{upper}");
        }
    }

    #[test]
    fn limits_out_of_order_are_refused() {
        assert_eq!(Thresholds::new(1, 2), Err(ThresholdsError { upper: 1, lower: 2 }));
    }
}
