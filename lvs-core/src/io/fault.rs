//! Middleware that makes a backend bad: packets are lost, doubled, reordered and corrupted, calls fail.
//!
//! All of it follows from a seed, so a failing run can be repeated.

use core::time::Duration;
use std::collections::VecDeque;

use super::{BATCH, Batch, Capabilities, Counters, Error, Frame, MAX_PACKET, PacketIo, Received};
use crate::Verdict;

/// How often something goes wrong in one direction, in packets (or calls, for `error`) per mille: 0 never, 1000
/// always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rates {
    /// A packet disappears.
    pub loss: u16,
    /// A packet comes twice.
    pub duplicate: u16,
    /// A packet changes place with the next one, in this call or a later one.
    pub reorder: u16,
    /// One bit of a packet is flipped.
    pub corrupt: u16,
    /// A call fails with [`Error::Injected`]. A failing send loses its packets, a failing receive none.
    pub error: u16,
}

/// What a [`Fault`] did, both directions together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FaultCounters {
    /// Packets lost.
    pub lost: u64,
    /// Packets doubled.
    pub duplicated: u64,
    /// Packets put behind a later one.
    pub reordered: u64,
    /// Packets with a flipped bit.
    pub corrupted: u64,
    /// Calls that failed.
    pub errors: u64,
}

/// A backend around another one that makes its packets suffer.
///
/// # Examples
/// ```
/// use core::time::Duration;
/// use lvs_core::io::{Batch, Fault, Memory, PacketIo, Rates, Received};
///
/// let mut memory = Memory::new();
/// memory.push(&[0x45, 0, 0, 20]);
/// let mut io = Fault::new(memory, 42).on_receive(Rates { loss: 1000, ..Rates::default() });
/// let mut batch = Batch::for_io(&io.capabilities());
/// assert_eq!(io.recv(&mut batch, Some(Duration::ZERO))?, Received::TimedOut);
/// assert_eq!(io.faults().lost, 1);
/// # Ok::<(), lvs_core::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Fault<T> {
    inner: T,
    random: SplitMix64,
    receive: Rates,
    send: Rates,
    faults: FaultCounters,
    counters: Counters,
    /// What the inner backend delivered.
    inbox: Batch,
    /// Frames that were through the faults and wait for room in the caller's batch.
    ready: VecDeque<Frame>,
    /// A frame that waits for the next one to overtake it.
    held_in: Option<Frame>,
    /// The frames of a send that were through the faults.
    outbox: Batch,
    verdicts: Vec<Verdict>,
    held_out: Option<(Frame, Verdict)>,
}

impl<T: PacketIo> Fault<T> {
    /// Wraps a backend; nothing goes wrong until rates are set.
    pub fn new(inner: T, seed: u64) -> Self {
        let capabilities = inner.capabilities();
        Self {
            inner,
            random: SplitMix64(seed),
            receive: Rates::default(),
            send: Rates::default(),
            faults: FaultCounters::default(),
            counters: Counters::default(),
            inbox: Batch::for_io(&capabilities),
            ready: VecDeque::new(),
            held_in: None,
            // What is sent may be larger than what is received: the engine makes packets too.
            outbox: Batch::new(BATCH, MAX_PACKET),
            verdicts: Vec::new(),
            held_out: None,
        }
    }

    /// Sets how often something goes wrong with received packets.
    #[must_use]
    pub fn on_receive(mut self, rates: Rates) -> Self {
        self.receive = rates;
        self
    }

    /// Sets how often something goes wrong with sent packets.
    #[must_use]
    pub fn on_send(mut self, rates: Rates) -> Self {
        self.send = rates;
        self
    }

    /// Returns what went wrong so far.
    pub const fn faults(&self) -> FaultCounters {
        self.faults
    }

    /// Returns the wrapped backend.
    pub const fn inner(&self) -> &T {
        &self.inner
    }

    /// Returns the wrapped backend, to use directly.
    pub const fn inner_mut(&mut self) -> &mut T {
        &mut self.inner
    }

    fn flip_a_bit(&mut self, frame: &mut Frame) {
        let bits = frame.bytes().len() as u64 * 8;
        if bits > 0 {
            let bit = (self.random.next() % bits) as usize;
            frame.bytes_mut()[bit / 8] ^= 1 << (bit % 8);
            self.faults.corrupted += 1;
        }
    }

    /// Decides what happens to one packet: nothing, once or twice it goes on.
    fn copies(&mut self, rates: Rates) -> usize {
        if self.random.per_mille(rates.loss) {
            self.faults.lost += 1;
            return 0;
        }
        if self.random.per_mille(rates.duplicate) {
            self.faults.duplicated += 1;
            return 2;
        }
        1
    }

    fn take_in(&mut self) {
        for index in 0..self.inbox.len() {
            for _ in 0..self.copies(self.receive) {
                let mut frame = self.inbox.frames()[index].clone();
                if self.random.per_mille(self.receive.corrupt) {
                    self.flip_a_bit(&mut frame);
                }
                if self.held_in.is_none() && self.random.per_mille(self.receive.reorder) {
                    self.faults.reordered += 1;
                    self.held_in = Some(frame);
                    continue;
                }
                self.ready.push_back(frame);
                self.ready.extend(self.held_in.take());
            }
        }
        self.inbox.clear();
    }

    fn queue(&mut self, frame: &Frame, verdict: Verdict) -> Result<usize, Error> {
        let mut sent = 0;
        if self.outbox.is_full() {
            sent = self.flush()?;
        }
        if let Some(place) = self.outbox.push() {
            if let Err(error) = place.copy_from_whole(frame) {
                self.outbox.pop();
                return Err(error);
            }
            self.verdicts.push(verdict);
        }
        Ok(sent)
    }

    fn flush(&mut self) -> Result<usize, Error> {
        let result = self.inner.send(&mut self.outbox, &self.verdicts);
        let at = self.outbox.at();
        self.outbox.clear();
        self.outbox.set_at(at);
        self.verdicts.clear();
        result
    }
}

impl<T: PacketIo> PacketIo for Fault<T> {
    fn recv(&mut self, batch: &mut Batch, timeout: Option<Duration>) -> Result<Received, Error> {
        batch.clear();
        if self.random.per_mille(self.receive.error) {
            self.faults.errors += 1;
            return Err(Error::Injected("receive"));
        }
        let mut ended = false;
        let mut at = None;
        if self.ready.is_empty() {
            // A held frame must not wait for a packet that never comes.
            let timeout = if self.held_in.is_some() { Some(Duration::ZERO) } else { timeout };
            match self.inner.recv(&mut self.inbox, timeout)? {
                Received::Frames(_) => {
                    at = self.inbox.at();
                    self.take_in();
                }
                Received::TimedOut => self.ready.extend(self.held_in.take()),
                Received::End => {
                    ended = true;
                    self.ready.extend(self.held_in.take());
                }
            }
        }
        batch.set_at(at);
        while let Some(frame) = self.ready.front() {
            let Some(place) = batch.push() else { break };
            if place.copy_from(frame).is_err() {
                batch.pop();
                self.counters.skipped += 1;
            }
            self.ready.pop_front();
        }
        self.counters.received += batch.len() as u64;
        Ok(match batch.len() {
            0 if ended => Received::End,
            0 => Received::TimedOut,
            count => Received::Frames(count),
        })
    }

    fn send(&mut self, batch: &mut Batch, verdicts: &[Verdict]) -> Result<usize, Error> {
        if self.random.per_mille(self.send.error) {
            self.faults.errors += 1;
            return Err(Error::Injected("send"));
        }
        self.outbox.set_at(batch.at());
        let mut sent = 0;
        for (frame, &verdict) in batch.frames().iter().zip(verdicts) {
            if verdict.next_hop().is_none() {
                sent += self.queue(frame, verdict)?;
                continue;
            }
            for _ in 0..self.copies(self.send) {
                let mut frame = frame.clone();
                if self.random.per_mille(self.send.corrupt) {
                    self.flip_a_bit(&mut frame);
                }
                if self.held_out.is_none() && self.random.per_mille(self.send.reorder) {
                    self.faults.reordered += 1;
                    self.held_out = Some((frame, verdict));
                    continue;
                }
                sent += self.queue(&frame, verdict)?;
                if let Some((held, verdict)) = self.held_out.take() {
                    sent += self.queue(&held, verdict)?;
                }
            }
        }
        sent += self.flush()?;
        Ok(sent)
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn counters(&self) -> Counters {
        Counters {
            received: self.counters.received,
            skipped: self.counters.skipped + self.inner.counters().skipped,
            ..self.inner.counters()
        }
    }
}

/// The SplitMix64 generator (Steele, Lea, Flood 2014): small, seedable, good enough to throw dice.
#[derive(Debug)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Throws the die only when it matters, so that one rate does not change what another one hits.
    fn per_mille(&mut self, rate: u16) -> bool {
        rate > 0 && self.next() % 1000 < u64::from(rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Memory;

    fn memory(packets: u8) -> Memory {
        let mut memory = Memory::with_capabilities(Capabilities {
            layer2: false,
            pass: true,
            gso: false,
            partial_checksum: false,
            mtu: 100,
        });
        for byte in 0..packets {
            memory.push(&[byte, 0xff]);
        }
        memory.close();
        memory
    }

    /// Everything that comes until the end, first bytes only.
    fn receive_all(io: &mut impl PacketIo) -> Vec<u8> {
        let mut batch = Batch::for_io(&io.capabilities());
        let mut seen = Vec::new();
        loop {
            match io.recv(&mut batch, Some(Duration::ZERO)) {
                Ok(Received::End) => return seen,
                Ok(_) => seen.extend(batch.frames().iter().map(|frame| frame.bytes()[0])),
                Err(error) => assert!(error.is_transient()),
            }
        }
    }

    fn send_all(io: &mut Fault<Memory>, packets: u8) -> Vec<u8> {
        let mut batch = Batch::new(usize::from(packets), 100);
        for byte in 0..packets {
            batch.push().unwrap().set(&[byte, 0xff]).unwrap();
        }
        let verdict = Verdict::Transmit { next_hop: "192.0.2.1".parse().unwrap() };
        io.send(&mut batch, &vec![verdict; usize::from(packets)]).unwrap();
        core::iter::from_fn(|| io.inner_mut().pop()).map(|sent| sent.bytes[0]).collect()
    }

    #[test]
    fn without_rates_nothing_changes() {
        let mut io = Fault::new(memory(200), 1);
        assert_eq!(receive_all(&mut io), (0..200).collect::<Vec<_>>());
        assert_eq!(io.faults(), FaultCounters::default());
        let mut io = Fault::new(memory(0), 1);
        assert_eq!(send_all(&mut io, 200), (0..200).collect::<Vec<_>>());
    }

    #[test]
    fn loss_takes_about_the_share_asked_for() {
        let mut io = Fault::new(memory(250), 7).on_receive(Rates { loss: 200, ..Rates::default() });
        let seen = receive_all(&mut io);
        assert_eq!(seen.len() as u64 + io.faults().lost, 250);
        assert!((25..=80).contains(&io.faults().lost), "{}", io.faults().lost);
    }

    #[test]
    fn duplicates_that_do_not_fit_come_with_the_next_call() {
        let mut io = Fault::new(memory(60), 7).on_receive(Rates { duplicate: 1000, ..Rates::default() });
        let seen = receive_all(&mut io);
        assert_eq!(seen, (0..60).flat_map(|byte| [byte, byte]).collect::<Vec<_>>());
        assert_eq!((io.faults().duplicated, io.counters().received), (60, 120));
    }

    #[test]
    fn reordering_loses_nothing() {
        let mut io = Fault::new(memory(101), 7).on_receive(Rates { reorder: 1000, ..Rates::default() });
        let seen = receive_all(&mut io);
        assert_eq!(seen[..4], [1, 0, 3, 2]);
        let mut sorted = seen.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..101).collect::<Vec<_>>());
        assert_eq!(io.faults().reordered, 51);
    }

    #[test]
    fn sending_suffers_too() {
        let mut io = Fault::new(memory(0), 7).on_send(Rates { reorder: 1000, ..Rates::default() });
        assert_eq!(send_all(&mut io, 4), [1, 0, 3, 2]);
        let mut io = Fault::new(memory(0), 7).on_send(Rates { duplicate: 1000, ..Rates::default() });
        assert_eq!(send_all(&mut io, 100), (0..100).flat_map(|byte| [byte, byte]).collect::<Vec<_>>());
        let mut io = Fault::new(memory(0), 7).on_send(Rates { loss: 1000, ..Rates::default() });
        assert!(send_all(&mut io, 10).is_empty());
    }

    #[test]
    fn a_packet_larger_than_the_mtu_is_handed_on() {
        let mut io = Fault::new(memory(0), 7);
        let mut batch = Batch::new(1, MAX_PACKET);
        batch.push().unwrap().set(&[7; MAX_PACKET]).unwrap();
        let verdict = Verdict::Transmit { next_hop: "192.0.2.1".parse().unwrap() };
        assert_eq!(io.send(&mut batch, &[verdict]).unwrap(), 1);
        assert_eq!(io.inner_mut().pop().unwrap().bytes.len(), MAX_PACKET);
    }

    #[test]
    fn a_passed_packet_does_not_suffer() {
        let mut io = Fault::new(memory(0), 7).on_send(Rates { loss: 1000, ..Rates::default() });
        let mut batch = Batch::new(1, 100);
        batch.push().unwrap().set(&[9]).unwrap();
        io.send(&mut batch, &[Verdict::Pass]).unwrap();
        assert_eq!(io.inner_mut().pop_passed(), Some(vec![9]));
    }

    #[test]
    fn corruption_flips_one_bit() {
        let mut io = Fault::new(memory(1), 3).on_receive(Rates { corrupt: 1000, ..Rates::default() });
        let mut batch = Batch::for_io(&io.capabilities());
        io.recv(&mut batch, None).unwrap();
        let &[a, b] = batch.frames()[0].bytes() else { panic!("two bytes went in") };
        assert_eq!((a.count_ones() + (b ^ 0xff).count_ones()), 1);
        assert_eq!(io.faults().corrupted, 1);
    }

    #[test]
    fn a_failing_receive_loses_nothing() {
        let mut io = Fault::new(memory(150), 7).on_receive(Rates { error: 500, ..Rates::default() });
        assert_eq!(receive_all(&mut io), (0..150).collect::<Vec<_>>());
        assert!(io.faults().errors > 0);
    }

    #[test]
    fn one_seed_gives_one_story() {
        let rates = Rates { loss: 100, duplicate: 100, reorder: 100, corrupt: 100, error: 0 };
        let story = |seed| receive_all(&mut Fault::new(memory(250), seed).on_receive(rates));
        assert_eq!(story(5), story(5));
        assert_ne!(story(5), story(6));
    }

    #[test]
    fn splitmix64_gives_its_published_numbers() {
        // Output for seed 1234567 of the reference implementation.
        let mut random = SplitMix64(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
    }
}
