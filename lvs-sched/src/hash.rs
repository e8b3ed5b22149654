//! The kernel's small hashes: what `sh` and `mh` make of an address. They know no server and no table.

use core::hash::Hasher;
use core::net::IpAddr;

use siphasher::sip::SipHasher13;

use crate::{Flow, SchedulerFlags};

/// The 32-bit golden ratio that Linux multiplies with (`GOLDEN_RATIO_32`).
const GOLDEN_RATIO: u32 = 0x61C8_8647;

/// Returns the top 8 bits of the multiplicative hash of `value`: a bucket of 256.
pub(crate) const fn bucket_of_256(value: u32) -> u8 {
    (value.wrapping_mul(GOLDEN_RATIO) >> 24) as u8
}

/// Returns an address as one 32-bit number; the four words of an IPv6 address are combined by XOR.
pub(crate) fn fold(addr: IpAddr) -> u32 {
    match addr {
        IpAddr::V4(v4) => v4.to_bits(),
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            (bits >> 96) as u32 ^ (bits >> 64) as u32 ^ (bits >> 32) as u32 ^ bits as u32
        }
    }
}

/// Returns the number that `sh` and `mh` hash for a client: its folded address, plus its port when asked.
pub(crate) fn client_number(flow: &Flow, flags: SchedulerFlags) -> u32 {
    let port = if flags.contains(SchedulerFlags::PORT) { u32::from(flow.client.port) } else { 0 };
    fold(flow.client.addr).wrapping_add(port)
}

/// Returns SipHash-1-3 of the four little-endian bytes of `value`, cut to 32 bits: `hsiphash_1u32` of
/// 64-bit kernels. 32-bit kernels use HalfSipHash and so choose other servers.
pub(crate) fn hsiphash(value: u32, key: u64) -> u32 {
    let mut hasher = SipHasher13::new_with_keys(key, key);
    hasher.write(&value.to_le_bytes());
    hasher.finish() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> IpAddr {
        text.parse().expect("a literal address")
    }

    #[test]
    fn buckets_are_those_of_the_kernel() {
        for (client, without_port, with_port_40000) in [
            ("192.0.2.1", 50, 214),
            ("192.0.2.2", 148, 56),
            ("198.51.100.77", 103, 11),
            ("2001:db8::1", 63, 226),
        ] {
            assert_eq!(bucket_of_256(fold(addr(client))), without_port, "{client}");
            assert_eq!(bucket_of_256(fold(addr(client)).wrapping_add(40_000)), with_port_40000, "{client}");
        }
        assert_eq!(bucket_of_256(fold(addr("10.0.0.10"))), 151);
    }

    #[test]
    fn an_ipv6_address_folds_by_xor() {
        assert_eq!(fold(addr("2001:db8::1")), 0x2001_0db8 ^ 1);
        assert_eq!(fold(addr("1:2:3:4:5:6:7:8")), 0x0001_0002 ^ 0x0003_0004 ^ 0x0005_0006 ^ 0x0007_0008);
    }
}
