//! How many ICMP answers each address, and all together, may get.

use core::hash::{Hash, Hasher};
use core::net::IpAddr;

use lvs_sched::Instant;
use siphasher::sip::SipHasher13;

/// A token bucket: so many answers per second, so many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IcmpRate {
    /// Answers per second in the long run; 0 = none at all.
    pub per_second: u32,
    /// Answers at once after a silence; 0 = none at all.
    pub burst: u32,
}

/// The rate limit of ICMP answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IcmpLimits {
    /// To each address.
    pub address: IcmpRate,
    /// To all together: what forged sources cannot get around.
    pub total: IcmpRate,
    /// How many addresses are remembered, 40 bytes each; rounded up to a power of two, at least 4.
    pub addresses: usize,
}

impl Default for IcmpLimits {
    /// Linux' values: 1 a second and 6 at once to an address (`icmp_ratelimit`), 1000 a second and 50 at once to all
    /// (`icmp_msgs_per_sec`, `icmp_msgs_burst`); 1024 addresses.
    fn default() -> Self {
        Self {
            address: IcmpRate { per_second: 1, burst: 6 },
            total: IcmpRate { per_second: 1000, burst: 50 },
            addresses: 1024,
        }
    }
}

/// Says whether an ICMP answer may be sent now.
///
/// Buckets are refilled up to an eighth slower than their rate says, by a pseudo-random amount that the seed decides:
/// a prober cannot count exactly how many answers others have used up (the side channel of CVE-2020-25705).
/// Memory is fixed; among the addresses that share a place, the one with the fullest bucket is forgotten first.
///
/// # Examples
/// ```
/// use lvs_core::Instant;
/// use lvs_core::answer::{IcmpLimiter, IcmpLimits};
/// let mut limiter = IcmpLimiter::new(Some(IcmpLimits::default()), 7);
/// let addr = "172.16.0.9".parse()?;
/// let sent = (0..100).filter(|_| limiter.allow(addr, Instant::from_secs(5))).count();
/// assert_eq!(sent, 6);
/// # Ok::<(), core::net::AddrParseError>(())
/// ```
#[derive(Debug)]
pub struct IcmpLimiter(Option<Buckets>);

/// Addresses that share a place in the table.
const WAYS: usize = 4;

#[derive(Debug)]
struct Buckets {
    limits: IcmpLimits,
    seed: u64,
    /// State of the jitter's generator.
    random: u64,
    total: Bucket,
    /// `WAYS` neighbours form a set.
    addresses: Box<[(Option<IpAddr>, Bucket)]>,
}

impl IcmpLimiter {
    /// Makes a limiter with all buckets full; `None` switches it off.
    pub fn new(limits: Option<IcmpLimits>, seed: u64) -> Self {
        Self(limits.map(|limits| Buckets {
            limits,
            seed,
            random: seed,
            total: Bucket::default(),
            addresses: vec![(None, Bucket::default()); limits.addresses.next_power_of_two().max(WAYS)].into(),
        }))
    }

    /// Takes one token for an answer to `addr`; false when there is none, and then nothing is taken.
    pub fn allow(&mut self, addr: IpAddr, now: Instant) -> bool {
        self.0.as_mut().is_none_or(|buckets| buckets.allow(addr, now.as_nanos()))
    }
}

impl Buckets {
    fn allow(&mut self, addr: IpAddr, now: u64) -> bool {
        let jitter = self.next_random();
        self.total.refill(now, jitter);
        if !self.total.has_token(self.limits.total) {
            return false;
        }
        let mut hasher = SipHasher13::new_with_keys(self.seed, !self.seed);
        addr.hash(&mut hasher);
        let set = hasher.finish() as usize % (self.addresses.len() / WAYS);
        let set = &mut self.addresses[set * WAYS..][..WAYS];
        let way = set.iter().position(|(known, _)| *known == Some(addr)).unwrap_or_else(|| {
            // A free way has an empty past and is found first.
            let fullest = (0..WAYS).min_by_key(|way| set[*way].1.full_at()).unwrap_or(0);
            set[fullest] = (Some(addr), Bucket::default());
            fullest
        });
        let bucket = &mut set[way].1;
        bucket.refill(now, jitter.rotate_left(32));
        if !bucket.has_token(self.limits.address) {
            return false;
        }
        bucket.take(self.limits.address);
        self.total.take(self.limits.total);
        true
    }

    /// SplitMix64.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// A token bucket by what was taken from it, so that zeros are a full bucket. Both in nanoseconds of its rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Bucket {
    taken: u64,
    /// When `taken` was right.
    at: u64,
}

impl Bucket {
    /// Refills, up to an eighth less than the time since the last refill gives.
    fn refill(&mut self, now: u64, jitter: u64) {
        let elapsed = now.saturating_sub(self.at);
        let withheld = (u128::from(elapsed / 8) * u128::from(jitter)) >> 64;
        self.taken = self.taken.saturating_sub(elapsed - withheld as u64);
        self.at = self.at.max(now);
    }

    fn has_token(self, rate: IcmpRate) -> bool {
        interval(rate).is_some_and(|interval| {
            self.taken.saturating_add(interval) <= interval.saturating_mul(u64::from(rate.burst))
        })
    }

    fn take(&mut self, rate: IcmpRate) {
        self.taken = self.taken.saturating_add(interval(rate).unwrap_or(u64::MAX));
    }

    /// When it will be full again, without jitter.
    fn full_at(self) -> u64 {
        self.at.saturating_add(self.taken)
    }
}

/// Nanoseconds between two tokens.
fn interval(rate: IcmpRate) -> Option<u64> {
    1_000_000_000u64.checked_div(u64::from(rate.per_second))
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;
    use core::time::Duration;

    use super::*;

    const T0: Instant = Instant::from_secs(1000);

    #[test]
    fn switched_off_it_allows_everything() {
        let mut limiter = IcmpLimiter::new(None, 1);
        assert!((0..10_000).all(|_| limiter.allow(addr(1), T0)));
    }

    #[test]
    fn burst_is_used_up_at_once_and_comes_back() {
        let mut limiter = limiter(IcmpRate { per_second: 10, burst: 3 }, 1 << 20);
        assert_eq!(count(&mut limiter, addr(1), T0), 3);
        assert_eq!(count(&mut limiter, addr(1), T0 + Duration::from_millis(99)), 0);
        assert_eq!(count(&mut limiter, addr(1), T0 + Duration::from_secs(10)), 3);
    }

    #[test]
    fn long_run_rate_is_between_seven_eighths_and_all_of_the_configured_one() {
        let mut limiter = limiter(IcmpRate { per_second: 10, burst: 1 }, 1 << 20);
        let sent: usize =
            (0..100_000).filter(|ms| limiter.allow(addr(1), T0 + Duration::from_millis(*ms))).count();
        assert!((870..=1000).contains(&sent), "{sent} answers in 100 s at 10 a second");
    }

    #[test]
    fn addresses_do_not_share_a_bucket() {
        let mut limiter = limiter(IcmpRate { per_second: 1, burst: 2 }, 1 << 20);
        assert_eq!(count(&mut limiter, addr(1), T0), 2);
        assert_eq!(count(&mut limiter, addr(2), T0), 2);
        assert_eq!(count(&mut limiter, addr(1), T0), 0);
    }

    #[test]
    fn forged_addresses_do_not_get_more_than_the_total() {
        let mut limiter = limiter(IcmpRate { per_second: 1, burst: 6 }, 50);
        assert_eq!((0..100_000).filter(|i| limiter.allow(addr(*i), T0)).count(), 50);
    }

    #[test]
    fn zero_rate_and_zero_burst_allow_nothing() {
        for rate in [IcmpRate { per_second: 0, burst: 5 }, IcmpRate { per_second: 5, burst: 0 }] {
            assert_eq!(count(&mut limiter(rate, 100), addr(1), T0), 0);
        }
    }

    #[test]
    fn emptiest_bucket_outlives_newcomers_in_its_set() {
        let rate = IcmpRate { per_second: 1, burst: 3 };
        let limits =
            IcmpLimits { address: rate, total: IcmpRate { per_second: 1, burst: 1 << 20 }, addresses: 4 };
        let mut limiter = IcmpLimiter::new(Some(limits), 1);
        assert_eq!(count(&mut limiter, addr(0), T0), 3);
        for other in 1..100 {
            assert!(limiter.allow(addr(other), T0));
        }
        assert!(!limiter.allow(addr(0), T0));
    }

    #[test]
    fn same_seed_gives_the_same_answers() {
        let run = |seed| {
            let limits =
                IcmpLimits { address: IcmpRate { per_second: 100, burst: 2 }, ..IcmpLimits::default() };
            let mut limiter = IcmpLimiter::new(Some(limits), seed);
            (0..5000)
                .map(|i| limiter.allow(addr(i % 7), T0 + Duration::from_micros(u64::from(i) * 300)))
                .collect::<Vec<_>>()
        };
        assert_eq!(run(3), run(3));
        assert_ne!(run(3), run(4));
    }

    fn limiter(address: IcmpRate, total_burst: u32) -> IcmpLimiter {
        let total = IcmpRate { per_second: 1_000_000, burst: total_burst };
        IcmpLimiter::new(Some(IcmpLimits { address, total, addresses: 1024 }), 1)
    }

    fn count(limiter: &mut IcmpLimiter, addr: IpAddr, now: Instant) -> usize {
        (0..100).filter(|_| limiter.allow(addr, now)).count()
    }

    fn addr(number: u32) -> IpAddr {
        Ipv4Addr::from(0x0a00_0000 + number).into()
    }
}
