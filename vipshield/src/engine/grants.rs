//! IPv6 addresses that a daemon was granted: which of those that appear they are.
//!
//! Of IPv6 the kernel does not say who asked for an address, and announces it some moments after it
//! answered, from a thread of its own (`addrconf_dad_work` in `net/ipv6/addrconf.c`). The daemon's
//! command socket tells that it was granted one. So one that appears on a guarded NIC, and did not
//! belong there before, is matched with a grant of the same moment, whichever is seen first.

use std::{collections::VecDeque, net::IpAddr, time::Duration};

use super::{
    Engine,
    vips::{Intent, MAX_ADDRESSES},
    world::Address,
};

/// Grant and address are no further apart than this: the kernel's thread begins at once.
const TOGETHER: Duration = Duration::from_millis(500);
/// For so long an address that was given up may be there before it is taken off: the grant that says
/// that a daemon has taken it again may be a moment behind it.
const GRACE: Duration = Duration::from_millis(3);
/// Grants and addresses remembered: as many as there may be VIPs.
const MAX: usize = MAX_ADDRESSES;

/// See the [module](self).
#[derive(Clone, Debug, Default)]
pub(super) struct Grants {
    /// When which netlink port was granted an address that has not appeared yet, and for which request;
    /// the oldest first.
    promised: VecDeque<(Duration, u32, u32)>,
    /// When which address appeared that nobody was granted yet; the oldest first.
    unclaimed: VecDeque<(Duration, Address)>,
}

impl Grants {
    fn forget_old(&mut self, now: Duration) {
        let is_old = |since: Duration| since.saturating_add(TOGETHER) < now;
        while self.promised.front().is_some_and(|(since, ..)| is_old(*since)) {
            self.promised.pop_front();
        }
        while self.unclaimed.front().is_some_and(|(since, _)| is_old(*since)) {
            self.unclaimed.pop_front();
        }
    }

    /// A port was granted an address. Returns which, if it is there already.
    fn grant(&mut self, port: u32, sequence: u32, now: Duration) -> Option<Address> {
        self.forget_old(now);
        let there = self.unclaimed.pop_front().map(|(_, address)| address);
        if there.is_none() && self.promised.len() < MAX {
            self.promised.push_back((now, port, sequence));
        }
        there
    }

    /// An address appeared. Returns the port that was granted it, and for which request, if one is known
    /// already.
    fn appear(&mut self, address: Address, now: Duration) -> Option<(u32, u32)> {
        self.forget_old(now);
        let granted = self.promised.pop_front().map(|(_, port, sequence)| (port, sequence));
        if granted.is_none() && self.unclaimed.len() < MAX {
            self.unclaimed.push_back((now, address));
        }
        granted
    }
}

impl Grants {
    /// Whether an address appeared just now, and whose it is may still turn out.
    pub(super) fn may_be_claimed(&self, ip: IpAddr, now: Duration) -> bool {
        let recent = |since: &Duration| now < since.saturating_add(GRACE);
        let mut recent = self.unclaimed.iter().rev().take_while(|(since, _)| recent(since));
        recent.any(|(_, address)| address.ip == ip)
    }

    /// When it has turned out.
    pub(super) fn next_deadline(&self, after: Duration) -> Option<Duration> {
        let ends = self.unclaimed.iter().map(|(since, _)| since.saturating_add(GRACE));
        ends.filter(|end| *end > after).min()
    }
}

impl Engine {
    /// The kernel granted an IPv6 address to whoever has this netlink port. Returns whether that is a
    /// daemon.
    pub(super) fn granted(&mut self, port: u32, sequence: u32, now: Duration) -> bool {
        if self.world.daemon_at(port).is_none() {
            return false;
        }
        if let Some(address) = self.grants.grant(port, sequence, now) {
            self.takes(port, sequence, address, now);
        }
        true
    }

    /// An address is on an interface, and was not a moment ago.
    pub(super) fn appeared(&mut self, ifindex: u32, address: Address, now: Duration) {
        let IpAddr::V6(_) = address.ip else { return };
        let is_new = |nic: &super::nic::Nic| nic.home().all(|known| known.ip != address.ip);
        if !self.nics.get(&ifindex).is_some_and(is_new) {
            return;
        }
        if let Some((port, sequence)) = self.grants.appear(address, now) {
            self.takes(port, sequence, address, now);
        }
    }

    fn takes(&mut self, port: u32, sequence: u32, address: Address, now: Duration) {
        let intent = Intent { port, sequence, ifindex: 0, address, wanted: true, refused: false };
        self.intent_heard(&intent, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(ip: &str) -> Address {
        Address { ip: ip.parse().unwrap(), prefix_len: 128 }
    }

    #[test]
    fn a_grant_and_an_address_meet_in_either_order() {
        let ms = Duration::from_millis;
        let (one, two) = (address("2001:db8::10"), address("2001:db8::20"));
        let mut grants = Grants::default();
        assert_eq!(grants.grant(7, 1, ms(0)), None);
        assert_eq!(grants.appear(one, ms(1)), Some((7, 1)));
        assert_eq!(grants.appear(two, ms(2)), None, "each grant is for one address");
        assert_eq!(grants.grant(7, 1, ms(3)), Some(two));
        assert_eq!(grants.grant(7, 1, ms(4)), None);
    }

    #[test]
    fn an_address_has_a_moment_to_be_claimed() {
        let ms = Duration::from_millis;
        let one = address("2001:db8::10");
        let mut grants = Grants::default();
        assert_eq!(grants.appear(one, ms(10)), None);
        assert!(grants.may_be_claimed(one.ip, ms(12)));
        assert_eq!(grants.next_deadline(ms(10)), Some(ms(13)));
        assert!(!grants.may_be_claimed(one.ip, ms(13)));
        assert_eq!(grants.next_deadline(ms(13)), None);
        assert_eq!(grants.grant(7, 1, ms(14)), Some(one), "late is better than never");
    }

    #[test]
    fn what_is_long_ago_is_not_matched() {
        let mut grants = Grants::default();
        assert_eq!(grants.grant(7, 1, Duration::ZERO), None);
        let late = TOGETHER + Duration::from_millis(1);
        assert_eq!(grants.appear(address("2001:db8::10"), late), None);
        assert_eq!(grants.grant(7, 1, 3 * late), None, "nor is an address that nobody asked for");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut grants = Grants::default();
        for _ in 0..2 * MAX {
            grants.grant(7, 1, Duration::ZERO);
        }
        assert_eq!(grants.promised.len(), MAX);
        let mut grants = Grants::default();
        for _ in 0..2 * MAX {
            grants.appear(address("2001:db8::10"), Duration::ZERO);
        }
        assert_eq!(grants.unclaimed.len(), MAX);
    }
}
