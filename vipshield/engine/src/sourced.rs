//! Routes through other interfaces that have an address of a guarded NIC as their source, as Kube-OVN's to its pods.
//!
//! The kernel drops them once that address is local no more (`fib_sync_down_addr` in
//! `net/ipv4/fib_semantics.c`; IPv4 alone), and whoever moves an address takes it off one interface before it puts
//! it on another. Where the carry is in force by then it stays local. Else they are put back as they were as soon as
//! the address is there again: who made them does not know that they are gone.

use std::{net::IpAddr, time::Duration};

use super::{Engine, action::Action, nic::Nic};

/// Routes of which the source was away for longer are not put back: whoever made them may have thought of it since.
const LATELY: Duration = Duration::from_mins(1);

impl Engine {
    /// An address left an interface. If no other has it, routes have gone with it.
    pub(super) fn source_left(&mut self, source: IpAddr, now: Duration) {
        if self.world.holders(source).next().is_some() {
            return;
        }
        let its = |nic: &&mut Nic| nic.home().any(|address| address.ip == source);
        for nic in self.nics.values_mut().filter(its).filter(|_| source.is_ipv4()) {
            nic.unsourced.insert(source, now);
        }
    }

    /// Has the routes put back of which the source is there again.
    pub(super) fn restore_routes(&mut self, now: Duration) {
        for nic in self.nics.values_mut() {
            nic.unsourced.retain(|_, since| now < since.saturating_add(LATELY));
        }
        let mut due = Vec::new();
        for nic in self.nics.values() {
            let back = nic.unsourced.keys().filter(|source| self.is_at_home(**source));
            due.extend(back.map(|source| (nic.ifindex, *source, nic.bearers.clone())));
        }
        for (ifindex, source, except) in due {
            if self.want(Action::RestoreRoutes { source, except })
                && let Some(nic) = self.nics.get_mut(&ifindex)
            {
                nic.unsourced.remove(&source);
            }
        }
    }
}
