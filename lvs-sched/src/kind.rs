//! Scheduler names as ipvsadm writes them.

use core::fmt;
use core::str::FromStr;

/// The algorithms of this crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum SchedulerKind {
    /// `rr`: round robin.
    RoundRobin,
    /// `wrr`: weighted round robin.
    WeightedRoundRobin,
    /// `lc`: least connections.
    LeastConnection,
    /// `wlc`: weighted least connections (ipvsadm's default).
    WeightedLeastConnection,
    /// `sh`: source hashing.
    SourceHashing,
    /// `mh`: the kernel's Maglev hashing, bit for bit.
    MaglevHashing,
    /// `maglev`: the Maglev paper's table (65537 or 655373 slots) with weights. Not a kernel scheduler.
    Maglev,
}

impl SchedulerKind {
    /// Every kind, in the order of the documentation.
    pub const ALL: [Self; 7] = [
        Self::RoundRobin,
        Self::WeightedRoundRobin,
        Self::LeastConnection,
        Self::WeightedLeastConnection,
        Self::SourceHashing,
        Self::MaglevHashing,
        Self::Maglev,
    ];

    /// The name that ipvsadm and this crate use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "rr",
            Self::WeightedRoundRobin => "wrr",
            Self::LeastConnection => "lc",
            Self::WeightedLeastConnection => "wlc",
            Self::SourceHashing => "sh",
            Self::MaglevHashing => "mh",
            Self::Maglev => "maglev",
        }
    }
}

impl Default for SchedulerKind {
    /// `wlc`, as ipvsadm.
    fn default() -> Self {
        Self::WeightedLeastConnection
    }
}

impl fmt::Display for SchedulerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for SchedulerKind {
    type Err = ParseSchedulerError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or(ParseSchedulerError::Kind)
    }
}

bitflags::bitflags! {
    /// Scheduler flags (`ipvsadm -b`): the kernel's SCHED1 and SCHED2 bits.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct SchedulerFlags: u8 {
        /// `sh-fallback`, `mh-fallback`: choose another server when the hashed one is unavailable.
        const FALLBACK = 1;
        /// `sh-port`, `mh-port`: hash the client's port too.
        const PORT = 2;
    }
}

/// A scheduler name or flag that is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseSchedulerError {
    /// Not a scheduler's name.
    #[error("unknown scheduler: expected rr, wrr, lc, wlc, sh, mh or maglev")]
    Kind,
    /// Not a flag of this scheduler.
    #[error("unknown scheduler flag: expected sh-port, sh-fallback, mh-port or mh-fallback, with the scheduler of that name")]
    Flag,
}
