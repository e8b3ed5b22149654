//! Fragments: held until their datagram is whole, which then takes the ordinary way and leaves in pieces.

use lvs_sched::Instant;

use super::PassPolicy;
use super::{Director, Job, Step};
use crate::fragment::{self, Datagram, Outcome};
use crate::verdict::{DropReason, Verdict};
use crate::wire::{self, HEADROOM, Meta, Packet, Parsed, TAILROOM};

/// How a reassembled datagram was received, and so how it leaves again.
#[derive(Debug)]
pub(super) struct Pieces {
    pub(super) sizes: Vec<u16>,
    pub(super) largest: u16,
    pub(super) id: u32,
}

impl Director {
    /// Takes a fragment in; the last one missing sends the whole datagram on its way.
    pub(super) fn fragment(&mut self, packet: &mut Packet<'_>, parsed: &Parsed, now: Instant) -> Verdict {
        let ours = self.pool.is_vip(parsed.dst)
            || self.pool.is_server_addr(parsed.src)
            || self.pool.has_marks()
            || self.config.environment.is_own(parsed.dst);
        if !ours {
            return match self.config.pass {
                PassPolicy::Pass => Verdict::Pass,
                PassPolicy::Answer => Verdict::Drop(DropReason::NotForUs),
            };
        }
        let outcome = self.fragments.insert(parsed, packet.bytes(), packet.meta.mark, now);
        self.count_lost_fragments();
        match outcome {
            Outcome::Held => Verdict::Queued,
            Outcome::Rejected(reason) => Verdict::Drop(reason),
            Outcome::Complete(datagram) => self.datagram(&datagram, now),
        }
    }

    /// Takes a reassembled datagram through the stages of a whole packet.
    fn datagram(&mut self, datagram: &Datagram, now: Instant) -> Verdict {
        let len = datagram.bytes.len();
        let mut buffer = vec![0; HEADROOM + len + TAILROOM];
        buffer[HEADROOM..HEADROOM + len].copy_from_slice(&datagram.bytes);
        let Some(mut packet) = Packet::new(&mut buffer, HEADROOM, HEADROOM + len) else {
            return Verdict::Drop(DropReason::Malformed);
        };
        packet.meta.mark = datagram.mark;
        self.trace.note(|| Step::Reassembled { fragments: datagram.sizes.len(), len });
        let mut parsed = match wire::parse(packet.bytes()) {
            Ok(parsed) => parsed,
            Err(error) => return Verdict::Drop(error.drop_reason()),
        };
        parsed.dont_fragment = datagram.dont_fragment;
        let pieces = Pieces { sizes: datagram.sizes.clone(), largest: datagram.max_size, id: datagram.id };
        let key = parsed.tuple().map(|tuple| (tuple, self.conns.hash(&tuple)));
        let mut job = Job { packet: &mut packet, parsed: &parsed, pieces: Some(&pieces), now };
        let verdict = self.whole(&mut job, key.as_ref());
        let meta = Meta { mark: datagram.mark, ..Meta::default() };
        match verdict {
            // Answers leave whole, a datagram for the host as it came.
            Verdict::Transmit { .. } | Verdict::Reply { .. } => {
                self.queue(vec![packet.bytes().to_vec()], verdict, meta)
            }
            Verdict::Pass => {
                match fragment::cut(&datagram.bytes, &datagram.sizes, usize::from(u16::MAX), datagram.id) {
                    Ok(again) => self.queue(again, Verdict::Pass, meta),
                    Err(_) => Verdict::Drop(DropReason::Malformed),
                }
            }
            Verdict::Queued | Verdict::Drop(_) => verdict,
        }
    }

    /// Fragments that were held (and counted as queued) and then given up are counted as drops as well.
    pub(super) fn count_lost_fragments(&mut self) {
        let lost = self.fragments.take_lost();
        for (reason, count) in [
            (DropReason::FragmentOverlap, lost.overlap),
            (DropReason::FragmentLimit, lost.limit),
            (DropReason::FragmentTimeout, lost.timeout),
        ] {
            self.counters.count_late_drop(reason, u64::from(count));
        }
    }
}
