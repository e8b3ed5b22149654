//! Counters: what came, what left and why the rest did not.

use crate::verdict::{DropReason, Verdict};

/// Counters of a service, a server or the whole director, as `ipvsadm --stats` shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Connections opened.
    pub connections: u64,
    /// Packets from clients.
    pub in_packets: u64,
    /// Packets to clients that came through the director.
    pub out_packets: u64,
    /// Bytes from clients, IP headers included.
    pub in_bytes: u64,
    /// Bytes to clients that came through the director.
    pub out_bytes: u64,
}

impl Traffic {
    /// The numbers in the order of ipvsadm's columns.
    pub(crate) fn columns(&self) -> [u64; 5] {
        [self.connections, self.in_packets, self.out_packets, self.in_bytes, self.out_bytes]
    }

    #[inline]
    pub(crate) fn count_in(&mut self, bytes: u32) {
        self.in_packets += 1;
        self.in_bytes += u64::from(bytes);
    }

    #[inline]
    pub(crate) fn count_out(&mut self, bytes: u32) {
        self.out_packets += 1;
        self.out_bytes += u64::from(bytes);
    }
}

/// What became of the packets given to a director: every packet counts once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counters {
    /// Packets given in.
    pub received: u64,
    /// Verdicts of that name.
    pub transmitted: u64,
    /// Answers made in the packet's place.
    pub replied: u64,
    /// Packets left to the host.
    pub passed: u64,
    /// Packets taken in (fragments held, packets cut).
    pub queued: u64,
    /// Packets that left through `poll_transmit`.
    pub released: u64,
    /// Connections that ended by their timeout.
    pub expired: u64,
    /// Connections evicted from a full table.
    pub evicted: u64,
    /// FULLNAT packets that had no room for the TCP option with the client's address.
    pub toa_refused: u64,
    drops: [u64; DropReason::ALL.len()],
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            received: 0,
            transmitted: 0,
            replied: 0,
            passed: 0,
            queued: 0,
            released: 0,
            expired: 0,
            evicted: 0,
            toa_refused: 0,
            drops: [0; DropReason::ALL.len()],
        }
    }
}

impl Counters {
    /// Packets dropped for one reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }

    /// Packets dropped for any reason.
    pub fn dropped_total(&self) -> u64 {
        self.drops.iter().sum()
    }

    /// Every reason with its count, zero ones included.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL.iter().copied().zip(self.drops)
    }

    #[inline]
    pub(crate) fn count(&mut self, verdict: Verdict) {
        self.received += 1;
        match verdict {
            Verdict::Transmit { .. } => self.transmitted += 1,
            Verdict::Reply { .. } => self.replied += 1,
            Verdict::Pass => self.passed += 1,
            Verdict::Queued => self.queued += 1,
            Verdict::Drop(reason) => self.drops[reason as usize] += 1,
        }
    }

    pub(crate) fn count_late_drop(&mut self, reason: DropReason, count: u64) {
        self.drops[reason as usize] += count;
    }
}
