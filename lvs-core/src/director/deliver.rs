//! The last stage: may the packet leave as it would be, and if so, do it.

use core::net::IpAddr;

use super::fullnat::FullNatStep;
use super::refuse::Refusal;
use super::{Director, Job, Outgoing, Step};
use crate::environment::{MIN_MTU_V4, MIN_MTU_V6};
use crate::fragment;
use crate::rewrite::{Outer, Rewrite};
use crate::verdict::{DropReason, Verdict};
use crate::wire::checksum::finish_checksum;
use crate::wire::{ChecksumState, Meta, ipv4, ipv6};

/// The largest value of a length field.
const MAX_LENGTH: u32 = 0xffff;

/// How a packet that may leave leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// In one piece.
    Whole,
    /// In fragments no larger than the MTU; reassembled datagrams in their received sizes.
    Cut,
}

impl Director {
    /// Checks everything that could stop the packet; changes nothing.
    pub(super) fn fit(&mut self, job: &Job<'_, '_>, rewrite: &Rewrite) -> Result<Fit, Refusal> {
        let parsed = job.parsed;
        if parsed.ttl <= 1 {
            return Err(Refusal::Ttl);
        }
        let overhead = rewrite.overhead();
        if usize::from(overhead) > job.packet.headroom() {
            return Err(Refusal::Silent(DropReason::NoRoom));
        }
        let gso = job.packet.meta.gso;
        let inner = match (gso, job.pieces) {
            (Some(gso), _) => u32::from(gso.header_len) + u32::from(gso.size),
            (None, Some(pieces)) => u32::from(pieces.largest),
            (None, None) => parsed.len,
        };
        let size = inner + u32::from(overhead);
        if size <= u32::from(rewrite.mtu) {
            return if job.pieces.is_some() { self.may_cut(job, rewrite) } else { Ok(Fit::Whole) };
        }
        let keeps_df = rewrite.outer.is_none_or(|outer| outer.copy_df);
        let may_be_cut = if parsed.is_ipv4() {
            !(parsed.dont_fragment && keeps_df)
        } else {
            // No sender can make it smaller, so the tunnel's own packet is cut (RFC 2473 section 7.1).
            rewrite.outer.is_some() && inner <= u32::from(MIN_MTU_V6)
        };
        let cut = may_be_cut && gso.is_none();
        self.trace.note(|| Step::TooLarge { size, mtu: rewrite.mtu, cut });
        if cut {
            return self.may_cut(job, rewrite);
        }
        let mtu = rewrite.mtu.saturating_sub(overhead);
        if parsed.is_ipv4() {
            // RFC 791: every link carries 68 bytes; less is nothing a sender could obey.
            return Err(if mtu < MIN_MTU_V4 {
                Refusal::Silent(DropReason::TooBig)
            } else {
                Refusal::TooBig { mtu }
            });
        }
        Err(Refusal::TooBig { mtu: mtu.max(MIN_MTU_V6) })
    }

    /// Whether a packet can be cut once it has its headers, and its pieces find room in the queue.
    fn may_cut(&self, job: &Job<'_, '_>, rewrite: &Rewrite) -> Result<Fit, Refusal> {
        let len = job.parsed.len + u32::from(rewrite.overhead());
        let (longest, header) = match rewrite.outer {
            Some(Outer { dst: IpAddr::V4(_), .. }) => (MAX_LENGTH, ipv4::MIN_HEADER_LEN),
            Some(_) => (ipv6::HEADER_LEN as u32 + MAX_LENGTH, ipv6::HEADER_LEN + ipv6::FRAGMENT_LEN),
            None => (u32::MAX, usize::from(job.parsed.l4) + ipv6::FRAGMENT_LEN),
        };
        if len > longest {
            return Err(Refusal::Silent(DropReason::TooBig));
        }
        let limit = job.pieces.map_or(rewrite.mtu, |pieces| pieces.largest.min(rewrite.mtu));
        let room = (usize::from(limit).saturating_sub(header) / 8).max(1) * 8;
        // One more than needed, for a TCP option that may yet come.
        let as_they_came = job.pieces.map_or(0, |pieces| pieces.sizes.len());
        let count = as_they_came.max((len as usize).div_ceil(room)) + 1;
        if self.outgoing.len() + count > self.config.limits.outgoing {
            return Err(Refusal::Silent(DropReason::QueueFull));
        }
        Ok(Fit::Cut)
    }

    /// Applies a rewrite that [`fit`](Self::fit) has passed.
    pub(super) fn send(
        &mut self,
        job: &mut Job<'_, '_>,
        rewrite: &Rewrite,
        fit: Fit,
        fullnat: Option<FullNatStep>,
    ) -> Verdict {
        if fit == Fit::Cut
            && let Some(outer @ Outer { copy_df: true, .. }) = rewrite.outer
        {
            // What is cut must have an identification, and so no DF, even if the fragments that came had it.
            let rewrite = Rewrite { outer: Some(Outer { copy_df: false, ..outer }), ..*rewrite };
            return self.send(job, &rewrite, fit, fullnat);
        }
        let verdict = Verdict::Transmit { next_hop: rewrite.next_hop };
        // Link padding behind the packet stays here.
        if job.packet.set_len(job.parsed.len as usize).is_err() {
            return Verdict::Drop(DropReason::Malformed);
        }
        if rewrite.apply(job.packet, job.parsed).is_err() {
            return Verdict::Drop(DropReason::NoRoom);
        }
        if let Some(step) = fullnat {
            self.apply_fullnat(job, rewrite, step);
        }
        match fit {
            Fit::Whole => verdict,
            Fit::Cut => self.send_cut(job, rewrite, verdict),
        }
    }

    /// Cuts a rewritten packet. A tunnel wraps a reassembled datagram once, and its outer packet is cut to the
    /// largest fragment that came; without a tunnel the fragments leave in the sizes in which they came.
    fn send_cut(&mut self, job: &mut Job<'_, '_>, rewrite: &Rewrite, verdict: Verdict) -> Verdict {
        if let ChecksumState::Partial { start, offset } = job.packet.meta.checksum {
            finish_checksum(job.packet.bytes_mut(), start, offset);
        }
        // What is cut of a tunnel is the director's own packet, and so is the identification.
        let own_id = rewrite.outer.map_or(0, |outer| u32::from(outer.id));
        let (sizes, limit, id): (&[u16], u16, u32) = match job.pieces {
            Some(pieces) if rewrite.outer.is_some() => (&[], pieces.largest.min(rewrite.mtu), own_id),
            Some(pieces) => (&pieces.sizes, rewrite.mtu, pieces.id),
            None => (&[], rewrite.mtu, own_id),
        };
        let meta = Meta { mark: job.packet.meta.mark, ..Meta::default() };
        match fragment::cut(job.packet.bytes(), sizes, usize::from(limit), id) {
            Ok(pieces) => self.queue(pieces, verdict, meta),
            Err(_) => Verdict::Drop(DropReason::Malformed),
        }
    }

    /// Puts packets into the queue of `poll_transmit`: all of them or none.
    pub(super) fn queue(&mut self, packets: Vec<Vec<u8>>, verdict: Verdict, meta: Meta) -> Verdict {
        if self.outgoing.len() + packets.len() > self.config.limits.outgoing {
            return Verdict::Drop(DropReason::QueueFull);
        }
        self.outgoing.extend(packets.into_iter().map(|packet| Outgoing { verdict, packet, meta }));
        Verdict::Queued
    }
}
