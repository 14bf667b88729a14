//! ARP for IPv4 over Ethernet (RFC 826).

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::{Mac, Malformed, bytes, ethernet};

/// Hardware type Ethernet, protocol IPv4, and the lengths of their addresses.
const FORM: [u8; 6] = {
    let [high, low] = ethernet::IPV4.to_be_bytes();
    [0, 1, high, low, 6, 4]
};

/// What an ARP packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// 1.
    Request,
    /// 2.
    Reply,
    /// Anything else: reverse and inverse ARP.
    Other(u16),
}

/// An ARP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arp {
    /// What it is.
    pub operation: Operation,
    /// The hardware address of who speaks.
    pub sender_mac: Mac,
    /// The address that it says is its own; unspecified in a probe (RFC 5227).
    pub sender: Ipv4Addr,
    /// The hardware address of who is spoken to.
    pub target_mac: Mac,
    /// The address that is asked for, or answered to.
    pub target: Ipv4Addr,
}

impl Arp {
    /// The address that the sender says is its own. Requests say it as well as replies: who hears
    /// them updates what it knows.
    #[must_use]
    pub fn claim(&self) -> Option<(Ipv4Addr, Mac)> {
        match self.operation {
            Operation::Request | Operation::Reply => {
                (!self.sender.is_unspecified()).then_some((self.sender, self.sender_mac))
            }
            Operation::Other(_) => None,
        }
    }
}

/// Whatever follows the packet pads the frame.
pub(super) fn decode(packet: &[u8]) -> Result<Arp, Malformed> {
    if bytes::array(packet, 0)? != FORM {
        return Err(Malformed::ArpForm);
    }
    let operation = match bytes::u16(packet, 6)? {
        1 => Operation::Request,
        2 => Operation::Reply,
        other => Operation::Other(other),
    };
    let arp = Arp {
        operation,
        sender_mac: Mac(bytes::array(packet, 8)?),
        sender: bytes::array(packet, 14)?.into(),
        target_mac: Mac(bytes::array(packet, 18)?),
        target: bytes::array(packet, 24)?.into(),
    };
    if arp.sender_mac.is_host() { Ok(arp) } else { Err(Malformed::ArpSender) }
}
