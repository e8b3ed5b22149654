//! Address prefixes (`10.0.0.0/8`, `2001:db8::/32`), for routes, mark rules, pools and filters.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

/// An address prefix; bits behind the prefix are zero.
///
/// # Examples
/// ```
/// use lvs_core::Prefix;
/// let prefix: Prefix = "10.1.2.3/8".parse()?;
/// assert_eq!(prefix.to_string(), "10.0.0.0/8");
/// assert!(prefix.contains("10.200.0.1".parse().unwrap()));
/// # Ok::<(), lvs_core::ParsePrefixError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    addr: IpAddr,
    len: u8,
}

impl Prefix {
    /// Makes a prefix of the first `len` bits of `addr`; `None` when the family has fewer bits.
    pub fn new(addr: IpAddr, len: u8) -> Option<Self> {
        let addr = match addr {
            IpAddr::V4(v4) if len <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
            }
            IpAddr::V6(v6) if len <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
            _ => return None,
        };
        Some(Self { addr, len })
    }

    /// The prefix that holds this address alone.
    pub const fn host(addr: IpAddr) -> Self {
        Self { addr, len: if addr.is_ipv4() { 32 } else { 128 } }
    }

    /// The first address.
    pub const fn addr(self) -> IpAddr {
        self.addr
    }

    /// Number of bits that count.
    pub const fn bits(self) -> u8 {
        self.len
    }

    /// Whether `addr` lies inside (never across families).
    pub fn contains(self, addr: IpAddr) -> bool {
        Self::new(addr, self.len).is_some_and(|other| other.addr == self.addr)
    }

    /// The usable addresses inside, in order: without network and broadcast address for IPv4 up to /30.
    ///
    /// The iterator is as long as the prefix is large; take what is needed.
    pub fn hosts(self) -> impl Iterator<Item = IpAddr> {
        let (first, count, v4) = match self.addr {
            IpAddr::V4(v4) => {
                let all = 1u128 << (32 - u32::from(self.len));
                let skip = u128::from(self.len < 31);
                (u128::from(v4.to_bits()) + skip, all - 2 * skip, true)
            }
            IpAddr::V6(v6) => {
                (v6.to_bits(), 1u128.checked_shl(128 - u32::from(self.len)).unwrap_or(u128::MAX), false)
            }
        };
        (0..count).map(move |offset| {
            let bits = first + offset;
            #[expect(clippy::cast_possible_truncation, reason = "an IPv4 prefix has 32-bit addresses only")]
            if v4 {
                IpAddr::V4(Ipv4Addr::from_bits(bits as u32))
            } else {
                IpAddr::V6(Ipv6Addr::from_bits(bits))
            }
        })
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

/// A prefix that could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected ADDRESS or ADDRESS/LENGTH with a length of at most 32 (IPv4) or 128 (IPv6), as in 10.0.0.0/8"
)]
pub struct ParsePrefixError;

impl FromStr for Prefix {
    type Err = ParsePrefixError;

    /// Reads `ADDRESS/LENGTH`, or `ADDRESS` for the single host.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (addr, len) = match text.split_once('/') {
            Some((addr, len)) => (addr, Some(len.parse().map_err(|_| ParsePrefixError)?)),
            None => (text, None),
        };
        let addr: IpAddr = addr.parse().map_err(|_| ParsePrefixError)?;
        match len {
            Some(len) => Self::new(addr, len).ok_or(ParsePrefixError),
            None => Ok(Self::host(addr)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_leave_out_network_and_broadcast() {
        let hosts: Vec<_> = "10.0.0.0/30".parse::<Prefix>().unwrap().hosts().collect();
        assert_eq!(hosts, ["10.0.0.1", "10.0.0.2"].map(|a| a.parse::<IpAddr>().unwrap()));
        assert_eq!("10.0.0.7".parse::<Prefix>().unwrap().hosts().count(), 1);
        assert_eq!("2001:db8::/126".parse::<Prefix>().unwrap().hosts().count(), 4);
    }

    #[test]
    fn the_whole_internet_and_the_wrong_family() {
        assert!("0.0.0.0/0".parse::<Prefix>().unwrap().contains("255.1.2.3".parse().unwrap()));
        assert!("::/0".parse::<Prefix>().unwrap().contains("ff02::1".parse().unwrap()));
        assert!(!"::/0".parse::<Prefix>().unwrap().contains("10.0.0.1".parse().unwrap()));
        assert!("10.0.0.0/33".parse::<Prefix>().is_err());
    }
}
