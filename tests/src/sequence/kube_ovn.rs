//! The steps themselves, in Kube-OVN's order (v1.12.11 and later,
//! `pkg/daemon/ovs_linux.go` and `init_linux.go`): break before make. What the kernel tells of them comes in the
//! order that was recorded of Kube-OVN's own daemon (`tests/kube-ovn/recorded`).

use std::time::Duration;

use anyhow::{Result, bail};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteScope,
};

use super::{StepKind, Steps};
use crate::clock;
use crate::datapath::{Datapath, mac_text, random_mac};
use crate::lab::Host;
use crate::rtnl::{Link, RouteEvents, address_of};

/// How long no route event may come after a rename before Kube-OVN goes on.
const QUIET: Duration = Duration::from_millis(50);
/// How long, and how often, Kube-OVN looks for the bridge's interface.
const BRIDGE_WAIT: Duration = Duration::from_secs(5);

/// Kube-OVN's daemon on one host.
pub(super) struct Provider<'a> {
    pub(super) host: &'a Host,
    pub(super) datapath: &'a Datapath,
}

/// What was found on an interface.
struct Found {
    addresses: Vec<AddressMessage>,
    routes: Vec<RouteMessage>,
}

impl Provider<'_> {
    pub(super) async fn bind(&self, steps: &mut Steps<'_>, nic: &str, bridge: &str) -> Result<()> {
        self.enslave(steps, nic, bridge, false).await
    }

    pub(super) async fn exchange(
        &self,
        steps: &mut Steps<'_>,
        nic: &str,
        bridge: &str,
    ) -> Result<()> {
        // Begun anew, it finds the bridge where the NIC was and goes on from there.
        if !self.host.rtnl.link(nic)?.bridge {
            self.rename(steps, nic, bridge).await?;
        }
        self.enslave(steps, bridge, nic, true).await
    }

    /// Without a bridge there is nothing to undo.
    pub(super) async fn unbind(
        &self,
        steps: &mut Steps<'_>,
        nic: &str,
        bridge: &str,
    ) -> Result<()> {
        let rtnl = &self.host.rtnl;
        let Ok(master) = rtnl.link(bridge) else { return Ok(()) };
        if !master.bridge {
            return Ok(());
        }
        let port = rtnl.link(nic)?;
        let found = self.list(steps, &master).await?;
        let name = format!("del-port {bridge} {nic}");
        steps
            .take(StepKind::DeletePort, name, async || match self.datapath {
                Datapath::Bridge(tool) => tool.then(|| rtnl.set_master(port.index, 0)).await,
                Datapath::Ovs(ovs) => {
                    said(ovs.vsctl(&["--if-exists", "del-port", bridge, nic]).await)
                }
            })
            .await?;
        self.move_addresses(steps, &found.addresses, &master, &port, Lifetimes::Kept).await?;
        steps.take(StepKind::NicUp, format!("{nic} up"), async || rtnl.up(port.index)).await?;
        self.move_routes(steps, &found.routes, &port).await?;
        let name = format!("{bridge} down");
        steps.take(StepKind::BridgeDown, name, async || rtnl.down(master.index)).await?;
        let name = format!("del-br {bridge}");
        steps
            .take(StepKind::DeleteBridge, name, async || match self.datapath {
                Datapath::Bridge(tool) => tool.then(|| rtnl.delete_link(master.index)).await,
                Datapath::Ovs(ovs) => said(ovs.vsctl(&["--if-exists", "del-br", bridge]).await),
            })
            .await?;
        if let Datapath::Ovs(ovs) = self.datapath {
            let keys = ["ovn-bridge-mappings", "ovn-chassis-mac-mappings"];
            steps
                .take(StepKind::RemoveMappings, "remove mappings".to_owned(), async || {
                    for key in keys {
                        ovs.vsctl(&["remove", "open", ".", "external-ids", key]).await?;
                    }
                    Ok(())
                })
                .await?;
        }
        Ok(())
    }

    pub(super) async fn unexchange(
        &self,
        steps: &mut Steps<'_>,
        nic: &str,
        bridge: &str,
    ) -> Result<()> {
        self.unbind(steps, bridge, nic).await?;
        if self.host.rtnl.exists(bridge) {
            self.rename(steps, bridge, nic).await?;
        }
        Ok(())
    }

    /// `nic` becomes a port of `bridge`, which takes over its addresses and routes.
    async fn enslave(
        &self,
        steps: &mut Steps<'_>,
        nic: &str,
        bridge: &str,
        exchanged: bool,
    ) -> Result<()> {
        let rtnl = &self.host.rtnl;
        let port = rtnl.link(nic)?;
        let name = format!("add-br {bridge}");
        steps
            .take(StepKind::AddBridge, name, async || self.add_bridge(bridge, exchanged).await)
            .await?;
        self.map_provider(steps, bridge, &port).await?;
        if exchanged {
            let name = format!("wait for {bridge}");
            steps.take(StepKind::WaitBridge, name, async || self.wait_for(bridge).await).await?;
        }
        self.transfer(steps, nic, bridge, false).await?;
        let master = rtnl.link(bridge)?;
        let name = format!("add-port {bridge} {nic}");
        steps
            .take(StepKind::AddPort, name, async || match self.datapath {
                Datapath::Bridge(tool) => {
                    tool.then(|| rtnl.set_master(port.index, master.index)).await
                }
                Datapath::Ovs(ovs) => {
                    let port = ["--may-exist", "add-port", bridge, nic, "--", "set", "port", nic];
                    let vendor = "external_ids:vendor=kube-ovn";
                    said(ovs.vsctl(&[port.as_slice(), &[vendor]].concat()).await)
                }
            })
            .await
    }

    /// Addresses and routes of `nic` move to `bridge`. With `exclusive`, what the bridge has
    /// besides is deleted, unless the NIC had no address to move.
    pub(super) async fn transfer(
        &self,
        steps: &mut Steps<'_>,
        nic: &str,
        bridge: &str,
        exclusive: bool,
    ) -> Result<()> {
        let rtnl = &self.host.rtnl;
        let (port, master) = (rtnl.link(nic)?, rtnl.link(bridge)?);
        let found = self.list(steps, &port).await?;
        let before = rtnl.addresses(master.index)?;
        let exclusive = exclusive && found.addresses.iter().any(|address| !is_link_local(address));
        self.move_addresses(steps, &found.addresses, &port, &master, Lifetimes::Reset).await?;
        if exclusive {
            let theirs = before.iter().filter(|address| {
                let moved = |own: &AddressMessage| describe(own) == describe(address);
                !is_link_local(address) && !found.addresses.iter().any(moved)
            });
            for address in theirs {
                let name = format!("del-addr {} {bridge}", describe(address));
                let delete = async || rtnl.delete_address(address.clone());
                steps.take(StepKind::DeleteAddress, name, delete).await?;
            }
        }
        let mac = mac_text(&port.mac);
        steps
            .take(StepKind::SetHwaddr, format!("set hwaddr {mac}"), async || match self.datapath {
                Datapath::Bridge(tool) => tool.then(|| rtnl.set_mac(master.index, &port.mac)).await,
                Datapath::Ovs(ovs) => {
                    let hwaddr = format!("other-config:hwaddr=\"{mac}\"");
                    said(ovs.vsctl(&["set", "bridge", bridge, &hwaddr]).await)
                }
            })
            .await?;
        let name = format!("{bridge} up");
        steps.take(StepKind::BridgeUp, name, async || rtnl.up(master.index)).await?;
        self.move_routes(steps, &found.routes, &master).await?;
        if exclusive {
            // What is still there of the bridge's own: some went with their addresses.
            let mut theirs = rtnl.routes(master.index)?;
            theirs.retain(|route| {
                let moved = |own: &RouteMessage| destination(own) == destination(route);
                !is_link_local_route(route) && !found.routes.iter().any(moved)
            });
            for route in theirs.iter().rev() {
                let name = format!("del-route {} {bridge}", destination(route));
                let delete = async || rtnl.delete_route(route.clone());
                steps.take(StepKind::DeleteRoute, name, delete).await?;
            }
        }
        let up = async || rtnl.up(port.index);
        steps.take(StepKind::NicUp, format!("{nic} up"), up).await
    }

    async fn add_bridge(&self, bridge: &str, exchanged: bool) -> Result<()> {
        let mac = random_mac()?;
        match self.datapath {
            Datapath::Bridge(tool) => {
                let rtnl = &self.host.rtnl;
                let add = || {
                    if rtnl.exists(bridge) {
                        return Ok(());
                    }
                    rtnl.add_bridge(bridge, &mac)?;
                    self.host.limit_waiting(bridge)
                };
                tool.then(add).await
            }
            Datapath::Ovs(ovs) => {
                let is_new = ovs.vsctl(&["br-exists", bridge]).await.is_err();
                let exchanged = format!("external_ids:exchange-link-name={exchanged}");
                let hwaddr = format!("other-config:hwaddr=\"{}\"", mac_text(&mac));
                let mut args = vec!["--may-exist", "add-br", bridge, "--", "set", "bridge", bridge];
                // Without Kube-OVN's flows and controller it forwards as a plain switch.
                args.extend(["fail_mode=standalone", "other_config:mac-learning-fallback=true"]);
                args.extend(["external_ids:vendor=kube-ovn", &exchanged]);
                if is_new {
                    args.push(&hwaddr);
                }
                said(ovs.vsctl(&args).await)?;
                // Its interface may come a little later: then it is as the kernel makes it.
                if is_new && self.host.rtnl.exists(bridge) {
                    self.host.limit_waiting(bridge)?;
                }
                Ok(())
            }
        }
    }

    async fn map_provider(&self, steps: &mut Steps<'_>, bridge: &str, nic: &Link) -> Result<()> {
        let name = format!("list-ports {bridge}");
        steps
            .take(StepKind::ListPorts, name, async || self.tell(&["list-ports", bridge]).await)
            .await?;
        let mapping = format!("external-ids:ovn-bridge-mappings=provider:{bridge}");
        steps
            .take(StepKind::SetBridgeMapping, "set bridge mapping".to_owned(), async || {
                self.tell(&["set", "open", ".", &mapping]).await
            })
            .await?;
        let mac = mac_text(&nic.mac);
        let mapping = format!("external-ids:ovn-chassis-mac-mappings=\"provider:{mac}\"");
        steps
            .take(StepKind::SetMacMapping, "set chassis mac mapping".to_owned(), async || {
                self.tell(&["set", "open", ".", &mapping]).await
            })
            .await
    }

    /// One `ovs-vsctl` that changes nothing a Linux bridge has.
    async fn tell(&self, args: &[&str]) -> Result<()> {
        match self.datapath {
            Datapath::Bridge(tool) => tool.then(|| Ok(())).await,
            Datapath::Ovs(ovs) => said(ovs.vsctl(args).await),
        }
    }

    async fn wait_for(&self, bridge: &str) -> Result<()> {
        let deadline = clock::now() + clock::patience(BRIDGE_WAIT);
        while !self.host.rtnl.exists(bridge) {
            if clock::now() >= deadline {
                bail!("no interface {bridge}");
            }
            clock::pass(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Take a link down, rename it, and put back what that cost.
    async fn rename(&self, steps: &mut Steps<'_>, from: &str, to: &str) -> Result<()> {
        let rtnl = &self.host.rtnl;
        let link = rtnl.link(from)?;
        let found = self.list(steps, &link).await?;
        let down = async || rtnl.down(link.index);
        steps.take(StepKind::NicDown, format!("{from} down"), down).await?;
        let rename = async || rtnl.rename(link.index, to);
        steps.take(StepKind::Rename, format!("rename {from} {to}"), rename).await?;
        let up = async || rtnl.up(link.index);
        steps.take(StepKind::NicUp, format!("{to} up"), up).await?;
        steps
            .take(StepKind::WaitQuiet, "wait for no route event".to_owned(), async || {
                RouteEvents::listen(&self.host.namespace, QUIET)?.settle().await
            })
            .await?;
        for address in found.addresses.iter().filter(|address| !is_link_local(address)) {
            let moved = transferred(address, link.index, Lifetimes::Kept);
            let name = format!("replace-addr {} {to}", describe(address));
            steps
                .take(StepKind::ReplaceAddress, name, async || rtnl.replace_address(moved.clone()))
                .await?;
        }
        self.move_routes(steps, &found.routes, &Link { name: to.to_owned(), ..link.clone() })
            .await?;
        if rtnl.link(to)?.altnames.iter().any(|altname| altname == from) {
            let name = format!("drop altname {from}");
            let action = async || rtnl.drop_altname(link.index, from);
            steps.take(StepKind::DropAltname, name, action).await?;
        }
        Ok(())
    }

    async fn list(&self, steps: &mut Steps<'_>, link: &Link) -> Result<Found> {
        let rtnl = &self.host.rtnl;
        steps
            .take(StepKind::List, format!("list {}", link.name), async || {
                Ok(Found {
                    addresses: rtnl.addresses(link.index)?,
                    routes: rtnl.routes(link.index)?,
                })
            })
            .await
    }

    async fn move_addresses(
        &self,
        steps: &mut Steps<'_>,
        addresses: &[AddressMessage],
        from: &Link,
        to: &Link,
        lifetimes: Lifetimes,
    ) -> Result<()> {
        let rtnl = &self.host.rtnl;
        for address in addresses.iter().filter(|address| !is_link_local(address)) {
            let name = format!("del-addr {} {}", describe(address), from.name);
            steps
                .take(StepKind::DeleteAddress, name, async || rtnl.delete_address(address.clone()))
                .await?;
            let moved = transferred(address, to.index, lifetimes);
            let name = format!("replace-addr {} {}", describe(address), to.name);
            steps
                .take(StepKind::ReplaceAddress, name, async || rtnl.replace_address(moved.clone()))
                .await?;
        }
        Ok(())
    }

    async fn move_routes(
        &self,
        steps: &mut Steps<'_>,
        routes: &[RouteMessage],
        to: &Link,
    ) -> Result<()> {
        let scopes = [RouteScope::Host, RouteScope::Link, RouteScope::Site, RouteScope::Universe];
        for scope in scopes {
            let chosen = routes.iter().filter(|route| route.header.scope == scope);
            for route in chosen.filter(|route| !is_link_local_route(route)) {
                let moved = redirected(route, to.index);
                let name = format!("replace-route {} {}", destination(route), to.name);
                steps
                    .take(StepKind::ReplaceRoute, name, async || {
                        self.host.rtnl.replace_route(moved.clone())
                    })
                    .await?;
            }
        }
        Ok(())
    }
}

fn said(answer: Result<String>) -> Result<()> {
    answer.map(|_| ())
}

fn is_link_local(address: &AddressMessage) -> bool {
    address_of(address).is_some_and(|address| match address {
        std::net::IpAddr::V4(v4) => v4.is_link_local(),
        std::net::IpAddr::V6(v6) => v6.is_unicast_link_local(),
    })
}

/// What becomes of the lifetimes of an address that is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lifetimes {
    /// It lasts for ever from now on: on its way to a bridge.
    Reset,
    /// As they were: on its way back, and under another name.
    Kept,
}

/// The address as Kube-OVN puts it on the other interface: label cleared, the rest kept, but maybe
/// its lifetimes.
fn transferred(address: &AddressMessage, index: u32, lifetimes: Lifetimes) -> AddressMessage {
    let mut moved = address.clone();
    moved.header.index = index;
    moved.attributes.retain(|attribute| match attribute {
        AddressAttribute::Label(_) => false,
        AddressAttribute::CacheInfo(_) => lifetimes == Lifetimes::Kept,
        _ => true,
    });
    moved
}

/// A link-local destination that needs no gateway: Kube-OVN leaves it alone.
fn is_link_local_route(route: &RouteMessage) -> bool {
    let mut local = false;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Gateway(_) => return false,
            RouteAttribute::Destination(RouteAddress::Inet(v4)) => local = v4.is_link_local(),
            RouteAttribute::Destination(RouteAddress::Inet6(v6)) => {
                local = v6.is_unicast_link_local();
            }
            _ => {}
        }
    }
    local
}

/// The same route with another output interface.
fn redirected(route: &RouteMessage, index: u32) -> RouteMessage {
    let mut moved = route.clone();
    // What the kernel reports about a route, not what one asks it for.
    moved.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::CacheInfo(_)));
    // A Linux bridge without a port has no carrier; Open vSwitch's always have one.
    moved.header.flags.remove(RouteFlags::Dead | RouteFlags::Linkdown);
    for attribute in &mut moved.attributes {
        if let RouteAttribute::Oif(oif) = attribute {
            *oif = index;
        }
    }
    moved
}

fn describe(address: &AddressMessage) -> String {
    match address_of(address) {
        Some(ip) => format!("{ip}/{}", address.header.prefix_len),
        None => "?".to_owned(),
    }
}

fn destination(route: &RouteMessage) -> String {
    let length = route.header.destination_prefix_length;
    let address = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(v4)) => Some(v4.to_string()),
        RouteAttribute::Destination(RouteAddress::Inet6(v6)) => Some(v6.to_string()),
        _ => None,
    });
    address.map_or_else(|| "default".to_owned(), |address| format!("{address}/{length}"))
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use netlink_packet_route::address::CacheInfo;

    use super::*;

    fn address(ip: IpAddr) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.prefix_len = 24;
        message.attributes =
            vec![AddressAttribute::Local(ip), AddressAttribute::Label("ens192".to_owned())];
        message
    }

    #[test]
    fn a_moved_address_loses_its_label_and_keeps_its_prefix() {
        let of = |lifetimes| {
            let mut address = address(Ipv4Addr::new(192, 0, 2, 11).into());
            address.attributes.push(AddressAttribute::CacheInfo(CacheInfo::default()));
            transferred(&address, 7, lifetimes)
        };
        assert_eq!(of(Lifetimes::Kept).attributes.len(), 2);
        let moved = of(Lifetimes::Reset);
        assert_eq!(moved.header.index, 7);
        assert_eq!(describe(&moved), "192.0.2.11/24");
        assert_eq!(moved.attributes.len(), 1);
    }

    #[test]
    fn link_local_stays() {
        assert!(is_link_local(&address(Ipv4Addr::new(169, 254, 52, 52).into())));
        assert!(is_link_local(&address(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).into())));
        assert!(!is_link_local(&address(Ipv4Addr::new(192, 0, 2, 11).into())));

        let to = RouteAddress::Inet(Ipv4Addr::new(169, 254, 0, 0));
        let mut route = RouteMessage::default();
        route.attributes.push(RouteAttribute::Destination(to));
        assert!(is_link_local_route(&route));
        let gateway = RouteAddress::Inet(Ipv4Addr::new(192, 0, 2, 1));
        route.attributes.push(RouteAttribute::Gateway(gateway));
        assert!(!is_link_local_route(&route));
    }

    #[test]
    fn a_moved_route_changes_only_its_output() {
        let gateway = RouteAttribute::Gateway(RouteAddress::Inet(Ipv4Addr::new(192, 0, 2, 1)));
        let mut route = RouteMessage::default();
        route.attributes = vec![RouteAttribute::Oif(2), gateway.clone()];
        assert_eq!(redirected(&route, 9).attributes, [RouteAttribute::Oif(9), gateway]);
        assert_eq!(destination(&route), "default");
    }
}
