//! The loop that joins an engine and a backend: receive, process, send, and let time pass.

use core::mem;
use core::time::Duration;

use super::{Batch, Error, MAX_PACKET, PacketIo, Received};
use crate::wire::Packet;
use crate::{Director, Instant, Outgoing, Verdict};

/// Longest sleep of the loop, so that a stop is seen in time.
pub const MAX_SLEEP: Duration = Duration::from_millis(100);

/// Transient errors in a row after which [`run`] gives up.
pub const MAX_TRANSIENT_ERRORS: u32 = 1000;

/// Frames for packets that the engine makes itself.
const OUTGOING: usize = 16;

/// Packets that one step takes from `poll_transmit`: an engine that never stops must not stop the loop.
const MAX_DRAIN: usize = 4096;

/// Timers that one step lets fire on a capture's clock.
const MAX_TIMERS: usize = 4096;

/// What the loop needs of a director.
pub trait Engine {
    /// Processes packets in place and appends one verdict per packet to `verdicts`, in the same order.
    fn process_batch(&mut self, packets: &mut [Packet<'_>], now: Instant, verdicts: &mut Vec<Verdict>);

    /// Processes one packet in place.
    fn process(&mut self, packet: &mut Packet<'_>, now: Instant) -> Verdict;

    /// Returns the next packet that waits to be sent.
    fn poll_transmit(&mut self) -> Option<Outgoing>;

    /// Returns when [`handle_timeout`](Self::handle_timeout) must be called next.
    fn poll_timeout(&self) -> Option<Instant>;

    /// Lets what is due at `now` happen.
    fn handle_timeout(&mut self, now: Instant);
}

impl Engine for Director {
    fn process_batch(&mut self, packets: &mut [Packet<'_>], now: Instant, verdicts: &mut Vec<Verdict>) {
        self.process_batch(packets, now, verdicts);
    }

    fn process(&mut self, packet: &mut Packet<'_>, now: Instant) -> Verdict {
        self.process(packet, now)
    }

    fn poll_transmit(&mut self) -> Option<Outgoing> {
        self.poll_transmit()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.poll_timeout()
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.handle_timeout(now);
    }
}

/// What the loop did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RunCounters {
    /// Steps taken.
    pub steps: u64,
    /// Packets received.
    pub received: u64,
    /// Packets handed to the backend to send that it took, answers and queued packets included.
    pub sent: u64,
    /// Packets of the engine that no frame can hold.
    pub too_large: u64,
    /// Calls of the backend that failed and may succeed next time.
    pub transient_errors: u64,
}

/// How a [step](Runner::step) ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// There may be more to do.
    Again,
    /// The backend will never deliver a packet again.
    End,
}

/// The loop's reusable memory. [`run`] is the usual front; tests drive [`step`](Self::step) with a clock of
/// their own.
#[derive(Debug)]
pub struct Runner {
    batch: Batch,
    verdicts: Vec<Verdict>,
    outgoing: Batch,
    outgoing_verdicts: Vec<Verdict>,
    counters: RunCounters,
    errors_in_a_row: u32,
    /// The time of the last batch that had one of its own. Once a capture has told the time, only captures do:
    /// the caller's clock would be years off.
    own_time: Option<Instant>,
}

impl Runner {
    /// Makes the buffers for this backend.
    pub fn new(io: &(impl PacketIo + ?Sized)) -> Self {
        let batch = Batch::for_io(&io.capabilities());
        Self {
            batch,
            verdicts: Vec::new(),
            outgoing: Batch::new(OUTGOING, MAX_PACKET),
            outgoing_verdicts: Vec::new(),
            counters: RunCounters::default(),
            errors_in_a_row: 0,
            own_time: None,
        }
    }

    /// Returns what was done so far.
    pub const fn counters(&self) -> RunCounters {
        self.counters
    }

    /// Waits for packets (at most until the engine's next timeout and at most [`MAX_SLEEP`]), lets due timers
    /// fire, processes and sends.
    ///
    /// Packets with a time of their own (captures) are processed at that time, and the timers in between fire at
    /// theirs. `clock` is asked only as long as no packet had one.
    ///
    /// # Errors
    /// What the backend cannot handle, or [`Error::TooManyErrors`].
    pub fn step(
        &mut self,
        engine: &mut impl Engine,
        io: &mut (impl PacketIo + ?Sized),
        mut clock: impl FnMut() -> Instant,
    ) -> Result<Step, Error> {
        self.counters.steps += 1;
        let wait = match engine.poll_timeout() {
            Some(timeout) => {
                MAX_SLEEP.min(timeout.saturating_since(self.own_time.unwrap_or_else(&mut clock)))
            }
            None => MAX_SLEEP,
        };
        let received = match io.recv(&mut self.batch, Some(wait)) {
            Ok(received) => received,
            Err(error) => {
                self.transient(error)?;
                Received::TimedOut
            }
        };
        if let (Received::Frames(_), Some(at)) = (received, self.batch.at()) {
            // A capture may hold packets out of order; time does not go back.
            let at = self.own_time.map_or(at, |last| last.max(at));
            fire_until(engine, at);
            self.own_time = Some(at);
        }
        let now = self.own_time.unwrap_or_else(&mut clock);
        if engine.poll_timeout().is_some_and(|timeout| timeout <= now) {
            engine.handle_timeout(now);
        }
        if let Received::Frames(count) = received {
            self.errors_in_a_row = 0;
            self.counters.received += count as u64;
            self.verdicts.clear();
            let Self { batch, verdicts, .. } = self;
            batch.with_packets(|packets| engine.process_batch(packets, now, verdicts));
            debug_assert_eq!(self.verdicts.len(), self.batch.len(), "one verdict per packet");
            match io.send(&mut self.batch, &self.verdicts) {
                Ok(sent) => self.counters.sent += sent as u64,
                Err(error) => self.transient(error)?,
            }
        }
        self.drain(engine, io, now)?;
        Ok(if received == Received::End { Step::End } else { Step::Again })
    }

    /// Sends what waits in the engine.
    fn drain(
        &mut self,
        engine: &mut impl Engine,
        io: &mut (impl PacketIo + ?Sized),
        now: Instant,
    ) -> Result<(), Error> {
        for _ in 0..MAX_DRAIN {
            let Some(Outgoing { verdict, packet, meta }) = engine.poll_transmit() else { break };
            if self.outgoing.is_full() {
                self.flush(io, now)?;
            }
            let Some(frame) = self.outgoing.push() else { break };
            if frame.set(&packet).is_err() {
                self.outgoing.pop();
                self.counters.too_large += 1;
                continue;
            }
            frame.meta = meta;
            self.outgoing_verdicts.push(verdict);
        }
        self.flush(io, now)
    }

    fn flush(&mut self, io: &mut (impl PacketIo + ?Sized), now: Instant) -> Result<(), Error> {
        if self.outgoing.is_empty() {
            return Ok(());
        }
        self.outgoing.set_at(Some(now));
        let result = io.send(&mut self.outgoing, &self.outgoing_verdicts);
        self.outgoing.clear();
        self.outgoing_verdicts.clear();
        match result {
            Ok(sent) => self.counters.sent += sent as u64,
            Err(error) => self.transient(error)?,
        }
        Ok(())
    }

    fn transient(&mut self, error: Error) -> Result<(), Error> {
        if !error.is_transient() {
            return Err(error);
        }
        self.counters.transient_errors += 1;
        self.errors_in_a_row += 1;
        if self.errors_in_a_row >= MAX_TRANSIENT_ERRORS {
            let count = mem::take(&mut self.errors_in_a_row);
            return Err(Error::TooManyErrors { count, last: Box::new(error) });
        }
        Ok(())
    }
}

/// Lets every timer before `at` fire at its own time.
fn fire_until(engine: &mut impl Engine, at: Instant) {
    for _ in 0..MAX_TIMERS {
        match engine.poll_timeout() {
            Some(timeout) if timeout < at => engine.handle_timeout(timeout),
            _ => break,
        }
    }
}

/// Runs until `stop` says so (it is asked at least every [`MAX_SLEEP`]) or the backend has reached its end.
///
/// # Errors
/// What the backend cannot handle, or [`Error::TooManyErrors`].
///
/// # Examples
/// ```
/// use lvs_core::io::{Engine, Memory, MonotonicClock, run};
/// use lvs_core::wire::Packet;
/// use lvs_core::{Instant, Outgoing, Verdict};
///
/// /// Sends every packet on to one next hop.
/// struct Forward;
///
/// impl Engine for Forward {
///     fn process_batch(&mut self, packets: &mut [Packet<'_>], now: Instant, verdicts: &mut Vec<Verdict>) {
///         verdicts.extend(packets.iter_mut().map(|packet| self.process(packet, now)));
///     }
///     fn process(&mut self, _: &mut Packet<'_>, _: Instant) -> Verdict {
///         Verdict::Transmit { next_hop: [192, 0, 2, 1].into() }
///     }
///     fn poll_transmit(&mut self) -> Option<Outgoing> {
///         None
///     }
///     fn poll_timeout(&self) -> Option<Instant> {
///         None
///     }
///     fn handle_timeout(&mut self, _: Instant) {}
/// }
///
/// let mut io = Memory::new();
/// io.push(&[0x45, 0, 0, 20]);
/// io.close();
/// let clock = MonotonicClock::new();
/// let counters = run(&mut Forward, &mut io, || clock.now(), || false)?;
/// assert_eq!(counters.sent, 1);
/// # Ok::<(), lvs_core::io::Error>(())
/// ```
pub fn run(
    engine: &mut impl Engine,
    io: &mut (impl PacketIo + ?Sized),
    mut clock: impl FnMut() -> Instant,
    mut stop: impl FnMut() -> bool,
) -> Result<RunCounters, Error> {
    let mut runner = Runner::new(io);
    while !stop() {
        if runner.step(engine, io, &mut clock)? == Step::End {
            break;
        }
    }
    Ok(runner.counters())
}

#[cfg(test)]
mod tests {
    use crate::wire::Meta;
    use core::cell::Cell;
    use core::net::IpAddr;
    use std::collections::VecDeque;

    use super::*;
    use crate::DropReason;
    use crate::io::{Capabilities, Counters, Fault, Memory, Rates};

    fn next_hop() -> IpAddr {
        "192.0.2.7".parse().unwrap()
    }

    /// Adds 1 to the first byte of each packet and sends it on; drops packets that start with 0. Has one timer
    /// per entry of `timers`, each of which queues a packet.
    #[derive(Default)]
    struct Fake {
        timers: VecDeque<Instant>,
        fired: Vec<Instant>,
        seen: Vec<Instant>,
        outgoing: VecDeque<Outgoing>,
    }

    impl Engine for Fake {
        fn process_batch(&mut self, packets: &mut [Packet<'_>], now: Instant, verdicts: &mut Vec<Verdict>) {
            for packet in packets {
                verdicts.push(self.process(packet, now));
            }
        }

        fn process(&mut self, packet: &mut Packet<'_>, now: Instant) -> Verdict {
            self.seen.push(now);
            match packet.bytes_mut().first_mut() {
                Some(0) | None => Verdict::Drop(DropReason::Malformed),
                Some(first) => {
                    *first += 1;
                    Verdict::Transmit { next_hop: next_hop() }
                }
            }
        }

        fn poll_transmit(&mut self) -> Option<Outgoing> {
            self.outgoing.pop_front()
        }

        fn poll_timeout(&self) -> Option<Instant> {
            self.timers.front().copied()
        }

        fn handle_timeout(&mut self, now: Instant) {
            if self.timers.front().is_some_and(|&timeout| timeout <= now) {
                self.timers.pop_front();
                self.fired.push(now);
            }
        }
    }

    /// A backend that records how long it was told to wait and delivers batches with a time.
    #[derive(Default)]
    struct Scripted {
        script: VecDeque<(Vec<u8>, Instant)>,
        waits: Vec<Duration>,
        sent_at: Vec<Option<Instant>>,
    }

    impl PacketIo for Scripted {
        fn recv(&mut self, batch: &mut Batch, timeout: Option<Duration>) -> Result<Received, Error> {
            batch.clear();
            self.waits.extend(timeout);
            let Some((packet, at)) = self.script.pop_front() else { return Ok(Received::End) };
            batch.set_at(Some(at));
            batch.push().unwrap().set(&packet)?;
            Ok(Received::Frames(1))
        }

        fn send(&mut self, batch: &mut Batch, _verdicts: &[Verdict]) -> Result<usize, Error> {
            self.sent_at.push(batch.at());
            Ok(batch.len())
        }

        fn capabilities(&self) -> Capabilities {
            Capabilities { layer2: false, pass: false, gso: false, partial_checksum: false, mtu: 100 }
        }

        fn counters(&self) -> Counters {
            Counters::default()
        }
    }

    #[test]
    fn packets_go_through_the_engine_until_the_end() {
        let (mut engine, mut io) = (Fake::default(), Memory::new());
        for byte in 0..100 {
            io.push(&[byte]);
        }
        io.close();
        let counters = run(&mut engine, &mut io, || Instant::ZERO, || false).unwrap();
        let sent: Vec<u8> = core::iter::from_fn(|| io.pop()).map(|sent| sent.bytes[0]).collect();
        assert_eq!(sent, (2..=100).collect::<Vec<_>>());
        assert_eq!(counters, RunCounters { steps: 3, received: 100, sent: 99, ..RunCounters::default() });
    }

    #[test]
    fn a_stop_is_seen_before_each_step() {
        let (mut engine, mut io) = (Fake::default(), Memory::new());
        let asked = Cell::new(0);
        let stop = || asked.replace(asked.get() + 1) == 3;
        let counters = run(&mut engine, &mut io, || Instant::ZERO, stop).unwrap();
        assert_eq!((counters.steps, asked.get()), (3, 4));
    }

    #[test]
    fn a_virtual_clock_fires_timers_step_by_step() {
        let (mut engine, mut io) = (Fake::default(), Memory::new());
        engine.timers.extend([Instant::from_millis(5), Instant::from_millis(9)]);
        let mut runner = Runner::new(&io);
        for (millis, fired) in [(4, 0), (5, 1), (8, 1), (20, 2)] {
            runner.step(&mut engine, &mut io, || Instant::from_millis(millis)).unwrap();
            assert_eq!(engine.fired.len(), fired);
        }
    }

    #[test]
    fn the_wait_ends_at_the_timeout_and_never_later_than_the_longest_sleep() {
        let (mut engine, mut io) = (Fake::default(), Scripted::default());
        let mut runner = Runner::new(&io);
        let start = Instant::from_secs(1);
        runner.step(&mut engine, &mut io, || start).unwrap();
        engine.timers.push_back(start + Duration::from_millis(30));
        runner.step(&mut engine, &mut io, || start).unwrap();
        engine.timers[0] = start + Duration::from_secs(30);
        runner.step(&mut engine, &mut io, || start).unwrap();
        engine.timers[0] = Instant::ZERO;
        runner.step(&mut engine, &mut io, || start).unwrap();
        let millis: Vec<_> = io.waits.iter().map(Duration::as_millis).collect();
        assert_eq!(millis, [100, 30, 100, 0]);
    }

    #[test]
    fn packets_with_their_own_time_are_processed_at_it_and_timers_fire_in_between() {
        let (mut engine, mut io) = (Fake::default(), Scripted::default());
        let at = Instant::from_millis;
        io.script.extend([(vec![1], at(10)), (vec![1], at(50))]);
        engine.timers.extend([at(20), at(30), at(50), at(60)]);
        let mut runner = Runner::new(&io);
        while runner.step(&mut engine, &mut io, || Instant::ZERO).unwrap() == Step::Again {}
        assert_eq!(engine.seen, [at(10), at(50)]);
        assert_eq!(engine.fired, [at(20), at(30), at(50)]);
        assert_eq!(io.sent_at, [Some(at(10)), Some(at(50))]);
    }

    #[test]
    fn queued_packets_are_sent_in_as_many_batches_as_it_takes() {
        let (mut engine, mut io) = (Fake::default(), Memory::new());
        for byte in 0..40 {
            engine.outgoing.push_back(Outgoing {
                verdict: Verdict::Reply { next_hop: next_hop() },
                packet: vec![byte],
                meta: Meta { mark: u32::from(byte), ..Meta::default() },
            });
        }
        engine.outgoing.push_back(Outgoing {
            verdict: Verdict::Transmit { next_hop: next_hop() },
            packet: vec![0; MAX_PACKET + 1],
            meta: Meta::default(),
        });
        let mut runner = Runner::new(&io);
        runner.step(&mut engine, &mut io, || Instant::ZERO).unwrap();
        for byte in 0..40 {
            let sent = io.pop().unwrap();
            assert_eq!((sent.bytes[0], sent.meta.mark, sent.reply), (byte, u32::from(byte), true));
        }
        assert_eq!(io.pop(), None);
        assert_eq!((runner.counters().sent, runner.counters().too_large), (40, 1));
    }

    #[test]
    fn transient_errors_are_counted_and_passed_over() {
        let mut memory = Memory::new();
        for _ in 0..50 {
            memory.push(&[1]);
        }
        memory.close();
        let mut io = Fault::new(memory, 9).on_receive(Rates { error: 500, ..Rates::default() });
        let counters = run(&mut Fake::default(), &mut io, || Instant::ZERO, || false).unwrap();
        assert_eq!((counters.received, counters.sent), (50, 50));
        assert_eq!(counters.transient_errors, io.faults().errors);
        assert!(counters.transient_errors > 0);
    }

    #[test]
    fn a_backend_that_only_fails_ends_the_run() {
        let mut io = Fault::new(Memory::new(), 9).on_receive(Rates { error: 1000, ..Rates::default() });
        let error = run(&mut Fake::default(), &mut io, || Instant::ZERO, || false).unwrap_err();
        assert_eq!(error.to_string(), "1000 transient errors in a row, the last one: injected receive error");
    }
}
