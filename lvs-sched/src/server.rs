//! A real server as schedulers see it: weight and load.

use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::Endpoint;

/// Names one real server within its owner; survives every change of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId(pub u32);

/// A server's share of new connections, 0 to 2³¹ − 1; 0 means quiesced.
///
/// # Examples
/// ```
/// use lvs_sched::Weight;
/// assert!(Weight::QUIESCED.is_quiesced());
/// assert_eq!(Weight::new(3)?.get(), 3);
/// assert!(Weight::new(1 << 31).is_err());
/// # Ok::<(), lvs_sched::WeightError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u32);

impl Weight {
    /// No new connections; existing ones stay.
    pub const QUIESCED: Self = Self(0);
    /// ipvsadm's default.
    pub const ONE: Self = Self(1);
    /// The kernel's limit.
    pub const MAX: Self = Self(i32::MAX as u32);

    /// Makes a weight.
    ///
    /// # Errors
    /// [`WeightError`] above 2³¹ − 1.
    pub const fn new(weight: u32) -> Result<Self, WeightError> {
        if weight <= Self::MAX.0 { Ok(Self(weight)) } else { Err(WeightError(weight)) }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Whether the server takes no new connections.
    pub const fn is_quiesced(self) -> bool {
        self.0 == 0
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self::ONE
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The weight that was too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("weight {0} is too large: 0 (quiesced) to 2147483647")]
pub struct WeightError(pub u32);

/// Connection counts of one server, shared by all workers of a director.
///
/// Relaxed atomics: a scheduler may see a count that is one connection old, as on a multi-core kernel.
#[derive(Debug, Default)]
pub struct Load {
    active: AtomicU32,
    inactive: AtomicU32,
    persistent: AtomicU32,
    overloaded: AtomicBool,
}

impl Load {
    /// Connections that count as active (TCP established and opening).
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// All other connections (TCP closing, UDP).
    pub fn inactive(&self) -> u32 {
        self.inactive.load(Ordering::Relaxed)
    }

    /// Active and inactive connections together: what connection thresholds count.
    pub fn connections(&self) -> u64 {
        u64::from(self.active()) + u64::from(self.inactive())
    }

    /// Persistence templates.
    pub fn persistent(&self) -> u32 {
        self.persistent.load(Ordering::Relaxed)
    }

    /// Whether the upper threshold was reached and the lower one not yet undercut.
    pub fn is_overloaded(&self) -> bool {
        self.overloaded.load(Ordering::Relaxed)
    }

    /// Counts one more active connection.
    pub fn add_active(&self) {
        self.active.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one active connection less.
    pub fn sub_active(&self) {
        let before = self.active.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(
            before > 0,
            "an active connection is counted down once for each time it was counted up"
        );
    }

    /// Counts one more inactive connection.
    pub fn add_inactive(&self) {
        self.inactive.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one inactive connection less.
    pub fn sub_inactive(&self) {
        let before = self.inactive.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(
            before > 0,
            "an inactive connection is counted down once for each time it was counted up"
        );
    }

    /// Counts one more persistence template.
    pub fn add_persistent(&self) {
        self.persistent.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one persistence template less.
    pub fn sub_persistent(&self) {
        let before = self.persistent.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "a template is counted down once for each time it was counted up");
    }

    /// Marks the server as over (or no longer over) its connection thresholds.
    pub fn set_overloaded(&self, overloaded: bool) {
        self.overloaded.store(overloaded, Ordering::Relaxed);
    }
}

/// A real server in the list that a scheduler chooses from.
///
/// Cloning shares the [`Load`].
#[derive(Debug, Clone)]
pub struct Server {
    /// Stable name within the owner.
    pub id: ServerId,
    /// Address and port: the key of hash schedulers.
    pub key: Endpoint,
    /// Current weight.
    pub weight: Weight,
    /// The last weight that was not 0; `mh` keeps a quiesced server's slots by it.
    pub last_weight: Weight,
    /// Connection counts.
    pub load: Arc<Load>,
}

impl Server {
    /// Makes a server with no connections.
    pub fn new(id: ServerId, key: Endpoint, weight: Weight) -> Self {
        Self { id, key, weight, last_weight: weight, load: Arc::default() }
    }

    /// Sets the weight, remembering the last one that was not 0.
    pub fn set_weight(&mut self, weight: Weight) {
        self.weight = weight;
        if !weight.is_quiesced() {
            self.last_weight = weight;
        }
    }

    /// Whether schedulers may return this server: not quiesced and not overloaded.
    pub fn is_available(&self) -> bool {
        !self.weight.is_quiesced() && !self.load.is_overloaded()
    }
}
