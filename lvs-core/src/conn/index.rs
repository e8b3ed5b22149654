//! From a hash to cells: buckets of one cache line with one-byte tags.
//!
//! ```text
//! byte  0        12         16                                64
//!       | tag x12 | overflow |  cell (u32) x 12                |
//! ```
//! A cell is a number of the caller's (slot and side); no two keys have the same. A tag is eight bits of the
//! hash and never 0; 0 marks a free place. A key that finds its bucket full goes to the next one with room and
//! is counted in `overflow` of every bucket it passed, so that a search stops at the first bucket nobody
//! passed, and a removal takes exactly its own counts back.

use super::memory::{Region, equal_bytes};

/// Keys that a bucket holds.
const PLACES: usize = 12;

/// Keys per bucket on average when the table is full and every connection has two.
///
/// With a mean of 7, three buckets of a hundred are home to more than [`PLACES`] keys.
const KEYS_PER_BUCKET: usize = 7;

/// Bits of a [`Bucket::matches`] answer that stand for places.
const PLACE_BITS: u32 = (1 << PLACES) - 1;

/// One cache line of the index.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Bucket {
    /// Tags (12 bytes), overflow count (4 bytes, native order).
    head: [u8; 16],
    cells: [u32; PLACES],
}

const _: () = assert!(size_of::<Bucket>() == 64 && align_of::<Bucket>() == 64);

impl Bucket {
    /// Bit n set: place n has this tag.
    #[inline]
    fn matches(&self, tag: u8) -> u32 {
        // All sixteen bytes are compared because that is one vector instruction.
        equal_bytes(self.head, tag) & PLACE_BITS
    }

    #[inline]
    fn overflow(&self) -> u32 {
        u32::from_ne_bytes([self.head[12], self.head[13], self.head[14], self.head[15]])
    }

    fn set_overflow(&mut self, count: u32) {
        self.head[PLACES..].copy_from_slice(&count.to_ne_bytes());
    }
}

/// The buckets.
pub(super) struct Index {
    buckets: Region<Bucket>,
}

impl Index {
    /// Makes an index with room for `keys` keys.
    pub(super) fn new(keys: usize) -> Self {
        Self::with_buckets(keys.div_ceil(KEYS_PER_BUCKET))
    }

    /// Makes an index of so many buckets, each good for [`PLACES`] keys.
    pub(super) fn with_buckets(buckets: usize) -> Self {
        Self { buckets: Region::new(buckets) }
    }

    pub(super) fn bytes(&self) -> usize {
        self.buckets.bytes()
    }

    /// Returns the first answer of `test` over the cells that may stand for a key of this hash.
    #[inline]
    pub(super) fn find_map<T>(&self, hash: u64, mut test: impl FnMut(u32) -> Option<T>) -> Option<T> {
        let tag = tag(hash);
        let mut at = self.home(hash);
        for _ in 0..self.buckets.len() {
            let bucket = &self.buckets[at];
            let mut places = bucket.matches(tag);
            while places != 0 {
                let place = places.trailing_zeros() as usize;
                if let Some(answer) = test(bucket.cells[place]) {
                    return Some(answer);
                }
                places &= places - 1;
            }
            if bucket.overflow() == 0 {
                return None;
            }
            at = self.next(at);
        }
        None
    }

    /// Asks the processor for the bucket that a search for this hash starts in.
    #[inline]
    pub(super) fn prefetch(&self, hash: u64) {
        self.buckets.prefetch(self.home(hash));
    }

    /// Calls `visit` with the cells in the home bucket that may stand for a key of this hash.
    #[inline]
    pub(super) fn candidates(&self, hash: u64, mut visit: impl FnMut(u32)) {
        if let Some(bucket) = self.buckets.get(self.home(hash)) {
            let mut places = bucket.matches(tag(hash));
            while places != 0 {
                visit(bucket.cells[places.trailing_zeros() as usize]);
                places &= places - 1;
            }
        }
    }

    /// Adds a key. The table never holds more keys than the index has places.
    pub(super) fn insert(&mut self, hash: u64, cell: u32) {
        let mut at = self.home(hash);
        for _ in 0..self.buckets.len() {
            let bucket = &mut self.buckets[at];
            let free = bucket.matches(0);
            if free != 0 {
                let place = free.trailing_zeros() as usize;
                bucket.head[place] = tag(hash);
                bucket.cells[place] = cell;
                return;
            }
            bucket.set_overflow(bucket.overflow() + 1);
            at = self.next(at);
        }
        debug_assert!(false, "more keys than places in the index");
    }

    /// Removes a key that was inserted with the same hash and cell.
    pub(super) fn remove(&mut self, hash: u64, cell: u32) {
        let home = self.home(hash);
        let mut at = home;
        for _ in 0..self.buckets.len() {
            let bucket = &mut self.buckets[at];
            let mut places = bucket.matches(tag(hash));
            while places != 0 {
                let place = places.trailing_zeros() as usize;
                if bucket.cells[place] == cell {
                    bucket.head[place] = 0;
                    self.uncount(home, at);
                    return;
                }
                places &= places - 1;
            }
            at = self.next(at);
        }
        debug_assert!(false, "the key of cell {cell} is not in the index");
    }

    /// Takes back the overflow counts of a key that lay in bucket `at`.
    fn uncount(&mut self, home: usize, at: usize) {
        let mut passed = home;
        while passed != at {
            let bucket = &mut self.buckets[passed];
            debug_assert!(bucket.overflow() > 0);
            bucket.set_overflow(bucket.overflow().saturating_sub(1));
            passed = self.next(passed);
        }
    }

    /// Maps a hash onto any number of buckets by its high bits (Lemire 2019, "fast random integer generation").
    #[inline]
    fn home(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.buckets.len() as u128) >> 64) as usize
    }

    #[inline]
    fn next(&self, at: usize) -> usize {
        if at + 1 == self.buckets.len() { 0 } else { at + 1 }
    }

    #[cfg(test)]
    pub(super) fn is_clean(&self) -> bool {
        self.buckets.iter().all(|bucket| bucket.head == [0; 16])
    }

    #[cfg(test)]
    pub(super) fn keys(&self) -> usize {
        self.buckets.iter().map(|bucket| PLACES - bucket.matches(0).count_ones() as usize).sum()
    }
}

/// The tag of a hash: its low bits, which the bucket number does not depend on.
#[inline]
fn tag(hash: u64) -> u8 {
    (hash as u8).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A hash whose home is the given bucket of `of`.
    fn at(bucket: u64, of: u64, low: u8) -> u64 {
        (u64::MAX / of).wrapping_add(1).wrapping_mul(bucket) + 1000 + u64::from(low)
    }

    fn cells(index: &Index, hash: u64) -> Vec<u32> {
        let mut found = Vec::new();
        let _ = index.find_map(hash, |cell| -> Option<()> {
            found.push(cell);
            None
        });
        found
    }

    #[test]
    fn equal_hashes_spill_into_the_next_buckets_and_leave_no_count_behind() {
        let mut index = Index::with_buckets(4);
        let hash = at(2, 4, 0);
        (0..40).for_each(|cell| index.insert(hash, cell));
        let mut found = cells(&index, hash);
        found.sort_unstable();
        assert_eq!(found, (0..40).collect::<Vec<_>>());
        (0..40).rev().for_each(|cell| index.remove(hash, cell));
        assert!(index.is_clean());
    }

    #[test]
    fn a_miss_stops_at_the_first_bucket_nobody_passed() {
        let mut index = Index::with_buckets(4);
        (0..12).for_each(|cell| index.insert(at(0, 4, 0), cell));
        index.insert(at(1, 4, 0), 99);
        assert!(!cells(&index, at(0, 4, 0)).contains(&99));
        index.insert(at(0, 4, 0), 12);
        assert!(cells(&index, at(0, 4, 0)).contains(&12));
    }

    #[test]
    fn a_spilled_key_is_found_after_room_appears_before_it() {
        let mut index = Index::with_buckets(2);
        let hash = at(0, 2, 5);
        (0..13).for_each(|cell| index.insert(hash, cell));
        index.remove(hash, 3);
        assert!(cells(&index, hash).contains(&12));
    }

    #[test]
    fn every_bucket_is_somebodys_home() {
        let index = Index::with_buckets(5);
        for bucket in 0..5 {
            assert_eq!(index.home(at(bucket, 5, 0)), bucket as usize);
        }
        assert_eq!(index.home(u64::MAX), 4);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn agrees_with_a_list(
            buckets in 1_u64..5,
            steps in proptest::collection::vec((0_u64..5, 0_u8..2, 0_u32..20), 1..200),
        ) {
            let mut index = Index::with_buckets(buckets as usize);
            let mut list: Vec<(u64, u32)> = Vec::new();
            for (bucket, low, number) in steps {
                let bucket = bucket % buckets;
                let cell = number * 10 + bucket as u32 * 2 + u32::from(low);
                let key = (at(bucket, buckets, low), cell);
                if let Some(position) = list.iter().position(|held| *held == key) {
                    list.swap_remove(position);
                    index.remove(key.0, key.1);
                } else if list.len() < buckets as usize * PLACES {
                    list.push(key);
                    index.insert(key.0, key.1);
                }
                prop_assert_eq!(index.keys(), list.len());
                for (hash, cell) in &list {
                    prop_assert!(cells(&index, *hash).contains(cell));
                }
            }
            for (hash, cell) in list {
                index.remove(hash, cell);
            }
            prop_assert!(index.is_clean());
        }
    }
}
