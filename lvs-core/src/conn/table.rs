//! The table itself: both families behind one set of verbs.

use core::fmt;

use lvs_sched::Instant;

use super::clock::{Clock, NEVER};
use super::entry::{Entry, FamilyKey, Hot, Key, KeyHasher, code_of};
use super::store::{Store, Taken};
use super::{Connection, Direction};
use super::{Filter, entry::Address, memory::Zeroed};
use crate::service::Family;
use crate::wire::Tuple;

use core::net::{Ipv4Addr, Ipv6Addr};

/// How many connections the table holds, per family of the client. 0 = none of this family; the most is
/// 2³¹ − 1, and more counts as that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Capacity {
    /// IPv4 connections, about 82 bytes each.
    pub ipv4: u32,
    /// IPv6 connections, about 146 bytes each.
    pub ipv6: u32,
}

/// Names one connection as long as it lives; an id of an ended connection names nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    family: Family,
    slot: u32,
    generation: u32,
}

impl ConnId {
    /// Family of the client.
    pub const fn family(self) -> Family {
        self.family
    }

    /// Slot number within the family, below its capacity: an index for what an owner keeps beside the table.
    pub const fn slot(self) -> u32 {
        self.slot
    }
}

/// What the table knows of a tuple.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// A packet of this connection, travelling this way.
    Hit(ConnId, Direction),
    /// The tuple of a connection that is over but still holds its place. The packet is the first of a new flow;
    /// remove the old connection before the new one is inserted.
    Expired(ConnId),
    /// Nothing.
    Miss,
}

/// Why a connection was not inserted; the table is as before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InsertError {
    /// No slot is free for the client's family: evict, or refuse the flow.
    #[error("the connection table is full for this address family")]
    Full,
    /// This connection, perhaps expired, has the tuple of packets from the client.
    #[error("the client's tuple belongs to another connection")]
    TupleTaken(ConnId),
    /// This connection, perhaps expired, has the tuple of packets from the server: choose another server or
    /// local port.
    #[error("the server's return tuple belongs to another connection")]
    ReturnTupleTaken(ConnId),
    /// Client and service are of two families, or a rewriting method was to translate between families.
    #[error("addresses of two families: only tunnels may lead to a server of another family")]
    MixedFamilies,
    /// The id names no connection.
    #[error("the connection has ended")]
    Stale,
}

/// A connection that left the table, with what its owner may have to give back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// The id that no longer names it.
    pub id: ConnId,
    /// What it was.
    pub connection: Connection,
    /// Its [`Hot::cold`].
    pub cold: u32,
}

/// The connections of one worker.
///
/// # Examples
/// ```
/// use lvs_core::conn::{Capacity, ConnFlags, ConnTable, Connection, Direction, Lookup, Method, State};
/// use lvs_core::wire::Tuple;
/// use lvs_core::{Instant, Protocol, ServerId};
///
/// let mut table = ConnTable::new(Capacity { ipv4: 1000, ipv6: 0 }, 0x5eed);
/// let now = Instant::from_secs(1);
/// let client = "192.0.2.7:40000".parse()?;
/// let id = table.insert(
///     &Connection {
///         protocol: Protocol::Tcp,
///         client,
///         service: "198.51.100.1:80".parse()?,
///         server: "10.0.0.2:8080".parse()?,
///         local: client,
///         method: Method::Masquerade,
///         server_id: ServerId(0),
///         state: State::SynRecv,
///         flags: ConnFlags::empty(),
///         mark: 0,
///         packets: 1,
///         expires: Instant::from_secs(61),
///     },
///     now,
/// )?;
/// let answer = Tuple { protocol: Protocol::Tcp, src: "10.0.0.2:8080".parse()?, dst: client };
/// assert_eq!(table.lookup(&answer, now), Lookup::Hit(id, Direction::Out));
/// assert_eq!(table.lookup(&answer, Instant::from_secs(61)), Lookup::Expired(id));
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
pub struct ConnTable {
    v4: Store<Ipv4Addr>,
    v6: Store<Ipv6Addr>,
    hasher: KeyHasher,
    clock: Clock,
}

/// Runs one expression on the store of a family.
macro_rules! on_family {
    ($family:expr, $self:ident, $store:ident => $body:expr) => {
        match $family {
            Family::V4 => {
                let $store = &$self.v4;
                $body
            }
            Family::V6 => {
                let $store = &$self.v6;
                $body
            }
        }
    };
    ($family:expr, mut $self:ident, $store:ident => $body:expr) => {
        match $family {
            Family::V4 => {
                let $store = &mut $self.v4;
                $body
            }
            Family::V6 => {
                let $store = &mut $self.v6;
                $body
            }
        }
    };
}

impl ConnTable {
    /// Takes memory for `capacity` connections. `seed` must be secret and random: whoever knows it can send
    /// packets that all fall into one bucket.
    ///
    /// # Panics
    /// Panics when the size does not fit the address space; aborts when the system has no memory.
    pub fn new(capacity: Capacity, seed: u64) -> Self {
        Self {
            v4: Store::new(capacity.ipv4),
            v6: Store::new(capacity.ipv6),
            hasher: KeyHasher::new(seed),
            clock: Clock::default(),
        }
    }

    /// Connections in the table, templates and expired ones that were not swept yet included.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Connections of one family.
    pub fn len_of(&self, family: Family) -> usize {
        on_family!(family, self, store => store.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What it was made for.
    pub fn capacity(&self) -> Capacity {
        Capacity { ipv4: self.v4.capacity() as u32, ipv6: self.v6.capacity() as u32 }
    }

    /// Bytes of memory reserved. Pages that were never used cost the system nothing.
    pub fn memory_bytes(&self) -> usize {
        self.v4.bytes() + self.v6.bytes()
    }

    /// The hash of a packet's tuple, for the `*_hashed` and `prefetch_*` methods of this table.
    #[inline]
    pub fn hash(&self, tuple: &Tuple) -> u64 {
        self.hash_as(tuple, false)
    }

    /// First step of a batch: asks the processor for the bucket of a tuple.
    #[inline]
    pub fn prefetch_bucket(&self, tuple: &Tuple, hash: u64) {
        on_family!(Family::of(&tuple.src.addr), self, store => store.index.prefetch(hash));
    }

    /// Second step of a batch: asks the processor for the entries that the bucket names.
    #[inline]
    pub fn prefetch_entry(&self, tuple: &Tuple, hash: u64) {
        on_family!(Family::of(&tuple.src.addr), self, store => store.prefetch_entries(hash));
    }

    /// Finds the connection of a packet. Templates are not found.
    #[inline]
    pub fn lookup(&self, tuple: &Tuple, now: Instant) -> Lookup {
        self.lookup_hashed(tuple, self.hash(tuple), now)
    }

    /// [`lookup`](Self::lookup) with the hash that [`hash`](Self::hash) gave.
    #[inline]
    pub fn lookup_hashed(&self, tuple: &Tuple, hash: u64, now: Instant) -> Lookup {
        self.find(tuple, false, hash, now)
    }

    /// Finds a persistence template by its own tuple (client network and port 0 to service). A template is
    /// never an answer to [`lookup`](Self::lookup), whatever ports a packet has.
    pub fn lookup_template(&self, tuple: &Tuple, now: Instant) -> Lookup {
        self.find(tuple, true, self.hash_as(tuple, true), now)
    }

    /// Adds a connection. NAT and FULLNAT are found by packets from both sides, the others and templates by
    /// packets from the client; with `NO_CLIENT_PORT` by client port 0.
    ///
    /// # Errors
    /// The table holds both tuples of a connection or none; see [`InsertError`]. A taken tuple is reported even
    /// when its holder has expired (remove it and try again) and even when the table is full.
    pub fn insert(&mut self, conn: &Connection, now: Instant) -> Result<ConnId, InsertError> {
        self.follow(now);
        let expires = self.clock.expiry(conn.expires);
        let family = Family::of(&conn.client.addr);
        on_family!(family, mut self, store => {
            let entry = Entry::pack(conn).ok_or(InsertError::MixedFamilies)?;
            match store.insert(entry, expires, &self.hasher) {
                Ok(Some((slot, generation))) => Ok(ConnId { family, slot, generation }),
                Ok(None) => Err(InsertError::Full),
                Err(taken) => Err(self.taken(family, &taken)),
            }
        })
    }

    /// Gives a connection that was inserted with `NO_CLIENT_PORT` its client's port, and clears the flag. In
    /// NAT the return tuple gets the port too.
    ///
    /// # Errors
    /// As [`insert`](Self::insert), or `Stale`; the connection then stays as it was.
    pub fn set_client_port(&mut self, id: ConnId, port: u16) -> Result<(), InsertError> {
        on_family!(id.family, mut self, store => {
            if store.entry(id.slot, id.generation).is_none() {
                return Err(InsertError::Stale);
            }
            match store.rekey(id.slot, port, &self.hasher) {
                Ok(()) => Ok(()),
                Err(taken) => Err(self.taken(id.family, &taken)),
            }
        })
    }

    /// What packets read of a connection; `None` when it has ended.
    #[inline]
    pub fn hot(&self, id: ConnId) -> Option<&Hot> {
        on_family!(id.family, self, store => Some(&store.entry(id.slot, id.generation)?.hot))
    }

    /// What packets write into a connection; `None` when it has ended. Expiry is set by
    /// [`touch`](Self::touch).
    #[inline]
    pub fn hot_mut(&mut self, id: ConnId) -> Option<&mut Hot> {
        on_family!(id.family, mut self, store => store.hot_mut(id.slot, id.generation))
    }

    /// Sets when a connection ends, later or earlier than before. Rounded up to a sixteenth of a second.
    /// Returns false when it has ended.
    #[inline]
    pub fn touch(&mut self, id: ConnId, expires: Instant) -> bool {
        let expires = self.clock.expiry(expires);
        on_family!(id.family, mut self, store => store.touch(id.slot, id.generation, expires))
    }

    /// When a connection ends; `None` when it has ended and left the table.
    pub fn expires(&self, id: ConnId) -> Option<Instant> {
        Some(self.clock.instant(self.hot(id)?.expires))
    }

    /// The checksum deltas (addresses, ports) that the owner stored.
    #[inline]
    pub fn deltas(&self, id: ConnId) -> Option<(u16, u16)> {
        self.hot(id).map(|hot| (hot.addr_delta, hot.port_delta))
    }

    /// The connection as a value; `None` when it has ended.
    #[inline]
    pub fn get(&self, id: ConnId) -> Option<Connection> {
        on_family!(id.family, self, store => {
            Some(self.value(store.entry(id.slot, id.generation)?))
        })
    }

    /// Takes a connection out; `None` when it has ended.
    pub fn remove(&mut self, id: ConnId) -> Option<Ended> {
        self.hot(id)?;
        Some(self.end(id.family, id.slot))
    }

    /// Takes the next expired connection out. Call it until it returns `None`, which it does when nothing has
    /// expired any more or when `budget` is used up; the next call goes on where this one stopped.
    ///
    /// One unit of `budget` is a look at 64 neighbouring slots, or at the bounds of 262,144 that are not due.
    /// An expired template with live connections ([`Hot::children`]) is given 60 s more, as the kernel does.
    pub fn expire(&mut self, now: Instant, budget: &mut u32) -> Option<Ended> {
        self.follow(now);
        let tick = self.clock.tick(now);
        if let Some(slot) = self.v4.next_expired(tick, budget) {
            return Some(self.end(Family::V4, slot));
        }
        let slot = self.v6.next_expired(tick, budget)?;
        Some(self.end(Family::V6, slot))
    }

    /// When to call [`expire`](Self::expire) next: never later than the first expiry, perhaps earlier. `None`
    /// when there is nothing to expire.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let tick = self.v4.earliest().min(self.v6.earliest());
        (tick != NEVER).then(|| self.clock.instant(tick))
    }

    /// Makes room in a full table: takes out the connection that is cheapest to lose among the next 256 slots
    /// behind the one where the last eviction stopped.
    ///
    /// The first of these that is met ends the search: an expired connection; a half-open one
    /// ([`State::is_half_open`](super::State::is_half_open)); a template without connections that is not `Assured`. If there is none in the window, the
    /// first UDP flow of one packet, else the first inactive connection, else the first `Assured` template
    /// without connections is taken. Active connections and templates with connections are never taken.
    ///
    /// `None`: the window held nothing of the kind. The next call looks at the next 256 slots.
    pub fn evict(&mut self, family: Family, now: Instant) -> Option<Ended> {
        self.follow(now);
        let tick = self.clock.tick(now);
        let slot = on_family!(family, mut self, store => store.victim(tick))?;
        Some(self.end(family, slot))
    }

    /// All connections in the order of their slots, IPv4 first, with expired ones that were not swept yet.
    pub fn iter(&self) -> impl Iterator<Item = (ConnId, Connection)> + '_ {
        self.iter_store(&self.v4).chain(self.iter_store(&self.v6))
    }

    /// The connections that match a filter, in the order of [`iter`](Self::iter).
    pub fn iter_filtered(&self, filter: Filter) -> impl Iterator<Item = (ConnId, Connection)> + '_ {
        self.iter().filter(move |(_, conn)| filter.matches(conn))
    }

    /// The connections of one family from a slot on: lets an owner walk a large table in steps, with
    /// `id.slot() + 1` of the last one as the next beginning.
    pub fn iter_from(&self, family: Family, slot: u32) -> impl Iterator<Item = (ConnId, Connection)> + '_ {
        let (v4, v6) = match family {
            Family::V4 => (slot as usize, usize::MAX),
            Family::V6 => (usize::MAX, slot as usize),
        };
        self.iter_store_from(&self.v4, v4).chain(self.iter_store_from(&self.v6, v6))
    }

    #[inline]
    fn hash_as(&self, tuple: &Tuple, template: bool) -> u64 {
        let code = code_of(tuple.protocol, template);
        match FamilyKey::of(tuple) {
            Some(FamilyKey::V4(key)) => self.hasher.hash(&key, code),
            Some(FamilyKey::V6(key)) => self.hasher.hash(&key, code),
            None => 0,
        }
    }

    #[inline]
    fn find(&self, tuple: &Tuple, template: bool, hash: u64, now: Instant) -> Lookup {
        let code = code_of(tuple.protocol, template);
        match FamilyKey::of(tuple) {
            Some(FamilyKey::V4(key)) => self.find_in(&self.v4, &key, code, hash, now),
            Some(FamilyKey::V6(key)) => self.find_in(&self.v6, &key, code, hash, now),
            None => Lookup::Miss,
        }
    }

    #[inline]
    fn find_in<A: Address>(&self, store: &Store<A>, key: &Key<A>, code: u8, hash: u64, now: Instant) -> Lookup
    where
        Entry<A>: Zeroed,
    {
        let Some((slot, hot, direction)) = store.find(key, code, hash) else { return Lookup::Miss };
        let id = ConnId { family: A::FAMILY, slot, generation: hot.generation };
        if hot.is_live(self.clock.tick(now)) { Lookup::Hit(id, direction) } else { Lookup::Expired(id) }
    }

    /// Lets the epoch follow the clock (once in four years).
    #[inline]
    fn follow(&mut self, now: Instant) {
        if let Some(by) = self.clock.advance(now) {
            self.v4.move_epoch(by);
            self.v6.move_epoch(by);
        }
    }

    fn taken(&self, family: Family, taken: &Taken) -> InsertError {
        let id = |slot: u32| {
            let generation = on_family!(family, self, store => {
                store.occupied(slot as usize).map_or(0, |entry| entry.hot.generation)
            });
            ConnId { family, slot, generation }
        };
        match *taken {
            Taken::Client(slot) => InsertError::TupleTaken(id(slot)),
            Taken::Return(slot) => InsertError::ReturnTupleTaken(id(slot)),
        }
    }

    /// Takes out a slot that is in use.
    fn end(&mut self, family: Family, slot: u32) -> Ended {
        on_family!(family, mut self, store => {
            let entry = store.remove(slot, &self.hasher);
            Ended {
                id: ConnId { family, slot, generation: entry.hot.generation },
                connection: entry.unpack(self.clock.instant(entry.hot.expires)),
                cold: entry.hot.cold,
            }
        })
    }

    #[inline]
    fn value<A: Address>(&self, entry: &Entry<A>) -> Connection {
        entry.unpack(self.clock.instant(entry.hot.expires))
    }

    fn iter_store<'a, A: Address>(
        &'a self,
        store: &'a Store<A>,
    ) -> impl Iterator<Item = (ConnId, Connection)> + 'a
    where
        Entry<A>: Zeroed,
    {
        self.iter_store_from(store, 0)
    }

    fn iter_store_from<'a, A: Address>(
        &'a self,
        store: &'a Store<A>,
        first: usize,
    ) -> impl Iterator<Item = (ConnId, Connection)> + 'a
    where
        Entry<A>: Zeroed,
    {
        (first..store.used_slots()).filter_map(move |slot| {
            let entry = store.occupied(slot)?;
            let id = ConnId { family: A::FAMILY, slot: slot as u32, generation: entry.hot.generation };
            Some((id, self.value(entry)))
        })
    }
}

impl fmt::Debug for ConnTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnTable")
            .field("capacity", &self.capacity())
            .field("ipv4", &self.v4.len())
            .field("ipv6", &self.v6.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
