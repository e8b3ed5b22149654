//! One word of a rule as the value it says: numbers, addresses, ports, marks and netmasks.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::ops::RangeInclusive;

use super::command::Rule;
use crate::ipvsadm::nearest::nearest;
use crate::ipvsadm::options::{Opt, Word, quote};
use crate::ipvsadm::ports;
use crate::service::Family;

impl Rule<'_, '_> {
    /// The number an option says, or its default when the option is not given.
    pub(super) fn number_of(&mut self, opt: Opt, range: RangeInclusive<u64>, default: u64) -> Option<u64> {
        if self.get(opt).is_none() {
            return Some(default);
        }
        let value = self.value(opt)?;
        let what = match opt {
            Opt::Weight => "weight",
            _ => "connections",
        };
        self.number(value, range, what)
    }

    pub(super) fn number(&mut self, word: Word<'_>, range: RangeInclusive<u64>, what: &str) -> Option<u64> {
        match decimal(word.text) {
            Some(number) if range.contains(&number) => Some(number),
            parsed => {
                let problem = if parsed.is_some() { "is out of range" } else { "is no number" };
                let expected = format!("{what}: {} to {}", range.start(), range.end());
                self.note(word.column, format!("{} {problem}", quote(word.text)), expected);
                None
            }
        }
    }

    /// `10.0.0.1`, `10.0.0.1:80`, `10.0.0.1:http`, `[2001:db8::1]:80`, `[2001:db8::1]`
    pub(super) fn address_and_port(&mut self, word: Word<'_>) -> Option<(IpAddr, Option<u16>)> {
        let (host, port, ipv6) = match word.text.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = match rest.split_once(']') {
                    Some((host, "")) => (host, None),
                    Some((host, after)) if after.starts_with(':') => (host, Some(&after[1..])),
                    _ => {
                        self.wrong_endpoint(word);
                        return None;
                    }
                };
                (host, after, true)
            }
            None if word.text.parse::<Ipv6Addr>().is_ok() => {
                self.note(
                    word.column,
                    format!("{} is an IPv6 address without brackets", quote(word.text)),
                    format!("[{}] or [{}]:PORT", word.text, word.text),
                );
                return None;
            }
            None => match word.text.rsplit_once(':') {
                Some((host, port)) => (host, Some(port), false),
                None => (word.text, None, false),
            },
        };
        let addr = if ipv6 {
            host.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
        } else {
            host.parse::<Ipv4Addr>().ok().map(IpAddr::V4)
        };
        let Some(addr) = addr else {
            self.wrong_endpoint(word);
            return None;
        };
        let Some(port) = port else { return Some((addr, None)) };
        let number = match decimal(port) {
            Some(number) => u16::try_from(number).ok(),
            None => ports::by_name(port),
        };
        if number.is_none() {
            let column = word.column + word.text.chars().count() - port.chars().count();
            let expected = match nearest(port, ports::names()) {
                Some(near) => format!("{near}, or a number: 0 to 65535"),
                None => "a number: 0 to 65535".to_owned(),
            };
            self.note(column, format!("{} is no port", quote(port)), expected);
        }
        Some((addr, Some(number?)))
    }

    fn wrong_endpoint(&mut self, word: Word<'_>) {
        self.note(
            word.column,
            format!("{} is no address", quote(word.text)),
            "10.0.0.1:80 or [2001:db8::1]:80 (host names are not looked up)",
        );
    }

    pub(super) fn wrong_address(&mut self, word: Word<'_>) {
        self.note(word.column, format!("{} is no address", quote(word.text)), "10.0.0.1 or 2001:db8::1");
    }
}

/// The parts of `a,b,c` with their columns.
pub(super) fn list(word: Word<'_>) -> impl Iterator<Item = Word<'_>> {
    let mut column = word.column;
    word.text.split(',').map(move |text| {
        let part = Word { text, column };
        column += text.chars().count() + 1;
        part
    })
}

/// Digits only: `u64::from_str` would also take a plus sign.
fn decimal(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

pub(super) fn mark(text: &str) -> Option<u32> {
    let number = match text.strip_prefix("0x") {
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            u64::from_str_radix(digits, 16).ok()?
        }
        Some(_) => return None,
        None => decimal(text)?,
    };
    u32::try_from(number).ok().filter(|&mark| mark != 0)
}

/// An address without a port, IPv6 with or without brackets.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match inner {
        Some(inner) => inner.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => text.parse().ok(),
    }
}

/// The prefix length of a netmask: dotted for IPv4, a number for IPv6. The error is what would be right.
pub(super) fn netmask_length(text: &str, family: Family) -> Result<u8, String> {
    let number = decimal(text).and_then(|number| u8::try_from(number).ok());
    match family {
        Family::V6 => number
            .filter(|length| (1..=128).contains(length))
            .ok_or_else(|| "a prefix length with IPv6: 1 to 128".to_owned()),
        Family::V4 => {
            if let Ok(mask) = text.parse::<Ipv4Addr>() {
                let bits = mask.to_bits();
                let length = bits.leading_ones();
                if length + bits.trailing_zeros() >= 32 {
                    return u8::try_from(length).map_err(|_| String::new());
                }
                return Err("a mask without holes: 255.255.255.0".to_owned());
            }
            Err(match number.filter(|length| *length <= 32) {
                Some(length) => format!("a dotted mask with IPv4: {}", dotted_mask(length)),
                None => "a dotted mask with IPv4: 255.255.255.0".to_owned(),
            })
        }
    }
}

/// The dotted netmask of an IPv4 prefix length; longer ones count as 32.
pub(in crate::ipvsadm) fn dotted_mask(prefix_len: u8) -> Ipv4Addr {
    let host_bits = 32 - u32::from(prefix_len.min(32));
    Ipv4Addr::from_bits(u32::MAX.checked_shl(host_bits).unwrap_or(0))
}
