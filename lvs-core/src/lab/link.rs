//! A cable between a node and a network, and what goes wrong on it.

use core::time::Duration;

use super::random::Random;
use crate::Instant;

/// What a cable does to packets, the same in both directions. Chances are between 0 and 1.
///
/// # Examples
/// ```
/// use core::time::Duration;
/// use lvs_core::lab::LinkConfig;
/// let bad = LinkConfig { delay: Duration::from_millis(20), loss: 0.05, ..LinkConfig::default() };
/// assert_eq!(bad.mtu, 1500);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinkConfig {
    /// How long a packet travels.
    pub delay: Duration,
    /// Up to this much is added to the delay. Packets still arrive in order.
    pub jitter: Duration,
    /// Chance that a packet is lost.
    pub loss: f64,
    /// Chance that a packet arrives twice.
    pub duplicate: f64,
    /// Chance that a packet is held back by up to [`REORDER_HOLD`], so that later ones overtake it.
    pub reorder: f64,
    /// Chance that one bit of a packet is flipped. IP and transport checksums find one flip; two flips on two
    /// links of a packet's way can cancel out in them.
    pub corrupt: f64,
    /// Bits per second; `None` = no limit.
    pub bandwidth: Option<u64>,
    /// Bytes that may wait for the bandwidth in each direction; more are dropped at the tail.
    pub queue: u32,
    /// Largest packet in bytes; larger ones are dropped.
    pub mtu: u16,
}

/// The longest time that a reordered packet is held back.
pub const REORDER_HOLD: Duration = Duration::from_millis(10);

impl Default for LinkConfig {
    /// A local cable without faults: 100 µs, 1500 bytes.
    fn default() -> Self {
        Self {
            delay: Duration::from_micros(100),
            jitter: Duration::ZERO,
            loss: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            corrupt: 0.0,
            bandwidth: None,
            queue: 256 * 1024,
            mtu: 1500,
        }
    }
}

/// What became of the packets of one direction of a cable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkCounters {
    /// Packets given in.
    pub sent: u64,
    /// Packets, copies included, that went on their way.
    pub carried: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Copies made.
    pub duplicated: u64,
    /// Held back.
    pub reordered: u64,
    /// Changed by one bit.
    pub corrupted: u64,
    /// Larger than the MTU.
    pub too_large: u64,
    /// Dropped because the queue was full.
    pub overflowed: u64,
    /// Lost because the cable was cut.
    pub cut: u64,
}

/// One direction of a cable.
#[derive(Debug)]
pub(super) struct Wire {
    random: Random,
    /// When the last packet given in has left the queue.
    free_at: Instant,
    /// When the last packet that keeps its order arrives.
    last_arrival: Instant,
    pub(super) counters: LinkCounters,
}

impl Wire {
    pub(super) fn new(random: Random) -> Self {
        Self {
            random,
            free_at: Instant::ZERO,
            last_arrival: Instant::ZERO,
            counters: LinkCounters::default(),
        }
    }

    /// Takes a packet in; `arrive` gets what comes out of the other end, and when.
    pub(super) fn carry(
        &mut self,
        config: &LinkConfig,
        mut packet: Vec<u8>,
        now: Instant,
        mut arrive: impl FnMut(Instant, Vec<u8>),
    ) {
        self.counters.sent += 1;
        if packet.len() > usize::from(config.mtu) {
            self.counters.too_large += 1;
            return;
        }
        let Some(departure) = self.leave_queue(config, packet.len(), now) else {
            self.counters.overflowed += 1;
            return;
        };
        if self.random.chance(config.loss) {
            self.counters.lost += 1;
            return;
        }
        if self.random.chance(config.corrupt) && !packet.is_empty() {
            let bit = self.random.below(packet.len() as u64 * 8);
            packet[(bit / 8) as usize] ^= 1 << (bit % 8);
            self.counters.corrupted += 1;
        }
        if self.random.chance(config.duplicate) {
            let at = self.arrival(config, departure);
            self.counters.duplicated += 1;
            self.counters.carried += 1;
            arrive(at, packet.clone());
        }
        let at = self.arrival(config, departure);
        self.counters.carried += 1;
        arrive(at, packet);
    }

    /// When the packet's last bit is on the cable; `None` when the queue is full.
    fn leave_queue(&mut self, config: &LinkConfig, len: usize, now: Instant) -> Option<Instant> {
        let Some(bandwidth) = config.bandwidth else { return Some(now) };
        let nanos_of = |bytes: u64| {
            let nanos = u128::from(bytes) * 8 * 1_000_000_000 / u128::from(bandwidth.max(1));
            Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
        };
        let start = self.free_at.max(now);
        if start - now > nanos_of(u64::from(config.queue)) {
            return None;
        }
        self.free_at = start + nanos_of(len as u64);
        Some(self.free_at)
    }

    fn arrival(&mut self, config: &LinkConfig, departure: Instant) -> Instant {
        let at = departure + config.delay + self.up_to(config.jitter);
        if self.random.chance(config.reorder) {
            self.counters.reordered += 1;
            return at + self.up_to(REORDER_HOLD);
        }
        self.last_arrival = self.last_arrival.max(at);
        self.last_arrival
    }

    fn up_to(&mut self, longest: Duration) -> Duration {
        let nanos = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
        if nanos == 0 { Duration::ZERO } else { Duration::from_nanos(self.random.below(nanos)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn carry(config: &LinkConfig, packets: usize) -> (Vec<(Instant, Vec<u8>)>, LinkCounters) {
        let mut wire = Wire::new(Random::new(7, 0));
        let mut out = Vec::new();
        for index in 0..packets {
            let packet = vec![index as u8; 100];
            wire.carry(config, packet, Instant::from_millis(index as u64), |at, packet| {
                out.push((at, packet))
            });
        }
        (out, wire.counters)
    }

    #[test]
    fn jitter_keeps_the_order() {
        let config = LinkConfig { jitter: Duration::from_millis(50), ..LinkConfig::default() };
        let (out, _) = carry(&config, 100);
        assert_eq!(out.len(), 100);
        assert!(out.is_sorted_by_key(|(at, _)| *at));
    }

    #[test]
    fn reordered_packets_are_overtaken() {
        let config = LinkConfig { reorder: 0.2, ..LinkConfig::default() };
        let (out, counters) = carry(&config, 100);
        assert!(!out.is_sorted_by_key(|(at, _)| *at));
        assert!((5..40).contains(&counters.reordered), "{}", counters.reordered);
    }

    #[test]
    fn corruption_flips_one_bit() {
        let config = LinkConfig { corrupt: 1.0, ..LinkConfig::default() };
        let (out, _) = carry(&config, 50);
        for (index, (_, packet)) in out.iter().enumerate() {
            let flipped: u32 = packet.iter().map(|byte| (byte ^ index as u8).count_ones()).sum();
            assert_eq!(flipped, 1, "packet {index}");
        }
    }

    #[test]
    fn duplicates_are_equal() {
        let (out, counters) = carry(&LinkConfig { duplicate: 1.0, ..LinkConfig::default() }, 3);
        assert_eq!((out.len(), counters.duplicated, counters.carried), (6, 3, 6));
        assert_eq!(out[0].1, out[1].1);
    }

    #[test]
    fn bandwidth_spaces_packets_and_drops_at_the_tail() {
        // 100 bytes at 8000 bit/s take 100 ms; the queue holds two packets behind the one being sent.
        let config =
            LinkConfig { bandwidth: Some(8000), queue: 200, delay: Duration::ZERO, ..LinkConfig::default() };
        let mut wire = Wire::new(Random::new(7, 0));
        let mut out = Vec::new();
        for _ in 0..5 {
            wire.carry(&config, vec![0; 100], Instant::ZERO, |at, _| out.push(at));
        }
        assert_eq!(out, [100, 200, 300].map(Instant::from_millis));
        assert_eq!(wire.counters.overflowed, 2);
    }

    #[test]
    fn larger_than_the_mtu_is_dropped() {
        let (out, counters) = carry(&LinkConfig { mtu: 99, ..LinkConfig::default() }, 2);
        assert_eq!((out.len(), counters.too_large), (0, 2));
    }
}
