//! The greatest common divisor of weights, by which `wrr` and `mh` shorten their rounds.

/// Returns the greatest common divisor of all weights, 0 when none is above 0. Zeros are ignored.
pub(crate) fn gcd(weights: impl Iterator<Item = u32>) -> u32 {
    weights.fold(0, |mut a, mut b| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    })
}

#[cfg(test)]
mod tests {
    use super::gcd;

    #[test]
    fn zeros_do_not_count() {
        assert_eq!(gcd([0, 4, 0, 6].into_iter()), 2);
        assert_eq!(gcd([7].into_iter()), 7);
        assert_eq!(gcd([0, 0].into_iter()), 0);
        assert_eq!(gcd(core::iter::empty()), 0);
    }
}
