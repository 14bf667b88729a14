//! What bears vipshield's mark in the kernel, and what it says of what is carried.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use futures_util::TryStreamExt as _;
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use rtnetlink::Handle;

use super::{CarryError, PROTOCOL, SPARE_TABLE, objects::Object};
use crate::{
    engine::{Carried, Plan},
    net::{
        own::{EARLY_ANCHOR, OWN, STAND_IN},
        route,
    },
};

/// Everything that bears it, but for rules.
pub(super) async fn all(handle: &Handle) -> Result<Vec<Object>, CarryError> {
    let listing = |what: &str| {
        let what = format!("listing {what}");
        move |source| CarryError { what, source }
    };
    let mut found = Vec::new();
    let routes = route::all_routes(handle).await.map_err(listing("routes"))?;
    found.extend(
        routes
            .into_iter()
            .filter(|route| u8::from(route.header.protocol) == PROTOCOL)
            .map(|route| Object::Route(Box::new(route))),
    );
    for own in OWN {
        let addresses: Vec<_> = handle
            .address()
            .get()
            .set_address_filter(IpAddr::V4(own))
            .execute()
            .try_collect()
            .await
            .map_err(listing("addresses"))?;
        let nics: BTreeSet<u32> = addresses.iter().map(|found| found.header.index).collect();
        found.extend(nics.into_iter().map(|nic| Object::Own(nic, own)));
    }
    // Without IPv6 the kernel lists everything where that of IPv6 is asked for (`rtnl_dump_all` in
    // `net/core/rtnetlink.c`).
    let mut distinct: Vec<Object> = Vec::new();
    for object in found {
        if !distinct.contains(&object) {
            distinct.push(object);
        }
    }
    Ok(distinct)
}

/// What these objects carry for which NIC. Of plans that are there in part, the part.
pub(super) fn carried(objects: &[Object]) -> BTreeMap<u32, Carried> {
    let mut plans: BTreeMap<u32, Plan> = BTreeMap::new();
    let mut carried: BTreeMap<u32, Carried> = BTreeMap::new();
    for object in objects {
        match object {
            Object::Own(nic, own) => {
                carried.entry(*nic).or_default().stands_in |= *own == STAND_IN;
                if *own == EARLY_ANCHOR {
                    plans.entry(*nic).or_default().ahead = true;
                }
            }
            Object::Route(message) => {
                let Some((nic, route)) = route::of_any_table(message) else { continue };
                match table_of(message) {
                    SPARE_TABLE => {
                        plans.entry(nic).or_default().routes.insert(route);
                    }
                    _ => {
                        if let Some((nic, ip)) = delivered(message) {
                            plans.entry(nic).or_default().addresses.insert(ip);
                        }
                    }
                }
            }
            // It says nothing of the NIC.
            Object::Rule(_) => {}
        }
    }
    for (nic, plan) in plans {
        carried.entry(nic).or_default().plans.push(plan);
    }
    carried
}

/// Whether something is in force for what is carried. What else is found on a NIC that is carried for was
/// taken back by now, or will be.
pub(super) fn is_part_of(object: &Object, carried: &BTreeMap<u32, Carried>) -> bool {
    let is_carried = |nic: &u32| carried.get(nic).is_some_and(|carried| !carried.plans.is_empty());
    match object {
        Object::Own(nic, STAND_IN) => carried.get(nic).is_some_and(|carried| carried.stands_in),
        Object::Own(nic, _) => is_carried(nic),
        Object::Route(message) => interface(message).is_some_and(|nic| is_carried(&nic)),
        Object::Rule(_) => false,
    }
}

/// The address that a local route delivers, and the NIC that it leads through.
fn delivered(message: &RouteMessage) -> Option<(u32, IpAddr)> {
    if message.header.kind != RouteType::Local {
        return None;
    }
    let to = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(to) => route::plain(to),
        _ => None,
    });
    Some((interface(message)?, to?))
}

fn interface(message: &RouteMessage) -> Option<u32> {
    message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

/// The number of a route's table: those of a byte are in the header too.
fn table_of(message: &RouteMessage) -> u32 {
    let table = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    table.unwrap_or_else(|| message.header.table.into())
}
