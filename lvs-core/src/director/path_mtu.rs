//! What routers have said about the MTU on the way to tunnel ends. Bounded, and forgotten after ten minutes.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::HashMap;

use lvs_sched::Instant;

use crate::environment::MIN_MTU_V6;

/// How long a path MTU is believed (RFC 1191 section 6.3, Linux's `mtu_expires`).
const LIFETIME: Duration = Duration::from_secs(600);

/// Less than this is not believed of an IPv4 path (Linux's `min_pmtu`): a forged report must not make a director cut
/// everything into crumbs (RFC 5927 section 7).
const FLOOR_V4: u16 = 552;

#[derive(Debug)]
pub(super) struct PathMtu {
    known: HashMap<IpAddr, (u16, Instant), ahash::RandomState>,
    capacity: usize,
}

impl PathMtu {
    pub(super) fn new(capacity: usize) -> Self {
        Self { known: HashMap::with_hasher(ahash::RandomState::with_seeds(1, 2, 3, 4)), capacity }
    }

    /// The smaller of the link's MTU and what is known of the path.
    pub(super) fn limit(&self, to: IpAddr, link: u16) -> u16 {
        if self.known.is_empty() {
            return link;
        }
        self.known.get(&to).map_or(link, |(mtu, _)| link.min(*mtu))
    }

    /// Believes a router's word, but for IPv4 not below [`FLOOR_V4`], for IPv6 not below 1280 (RFC 8201).
    pub(super) fn learn(&mut self, to: IpAddr, mtu: u16, now: Instant) {
        let mtu = mtu.max(if to.is_ipv4() { FLOOR_V4 } else { MIN_MTU_V6 });
        if self.known.len() >= self.capacity && !self.known.contains_key(&to) {
            self.forget(now);
        }
        if self.known.len() < self.capacity || self.known.contains_key(&to) {
            self.known.insert(to, (mtu, now + LIFETIME));
        }
    }

    /// Forgets what is too old.
    pub(super) fn forget(&mut self, now: Instant) {
        self.known.retain(|_, (_, until)| *until > now);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.known.values().map(|(_, until)| *until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn believes_within_limits_and_for_a_time() {
        let (near, far): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let mut paths = PathMtu::new(1);
        paths.learn(near, 20, Instant::ZERO);
        assert_eq!(paths.limit(near, 1500), 552);
        paths.learn(far, 1400, Instant::ZERO);
        assert_eq!(paths.limit(far, 1500), 1500, "full");
        paths.learn(far, 1400, Instant::from_secs(600));
        assert_eq!((paths.limit(near, 1500), paths.limit(far, 1500)), (1500, 1400));
    }
}
