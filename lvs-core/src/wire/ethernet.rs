//! Ethernet II frames with up to two VLAN tags: finding the packet in a frame, and writing a header in front of one.
//!
//! Tags pass through: a header that was read is written again with its tags, other addresses filled in. Nothing
//! here knows who owns a MAC address.

use core::fmt;
use core::str::FromStr;

use pnet_packet::ethernet::{EtherTypes, EthernetPacket, MutableEthernetPacket};

use super::error::{Layer, ParseError};
use super::packet::NoRoom;

/// Length of a header without tags, in bytes: destination, source (6 each), ethertype (2).
pub const HEADER_LEN: usize = 14;
/// Length of one VLAN tag, in bytes: tag protocol (2), tag control information (2).
pub const VLAN_TAG_LEN: usize = 4;
/// Most VLAN tags that are read in one frame.
pub const MAX_VLAN_TAGS: usize = 2;
/// Ethertype of IPv4.
pub const IPV4: u16 = EtherTypes::Ipv4.0;
/// Ethertype of IPv6.
pub const IPV6: u16 = EtherTypes::Ipv6.0;
/// Ethertype of ARP.
pub const ARP: u16 = EtherTypes::Arp.0;
/// Tag protocol of a customer tag (802.1Q).
pub const VLAN: u16 = EtherTypes::Vlan.0;
/// Tag protocol of a service tag (802.1ad).
pub const SERVICE_VLAN: u16 = EtherTypes::PBridge.0;

/// A MAC address, in the order of the wire.
///
/// # Examples
/// ```
/// use lvs_core::wire::ethernet::MacAddr;
/// let mac: MacAddr = "02:00:5E:00:00:01".parse()?;
/// assert_eq!(mac.to_string(), "02:00:5e:00:00:01");
/// # Ok::<(), lvs_core::wire::ethernet::ParseMacAddrError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// All stations.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether it names a group (multicast or broadcast).
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddr {
    type Err = ParseMacAddrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut mac = Self::default();
        let mut parts = text.split(':');
        for byte in &mut mac.0 {
            let part = parts.next().unwrap_or_default();
            // `from_str_radix` alone would take a sign.
            if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(ParseMacAddrError);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| ParseMacAddrError)?;
        }
        if parts.next().is_some() { Err(ParseMacAddrError) } else { Ok(mac) }
    }
}

/// The text is no MAC address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a MAC address of six bytes in hexadecimal: 02:00:5e:00:00:01")]
pub struct ParseMacAddrError;

/// One VLAN tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VlanTag {
    /// Tag protocol: [`VLAN`] or [`SERVICE_VLAN`].
    pub protocol: u16,
    /// Tag control information: priority (3 bits), drop eligible (1 bit), VLAN (12 bits).
    pub tci: u16,
}

impl VlanTag {
    /// The VLAN's number, 12 bits.
    pub const fn vlan(self) -> u16 {
        self.tci & 0x0fff
    }
}

/// An Ethernet II header with its VLAN tags.
///
/// # Examples
/// A frame goes back out on the VLAN that it came from:
/// ```
/// use lvs_core::wire::ethernet::{self, Ethernet, MacAddr};
/// let frame = [
///     2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, // destination, source
///     0x81, 0x00, 0x00, 0x07, // VLAN 7
///     0x08, 0x00, 0x45, // IPv4 …
/// ];
/// let received = Ethernet::parse(&frame)?;
/// assert_eq!((received.ethertype, received.l3()), (ethernet::IPV4, 18));
/// let sent = Ethernet { dst: MacAddr([2, 0, 0, 0, 0, 3]), src: received.dst, ..received };
/// let mut out = [0u8; 18];
/// assert_eq!(sent.write(&mut out)?, 18);
/// assert_eq!(out[12..], frame[12..18]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ethernet {
    /// Receiver.
    pub dst: MacAddr,
    /// Sender.
    pub src: MacAddr,
    /// VLAN tags, outermost first.
    pub vlans: [Option<VlanTag>; MAX_VLAN_TAGS],
    /// What the frame carries behind the tags: [`IPV4`], [`IPV6`], [`ARP`], …; below 0x0600 it is an 802.3 length.
    pub ethertype: u16,
}

impl Ethernet {
    /// Makes a header without tags.
    pub const fn new(dst: MacAddr, src: MacAddr, ethertype: u16) -> Self {
        Self { dst, src, vlans: [None; MAX_VLAN_TAGS], ethertype }
    }

    /// Reads the header of a frame. A third tag is left as the ethertype.
    ///
    /// # Errors
    /// [`ParseError::Truncated`] when the frame ends inside the header or a tag.
    pub fn parse(frame: &[u8]) -> Result<Self, ParseError> {
        let truncated = |need| ParseError::Truncated { layer: Layer::Ethernet, need, have: frame.len() };
        let view = EthernetPacket::new(frame).ok_or_else(|| truncated(HEADER_LEN))?;
        let (dst, src) = (view.get_destination().octets(), view.get_source().octets());
        let mut header = Self::new(MacAddr(dst), MacAddr(src), view.get_ethertype().0);
        let mut at = HEADER_LEN;
        for tag in &mut header.vlans {
            if !matches!(header.ethertype, VLAN | SERVICE_VLAN) {
                break;
            }
            let rest = frame.get(at..).and_then(|rest| rest.first_chunk::<VLAN_TAG_LEN>());
            let &[a, b, c, d] = rest.ok_or_else(|| truncated(at + VLAN_TAG_LEN))?;
            *tag = Some(VlanTag { protocol: header.ethertype, tci: u16::from_be_bytes([a, b]) });
            header.ethertype = u16::from_be_bytes([c, d]);
            at += VLAN_TAG_LEN;
        }
        Ok(header)
    }

    /// Length of the header with its tags, in bytes: where layer 3 starts.
    pub fn l3(&self) -> usize {
        HEADER_LEN + self.vlans.iter().flatten().count() * VLAN_TAG_LEN
    }

    /// Writes the header at the start of `out` and returns its length in bytes.
    ///
    /// # Errors
    /// [`NoRoom`] when `out` is shorter than [`l3`](Self::l3); nothing is written then.
    pub fn write(&self, out: &mut [u8]) -> Result<usize, NoRoom> {
        let need = self.l3();
        let no_room = NoRoom { need, have: out.len(), place: "before" };
        let header = out.get_mut(..need).ok_or(no_room)?;
        let mut view = MutableEthernetPacket::new(header).ok_or(no_room)?;
        view.set_destination(self.dst.0.into());
        view.set_source(self.src.0.into());
        // Tags stand between the addresses and the ethertype.
        let mut at = HEADER_LEN - 2;
        for tag in self.vlans.iter().flatten() {
            header[at..at + 2].copy_from_slice(&tag.protocol.to_be_bytes());
            header[at + 2..at + 4].copy_from_slice(&tag.tci.to_be_bytes());
            at += VLAN_TAG_LEN;
        }
        header[at..at + 2].copy_from_slice(&self.ethertype.to_be_bytes());
        Ok(need)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_TAGS: [u8; 22] = [
        2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, // addresses
        0x88, 0xa8, 0x60, 0x64, // 802.1ad: priority 3, VLAN 100
        0x81, 0x00, 0x10, 0x07, // 802.1Q: drop eligible, VLAN 7
        0x86, 0xdd, // IPv6
    ];

    #[test]
    fn a_plain_frame() {
        let frame = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 2, 8, 6, 0, 1];
        let header = Ethernet::parse(&frame).expect("complete");
        assert_eq!(header, Ethernet::new(MacAddr::BROADCAST, MacAddr([2, 0, 0, 0, 0, 2]), ARP));
        assert_eq!(header.l3(), 14);
        assert!(header.dst.is_multicast() && !header.src.is_multicast());
    }

    #[test]
    fn two_tags_are_read_outermost_first() {
        let header = Ethernet::parse(&TWO_TAGS).expect("complete");
        let outer = VlanTag { protocol: SERVICE_VLAN, tci: 0x6064 };
        let inner = VlanTag { protocol: VLAN, tci: 0x1007 };
        assert_eq!(header.vlans, [Some(outer), Some(inner)]);
        assert_eq!((outer.vlan(), inner.vlan()), (100, 7));
        assert_eq!((header.ethertype, header.l3()), (IPV6, 22));
    }

    #[test]
    fn a_third_tag_is_the_ethertype() {
        let mut frame = [0; 30];
        frame[..22].copy_from_slice(&TWO_TAGS);
        frame[20..22].copy_from_slice(&[0x81, 0x00]);
        let header = Ethernet::parse(&frame).expect("complete");
        assert_eq!((header.ethertype, header.l3()), (VLAN, 22));
    }

    #[test]
    fn cut_at_every_byte() {
        for len in 0..TWO_TAGS.len() {
            let need = if len < 14 { 14 } else { (len + 2) / 4 * 4 + 2 };
            let right = ParseError::Truncated { layer: Layer::Ethernet, need, have: len };
            assert_eq!(Ethernet::parse(&TWO_TAGS[..len]), Err(right));
        }
    }

    #[test]
    fn what_was_read_is_written_again() {
        for frame in [&TWO_TAGS[..], &[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x81, 0, 0, 7, 8, 0], &[9; 14]] {
            let header = Ethernet::parse(frame).expect("complete");
            let mut out = [0xaa; 23];
            assert_eq!(header.write(&mut out), Ok(frame.len()));
            assert_eq!(&out[..frame.len()], frame);
            assert!(out[frame.len()..].iter().all(|&byte| byte == 0xaa));
        }
    }

    #[test]
    fn no_room_changes_nothing() {
        let header = Ethernet::parse(&TWO_TAGS).expect("complete");
        let mut out = [0xaa; 21];
        assert_eq!(header.write(&mut out), Err(NoRoom { need: 22, have: 21, place: "before" }));
        assert_eq!(out, [0xaa; 21]);
    }

    #[test]
    fn text_that_is_no_mac_address() {
        for text in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "2:0:0:0:0:1",
            "02:00:00:00:00:+1",
            "g0:00:00:00:00:01",
        ] {
            assert_eq!(text.parse::<MacAddr>(), Err(ParseMacAddrError), "{text}");
        }
    }
}
