//! Reading numbers out of bytes that may be too few, and the Internet checksum.

use std::net::IpAddr;

use super::Malformed;

/// `N` bytes at `at`.
pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Malformed> {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or(Malformed::Truncated)
}

/// The byte at `at`.
pub(super) fn u8(bytes: &[u8], at: usize) -> Result<u8, Malformed> {
    bytes.get(at).copied().ok_or(Malformed::Truncated)
}

/// The 16-bit number at `at`, in network byte order.
pub(super) fn u16(bytes: &[u8], at: usize) -> Result<u16, Malformed> {
    array(bytes, at).map(u16::from_be_bytes)
}

/// Everything from `at` on.
pub(super) fn from(bytes: &[u8], at: usize) -> Result<&[u8], Malformed> {
    bytes.get(at..).ok_or(Malformed::Truncated)
}

/// A sum of 16-bit words in one's complement (RFC 1071). What bears its own checksum sums up to
/// 0xffff.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum(u32);

impl Sum {
    /// Adds bytes; an odd one at the end counts as if a zero followed.
    #[must_use]
    pub(super) fn add(self, bytes: &[u8]) -> Self {
        let (pairs, rest) = bytes.as_chunks::<2>();
        let words = pairs.iter().map(|pair| u32::from(u16::from_be_bytes(*pair)));
        let last = rest.first().map(|byte| u32::from(*byte) << 8);
        Self(words.chain(last).fold(self.0, |sum, word| fold(sum + word)))
    }

    /// Adds an address.
    #[must_use]
    pub(super) fn add_ip(self, ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => self.add(&ip.octets()),
            IpAddr::V6(ip) => self.add(&ip.octets()),
        }
    }

    /// Adds a number of 32 bits.
    #[must_use]
    pub(super) fn add_u32(self, number: u32) -> Self {
        self.add(&number.to_be_bytes())
    }

    /// Whether the checksum in what was added is right.
    pub(super) const fn is_right(self) -> bool {
        self.0 == 0xffff
    }
}

/// Below 2^16 with the carry added back.
const fn fold(sum: u32) -> u32 {
    (sum & 0xffff) + (sum >> 16)
}
