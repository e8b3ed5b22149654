//! SCTP (RFC 9260): where fields are, in bytes from the header's start.

/// Length of the common header, in bytes; the first chunk follows.
pub const HEADER_LEN: usize = 12;
/// Source port, 2 bytes.
pub const SRC_PORT: usize = 0;
/// Destination port, 2 bytes.
pub const DST_PORT: usize = 2;
/// Verification tag, 4 bytes.
pub const VERIFICATION_TAG: usize = 4;
/// CRC32c of the whole packet with this field 0, 4 bytes, least significant byte first.
pub const CHECKSUM: usize = 8;
/// Type of the chunk that opens an association.
pub const INIT: u8 = 1;

/// Type of the second chunk: behind the first one, whose length is padded to a multiple of 4.
pub(crate) fn second_chunk(segment: &[u8]) -> Option<u8> {
    let chunks = segment.get(HEADER_LEN..)?;
    let first = usize::from(u16::from_be_bytes([*chunks.get(2)?, *chunks.get(3)?]));
    chunks.get(first.max(4).next_multiple_of(4)).copied()
}

/// The CRC32c of an SCTP packet with its checksum field taken as 0 (RFC 9260 appendix A), as the field holds it.
///
/// # Panics
/// When `segment` is shorter than the common header.
pub fn checksum(segment: &[u8]) -> [u8; 4] {
    let crc = crc32c::crc32c(&segment[..CHECKSUM]);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    crc32c::crc32c_append(crc, &segment[HEADER_LEN..]).to_le_bytes()
}
