//! Under which key a client address is counted.

use std::net::{IpAddr, Ipv6Addr};

/// A client address as the per-address limit sees it: IPv4 whole, IPv6 by its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddressKey(u128);

impl AddressKey {
    /// The key of `ip`. IPv6 counts by its first `ipv6_prefix` bits (more than 128 are 128), because one
    /// customer usually holds a whole /64; an IPv4-mapped address (RFC 4291, 2.5.5.2) counts as IPv4.
    pub fn of(ip: IpAddr, ipv6_prefix: u8) -> Self {
        match ip.to_canonical() {
            // The mapped form is a key that no masked IPv6 address can have: under a prefix shorter than
            // 96 its marker bits are cut, under a longer one only mapped addresses carry them.
            IpAddr::V4(v4) => Self(v4.to_ipv6_mapped().to_bits()),
            IpAddr::V6(v6) => Self(v6.to_bits() & mask(ipv6_prefix)),
        }
    }

    /// 128 bits, different for different keys.
    pub(super) fn bits(self) -> u128 {
        self.0
    }
}

fn mask(prefix: u8) -> u128 {
    let cut = u32::from(Ipv6Addr::BITS as u8).saturating_sub(u32::from(prefix));
    u128::MAX.checked_shl(cut).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(a: &str, b: &str, prefix: u8) -> bool {
        AddressKey::of(a.parse().unwrap(), prefix) == AddressKey::of(b.parse().unwrap(), prefix)
    }

    #[test]
    fn an_ipv6_network_is_one_key() {
        assert!(same("2001:db8::1", "2001:db8::ffff:2", 64));
        assert!(!same("2001:db8::1", "2001:db8:0:1::1", 64));
        assert!(same("2001:db8:0:1::1", "2001:db8:0:2::1", 48));
        assert!(!same("2001:db8::1", "2001:db8::2", 128));
        assert!(!same("2001:db8::1", "2001:db8::2", 255));
        assert!(same("2001:db8::1", "fe80::1", 0));
    }

    #[test]
    fn ipv4_is_whole_and_mapped_or_not_the_same() {
        assert!(same("192.0.2.1", "::ffff:192.0.2.1", 64));
        assert!(!same("192.0.2.1", "192.0.2.2", 0));
        assert!(!same("::ffff:192.0.2.1", "::ffff:192.0.2.2", 64));
        for prefix in 0..=128 {
            assert!(!same("0.0.0.0", "::", prefix));
            assert!(!same("255.255.255.255", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", prefix));
            assert!(!same("192.0.2.1", "::fffe:192.0.2.1", prefix));
        }
    }
}
