//! TCP (RFC 9293): where fields are, in bytes from the header's start, writing them, and the walk over options.
//!
//! A writer changes the field it names and nothing else, never the checksum.

use core::ops::Range;

use super::error::{Layer, ParseError};

/// Length of a header without options, in bytes.
pub const MIN_HEADER_LEN: usize = 20;
/// Length of the longest header, in bytes.
pub const MAX_HEADER_LEN: usize = 60;
/// Source port, 2 bytes.
pub const SRC_PORT: usize = 0;
/// Destination port, 2 bytes.
pub const DST_PORT: usize = 2;
/// Sequence number, 4 bytes.
pub const SEQ: usize = 4;
/// Acknowledgment number, 4 bytes.
pub const ACK: usize = 8;
/// Header length in words of 4 bytes (high 4 bits).
pub const DATA_OFFSET: usize = 12;
/// Flags.
pub const FLAGS: usize = 13;
/// Window, 2 bytes.
pub const WINDOW: usize = 14;
/// Checksum, 2 bytes.
pub const CHECKSUM: usize = 16;
/// Urgent pointer, 2 bytes.
pub const URGENT: usize = 18;

/// Congestion window reduced (RFC 3168), in the byte at [`FLAGS`].
pub const CWR: u8 = 0x80;

/// End of the option list.
pub const OPTION_END: u8 = 0;
/// No operation.
pub const OPTION_NOP: u8 = 1;
/// Maximum segment size, 4 bytes with kind and length.
pub const OPTION_MSS: u8 = 2;
/// Window scale, 3 bytes.
pub const OPTION_WINDOW_SCALE: u8 = 3;
/// Selective acknowledgment permitted, 2 bytes.
pub const OPTION_SACK_PERMITTED: u8 = 4;
/// Selective acknowledgment, 2 + 8n bytes.
pub const OPTION_SACK: u8 = 5;
/// Timestamps, 10 bytes.
pub const OPTION_TIMESTAMPS: u8 = 8;
/// Length of the timestamps option, in bytes.
pub const OPTION_TIMESTAMPS_LEN: usize = 10;

/// Length of the header with its options, in bytes, as its data offset states it.
#[inline]
pub fn header_len(segment: &[u8]) -> usize {
    usize::from(segment[DATA_OFFSET] >> 4) * 4
}

/// Writes the header length; `len` is a multiple of 4 from 20 to 60.
#[inline]
pub fn set_header_len(segment: &mut [u8], len: usize) {
    debug_assert!(len.is_multiple_of(4) && (MIN_HEADER_LEN..=MAX_HEADER_LEN).contains(&len));
    segment[DATA_OFFSET] = segment[DATA_OFFSET] & 0x0f | ((len / 4) as u8) << 4;
}

/// The sequence number.
#[inline]
pub fn seq(segment: &[u8]) -> u32 {
    u32::from_be_bytes([segment[SEQ], segment[SEQ + 1], segment[SEQ + 2], segment[SEQ + 3]])
}

/// Writes the sequence number.
#[inline]
pub fn set_seq(segment: &mut [u8], seq: u32) {
    segment[SEQ..SEQ + 4].copy_from_slice(&seq.to_be_bytes());
}

/// Writes the acknowledgment number.
#[inline]
pub fn set_ack(segment: &mut [u8], ack: u32) {
    segment[ACK..ACK + 4].copy_from_slice(&ack.to_be_bytes());
}

/// One option of a TCP header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpOption {
    /// Its kind.
    pub kind: u8,
    /// Its bytes, kind and length included, counted from the header's start.
    pub range: Range<usize>,
}

/// The walk over the options of a TCP header; made by [`options`].
#[derive(Debug, Clone)]
pub struct TcpOptions<'a> {
    header: &'a [u8],
    at: usize,
}

/// Walks the options of `header`, which ends where its data offset says; no-operations are left out.
///
/// The walk ends at the end-of-list option, at the header's end, or behind the first error.
///
/// # Examples
/// ```
/// use lvs_core::wire::tcp;
/// let mut header = [0u8; 28];
/// header[20..].copy_from_slice(&[tcp::OPTION_MSS, 4, 0x05, 0xb4, 1, 1, 1, 0]);
/// let mss = tcp::options(&header).next().expect("one option")?;
/// assert_eq!((mss.kind, mss.range), (tcp::OPTION_MSS, 20..24));
/// # Ok::<(), lvs_core::wire::ParseError>(())
/// ```
pub fn options(header: &[u8]) -> TcpOptions<'_> {
    TcpOptions { header, at: MIN_HEADER_LEN }
}

impl Iterator for TcpOptions<'_> {
    type Item = Result<TcpOption, ParseError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.header.get(self.at) == Some(&OPTION_NOP) {
            self.at += 1;
        }
        let at = self.at;
        let kind = *self.header.get(at).filter(|&&kind| kind != OPTION_END)?;
        // A kind that is the last byte has no length; 0 says so.
        let len = self.header.get(at + 1).map_or(0, |&len| usize::from(len));
        let most = self.header.len() - at;
        if !(2..=most).contains(&len) {
            self.at = self.header.len();
            return Some(Err(ParseError::BadOption { layer: Layer::Tcp, at, len, most }));
        }
        self.at += len;
        Some(Ok(TcpOption { kind, range: at..at + len }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(list: &[u8]) -> Vec<Result<(u8, Range<usize>), ParseError>> {
        let mut header = vec![0xff; MIN_HEADER_LEN];
        header.extend_from_slice(list);
        options(&header).map(|option| option.map(|option| (option.kind, option.range))).collect()
    }

    #[test]
    fn options_of_a_linux_syn() {
        let list = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
        assert_eq!(walk(&list), [Ok((2, 20..24)), Ok((4, 24..26)), Ok((8, 26..36)), Ok((3, 37..40))]);
    }

    #[test]
    fn nothing_is_read_behind_the_end_of_the_list() {
        assert_eq!(walk(&[1, 0, 2, 0]), []);
        assert_eq!(walk(&[]), []);
    }

    #[test]
    fn a_wrong_length_ends_the_walk() {
        let bad = |at, len, most| Err(ParseError::BadOption { layer: Layer::Tcp, at, len, most });
        assert_eq!(walk(&[8, 0, 4, 2]), [bad(20, 0, 4)]);
        assert_eq!(walk(&[8, 1, 4, 2]), [bad(20, 1, 4)]);
        assert_eq!(walk(&[4, 2, 8, 10]), [Ok((4, 20..22)), bad(22, 10, 2)]);
        assert_eq!(walk(&[1, 1, 1, 8]), [bad(23, 0, 1)]);
    }

    #[test]
    fn a_header_that_is_too_short_has_no_options() {
        assert!(options(&[2; 19]).next().is_none());
    }

    #[test]
    fn writers_touch_only_their_field() {
        let mut header = [0x55; 20];
        set_seq(&mut header, 0x0102_0304);
        set_ack(&mut header, 0x0506_0708);
        set_header_len(&mut header, 60);
        let mut wanted = [0x55; 20];
        wanted[4..12].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        wanted[12] = 0xf5;
        assert_eq!(header, wanted);
        assert_eq!((header_len(&header), seq(&header)), (60, 0x0102_0304));
    }
}
