//! Packets in queues: the backend of tests, examples and in-process simulations.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::VecDeque;

use super::{Batch, Capabilities, Counters, Error, MAX_PACKET, PacketIo, Received};
use crate::Verdict;
use crate::wire::Meta;

/// A packet that a [`Memory`] backend was told to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Where it goes next.
    pub next_hop: IpAddr,
    /// Whether it is the director's own answer.
    pub reply: bool,
    /// The packet from its IP header on.
    pub bytes: Vec<u8>,
    /// What the engine left of the metadata.
    pub meta: Meta,
}

/// Queues of packets in and out. It never waits: an empty queue is a timeout, a [closed](Self::close) one the
/// end.
///
/// The queues have no limit of their own; who pushes decides how much there is.
#[derive(Debug)]
pub struct Memory {
    capabilities: Capabilities,
    incoming: VecDeque<(Vec<u8>, Meta)>,
    outgoing: VecDeque<Sent>,
    passed: VecDeque<Vec<u8>>,
    closed: bool,
    counters: Counters,
}

impl Memory {
    /// Makes empty queues that take packets of any size, with or without offload metadata, and packets for the
    /// host.
    pub fn new() -> Self {
        Self::with_capabilities(Capabilities {
            layer2: false,
            pass: true,
            gso: true,
            partial_checksum: true,
            mtu: 1500,
        })
    }

    /// Makes empty queues that claim these capabilities. Packets larger than
    /// [`max_packet`](Capabilities::max_packet) are then skipped by `recv`.
    pub fn with_capabilities(capabilities: Capabilities) -> Self {
        Self {
            capabilities,
            incoming: VecDeque::new(),
            outgoing: VecDeque::new(),
            passed: VecDeque::new(),
            closed: false,
            counters: Counters::default(),
        }
    }

    /// Queues a packet to be received.
    pub fn push(&mut self, packet: &[u8]) {
        self.push_with(packet, Meta::default());
    }

    /// Queues a packet with metadata to be received.
    pub fn push_with(&mut self, packet: &[u8], meta: Meta) {
        self.incoming.push_back((packet.to_vec(), meta));
    }

    /// Says that nothing more will be pushed.
    pub const fn close(&mut self) {
        self.closed = true;
    }

    /// Takes the oldest packet that was sent.
    pub fn pop(&mut self) -> Option<Sent> {
        self.outgoing.pop_front()
    }

    /// Takes the oldest packet that was given back to the host.
    pub fn pop_passed(&mut self) -> Option<Vec<u8>> {
        self.passed.pop_front()
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl PacketIo for Memory {
    fn recv(&mut self, batch: &mut Batch, _timeout: Option<Duration>) -> Result<Received, Error> {
        batch.clear();
        while !self.incoming.is_empty() {
            let Some(frame) = batch.push() else { break };
            let Some((bytes, meta)) = self.incoming.pop_front() else { break };
            if frame.set(&bytes).is_err() {
                batch.pop();
                self.counters.skipped += 1;
                continue;
            }
            frame.meta = meta;
        }
        self.counters.received += batch.len() as u64;
        Ok(match batch.len() {
            0 if self.closed && self.incoming.is_empty() => Received::End,
            0 => Received::TimedOut,
            count => Received::Frames(count),
        })
    }

    fn send(&mut self, batch: &mut Batch, verdicts: &[Verdict]) -> Result<usize, Error> {
        let mut sent = 0;
        for (frame, verdict) in batch.frames().iter().zip(verdicts) {
            if let Some(next_hop) = verdict.next_hop() {
                debug_assert!(frame.bytes().len() <= MAX_PACKET);
                self.outgoing.push_back(Sent {
                    next_hop,
                    reply: matches!(verdict, Verdict::Reply { .. }),
                    bytes: frame.bytes().to_vec(),
                    meta: frame.meta,
                });
                sent += 1;
            } else if *verdict == Verdict::Pass && self.capabilities.pass {
                self.passed.push_back(frame.bytes().to_vec());
                self.counters.passed += 1;
            }
        }
        self.counters.sent += sent as u64;
        Ok(sent)
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DropReason;
    use crate::wire::Gso;

    fn next_hop() -> IpAddr {
        "192.0.2.7".parse().unwrap()
    }

    #[test]
    fn verdicts_decide_where_a_packet_goes() {
        let mut io = Memory::new();
        for byte in 1..=5 {
            io.push(&[byte]);
        }
        let mut batch = Batch::new(8, 100);
        assert_eq!(io.recv(&mut batch, None).unwrap(), Received::Frames(5));
        let verdicts = [
            Verdict::Transmit { next_hop: next_hop() },
            Verdict::Drop(DropReason::Malformed),
            Verdict::Reply { next_hop: next_hop() },
            Verdict::Pass,
            Verdict::Queued,
        ];
        assert_eq!(io.send(&mut batch, &verdicts).unwrap(), 2);
        let first = io.pop().unwrap();
        assert_eq!((first.bytes, first.reply, first.next_hop), (vec![1], false, next_hop()));
        let second = io.pop().unwrap();
        assert_eq!((second.bytes, second.reply), (vec![3], true));
        assert_eq!(io.pop(), None);
        assert_eq!(io.pop_passed(), Some(vec![4]));
        assert_eq!(io.counters(), Counters { received: 5, sent: 2, passed: 1, ..Counters::default() });
    }

    #[test]
    fn metadata_goes_through() {
        let mut io = Memory::new();
        let meta =
            Meta { mark: 7, gso: Some(Gso { kind: 1, size: 1448, header_len: 52 }), ..Meta::default() };
        io.push_with(&[0x45], meta);
        let mut batch = Batch::for_io(&io.capabilities());
        io.recv(&mut batch, None).unwrap();
        io.send(&mut batch, &[Verdict::Transmit { next_hop: next_hop() }]).unwrap();
        assert_eq!(io.pop().unwrap().meta, meta);
    }

    #[test]
    fn an_empty_queue_times_out_and_a_closed_one_ends() {
        let mut io = Memory::new();
        let mut batch = Batch::new(1, 10);
        assert_eq!(io.recv(&mut batch, None).unwrap(), Received::TimedOut);
        io.push(&[1]);
        io.push(&[2]);
        io.close();
        assert_eq!(io.recv(&mut batch, None).unwrap(), Received::Frames(1));
        assert_eq!(io.recv(&mut batch, None).unwrap(), Received::Frames(1));
        assert_eq!(io.recv(&mut batch, None).unwrap(), Received::End);
    }

    #[test]
    fn frames_without_a_verdict_are_not_sent() {
        let mut io = Memory::new();
        io.push(&[1]);
        let mut batch = Batch::new(1, 10);
        io.recv(&mut batch, None).unwrap();
        assert_eq!(io.send(&mut batch, &[]).unwrap(), 0);
        assert_eq!(io.pop(), None);
    }

    #[test]
    fn a_packet_that_no_frame_can_hold_is_skipped_and_counted() {
        let mut io = Memory::new();
        io.push(&[0; 11]);
        io.push(&[1]);
        let mut batch = Batch::new(4, 10);
        assert_eq!(io.recv(&mut batch, None).unwrap(), Received::Frames(1));
        assert_eq!(batch.frames()[0].bytes(), [1]);
        assert_eq!(io.counters().skipped, 1);
    }
}
