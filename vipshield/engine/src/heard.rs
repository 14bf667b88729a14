//! What was heard on the wire: adverts and claims, sorted into the tables that decisions follow
//! from.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    Engine,
    nic::{Nic, Way},
    notice::Weight,
    routers::{Hearing, Key},
    tell,
    world::{Family, Role},
};
use crate::wire::{Advert, Content, Frame, Mac, Malformed};

/// A frame that passed a watched interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// The interface.
    pub ifindex: u32,
    /// It was sent there, not received.
    pub sent: bool,
    /// It took a shunt, past the bridge.
    pub shunted: bool,
    /// What it says, or why nothing is made of it.
    pub frame: Result<Frame, Malformed>,
}

/// How an advert passes an interface.
#[derive(Clone, Copy, Debug)]
struct Passes {
    /// It is this node's.
    own: bool,
    shunted: bool,
    vlan: Option<u16>,
    to: Mac,
}

/// How much was heard. Of a frame that passes a NIC and the bridge above it, the bridge counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) malformed: BTreeMap<Malformed, u64>,
    pub(super) own_adverts: u64,
    pub(super) foreign_adverts: u64,
    pub(super) own_claims: u64,
    pub(super) foreign_claims: u64,
    /// On interfaces that are no guarded NIC's.
    pub(super) stray: u64,
}

impl Engine {
    /// Returns whether any of them passed a guarded NIC.
    pub(super) fn heard(&mut self, frames: Vec<Heard>, now: Duration) -> bool {
        let mut any = false;
        for heard in frames {
            let Some(nic) = self.nics.values().find(|nic| nic.bearers.contains(&heard.ifindex))
            else {
                self.tally.stray += 1;
                continue;
            };
            let nic = nic.ifindex;
            any = true;
            let counted = u64::from(self.is_counted(nic, heard.ifindex));
            let frame = match heard.frame {
                Ok(frame) => frame,
                Err(reason) => {
                    *self.tally.malformed.entry(reason).or_default() += counted;
                    continue;
                }
            };
            let (vlan, sender) = (frame.vlan, frame.source);
            let claim = match frame.content {
                Content::Advert(advert) => {
                    let own = heard.sent && self.is_sent_here(nic, heard.ifindex, advert.source);
                    let tally = &mut self.tally;
                    let tallied =
                        if own { &mut tally.own_adverts } else { &mut tally.foreign_adverts };
                    *tallied += counted;
                    let passes =
                        Passes { own, shunted: heard.shunted, vlan, to: frame.destination };
                    self.advert_passes(nic, heard.ifindex, heard.sent, passes, &advert, now);
                    let arrived = !heard.sent && self.is_for(nic, frame.destination, &advert);
                    let heard = Hearing { own, arrived, ..Hearing::default() };
                    self.advert(nic, vlan, sender, heard, advert, now);
                    None
                }
                Content::Arp(arp) => arp.claim().map(|(ip, mac)| (IpAddr::V4(ip), mac)),
                Content::Neighbour(neighbour) => {
                    neighbour.claim().map(|(ip, mac)| (IpAddr::V6(ip), mac))
                }
                Content::Other => None,
            };
            if let Some((ip, mac)) = claim {
                let own = self.world.has_mac(&mac.0) || self.claims.is_former(mac, now);
                let tally = &mut self.tally;
                let tallied = if own { &mut tally.own_claims } else { &mut tally.foreign_claims };
                *tallied += counted;
                self.claim(nic, vlan, ip, mac, own, now);
            }
        }
        any
    }

    /// An advert is at one end of the bridge between a NIC and its bearer.
    ///
    /// What goes in counts only where it has to come out: not what is in a VLAN, which may be for others,
    /// and not what was not sent to this node.
    fn advert_passes(
        &mut self,
        nic: u32,
        ifindex: u32,
        sent: bool,
        passes: Passes,
        advert: &Advert,
        now: Duration,
    ) {
        let Passes { own, shunted, vlan, to } = passes;
        let way = match sent {
            true if own => Way::Out,
            true => return,
            false if self.is_here(nic, advert.source) || !self.may_concern(nic, advert) => return,
            false if !to.is_group() && !self.world.has_mac(&to.0) => return,
            false => Way::In,
        };
        let Some(bearer) = self.nics.get(&nic).and_then(|nic| nic.bearer) else { return };
        let outer = ifindex == nic;
        if !outer && bearer != ifindex {
            return;
        }
        // Of two NICs that are ports of one bridge, either will do for the way out, and for the way in.
        for (index, known) in self.nics.iter_mut().filter(|(_, it)| it.bearer == Some(bearer)) {
            let comes_out = outer == (way == Way::Out);
            if comes_out && shunted && !to.is_group() {
                known.passage.went_past(way);
            } else if comes_out {
                known.passage.came_out(way, shunted, now);
            } else if vlan.is_none() && (*index == nic || way == Way::Out) {
                known.passage.went_in(way, now);
            }
        }
    }

    /// Whether an advert of others may be for a daemon of this node. One that has been waiting since before
    /// vipshield started has said nothing that tells which are: then all may be.
    fn may_concern(&self, nic: u32, advert: &Advert) -> bool {
        let family = if advert.source.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
        let mut ours = self.routers.ours().map(|(key, _)| key);
        let mut ours =
            ours.by_ref().filter(|key| key.nic == nic && key.family == family).peekable();
        ours.peek().is_none() || ours.any(|key| key.router_id == advert.router_id)
    }

    /// Whether a frame on this interface counts: where the NIC's frames go up the stack.
    fn is_counted(&self, nic: u32, ifindex: u32) -> bool {
        let bearer = self.nics.get(&nic).and_then(|nic| nic.bearer);
        bearer.is_none_or(|bearer| bearer == ifindex)
    }

    /// Whether what left through this interface comes from this node. A port also sends what its
    /// bridge forwards for others.
    fn is_sent_here(&self, nic: u32, ifindex: u32, source: IpAddr) -> bool {
        let forwards = ifindex == nic && self.world.taker(nic).is_some();
        !forwards || self.is_here(nic, source)
    }

    /// Whether this is an address of this node, where it is now or where it belongs.
    fn is_here(&self, nic: u32, ip: IpAddr) -> bool {
        self.world.is_somewhere(ip)
            || self.nics.get(&nic).is_some_and(|nic| nic.home().any(|address| address.ip == ip))
    }

    /// Whether an advert is meant for this node: to a group, by its frame too, or to an address that
    /// it has.
    fn is_for(&self, nic: u32, frame: Mac, advert: &Advert) -> bool {
        if advert.is_unicast() { self.is_here(nic, advert.destination) } else { frame.is_group() }
    }

    fn advert(
        &mut self,
        nic: u32,
        vlan: Option<u16>,
        mac: Mac,
        heard: Hearing,
        advert: Advert,
        now: Duration,
    ) {
        let Hearing { own, arrived, .. } = heard;
        let family = if advert.source.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
        let (router_id, version) = (advert.router_id, advert.version);
        let key = Key { nic, vlan, family, version, router_id };
        let ours = own
            || advert.is_unicast() && self.is_here(nic, advert.destination)
            || advert.addresses.iter().any(|ip| self.is_named(*ip));
        let asked = advert.addresses.iter().any(|ip| self.world.vips.is_known(*ip));
        let guarded = self.nics.get(&nic);
        let at_home = guarded.is_some_and(Nic::is_home);
        let received = arrived && guarded.is_some_and(|nic| nic.bearer == Some(nic.ifindex));
        if own && advert.priority != 0 {
            self.adopt(nic, family, &advert);
        }
        let hearing = Hearing { ours, asked, received, at_home, ..heard };
        self.routers.hear(key, hearing, mac, advert, now);
    }

    /// Whether a daemon of this node has named this address, and no virtual router that this node
    /// speaks for has it: that one is it, then, whatever others say.
    fn is_named(&self, ip: IpAddr) -> bool {
        let mut own = self.routers.ours().filter_map(|(_, router)| router.own.as_ref());
        self.world.vips.is_known(ip)
            && !own.any(|(_, own)| own.value.advert.addresses.contains(&ip))
    }

    /// What a daemon had before vipshield started it does not ask for again: that it is wanted
    /// follows from its adverts, and from its being on an interface of this node. Of two daemons on a
    /// NIC nothing tells whose it is.
    ///
    /// What its configuration has for the same virtual router beside them counts as well, if it is where the NIC's
    /// traffic goes: the file may have been changed since it was read.
    fn adopt(&mut self, nic: u32, family: Family, advert: &Advert) {
        let Some(nic) = self.nics.get(&nic) else { return };
        let Some(pid) = self.only_speaker(nic, family) else { return };
        for ip in &advert.addresses {
            if !self.world.vips.is_known(*ip)
                && (self.is_at_home(*ip) || self.may_be_elsewhere(*ip))
            {
                self.world.vips.witness(pid, *ip);
                let text = format!("process {pid} has {ip}: it sends adverts for it");
                tell(&mut self.actions, Weight::Info, None, text);
            }
        }
        let excluded = self.world.excluded(pid, advert.router_id);
        for ip in excluded.filter(|ip| self.is_at_home(*ip)).collect::<Vec<_>>() {
            if !self.world.vips.is_known(ip) {
                self.world.vips.witness(pid, ip);
                let text = format!(
                    "process {pid} has {ip}: it is owner of virtual router {}, and its configuration says so",
                    advert.router_id
                );
                tell(&mut self.actions, Weight::Info, None, text);
            }
        }
    }

    /// The process of the daemon that speaks VRRP of this family on a NIC; none if there are several.
    pub(super) fn only_speaker(&self, nic: &Nic, family: Family) -> Option<u32> {
        let mut speakers = self
            .world
            .daemons
            .values()
            .filter(|daemon| daemon.role == Role::Vrrp && speaks(daemon, nic, family))
            .map(|daemon| daemon.pid);
        speakers.next().filter(|_| speakers.next().is_none())
    }
}

/// Whether a daemon has a VRRP socket of this family on a NIC.
pub(super) fn speaks(daemon: &super::Daemon, nic: &Nic, family: Family) -> bool {
    daemon.vrrp.iter().any(|socket| {
        socket.family == family && socket.bound.is_some_and(|bound| nic.bearers.contains(&bound))
    })
}
