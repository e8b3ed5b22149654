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
