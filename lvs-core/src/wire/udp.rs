//! UDP (RFC 768): where fields are, in bytes from the header's start, and writing the length.

/// Length of the header, in bytes.
pub const HEADER_LEN: usize = 8;
/// Source port, 2 bytes.
pub const SRC_PORT: usize = 0;
/// Destination port, 2 bytes.
pub const DST_PORT: usize = 2;
/// Length of header and data, 2 bytes.
pub const LENGTH: usize = 4;
/// Checksum, 2 bytes; 0 = none.
pub const CHECKSUM: usize = 6;

/// Writes the length of header and data.
#[inline]
pub fn set_length(segment: &mut [u8], len: u16) {
    segment[LENGTH..LENGTH + 2].copy_from_slice(&len.to_be_bytes());
}
