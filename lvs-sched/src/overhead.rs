//! How `lc` and `wlc` count a server's connections into one number.

use crate::Load;

/// The formula for a server's overhead.
///
/// Both order servers alike but for a few ties.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Overhead {
    /// `active × 256 + inactive`: every kernel up to 2025.
    #[default]
    Classic,
    /// `active × 256 + active + inactive`: kernels since 2026 that keep a counter of all connections.
    TotalConns,
}

impl Overhead {
    /// The overhead of a server with this load.
    ///
    /// # Examples
    /// ```
    /// use lvs_sched::{Load, Overhead};
    /// let load = Load::default();
    /// load.add_active();
    /// load.add_inactive();
    /// assert_eq!(Overhead::Classic.of(&load), 257);
    /// assert_eq!(Overhead::TotalConns.of(&load), 258);
    /// ```
    pub fn of(self, load: &Load) -> u64 {
        let (active, inactive) = (u64::from(load.active()), u64::from(load.inactive()));
        match self {
            Self::Classic => (active << 8) + inactive,
            Self::TotalConns => (active << 8) + active + inactive,
        }
    }
}
