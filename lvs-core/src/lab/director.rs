//! A director in the Lab: gives packets to the engine and does what its verdicts say.

use super::{Node, Outbox};
use crate::wire::{HEADROOM, Packet, TAILROOM};
use crate::{Config, Director, Instant, Verdict};

/// A [`Director`] as a node. Attach it with its own addresses and the VIPs.
///
/// Packets that the director [passes](Verdict::Pass) end here, since no host is behind it.
#[derive(Debug)]
pub struct DirectorNode {
    /// The engine.
    pub director: Director,
    buffer: Vec<u8>,
    passed: u64,
}

impl DirectorNode {
    /// Makes a node of a director.
    pub fn new(director: Director) -> Self {
        Self { director, buffer: Vec::new(), passed: 0 }
    }

    /// Makes a node of a new director.
    pub fn with_config(config: Config) -> Self {
        Self::new(Director::new(config))
    }

    /// Packets that the director left to a host.
    pub fn passed(&self) -> u64 {
        self.passed
    }

    fn drain(&mut self, out: &mut Outbox) {
        while let Some(outgoing) = self.director.poll_transmit() {
            match outgoing.verdict.next_hop() {
                Some(next_hop) => out.send(next_hop, outgoing.packet),
                None => self.passed += 1,
            }
        }
    }
}

impl Node for DirectorNode {
    fn handle_packet(&mut self, packet: Vec<u8>, now: Instant, out: &mut Outbox) {
        self.buffer.clear();
        self.buffer.resize(HEADROOM, 0);
        self.buffer.extend_from_slice(&packet);
        self.buffer.resize(HEADROOM + packet.len() + TAILROOM, 0);
        let Some(mut packet) = Packet::new(&mut self.buffer, HEADROOM, HEADROOM + packet.len()) else {
            return;
        };
        match self.director.process(&mut packet, now) {
            Verdict::Transmit { next_hop } | Verdict::Reply { next_hop } => {
                out.send(next_hop, packet.bytes().to_vec());
            }
            Verdict::Pass => self.passed += 1,
            Verdict::Queued | Verdict::Drop(_) => {}
        }
        self.drain(out);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.director.poll_timeout()
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Outbox) {
        self.director.handle_timeout(now);
        self.drain(out);
    }
}
