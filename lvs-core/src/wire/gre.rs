//! Generic routing encapsulation (RFC 2784, RFC 2890): where fields are, in bytes from the header's start.
//!
//! `flags(1) version(1) type(2)`, then checksum and reserved (4), key (4), sequence (4) as the flags say.

/// Length of the header without optional fields, in bytes.
pub const MIN_HEADER_LEN: usize = 4;
/// Length of the checksum field with the reserved bytes behind it, in bytes.
pub const CHECKSUM_LEN: usize = 4;
/// EtherType of what is inside, 2 bytes.
pub const KIND: usize = 2;
/// Checksum over GRE header and payload, 2 bytes, when the flag says so.
pub const CHECKSUM: usize = 4;

/// Flag in the first byte: there is a checksum.
pub const CHECKSUM_PRESENT: u8 = 0x80;
const ROUTING_PRESENT: u8 = 0x40;
const KEY_PRESENT: u8 = 0x20;
const SEQUENCE_PRESENT: u8 = 0x10;

/// Length of a header in bytes; `None` when there is none, or with source routing, which nobody uses.
pub fn header_len(header: &[u8]) -> Option<usize> {
    let flags = *header.first()?;
    let optional =
        [CHECKSUM_PRESENT, KEY_PRESENT, SEQUENCE_PRESENT].into_iter().filter(|bit| flags & bit != 0);
    (flags & ROUTING_PRESENT == 0).then_some(MIN_HEADER_LEN + 4 * optional.count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flag_adds_a_word() {
        assert_eq!(header_len(&[0, 0, 8, 0]), Some(4));
        assert_eq!(header_len(&[0x80, 0, 8, 0]), Some(8));
        assert_eq!(header_len(&[0xb0, 0, 8, 0]), Some(16));
        assert_eq!(header_len(&[0x40, 0, 8, 0]), None);
        assert_eq!(header_len(&[]), None);
    }
}
