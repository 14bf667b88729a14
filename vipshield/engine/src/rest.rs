//! Rest: when what was seen needs no look at everything.
//!
//! A Kubernetes node makes and removes interfaces, addresses and routes for its pods all the time, and
//! they concern no guarded NIC. They are taken in, and that is all, as long as the last looks found
//! nothing to do and no time has come at which one might.

use std::time::Duration;

use super::{Engine, carry::Route, nic::Nic, world::Link};

/// So many looks in a row have to find nothing to do: what one of them changed without asking for
/// anything, the next may ask for.
const LOOKS: u8 = 3;

/// See the [module](self).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rest {
    /// Looks in a row that found nothing to do, no more of them than count.
    idle: u8,
    /// Time alone changes nothing before that.
    until: Duration,
}

impl Rest {
    /// Whether everything has to be looked at. `news`: something was seen that may change what there
    /// is to do.
    fn is_over(&mut self, news: bool, now: Duration) -> bool {
        if news || self.idle == LOOKS && now >= self.until {
            self.idle = 0;
        }
        self.idle < LOOKS
    }

    /// Everything was looked at. `until`: time alone changes nothing before that.
    fn looked(&mut self, found_something: bool, until: impl FnOnce() -> Duration) {
        self.idle = if found_something { 0 } else { self.idle.saturating_add(1) };
        if self.idle == LOOKS {
            self.until = until();
        }
    }
}

impl Engine {
    /// Looks at everything, if there may be something to do.
    pub(super) fn look(&mut self, news: bool, now: Duration) {
        let mut rest = self.rest;
        if rest.is_over(news, now) {
            let asked = self.actions.len();
            self.evaluate(now);
            rest.looked(self.actions.len() > asked, || self.next_change());
        }
        self.rest = rest;
    }

    /// When a look may find something else to do than the last, though nothing was seen.
    fn next_change(&self) -> Duration {
        let after = self.evaluated;
        let lingers = self.nics.values().filter_map(Nic::lingers_until);
        self.next_deadline()
            .into_iter()
            .chain(lingers.filter(|until| *until > after))
            .chain(self.routers.next_silence(after))
            .chain(self.claims.next_silence(after))
            .chain(self.world.vips.next_release(after))
            .min()
            .unwrap_or(Duration::MAX)
    }

    /// Whether the link of this index, as it is known, has to do with a guarded NIC, or with one that is
    /// being looked for.
    pub(super) fn concerns_known_link(&self, ifindex: u32) -> bool {
        let named = |link: &Link| {
            self.config.interfaces.contains(&link.name)
                || self.nics.values().any(|nic| nic.name == link.name)
        };
        let is_master = |nic: &Nic| {
            self.world.link(nic.ifindex).is_some_and(|link| link.master == Some(ifindex))
        };
        self.is_home(ifindex)
            || self.world.link(ifindex).is_some_and(named)
            || self.nics.values().any(is_master)
            || self.left.names.contains_key(&ifindex)
            || self.is_used(ifindex)
            || self.is_rival(ifindex)
            || self.is_looking()
    }

    /// Whether a route through an interface is one of a guarded NIC's, or may be preferred to one.
    pub(super) fn concerns_route(&self, ifindex: u32, route: &Route) -> bool {
        let alike = |own: &Route| {
            (own.destination, own.prefix_len) == (route.destination, route.prefix_len)
        };
        self.is_home(ifindex) || self.nics.values().any(|nic| nic.routes().any(alike))
    }

    /// Whether an interface has a route that may be preferred to one of a guarded NIC's.
    pub(super) fn is_rival(&self, ifindex: u32) -> bool {
        let is_rival = |route: &Route| self.world.leads_to_the_same(ifindex, route);
        self.nics.values().any(|nic| nic.routes().any(is_rival))
    }

    /// Whether a VRRP socket is, or was, bound to it.
    fn is_used(&self, ifindex: u32) -> bool {
        let mut sockets = self.world.daemons.values().flat_map(|daemon| &daemon.vrrp);
        sockets.any(|socket| socket.bound == Some(ifindex) || socket.home == Some(ifindex))
    }

    /// Whether there may be a NIC to guard that is not known yet.
    fn is_looking(&self) -> bool {
        if !self.missing().is_empty() {
            return true;
        }
        if !self.config.goes_by_use() {
            return false;
        }
        let is_left_out = |link: &Link| !link.is_bridge() && !self.config.chooses(&link.name);
        let is_known = |ifindex: &u32| {
            self.nics.values().any(|nic| nic.bearers.contains(ifindex))
                || self.world.link(*ifindex).is_some_and(is_left_out)
        };
        let mut sockets = self.world.daemons.values().flat_map(|daemon| &daemon.vrrp);
        sockets.any(|socket| !socket.bound.iter().chain(&socket.home).all(is_known))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_after_enough_looks_and_ends_with_news_or_in_time() {
        let ms = Duration::from_millis;
        let mut rest = Rest::default();
        for _ in 0..LOOKS {
            assert!(rest.is_over(false, ms(0)));
            rest.looked(false, || ms(10));
        }
        assert!(!rest.is_over(false, ms(9)));
        assert!(rest.is_over(false, ms(10)), "its time has come");
        for _ in 0..LOOKS {
            assert!(rest.is_over(false, ms(11)));
            rest.looked(false, || ms(20));
        }
        assert!(!rest.is_over(false, ms(12)));
        assert!(rest.is_over(true, ms(12)), "there is news");
        rest.looked(false, || ms(20));
        assert!(rest.is_over(false, ms(13)));
        rest.looked(true, || ms(20));
        for _ in 0..LOOKS {
            assert!(rest.is_over(false, ms(13)));
            rest.looked(false, || ms(20));
        }
        assert!(!rest.is_over(false, ms(13)));
    }
}
