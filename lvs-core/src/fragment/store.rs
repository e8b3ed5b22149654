//! Holds fragments until their datagram is whole (RFC 791, RFC 8200 section 4.5, RFC 5722).

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use core::net::IpAddr;
use core::time::Duration;

use ahash::RandomState;
use lvs_sched::Instant;
use pnet_packet::ip::IpNextHeaderProtocols as next_header;

use super::finish_ipv4_header;
use crate::DropReason;
use crate::wire::{Parsed, ipv4, ipv6};

/// How much a [`FragmentStore`] may hold.
///
/// The store's memory is at most `bytes` plus some 300 bytes for each of `datagrams`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FragmentLimits {
    /// Bytes of held fragments, bookkeeping of each fragment included.
    pub bytes: usize,
    /// Incomplete datagrams.
    pub datagrams: usize,
    /// Fragments of one datagram; more give the datagram up.
    pub fragments: usize,
    /// How long an incomplete IPv4 datagram waits.
    pub timeout_v4: Duration,
    /// How long an incomplete IPv6 datagram waits.
    pub timeout_v6: Duration,
}

impl FragmentLimits {
    /// 4 MiB, as Linux' `ipfrag_high_thresh`.
    pub const BYTES: usize = 4 << 20;
    /// Incomplete datagrams by default.
    pub const DATAGRAMS: usize = 1024;
    /// Fragments of one datagram by default: 64 KiB in pieces of 1 KiB.
    pub const FRAGMENTS: usize = 64;
    /// As Linux' `ipfrag_time`.
    pub const TIMEOUT_V4: Duration = Duration::from_secs(30);
    /// RFC 8200 section 4.5.
    pub const TIMEOUT_V6: Duration = Duration::from_secs(60);
}

impl Default for FragmentLimits {
    fn default() -> Self {
        Self {
            bytes: Self::BYTES,
            datagrams: Self::DATAGRAMS,
            fragments: Self::FRAGMENTS,
            timeout_v4: Self::TIMEOUT_V4,
            timeout_v6: Self::TIMEOUT_V6,
        }
    }
}

/// A datagram put together from its fragments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// The IP packet: the header of the first fragment, no longer marked as a fragment (IPv6: without the
    /// fragment header), lengths and IPv4 header checksum right. CE of any fragment is in it (RFC 3168 section
    /// 5.3); DF is set when the largest fragment had it.
    pub bytes: Vec<u8>,
    /// Sizes of the received fragments in bytes, IP header included, by their place in the datagram.
    pub sizes: Vec<u16>,
    /// The largest of `sizes`.
    pub max_size: u16,
    /// Whether any fragment had DF set (IPv4).
    pub dont_fragment: bool,
    /// Identification, for cutting an IPv6 datagram again under its own one.
    pub id: u32,
    /// The first fragment's mark.
    pub mark: u32,
}

/// What became of a fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// It waits for the others, or is an exact copy of one that waits.
    Held,
    /// It was the last one missing.
    Complete(Datagram),
    /// It was dropped: `Malformed`, `FragmentOverlap` or `FragmentLimit`.
    ///
    /// But for `Malformed` the whole datagram is given up; what was held of it is in [`FragmentStore::take_lost`].
    Rejected(DropReason),
}

/// Fragments that had been held and were then given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LostFragments {
    /// Because a later fragment overlapped or contradicted them.
    pub overlap: u32,
    /// Because the store or the datagram was full.
    pub limit: u32,
    /// Because their time was over when another one came.
    pub timeout: u32,
}

/// What a store has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FragmentCounters {
    /// Datagrams completed.
    pub completed: u64,
    /// Exact copies of held fragments.
    pub duplicates: u64,
    /// Incomplete datagrams evicted for newer ones.
    pub evicted: u64,
    /// Incomplete datagrams whose time was over.
    pub timed_out: u64,
}

/// Fragments of all datagrams that are not whole yet.
///
/// An exact copy of a held fragment is harmless; any other overlap gives the datagram up, and what still comes
/// of it is dropped until its time is over (RFC 5722, for IPv4 as well). A full store evicts the oldest datagram.
///
/// # Examples
/// ```
/// use lvs_core::fragment::{FragmentLimits, FragmentStore};
/// let store = FragmentStore::new(FragmentLimits::default(), 7);
/// assert_eq!((store.len(), store.poll_timeout()), (0, None));
/// ```
#[derive(Debug)]
pub struct FragmentStore {
    limits: FragmentLimits,
    datagrams: HashMap<Key, Incomplete, RandomState>,
    /// Creation order of the IPv4 and of the IPv6 datagrams; in each family it is the order of deadlines too.
    ages: [BTreeMap<u64, Key>; 2],
    next_age: u64,
    bytes: usize,
    lost: LostFragments,
    counters: FragmentCounters,
}

impl FragmentStore {
    /// Makes an empty store; `seed` keys its hash table.
    pub fn new(limits: FragmentLimits, seed: u64) -> Self {
        Self {
            limits,
            datagrams: HashMap::with_hasher(RandomState::with_seeds(seed, !seed, seed.rotate_left(32), 0)),
            ages: [BTreeMap::new(), BTreeMap::new()],
            next_age: 0,
            bytes: 0,
            lost: LostFragments::default(),
            counters: FragmentCounters::default(),
        }
    }

    /// Takes in the fragment `packet`, of which `parsed` was read.
    ///
    /// `Malformed` is a packet that is no fragment, an empty one, one that is not the last and whose payload is no
    /// multiple of 8 bytes, or one that reaches beyond 65,535 bytes.
    pub fn insert(&mut self, parsed: &Parsed, packet: &[u8], mark: u32, now: Instant) -> Outcome {
        let Some(fragment) = Incoming::read(parsed, packet) else {
            return Outcome::Rejected(DropReason::Malformed);
        };
        let key = fragment.key;
        if self.datagrams.get(&key).is_some_and(|datagram| datagram.deadline <= now) {
            self.lost.timeout += self.expire(&key);
        }
        match self.datagrams.get(&key).map_or(Fit::New, |datagram| datagram.judge(&fragment, &self.limits)) {
            Fit::New => {}
            Fit::Copy => {
                self.counters.duplicates += 1;
                return Outcome::Held;
            }
            Fit::Against(reason) => {
                self.give_up(&key, reason);
                return Outcome::Rejected(reason);
            }
        }
        if !self.make_room(&key, fragment.cost()) {
            self.give_up(&key, DropReason::FragmentLimit);
            return Outcome::Rejected(DropReason::FragmentLimit);
        }
        let datagram = match self.datagrams.entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let age = self.next_age;
                self.next_age += 1;
                self.ages[key.family()].insert(age, key);
                let timeout = if key.src.is_ipv4() { self.limits.timeout_v4 } else { self.limits.timeout_v6 };
                entry.insert(Incomplete::new(age, now + timeout))
            }
        };
        self.bytes += fragment.cost();
        datagram.add(&fragment, mark);
        if !datagram.is_whole() {
            return Outcome::Held;
        }
        match datagram.join(key) {
            Ok(whole) => {
                self.remove(&key);
                self.counters.completed += 1;
                Outcome::Complete(whole)
            }
            Err(reason) => {
                // The fragment at hand is told of by the outcome, the others by `take_lost`.
                self.give_up(&key, reason);
                self.lost.overlap = self.lost.overlap.saturating_sub(1);
                Outcome::Rejected(reason)
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.oldest_of_families()
            .filter_map(|key| self.datagrams.get(key))
            .map(|datagram| datagram.deadline)
            .min()
    }

    /// Drops the datagrams whose time is over and returns how many fragments they held.
    pub fn handle_timeout(&mut self, now: Instant) -> u32 {
        let mut dropped = 0;
        for family in 0..self.ages.len() {
            while let Some(key) = self.ages[family].first_key_value().map(|(_, key)| *key) {
                if self.datagrams.get(&key).is_some_and(|datagram| datagram.deadline > now) {
                    break;
                }
                dropped += self.expire(&key);
            }
        }
        dropped
    }

    /// Returns the fragments given up since the last call, without those that an [`Outcome::Rejected`] or
    /// [`handle_timeout`](Self::handle_timeout) has told of.
    pub fn take_lost(&mut self) -> LostFragments {
        core::mem::take(&mut self.lost)
    }

    /// What the store has done so far.
    pub fn counters(&self) -> FragmentCounters {
        self.counters
    }

    /// Datagrams held, given-up ones included until their time is over.
    pub fn len(&self) -> usize {
        self.datagrams.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }

    /// Bytes held, as [`FragmentLimits::bytes`] counts them.
    pub fn held_bytes(&self) -> usize {
        self.bytes
    }

    fn oldest_of_families(&self) -> impl Iterator<Item = &Key> {
        self.ages.iter().filter_map(|ages| ages.first_key_value().map(|(_, key)| key))
    }

    /// Evicts until `cost` more bytes fit for `key`; false when they cannot.
    fn make_room(&mut self, key: &Key, cost: usize) -> bool {
        if cost > self.limits.bytes || self.limits.datagrams == 0 {
            return false;
        }
        let is_new = !self.datagrams.contains_key(key);
        while self.bytes + cost > self.limits.bytes
            || (is_new && self.datagrams.len() >= self.limits.datagrams)
        {
            // At most one of each family's two oldest is the datagram at hand.
            let oldest = self
                .ages
                .iter()
                .filter_map(|ages| ages.iter().find(|(_, other)| *other != key))
                .min_by_key(|(age, _)| **age)
                .map(|(_, oldest)| *oldest);
            let Some(oldest) = oldest else {
                return false;
            };
            self.lost.limit += self.remove(&oldest).map_or(0, |datagram| datagram.count());
            self.counters.evicted += 1;
        }
        true
    }

    fn remove(&mut self, key: &Key) -> Option<Incomplete> {
        let datagram = self.datagrams.remove(key)?;
        self.ages[key.family()].remove(&datagram.age);
        self.bytes -= datagram.cost;
        Some(datagram)
    }

    fn expire(&mut self, key: &Key) -> u32 {
        let count = self.remove(key).map_or(0, |datagram| datagram.count());
        self.counters.timed_out += u64::from(count > 0);
        count
    }

    /// Frees what is held of a datagram and remembers until its deadline that it is dead.
    fn give_up(&mut self, key: &Key, reason: DropReason) {
        let Some(datagram) = self.datagrams.get_mut(key) else {
            return;
        };
        match reason {
            DropReason::FragmentLimit => self.lost.limit += datagram.count(),
            _ => self.lost.overlap += datagram.count(),
        }
        self.bytes -= datagram.cost;
        *datagram = Incomplete { given_up: Some(reason), ..Incomplete::new(datagram.age, datagram.deadline) };
    }
}

/// What the fragments of one datagram have in common (RFC 791: with the protocol, RFC 8200: without).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    src: IpAddr,
    dst: IpAddr,
    id: u32,
    protocol: u8,
}

impl Key {
    fn family(&self) -> usize {
        usize::from(self.src.is_ipv6())
    }
}

/// One fragment as it came.
struct Incoming<'a> {
    key: Key,
    /// The headers in front of the payload, as the datagram will have them.
    header: &'a [u8],
    /// IPv6: where the byte stands that must take over the number of the header behind the fragment header.
    next_header: Option<(usize, u8)>,
    payload: &'a [u8],
    offset: u32,
    more: bool,
    size: u16,
    ecn: u8,
    dont_fragment: bool,
}

impl<'a> Incoming<'a> {
    fn read(parsed: &Parsed, packet: &'a [u8]) -> Option<Self> {
        let place = parsed.fragment?;
        let packet = packet.get(..parsed.len as usize)?;
        let (header_len, payload_start, next_header, protocol, dont_fragment);
        if parsed.is_ipv4() {
            let header = packet.first_chunk::<{ ipv4::MIN_HEADER_LEN }>()?;
            header_len = ipv4::header_len(header);
            payload_start = header_len;
            next_header = None;
            protocol = header[ipv4::PROTOCOL];
            dont_fragment = ipv4::flags(header) & ipv4::DONT_FRAGMENT != 0;
            if header_len < ipv4::MIN_HEADER_LEN {
                return None;
            }
        } else {
            header_len = usize::from(place.header);
            payload_start = header_len + ipv6::FRAGMENT_LEN;
            next_header = Some((pointer_to(packet, header_len)?, *packet.get(header_len)?));
            protocol = 0;
            dont_fragment = false;
        }
        let payload = packet.get(payload_start..)?;
        let end = u32::from(place.offset) + u32::try_from(payload.len()).ok()?;
        let unaligned = place.more && !payload.len().is_multiple_of(8);
        if payload.is_empty() || unaligned || place.offset % 8 != 0 || end > u32::from(u16::MAX) {
            return None;
        }
        Some(Self {
            key: Key { src: parsed.src, dst: parsed.dst, id: place.id, protocol },
            header: &packet[..header_len],
            next_header,
            payload,
            offset: u32::from(place.offset),
            more: place.more,
            size: u16::try_from(packet.len()).ok()?,
            ecn: parsed.tos & 3,
            dont_fragment,
        })
    }

    fn end(&self) -> u32 {
        self.offset + self.payload.len() as u32
    }

    fn cost(&self) -> usize {
        let header = if self.offset == 0 { self.header.len() } else { 0 };
        self.payload.len() + header + size_of::<Piece>()
    }
}

/// Finds the next-header byte that names the header at `target`, walking from the fixed IPv6 header.
fn pointer_to(packet: &[u8], target: usize) -> Option<usize> {
    let (mut pointer, mut at) = (ipv6::NEXT_HEADER, ipv6::HEADER_LEN);
    while at < target {
        pointer = at;
        at += ipv6::extension_len(*packet.get(at + 1)?);
    }
    (at == target && *packet.get(pointer)? == next_header::Ipv6Frag.0).then_some(pointer)
}

/// How a fragment goes with what is held of its datagram.
enum Fit {
    New,
    Copy,
    Against(DropReason),
}

#[derive(Debug)]
struct Piece {
    offset: u32,
    size: u16,
    more: bool,
    payload: Box<[u8]>,
}

impl Piece {
    fn end(&self) -> u32 {
        self.offset + self.payload.len() as u32
    }
}

#[derive(Debug)]
struct Incomplete {
    age: u64,
    deadline: Instant,
    given_up: Option<DropReason>,
    /// By offset, without overlaps.
    pieces: Vec<Piece>,
    cost: usize,
    received: u32,
    /// The datagram's payload length, once the last fragment is here.
    total: Option<u32>,
    header: Vec<u8>,
    mark: u32,
    /// Which of the four ECN codepoints were seen, one bit each.
    ecn_seen: u8,
    max_size: u16,
    max_size_with_df: u16,
}

impl Incomplete {
    fn new(age: u64, deadline: Instant) -> Self {
        Self {
            age,
            deadline,
            given_up: None,
            pieces: Vec::new(),
            cost: 0,
            received: 0,
            total: None,
            header: Vec::new(),
            mark: 0,
            ecn_seen: 0,
            max_size: 0,
            max_size_with_df: 0,
        }
    }

    fn count(&self) -> u32 {
        self.pieces.len() as u32
    }

    fn judge(&self, fragment: &Incoming<'_>, limits: &FragmentLimits) -> Fit {
        if let Some(reason) = self.given_up {
            return Fit::Against(reason);
        }
        let at = self.position(fragment.offset);
        if let Some(piece) = self.pieces.get(at)
            && (piece.offset, piece.more, &*piece.payload)
                == (fragment.offset, fragment.more, fragment.payload)
        {
            return Fit::Copy;
        }
        let overlaps_before = at > 0 && self.pieces[at - 1].end() > fragment.offset;
        let overlaps_behind = self.pieces.get(at).is_some_and(|piece| piece.offset < fragment.end());
        let contradicts_end = match self.total {
            Some(total) => !fragment.more || fragment.end() > total,
            None => !fragment.more && self.pieces.last().is_some_and(|piece| piece.end() > fragment.end()),
        };
        if overlaps_before || overlaps_behind || contradicts_end {
            Fit::Against(DropReason::FragmentOverlap)
        } else if self.pieces.len() >= limits.fragments {
            Fit::Against(DropReason::FragmentLimit)
        } else {
            Fit::New
        }
    }

    /// Where a piece that starts at `offset` belongs.
    fn position(&self, offset: u32) -> usize {
        self.pieces.partition_point(|piece| piece.offset < offset)
    }

    fn add(&mut self, fragment: &Incoming<'_>, mark: u32) {
        debug_assert!(self.given_up.is_none(), "a given-up datagram takes nothing in");
        if fragment.offset == 0 {
            self.header = fragment.header.to_vec();
            if let Some((at, number)) = fragment.next_header {
                self.header[at] = number;
            }
            self.mark = mark;
        }
        if !fragment.more {
            self.total = Some(fragment.end());
        }
        self.cost += fragment.cost();
        self.received += fragment.payload.len() as u32;
        self.ecn_seen |= 1 << fragment.ecn;
        self.max_size = self.max_size.max(fragment.size);
        if fragment.dont_fragment {
            self.max_size_with_df = self.max_size_with_df.max(fragment.size);
        }
        let piece = Piece {
            offset: fragment.offset,
            size: fragment.size,
            more: fragment.more,
            payload: fragment.payload.into(),
        };
        self.pieces.insert(self.position(fragment.offset), piece);
    }

    /// As there are no overlaps, enough bytes are all bytes.
    fn is_whole(&self) -> bool {
        self.total == Some(self.received)
    }

    fn join(&self, key: Key) -> Result<Datagram, DropReason> {
        const NOT_ECT: u8 = 1 << 0;
        const CE: u8 = 1 << 3;
        let congested = self.ecn_seen & CE != 0;
        if congested && self.ecn_seen & NOT_ECT != 0 {
            // RFC 3168 section 5.3: a mark cannot be on a packet whose sender did not allow marks.
            return Err(DropReason::FragmentOverlap);
        }
        let mut bytes = Vec::with_capacity(self.header.len() + self.received as usize);
        bytes.extend_from_slice(&self.header);
        for piece in &self.pieces {
            bytes.extend_from_slice(&piece.payload);
        }
        if key.src.is_ipv4() {
            let total = u16::try_from(bytes.len()).map_err(|_| DropReason::Malformed)?;
            let field = if self.max_size_with_df == self.max_size { ipv4::DONT_FRAGMENT } else { 0 };
            bytes[ipv4::TOS] |= if congested { 3 } else { 0 };
            finish_ipv4_header(&mut bytes, total, field);
        } else {
            let payload = u16::try_from(bytes.len() - ipv6::HEADER_LEN).map_err(|_| DropReason::Malformed)?;
            bytes[1] |= if congested { 0x30 } else { 0 };
            ipv6::set_payload_len(&mut bytes, payload);
        }
        Ok(Datagram {
            bytes,
            sizes: self.pieces.iter().map(|piece| piece.size).collect(),
            max_size: self.max_size,
            dont_fragment: self.max_size_with_df > 0,
            id: key.id,
            mark: self.mark,
        })
    }
}
