//! IPv6 addresses that a daemon was granted: which of those that appear they are.
//!
//! Of IPv6 the kernel does not say who asked for an address, and announces it some moments after it
//! answered, from a thread of its own (`addrconf_dad_work` in `net/ipv6/addrconf.c`). The daemon's
//! command socket tells that it was granted one, and which where the kernel lets a probe in. Where it does not, one
//! that appears on a guarded NIC, or on an interface that bears its traffic or has its name, and did not belong to
//! the NIC before, is matched with a grant of the same moment, whichever is seen first.
//!
//! Either way an address that was given up is not taken off before all was heard that daemons said by then.

use std::{collections::VecDeque, net::IpAddr, time::Duration};

use super::{
    Engine,
    nic::Nic,
    vips::{Intent, MAX_ADDRESSES},
    world::Address,
};

/// Grant and address are no further apart than this: the kernel's thread begins at once, but waits for its lock with
/// all who change links and addresses.
const TOGETHER: Duration = Duration::from_secs(2);
/// For so long an address that was given up may be there before it is taken off: the grant that says
/// that a daemon has taken it again may be a moment behind it.
const GRACE: Duration = Duration::from_millis(3);
/// The same where a daemon took an address so short a time ago: it may be about to say so of the next one. On a busy
/// node it is interrupted in between, and takes hundreds.
const TAKING: Duration = Duration::from_millis(250);
/// Grants and addresses remembered: as many as there may be VIPs.
const MAX: usize = MAX_ADDRESSES;

/// See the [module](self).
#[derive(Clone, Debug, Default)]
pub(super) struct Grants {
    /// When which netlink port was granted an address that has not appeared yet, and for which request;
    /// the oldest first.
    promised: VecDeque<(Duration, u32, u32)>,
    /// Addresses that appeared and that nobody was granted yet; the oldest first.
    unclaimed: VecDeque<Unclaimed>,
    /// When a daemon was last seen to take an address, of either family.
    last: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
struct Unclaimed {
    since: Duration,
    address: Address,
    /// Whatever was said of it is known by now.
    settled: bool,
}

impl Grants {
    fn forget_old(&mut self, now: Duration) {
        let is_old = |since: Duration| since.saturating_add(TOGETHER) < now;
        while self.promised.front().is_some_and(|(since, ..)| is_old(*since)) {
            self.promised.pop_front();
        }
        while self.unclaimed.front().is_some_and(|it| it.settled && is_old(it.since)) {
            self.unclaimed.pop_front();
        }
    }

    /// A port was granted an address. Returns which, if it is there already.
    fn grant(&mut self, port: u32, sequence: u32, now: Duration) -> Option<Address> {
        self.forget_old(now);
        self.taken(now);
        let there = self.unclaimed.pop_front().map(|it| it.address);
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
            self.unclaimed.push_back(Unclaimed { since: now, address, settled: false });
        }
        granted
    }
}

impl Grants {
    /// A daemon was seen to take an address.
    pub(super) const fn taken(&mut self, now: Duration) {
        self.last = Some(now);
    }

    /// Whether an address appeared just now, and whose it is may still turn out.
    pub(super) fn may_be_claimed(&self, ip: IpAddr) -> bool {
        self.unclaimed.iter().any(|it| !it.settled && it.address.ip == ip)
    }

    /// All that daemons said until now is known.
    pub(super) fn all_heard(&mut self, now: Duration) {
        let last = self.last;
        for it in self.unclaimed.iter_mut().filter(|it| it.is_due(last) <= now) {
            it.settled = true;
        }
    }

    /// When it has turned out.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        let open = self.unclaimed.iter().filter(|it| !it.settled);
        open.map(|it| it.is_due(self.last)).min()
    }
}

impl Unclaimed {
    /// When it is nobody's, if nobody has said anything by then.
    fn is_due(&self, last: Option<Duration>) -> Duration {
        let soon = self.since.saturating_add(GRACE);
        last.map_or(soon, |last| soon.max(self.since.min(last).saturating_add(TAKING)))
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
        // While names are exchanged the bridge is what a daemon that begins anew knows for its NIC.
        let mut nics = self.nics.values().filter(|nic| nic.bearers.contains(&ifindex)).peekable();
        let is_known = |nic: &Nic| nic.home().any(|known| known.ip == address.ip);
        // A bridge has an address that the kernel makes, too.
        let is_made = !self.nics.contains_key(&ifindex)
            && address.is_link_local()
            && address.prefix_len < 128;
        if nics.peek().is_none() || nics.any(is_known) || is_made {
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
        grants.all_heard(ms(12));
        assert!(grants.may_be_claimed(one.ip));
        assert_eq!(grants.next_deadline(), Some(ms(13)), "and until it was listened then");
        grants.all_heard(ms(13));
        assert!(!grants.may_be_claimed(one.ip));
        assert_eq!(grants.next_deadline(), None);
        assert_eq!(grants.grant(7, 1, ms(14)), Some(one), "late is better than never");
    }

    #[test]
    fn while_a_daemon_takes_addresses_the_next_may_be_its_too() {
        let ms = Duration::from_millis;
        let (one, two) = (address("2001:db8::10"), address("2001:db8::20"));
        let mut grants = Grants::default();
        grants.grant(7, 1, ms(0));
        assert_eq!(grants.appear(one, ms(1)), Some((7, 1)));
        assert_eq!(grants.appear(two, ms(5)), None);
        grants.all_heard(ms(249));
        assert!(grants.may_be_claimed(two.ip), "interrupted before it said so");
        assert_eq!(grants.next_deadline(), Some(ms(250)));
        grants.all_heard(ms(250));
        assert!(!grants.may_be_claimed(two.ip), "it takes none any more");
    }

    #[test]
    fn what_is_long_ago_is_not_matched() {
        let mut grants = Grants::default();
        assert_eq!(grants.grant(7, 1, Duration::ZERO), None);
        let late = TOGETHER + Duration::from_millis(1);
        assert_eq!(grants.appear(address("2001:db8::10"), late), None);
        grants.all_heard(2 * late);
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
