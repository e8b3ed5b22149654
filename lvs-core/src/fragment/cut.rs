//! Cuts one IP packet into fragments (RFC 791 section 3.2, RFC 8200 section 4.5).

use pnet_packet::ip::{IpNextHeaderProtocol, IpNextHeaderProtocols as next_header};

use super::finish_ipv4_header;
use crate::wire::{ipv4, ipv6};

/// Fragment offsets count in units of this many bytes.
const UNIT: usize = 8;
/// The largest fragment offset in bytes that the 13-bit field can say.
const MAX_OFFSET: usize = ipv4::OFFSET_MASK as usize * UNIT;

/// Why a packet cannot be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CutError {
    /// The packet is shorter than its headers say.
    #[error("the packet needs {need} bytes and has {have}")]
    Truncated {
        /// Bytes that the headers speak of.
        need: usize,
        /// Bytes there.
        have: usize,
    },
    /// The first four bits are neither 4 nor 6.
    #[error("IP version is {0}, not 4 or 6")]
    Version(u8),
    /// The packet is itself a fragment and its last bytes lie beyond what a fragment offset can say.
    #[error("a piece would start at byte {0} of its datagram, offsets end at 65528")]
    Offset(usize),
}

/// Cuts an IPv4 or IPv6 packet into pieces that fit.
///
/// - `sizes` empty: pieces of at most `mtu` bytes. A packet that fits is returned as it is.
/// - `sizes` from [`Datagram::sizes`](super::Datagram::sizes): the pieces have these sizes (in bytes with the IP
///   header), when all of them fit into `mtu`; else all pieces are at most as large as the largest of them and
///   as `mtu`. This is what Linux does with a datagram it has put together.
///
/// Payloads of all pieces but the last are multiples of 8 bytes. IPv4 pieces keep the packet's identification
/// and its DF; options without the copied flag are in the first piece only. IPv6 pieces get a fragment header
/// with identification `id` behind the headers that every hop reads. A packet that is a fragment already
/// is cut further: its offset, its "more fragments" and its identification stay. A limit too small for the
/// headers and 8 bytes is taken as just that much. Bytes behind the packet's own length are left out.
///
/// # Errors
/// [`CutError`] when the bytes are no whole IP packet.
///
/// # Examples
/// ```
/// let mut packet = vec![0u8; 1500];
/// packet[0] = 0x45; // IPv4, 20 bytes of header
/// packet[2..4].copy_from_slice(&1500u16.to_be_bytes());
/// let pieces = lvs_core::fragment::cut(&packet, &[], 1400, 0)?;
/// assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), [1396, 124]);
/// # Ok::<(), lvs_core::fragment::CutError>(())
/// ```
pub fn cut(packet: &[u8], sizes: &[u16], mtu: usize, id: u32) -> Result<Vec<Vec<u8>>, CutError> {
    let largest = sizes.iter().copied().max().map(usize::from);
    let plan = match largest {
        Some(largest) if largest <= mtu => Plan { sizes, rest: largest },
        Some(largest) => Plan { sizes: &[], rest: largest.min(mtu) },
        None => Plan { sizes: &[], rest: mtu },
    };
    match packet.first().map(|byte| byte >> 4) {
        None => Err(CutError::Truncated { need: ipv4::MIN_HEADER_LEN, have: 0 }),
        Some(4) => cut_v4(packet, plan, largest.is_none()),
        Some(6) => cut_v6(packet, plan, largest.is_none(), id),
        Some(version) => Err(CutError::Version(version)),
    }
}

/// How large each piece may be.
#[derive(Clone, Copy)]
struct Plan<'a> {
    /// The first pieces, one by one.
    sizes: &'a [u16],
    /// All pieces behind them.
    rest: usize,
}

impl Plan<'_> {
    /// Payload bytes of piece `index` when `remaining` are left and its headers take `header_len`.
    fn payload(&self, index: usize, header_len: usize, remaining: usize) -> usize {
        let size = self.sizes.get(index).map_or(self.rest, |size| usize::from(*size));
        let room = size.saturating_sub(header_len).max(UNIT);
        if remaining <= room { remaining } else { room / UNIT * UNIT }
    }
}

fn cut_v4(packet: &[u8], plan: Plan<'_>, may_stay_whole: bool) -> Result<Vec<Vec<u8>>, CutError> {
    let header_len = ipv4::header_len(packet);
    let total_len = usize::from(packet.get(..ipv4::TOTAL_LEN + 2).map_or(0, ipv4::total_len));
    let need = header_len.max(ipv4::MIN_HEADER_LEN).max(total_len);
    if header_len < ipv4::MIN_HEADER_LEN || total_len < header_len || packet.len() < need {
        return Err(CutError::Truncated { need, have: packet.len() });
    }
    if may_stay_whole && total_len <= plan.rest {
        return Ok(vec![packet[..total_len].to_vec()]);
    }
    let (first_header, data) = packet[..total_len].split_at(header_len);
    let later_header = header_of_later_pieces(first_header);
    let field = ipv4::flags(packet);
    let base = usize::from(field & ipv4::OFFSET_MASK) * UNIT;

    let mut pieces = Vec::new();
    let mut at = 0;
    loop {
        let header = if at == 0 { first_header } else { &later_header[..] };
        let take = plan.payload(pieces.len(), header.len(), data.len() - at);
        let last = at + take == data.len();
        let more = if last { field & ipv4::MORE_FRAGMENTS } else { ipv4::MORE_FRAGMENTS };
        let mut piece = Vec::with_capacity(header.len() + take);
        piece.extend_from_slice(header);
        piece.extend_from_slice(&data[at..at + take]);
        let total = piece.len() as u16; // at most the packet's own total length
        let place = (field & ipv4::DONT_FRAGMENT) | more | offset_units(base + at)?;
        finish_ipv4_header(&mut piece, total, place);
        pieces.push(piece);
        at += take;
        if last {
            return Ok(pieces);
        }
    }
}

/// The offset field's value for byte `offset` of the datagram.
fn offset_units(offset: usize) -> Result<u16, CutError> {
    if offset > MAX_OFFSET {
        return Err(CutError::Offset(offset));
    }
    Ok((offset / UNIT) as u16)
}

/// The IPv4 header with only those options that belong into every fragment (copied flag, RFC 791 section 3.1).
fn header_of_later_pieces(header: &[u8]) -> Vec<u8> {
    let mut later = header[..ipv4::MIN_HEADER_LEN].to_vec();
    let mut options = &header[ipv4::MIN_HEADER_LEN..];
    while let [kind, rest @ ..] = options {
        match *kind {
            ipv4::OPTION_END => break,
            ipv4::OPTION_NOP => options = rest,
            kind => {
                let len = rest.first().map_or(0, |len| usize::from(*len));
                if len < 2 || len > options.len() {
                    break;
                }
                if kind & ipv4::OPTION_COPIED != 0 {
                    later.extend_from_slice(&options[..len]);
                }
                options = &options[len..];
            }
        }
    }
    // End-of-list bytes fill up to a whole number of words.
    later.resize(later.len().next_multiple_of(4), ipv4::OPTION_END);
    later[ipv4::VERSION_IHL] = 0x40 | (later.len() / 4) as u8;
    later
}

fn cut_v6(packet: &[u8], plan: Plan<'_>, may_stay_whole: bool, id: u32) -> Result<Vec<Vec<u8>>, CutError> {
    let payload_len = packet.get(..ipv6::PAYLOAD_LEN + 2).map_or(0, ipv6::payload_len);
    let total_len = ipv6::HEADER_LEN + usize::from(payload_len);
    if packet.len() < total_len {
        return Err(CutError::Truncated { need: total_len, have: packet.len() });
    }
    let packet = &packet[..total_len];
    if may_stay_whole && total_len <= plan.rest {
        return Ok(vec![packet.to_vec()]);
    }
    let (pointer, split) = unfragmentable_part(packet)?;
    let mut fragment_header = [0; ipv6::FRAGMENT_LEN];
    fragment_header[0] = packet[pointer];
    fragment_header[ipv6::FRAGMENT_ID..].copy_from_slice(&id.to_be_bytes());
    let (mut base, mut more_behind, mut data) = (0, false, &packet[split..]);
    if packet[pointer] == next_header::Ipv6Frag.0 {
        let need = split + ipv6::FRAGMENT_LEN;
        let have = packet.len();
        let (own, rest) =
            data.split_at_checked(ipv6::FRAGMENT_LEN).ok_or(CutError::Truncated { need, have })?;
        fragment_header.copy_from_slice(own);
        let [_, _, high, low, ..] = fragment_header;
        let place = u16::from_be_bytes([high, low]);
        base = usize::from(place & ipv6::OFFSET_MASK);
        more_behind = place & ipv6::MORE_FRAGMENTS != 0;
        data = rest;
    }
    let header_len = split + ipv6::FRAGMENT_LEN;

    let mut pieces = Vec::new();
    let mut at = 0;
    loop {
        let take = plan.payload(pieces.len(), header_len, data.len() - at);
        let last = at + take == data.len();
        let more = if last && !more_behind { 0 } else { ipv6::MORE_FRAGMENTS };
        let place = (offset_units(base + at)? * UNIT as u16) | more;
        let mut piece = Vec::with_capacity(header_len + take);
        piece.extend_from_slice(&packet[..split]);
        piece.extend_from_slice(&fragment_header);
        piece.extend_from_slice(&data[at..at + take]);
        // The only piece of a packet of nearly 65,575 bytes would not fit into the length field.
        let payload_len = u16::try_from(piece.len() - ipv6::HEADER_LEN)
            .map_err(|_| CutError::Truncated { need: piece.len(), have: packet.len() })?;
        ipv6::set_payload_len(&mut piece, payload_len);
        piece[pointer] = next_header::Ipv6Frag.0;
        let field = split + ipv6::FRAGMENT_FLAGS;
        piece[field..field + 2].copy_from_slice(&place.to_be_bytes());
        pieces.push(piece);
        at += take;
        if last {
            return Ok(pieces);
        }
    }
}

/// Where the next-header byte stands that a fragment header must take over, and where that header goes: behind
/// hop-by-hop options, and behind a routing header with the destination options in front of it.
fn unfragmentable_part(packet: &[u8]) -> Result<(usize, usize), CutError> {
    let mut found = (ipv6::NEXT_HEADER, ipv6::HEADER_LEN);
    let (mut pointer, mut at) = found;
    while let kind @ (next_header::Hopopt | next_header::Ipv6Route | next_header::Ipv6Opts) =
        IpNextHeaderProtocol(packet[pointer])
    {
        let header_len = ipv6::extension_len(packet.get(at + 1).copied().unwrap_or(0));
        if packet.len() < at + header_len {
            return Err(CutError::Truncated { need: at + header_len, have: packet.len() });
        }
        pointer = at;
        at += header_len;
        if kind != next_header::Ipv6Opts {
            found = (pointer, at);
        }
    }
    Ok(found)
}
