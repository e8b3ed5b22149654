//! Generic UDP encapsulation (draft-ietf-intarea-gue-09), the header behind UDP, in bytes from its start.
//!
//! Variant 0: `variant(2 bits) control(1) words(5) next(1) flags(2)`, then `words` × 4 bytes of optional fields.
//! Variant 1 has no header: an IP packet follows UDP at once.

/// Length of the variant-0 header without optional fields, in bytes.
pub const MIN_HEADER_LEN: usize = 4;
/// IP protocol number of what is inside.
pub const NEXT_HEADER: usize = 1;

/// Length of the header in bytes: 0 in variant 1; `None` when there is none, or in a variant that does not exist.
pub fn header_len(header: &[u8]) -> Option<usize> {
    let first = *header.first()?;
    match first >> 6 {
        0 => Some(MIN_HEADER_LEN + 4 * usize::from(first & 0x1f)),
        1 => Some(0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_count_in_variant_0_only() {
        assert_eq!(header_len(&[0, 4, 0, 0]), Some(4));
        assert_eq!(header_len(&[2, 4, 0, 0]), Some(12));
        assert_eq!(header_len(&[0x45]), Some(0));
        assert_eq!(header_len(&[0x80]), None);
        assert_eq!(header_len(&[]), None);
    }
}
