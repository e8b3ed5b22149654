//! Fills a consistent-hash table from permutations: the part that `mh` and `maglev` share (Eisenbud et al.,
//! "Maglev", NSDI 2016, section 3.4). It knows no server, only list indices.

use alloc::vec;
use alloc::vec::Vec;

/// A server's part in the filling of a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entrant {
    /// What its slots hold.
    pub(crate) index: u32,
    /// The next slot of its permutation, at first the permutation's offset. Below the table's size.
    pub(crate) next: usize,
    /// The permutation's stride, from 1 to the table's size − 1.
    pub(crate) skip: usize,
    /// What it gains per round.
    pub(crate) gain: u64,
    /// What it has to spend on slots.
    pub(crate) credit: u64,
}

const EMPTY: u32 = u32::MAX;

/// Returns a table of `size` (a prime) list indices: round after round each entrant gains its share and
/// spends it on the next free slots of its permutation at `price` each.
///
/// Returns an empty table when nobody gains anything.
pub(crate) fn fill(size: usize, price: u64, mut entrants: Vec<Entrant>) -> Vec<u32> {
    debug_assert!(entrants.iter().all(|entrant| entrant.next < size && (1..size).contains(&entrant.skip)));
    if entrants.iter().all(|entrant| entrant.gain == 0) {
        return Vec::new();
    }
    let mut table = vec![EMPTY; size];
    let mut free = size;
    loop {
        for entrant in &mut entrants {
            entrant.credit += entrant.gain;
            while entrant.credit >= price {
                entrant.credit -= price;
                // A permutation visits every slot, since the size is prime, so a free one comes.
                while table[entrant.next] != EMPTY {
                    entrant.next += entrant.skip;
                    if entrant.next >= size {
                        entrant.next -= size;
                    }
                }
                table[entrant.next] = entrant.index;
                free -= 1;
                if free == 0 {
                    return table;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_maglev_paper() {
        // Table 1 of the paper: permutations B0 3 0 4 1 5 2 6, B1 0 2 4 6 1 3 5, B2 3 4 5 6 0 1 2.
        let entrants = [(3, 4), (0, 2), (3, 1)];
        let entrant = |(index, (next, skip))| Entrant { index, next, skip, gain: 1, credit: 0 };
        let all: Vec<Entrant> = (0..).zip(entrants).map(entrant).collect();
        assert_eq!(fill(7, 1, all.clone()), [1, 0, 1, 0, 2, 2, 0]);
        // "After": B1 removed.
        assert_eq!(fill(7, 1, vec![all[0], all[2]]), [0, 0, 0, 0, 2, 2, 2]);
    }

    #[test]
    fn nobody_fills_nothing() {
        assert!(fill(7, 1, Vec::new()).is_empty());
        assert!(fill(7, 1, vec![Entrant { index: 0, next: 3, skip: 1, gain: 0, credit: 0 }]).is_empty());
    }
}
