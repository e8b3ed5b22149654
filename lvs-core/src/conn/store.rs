//! The connections of one address family: slots, their index, and the sweep that finds what has expired.
//!
//! Sixty-four slots in a row are a group. Beside the slots lies one `u32` per group: a lower bound of the
//! earliest expiry in it. A packet that lengthens a life writes only its entry, so a bound may be too early;
//! what shortens a life or begins one lowers the bound, so it is never too late. A sweep reads the bounds in
//! order, looks into the groups that are due, and sets their bounds right.

use super::clock::{NEVER, moved};
use super::entry::{Address, Entry, Hot, Key, KeyHasher};
use super::index::Index;
use super::memory::{Region, Zeroed};
use super::{Direction, State};

/// Slots per group of the sweep.
const GROUP: usize = 64;

/// Bounds that a sweep reads for one unit of its budget when none of them is due: four pages of them.
const BOUNDS_PER_STEP: usize = 4096;

/// Slots that one eviction looks at: 16 KiB of memory in a row for IPv4.
///
/// If one connection of twenty may be evicted, one attempt of 500,000 finds none.
pub(super) const EVICTION_WINDOW: usize = 256;

/// How long a template that expired while connections of it live goes on (the kernel's 60 s), in ticks.
pub(super) const TEMPLATE_REARM: u32 = 60 * 16;

/// End of the list of vacant slots.
const NO_SLOT: u32 = u32::MAX;

/// Set in an index cell that stands for the tuple of packets from the server; the other bits are the slot.
const REPLY_SIDE: u32 = 1 << 31;

/// Whose tuple is in the way of an insertion.
pub(super) enum Taken {
    Client(u32),
    Return(u32),
}

pub(super) struct Store<A> {
    entries: Region<Entry<A>>,
    pub(super) index: Index,
    /// Per group: no live entry of it expires before this tick.
    bounds: Vec<u32>,
    /// First vacant slot below `fresh`; the rest of the list runs through `Hot::cold`.
    vacant: u32,
    /// Slots from here on were never used.
    fresh: usize,
    len: usize,
    /// Where the next eviction begins to look.
    hand: usize,
    sweep: Sweep,
}

/// Where the search for expired entries stands.
struct Sweep {
    /// No entry expires before this tick, as the last whole pass saw it.
    earliest: u32,
    /// Lowest bound set since the running pass began, or since the last one ended.
    lowered: u32,
    /// A pass is under way.
    running: bool,
    /// The next group it will look at.
    at: usize,
    /// The lowest bound it has seen.
    lowest: u32,
    /// Expired slots of `pending_group` not handed out yet, one bit each.
    pending: u64,
    pending_group: usize,
}

impl<A: Address> Store<A>
where
    Entry<A>: Zeroed,
{
    pub(super) fn new(capacity: u32) -> Self {
        Self::with_index(capacity, Index::new(2 * capacity.min(REPLY_SIDE - 1) as usize))
    }

    pub(super) fn with_index(capacity: u32, index: Index) -> Self {
        let capacity = capacity.min(REPLY_SIDE - 1) as usize;
        Self {
            entries: Region::new(capacity),
            index,
            bounds: vec![NEVER; capacity.div_ceil(GROUP)],
            vacant: NO_SLOT,
            fresh: 0,
            len: 0,
            hand: 0,
            sweep: Sweep {
                earliest: NEVER,
                lowered: NEVER,
                running: false,
                at: 0,
                lowest: NEVER,
                pending: 0,
                pending_group: 0,
            },
        }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn capacity(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.entries.bytes() + self.index.bytes() + self.bounds.len() * size_of::<u32>()
    }

    /// Finds the entry that has this key, and on which side.
    #[inline]
    pub(super) fn find(&self, key: &Key<A>, code: u8, hash: u64) -> Option<(u32, &Hot, Direction)> {
        self.index.find_map(hash, |cell| {
            let slot = cell & !REPLY_SIDE;
            let entry = &self.entries[slot as usize];
            let (held, direction) = if cell == slot {
                (&entry.from_client, Direction::In)
            } else {
                (&entry.from_server, Direction::Out)
            };
            (held == key && entry.hot.code() == code).then_some((slot, &entry.hot, direction))
        })
    }

    #[inline]
    pub(super) fn prefetch_entries(&self, hash: u64) {
        self.index.candidates(hash, |cell| self.entries.prefetch((cell & !REPLY_SIDE) as usize));
    }

    /// The entry in this slot if it is in use and of this generation.
    #[inline]
    pub(super) fn entry(&self, slot: u32, generation: u32) -> Option<&Entry<A>> {
        let entry = self.entries.get(slot as usize)?;
        (entry.hot.in_use() && entry.hot.generation == generation).then_some(entry)
    }

    #[inline]
    pub(super) fn hot_mut(&mut self, slot: u32, generation: u32) -> Option<&mut Hot> {
        let hot = &mut self.entries.get_mut(slot as usize)?.hot;
        (hot.in_use() && hot.generation == generation).then_some(hot)
    }

    /// The entry in this slot if it is in use.
    pub(super) fn occupied(&self, slot: usize) -> Option<&Entry<A>> {
        self.entries.get(slot).filter(|entry| entry.hot.in_use())
    }

    /// One more than the highest slot ever used.
    pub(super) fn used_slots(&self) -> usize {
        self.fresh
    }

    /// Writes an entry that expires at tick `expires` into a free slot under both its keys, or does nothing.
    ///
    /// `Ok(None)`: no slot is free.
    pub(super) fn insert(
        &mut self,
        mut entry: Entry<A>,
        expires: u32,
        hasher: &KeyHasher,
    ) -> Result<Option<(u32, u32)>, Taken> {
        self.check_free(&entry, hasher)?;
        let slot = if self.vacant != NO_SLOT {
            self.vacant
        } else if self.fresh < self.entries.len() {
            self.fresh as u32
        } else {
            return Ok(None);
        };
        let place = &mut self.entries[slot as usize];
        if self.vacant == NO_SLOT {
            self.fresh += 1;
        } else {
            self.vacant = place.hot.cold;
        }
        let generation = place.hot.generation;
        entry.hot.generation = generation;
        entry.hot.expires = expires;
        *place = entry;
        self.len += 1;
        self.lower(slot, expires);
        self.add_keys(slot, &entry, hasher);
        Ok(Some((slot, generation)))
    }

    /// Frees a slot that is in use and returns what was in it.
    pub(super) fn remove(&mut self, slot: u32, hasher: &KeyHasher) -> Entry<A> {
        let entry = self.entries[slot as usize];
        self.remove_keys(slot, &entry, hasher);
        self.entries[slot as usize].vacate(self.vacant);
        self.vacant = slot;
        self.len -= 1;
        entry
    }

    /// Gives a connection its client's port; its slot and generation stay.
    pub(super) fn rekey(&mut self, slot: u32, port: u16, hasher: &KeyHasher) -> Result<(), Taken> {
        let before = self.entries[slot as usize];
        let mut after = before;
        after.from_client.sport = port;
        if before.from_server.dst == before.from_client.src && before.from_server.dport == 0 {
            after.from_server.dport = port;
        }
        after.hot.flags.remove(super::ConnFlags::NO_CLIENT_PORT);
        self.remove_keys(slot, &before, hasher);
        if let Err(taken) = self.check_free(&after, hasher) {
            self.add_keys(slot, &before, hasher);
            return Err(taken);
        }
        self.entries[slot as usize] = after;
        self.add_keys(slot, &after, hasher);
        Ok(())
    }

    fn check_free(&self, entry: &Entry<A>, hasher: &KeyHasher) -> Result<(), Taken> {
        let code = entry.hot.code();
        let key = &entry.from_client;
        if let Some((slot, ..)) = self.find(key, code, hasher.hash(key, code)) {
            return Err(Taken::Client(slot));
        }
        if let Some(key) = &entry.reply_key()
            && let Some((slot, ..)) = self.find(key, code, hasher.hash(key, code))
        {
            return Err(Taken::Return(slot));
        }
        Ok(())
    }

    fn add_keys(&mut self, slot: u32, entry: &Entry<A>, hasher: &KeyHasher) {
        let code = entry.hot.code();
        self.index.insert(hasher.hash(&entry.from_client, code), slot);
        if let Some(key) = entry.reply_key() {
            self.index.insert(hasher.hash(&key, code), slot | REPLY_SIDE);
        }
    }

    fn remove_keys(&mut self, slot: u32, entry: &Entry<A>, hasher: &KeyHasher) {
        let code = entry.hot.code();
        self.index.remove(hasher.hash(&entry.from_client, code), slot);
        if let Some(key) = entry.reply_key() {
            self.index.remove(hasher.hash(&key, code), slot | REPLY_SIDE);
        }
    }

    /// Sets an expiry.
    #[inline]
    pub(super) fn touch(&mut self, slot: u32, generation: u32, expires: u32) -> bool {
        let Some(hot) = self.hot_mut(slot, generation) else { return false };
        let shorter = expires < hot.expires;
        hot.expires = expires;
        if shorter {
            self.lower(slot, expires);
        }
        true
    }

    /// Notes that an entry of this slot's group expires at `tick`.
    fn lower(&mut self, slot: u32, tick: u32) {
        let bound = &mut self.bounds[slot as usize / GROUP];
        *bound = tick.min(*bound);
        self.sweep.lowered = tick.min(self.sweep.lowered);
    }

    /// The tick before which no entry expires; [`NEVER`] when there is nothing to expire.
    pub(super) fn earliest(&self) -> u32 {
        self.sweep.earliest.min(self.sweep.lowered)
    }

    /// Finds the next expired slot. Costs one unit of `budget` per due group or [`BOUNDS_PER_STEP`] bounds.
    pub(super) fn next_expired(&mut self, now: u32, budget: &mut u32) -> Option<u32> {
        loop {
            if let Some(slot) = self.next_pending(now) {
                return Some(slot);
            }
            if !self.sweep.running {
                let earliest = self.earliest();
                if earliest > now {
                    return None;
                }
                self.sweep = Sweep {
                    earliest,
                    lowered: NEVER,
                    running: true,
                    at: 0,
                    lowest: NEVER,
                    pending: 0,
                    pending_group: 0,
                };
            }
            *budget = budget.checked_sub(1)?;
            let groups = self.fresh.div_ceil(GROUP);
            let stop = groups.min(self.sweep.at.saturating_add(BOUNDS_PER_STEP));
            while self.sweep.at < stop {
                let group = self.sweep.at;
                self.sweep.at += 1;
                if self.bounds[group] <= now {
                    self.visit(group, now);
                    self.sweep.lowest = self.sweep.lowest.min(self.bounds[group]);
                    break;
                }
                self.sweep.lowest = self.sweep.lowest.min(self.bounds[group]);
            }
            if self.sweep.at == groups && self.sweep.pending == 0 {
                self.sweep.running = false;
                self.sweep.earliest = self.sweep.lowest.min(self.sweep.lowered);
                self.sweep.lowered = NEVER;
            }
        }
    }

    /// Looks at every entry of a group: sets the bound right and notes the expired ones.
    fn visit(&mut self, group: usize, now: u32) {
        let first = group * GROUP;
        let last = self.fresh.min(first + GROUP);
        let mut bound = NEVER;
        let mut expired = 0;
        for (bit, entry) in self.entries[first..last].iter().enumerate() {
            if !entry.hot.in_use() {
                continue;
            }
            if entry.hot.expires <= now {
                expired |= 1 << bit;
            } else {
                bound = bound.min(entry.hot.expires);
            }
        }
        self.bounds[group] = bound;
        self.sweep.pending = expired;
        self.sweep.pending_group = group;
    }

    fn next_pending(&mut self, now: u32) -> Option<u32> {
        while self.sweep.pending != 0 {
            let bit = self.sweep.pending.trailing_zeros();
            self.sweep.pending &= self.sweep.pending - 1;
            let slot = (self.sweep.pending_group * GROUP) as u32 + bit;
            let hot = &mut self.entries[slot as usize].hot;
            if !hot.in_use() {
                continue;
            }
            if hot.expires <= now && hot.children == 0 {
                return Some(slot);
            }
            // A template whose connections live, or an entry that was touched since the group was looked at:
            // the bound does not know its new expiry.
            if hot.expires <= now {
                hot.expires = now.saturating_add(TEMPLATE_REARM).min(NEVER - 1);
            }
            let expires = hot.expires;
            self.lower(slot, expires);
        }
        None
    }

    /// Chooses what to lose when the table is full; see [`super::ConnTable::evict`].
    pub(super) fn victim(&mut self, now: u32) -> Option<u32> {
        let mut best: Option<(Worth, u32)> = None;
        for _ in 0..EVICTION_WINDOW.min(self.fresh) {
            let slot = self.hand;
            self.hand = if slot + 1 >= self.fresh { 0 } else { slot + 1 };
            let Some(worth) = self.occupied(slot).and_then(|entry| Worth::of(&entry.hot, now)) else {
                continue;
            };
            if worth <= Worth::HalfOpen {
                return Some(slot as u32);
            }
            if best.is_none_or(|(least, _)| worth < least) {
                best = Some((worth, slot as u32));
            }
        }
        best.map(|(_, slot)| slot)
    }

    /// Lowers every stored tick after the epoch moved.
    pub(super) fn move_epoch(&mut self, by: u64) {
        for entry in &mut self.entries[..self.fresh] {
            entry.hot.expires = moved(entry.hot.expires, by);
        }
        for bound in &mut self.bounds {
            *bound = moved(*bound, by);
        }
        let sweep = &mut self.sweep;
        for tick in [&mut sweep.earliest, &mut sweep.lowered, &mut sweep.lowest] {
            *tick = moved(*tick, by);
        }
    }

    /// What is kept beside the entries agrees with them.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let held = (0..self.fresh).filter_map(|slot| Some((slot, self.occupied(slot)?)));
        let mut keys = 0;
        for (slot, entry) in held.clone() {
            keys += 1 + usize::from(entry.reply_key().is_some());
            let pending =
                self.sweep.pending_group == slot / GROUP && self.sweep.pending & 1 << (slot % GROUP) != 0;
            assert!(pending || self.bounds[slot / GROUP] <= entry.hot.expires, "late bound of slot {slot}");
            assert!(self.earliest() <= entry.hot.expires, "late earliest for slot {slot}");
        }
        assert_eq!(held.count(), self.len);
        assert_eq!(self.index.keys(), keys);
        assert!(self.len > 0 || self.index.is_clean());
    }
}

/// How little is lost with a connection: the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Worth {
    /// Over already.
    Expired,
    /// A handshake nobody has finished, or a template none of whose connections did.
    HalfOpen,
    /// One datagram and no more.
    OneDatagram,
    /// Closing, or a protocol without an end.
    Inactive,
    /// A template that proved itself, without connections.
    Template,
}

impl Worth {
    /// `None`: not to be evicted.
    fn of(hot: &Hot, now: u32) -> Option<Self> {
        use super::ConnFlags;
        if !hot.is_live(now) {
            return Some(Self::Expired);
        }
        if hot.is_template() {
            return match (hot.children, hot.state) {
                (0, State::Assured) => Some(Self::Template),
                (0, _) => Some(Self::HalfOpen),
                _ => None,
            };
        }
        match hot.state {
            state if state.is_half_open() => Some(Self::HalfOpen),
            State::Udp if hot.packets <= 1 => Some(Self::OneDatagram),
            _ if hot.flags.contains(ConnFlags::INACTIVE) => Some(Self::Inactive),
            _ => None,
        }
    }
}
