//! What is carried, on the running kernel: asked of the kernel's own route look-up.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    process::Command,
};

use libtest_mimic::Failed;
use vipshield::{
    engine::{Carried, Detour, Detours, Family, Place, Plan, Route},
    net::{ANCHOR, Carrier, EARLY_ANCHOR, SPARE_TABLE},
};

use super::{
    check,
    namespace::{Seen, Stage, monotonic_ns},
};

/// Rules, routes and addresses, as `ip` shows them.
pub(crate) fn objects() -> Result<String, Failed> {
    let mut all = String::new();
    for arguments in [
        "rule show",
        "-6 rule show",
        "route show table all",
        "-6 route show table all",
        "-o -4 address show",
    ] {
        let text = said("ip", arguments)?;
        // What is left of a lifetime, of an address or of an IPv6 route, is another number a moment
        // later.
        let mut lines: Vec<String> = text.lines().map(without_lifetimes).collect();
        lines.sort_unstable();
        all.push_str(&lines.join("\n"));
        all.push('\n');
    }
    Ok(all)
}

fn without_lifetimes(line: &str) -> String {
    let line = line.split_once("valid_lft").map_or(line, |(object, _)| object);
    match line.split_once(" expires ") {
        Some((before, after)) => {
            let rest = after.split_once(' ').map_or("", |(_, rest)| rest);
            format!("{before} {rest}")
        }
        None => line.to_owned(),
    }
}

/// Where the kernel would send a packet: `local`, or an interface.
pub(crate) fn way(to: &str) -> Result<String, Failed> {
    let arguments = ["-o", "route", "get"].into_iter().chain(to.split(' '));
    let output = Command::new("ip").args(arguments).output()?;
    let text = String::from_utf8(output.stdout)?;
    if text.starts_with("local") {
        return Ok("local".to_owned());
    }
    let mut words = text.split_whitespace();
    words.find(|word| *word == "dev");
    Ok(words.next().unwrap_or("none").to_owned())
}

/// What a command says.
pub(crate) fn said(program: &str, arguments: &str) -> Result<String, Failed> {
    let output = Command::new(program).args(arguments.split(' ')).output()?;
    check(output.status.success(), format!("{program} {arguments}"))?;
    Ok(String::from_utf8(output.stdout)?)
}

pub(crate) fn ip(arguments: &str) -> Result<(), Failed> {
    let status = Command::new("ip").args(arguments.split(' ')).status()?;
    check(status.success(), format!("ip {arguments}"))
}

fn plan() -> Result<Plan, Failed> {
    let route = |destination: &str, prefix_len, gateway: Option<&str>| {
        Ok::<_, Failed>(Route {
            destination: destination.parse()?,
            prefix_len,
            metric: 0,
            gateway: gateway.map(str::parse::<IpAddr>).transpose()?,
            source: None,
            mtu: 0,
        })
    };
    let mut with_source = route("192.0.2.0", 24, None)?;
    with_source.source = Some("192.0.2.11".parse()?);
    let mut with_mtu = route("0.0.0.0", 0, Some("192.0.2.100"))?;
    with_mtu.mtu = 1400;
    let mut v6 = route("2001:db8::", 64, None)?;
    v6.metric = 256;
    let mut v6_default = route("::", 0, Some("2001:db8::100"))?;
    v6_default.metric = 1024;
    Ok(Plan {
        addresses: ["192.0.2.10", "192.0.2.11", "2001:db8::11"]
            .iter()
            .map(|ip| ip.parse())
            .collect::<Result<_, _>>()?,
        routes: BTreeSet::from([with_source, with_mtu, v6, v6_default]),
        ahead: false,
    })
}

/// The rules that these plans need, right before the main table's.
fn detours(plans: &[&Plan]) -> Detours {
    let place = Place { priority: 32_765, turn: 0 };
    let of_family = |family| {
        let routes = plans.iter().flat_map(|plan| &plan.routes);
        let routes = routes.filter(|route| Family::of(route.destination) == family);
        (family, Detour { place, lengths: routes.map(|route| route.prefix_len).collect() })
    };
    Family::ALL.map(of_family).into()
}

/// Puts a plan in the place of another that may be in force in part or wholly.
fn change(stage: &Stage, nic: u32, old: &[Plan], new: &Plan) -> Result<(), Failed> {
    let carrier = Carrier::new(stage.handle());
    Ok(stage.block_on(carrier.change(nic, old, new, Some(&detours(&[new]))))?)
}

/// Addresses and routes that a node may have, and a neighbour's host routes through another
/// interface.
fn furnish(stage: &Stage) -> Result<(), Failed> {
    // Local routes go through the loopback interface.
    stage.set_up("lo", true)?;
    stage.add_address("nic", "192.0.2.11/24")?;
    stage.add_address("nic", "192.0.2.10/32")?;
    for arguments in [
        "route add default via 192.0.2.100 dev nic mtu 1400",
        "route add 198.51.100.7 dev peer",
        "route add 192.0.2.50 dev peer",
        "rule add pref 100 to 203.0.113.200 lookup 77",
        "route add 203.0.113.200 dev peer table 77",
    ] {
        ip(arguments)?;
    }
    Ok(())
}

/// The node stays reachable while its addresses are on no interface, others' routes and rules
/// still win, and afterwards nothing is left.
pub(crate) fn carried_and_taken_back() -> Result<(), Failed> {
    let stage = Stage::new()?;
    furnish(&stage)?;
    let before = objects()?;
    let (plan, none) = (plan()?, Plan::default());
    let nic = stage.index("nic")?;
    let carrier = Carrier::new(stage.handle());
    let change = |old: &Plan, new: &Plan| change(&stage, nic, std::slice::from_ref(old), new);

    change(&none, &plan)?;
    // Asked for twice, because an answer was lost for instance.
    change(&none, &plan)?;
    stage.delete_address("nic", "192.0.2.11/24")?;
    stage.delete_address("nic", "192.0.2.10/32")?;
    for (to, expected) in [
        ("192.0.2.10", "local"),
        ("192.0.2.11", "local"),
        ("192.0.2.77", "nic"),
        ("203.0.113.9", "nic"),
        ("192.0.2.50", "peer"),
        ("198.51.100.7", "peer"),
        ("203.0.113.200", "peer"),
    ] {
        // On a slow machine its lifetime would end before all of this is looked at.
        stage.block_on(carrier.renew(nic, &plan))?;
        let found = way(to)?;
        check(found == expected, format!("{to} goes to {found}, not {expected}"))?;
    }
    // The daemon gives up one of them: it is nobody's from then on.
    let mut less = plan.clone();
    less.addresses.remove(&"192.0.2.10".parse()?);
    change(&plan, &less)?;
    stage.block_on(carrier.renew(nic, &less))?;
    check(way("192.0.2.10")? != "local", "what the daemon gave up is not delivered")?;
    check(way("192.0.2.11")? == "local", "the other still is")?;

    stage.add_address("nic", "192.0.2.11/24")?;
    stage.add_address("nic", "192.0.2.10/32")?;
    ip("route replace default via 192.0.2.100 dev nic mtu 1400")?;
    change(&less, &none)?;
    change(&less, &none)?;
    let after = objects()?;
    check(after == before, format!("something is left:\n{after}\ninstead of\n{before}"))
}

/// The main table of this network namespace, as the kernel keeps it, with or without the local one.
fn main_table() -> Result<String, Failed> {
    let text = fs::read_to_string("/proc/thread-self/net/fib_trie")?;
    let (_, main) = text.split_once("Main:").ok_or("no main table")?;
    Ok(main.split("Local:").next().unwrap_or_default().to_owned())
}

/// What the first rule makes the kernel do is done beforehand, and nothing else.
pub(crate) fn prepared() -> Result<(), Failed> {
    let stage = Stage::new()?;
    stage.set_up("lo", true)?;
    stage.add_address("nic", "192.0.2.11/24")?;
    let before = objects()?;
    check(main_table()?.contains("host LOCAL"), "local addresses are in the main table")?;
    stage.block_on(Carrier::new(stage.handle()).prepare())?;
    check(!main_table()?.contains("host LOCAL"), "they have a table of their own")?;
    check(way("192.0.2.11")? == "local", "and are local")?;
    let after = objects()?;
    check(after == before, format!("something is left:\n{after}\ninstead of\n{before}"))
}

/// A vipshield that is killed renews nothing: once the NIC has no address of its own, what was
/// carried ends with the anchor, and the main table is the way again.
pub(crate) fn ends_unless_renewed() -> Result<(), Failed> {
    let stage = Stage::new()?;
    furnish(&stage)?;
    let nic = stage.index("nic")?;
    let carrier = Carrier::new(stage.handle());
    let plan = plan()?;
    change(&stage, nic, &[], &plan)?;
    stage.delete_address("nic", "192.0.2.11/24")?;
    stage.delete_address("nic", "192.0.2.10/32")?;
    stage.block_on(carrier.renew(nic, &plan))?;
    check(way("203.0.113.9")? == "nic", "carried as long as it is renewed")?;
    check(way("2001:db8:1::9")? == "nic", "IPv6 too")?;
    ip("-6 route add 2001:db8:1::/64 dev peer")?;
    ip("route add 203.0.113.0/24 dev peer")?;
    stage.wait_until(|seen| *seen == Seen::AddressGone(ANCHOR.into()))?;
    for (to, expected) in [("203.0.113.9", "peer"), ("192.0.2.77", "none")] {
        let found = way(to)?;
        check(found == expected, format!("{to} goes to {found}, not {expected}"))?;
    }
    check(way("192.0.2.10")? != "local", "the addresses are nobody's")?;
    stage.block_on(carrier.sweep(&BTreeMap::new())).map(drop)?;
    Ok(())
}

/// What a vipshield that was killed has left is found by its mark and taken away.
pub(crate) fn swept() -> Result<(), Failed> {
    let stage = Stage::new()?;
    furnish(&stage)?;
    let before = objects()?;
    let nic = stage.index("nic")?;
    let carrier = Carrier::new(stage.handle());
    change(&stage, nic, &[], &plan()?)?;
    let there = objects()?;
    check(there.contains(&ANCHOR.to_string()), "the anchor is there")?;
    // An anchor, three local routes, four spare routes, and for each family six rules; the kernel adds
    // a local route for the anchor, which goes with it.
    let count = stage.block_on(carrier.sweep(&BTreeMap::new()))?;
    check(count == 20, format!("{count} objects swept"))?;
    let after = objects()?;
    check(after == before, format!("something is left:\n{after}\ninstead of\n{before}"))?;
    check(stage.block_on(carrier.sweep(&BTreeMap::new()))? == 0, "nothing more to sweep")?;

    // Two who list the same objects, and take back what the other has taken back already.
    change(&stage, nic, &[], &plan()?)?;
    let nothing = BTreeMap::new();
    let (one, other) =
        stage.block_on(async { tokio::join!(carrier.sweep(&nothing), carrier.sweep(&nothing)) });
    check(one? + other? > 20, "they have listed the same")?;
    check(objects()? == before, "nothing is left")
}

/// What a vipshield that is gone carries is found as it was, and nothing of it goes that is wanted still.
pub(crate) fn found_as_it_is() -> Result<(), Failed> {
    let stage = Stage::new()?;
    furnish(&stage)?;
    let before = objects()?;
    let nic = stage.index("nic")?;
    let carrier = Carrier::new(stage.handle());
    check(stage.block_on(carrier.found())?.is_empty(), "nothing is carried")?;
    for ahead in [false, true] {
        let plan = Plan { ahead, ..plan()? };
        change(&stage, nic, &[], &plan)?;
        stage.block_on(carrier.stand_in(nic, true))?;
        let there = objects()?;
        let found = stage.block_on(carrier.found())?;
        let plans = vec![plan.clone()];
        let expected = BTreeMap::from([(nic, Carried { plans: plans.clone(), stands_in: true })]);
        check(found == expected, format!("found {found:?}, not {expected:?}"))?;
        // The rule that prepares the namespace comes and goes beside them.
        stage.block_on(carrier.prepare())?;
        check(stage.block_on(carrier.sweep(&found))? == 0, "all of it is wanted")?;
        check(objects()? == there, "nothing is gone")?;
        let wanted = BTreeMap::from([(nic, Carried { plans: plans.clone(), stands_in: false })]);
        check(stage.block_on(carrier.sweep(&wanted))? == 1, "the stand-in is not")?;
        // What is found may be there in part only: it is taken over, and then taken back.
        let any = [Plan::default(), plan.clone()];
        change(&stage, nic, &any, &plan)?;
        change(&stage, nic, &plans, &Plan::default())?;
        check(objects()? == before, "nothing is left")?;
    }
    Ok(())
}

/// Whoever takes the first address of a NIC for the node's gets that, until it leaves.
pub(crate) fn anchored_behind() -> Result<(), Failed> {
    let stage = Stage::new()?;
    furnish(&stage)?;
    let nic = stage.index("nic")?;
    let addresses = || {
        let all = said("ip", "-o -4 addr show dev nic")?;
        let words = all.lines().filter_map(|line| line.split_whitespace().nth(3));
        Ok::<_, Failed>(words.map(str::to_owned).collect::<Vec<_>>())
    };
    let before = addresses()?;
    let [ahead, under_way] = [true, false].map(|ahead| plan().map(|plan| Plan { ahead, ..plan }));
    let (ahead, under_way) = (ahead?, under_way?);
    change(&stage, nic, &[], &ahead)?;
    let anchor = format!("{EARLY_ANCHOR}/32");
    let there = addresses()?;
    check(there == [&before[..], &[anchor]].concat(), format!("behind {before:?}: {there:?}"))?;
    // With the last of the NIC's own the kernel would flush its routes.
    for own in &before {
        ip(&format!("addr del {own} dev nic"))?;
    }
    let default = said("ip", "-o -4 route show table main default")?;
    check(default.contains("dev nic"), "the routes are there still")?;
    change(&stage, nic, &[ahead], &under_way)?;
    let there = addresses()?;
    check(there == [format!("{ANCHOR}/32")], format!("one of link scope instead: {there:?}"))
}

/// Of two plans that may each be there in part, nothing is left, and what is wanted of them is there.
pub(crate) fn half_carried() -> Result<(), Failed> {
    let stage = Stage::new()?;
    furnish(&stage)?;
    let before = objects()?;
    let nic = stage.index("nic")?;
    let carrier = Carrier::new(stage.handle());
    let whole = plan()?;
    // A rule for the default route must not be mistaken for another that has its priority.
    let half = |length: u8| {
        let mut half = whole.clone();
        half.routes.retain(|route| route.prefix_len != length);
        half
    };
    let (one, other) = (half(0), half(24));
    let change = |old: &[Plan], new: &Plan| change(&stage, nic, old, new);
    // On a slow machine their lifetimes would end before all is looked at.
    let renew = |plan: &Plan| stage.block_on(carrier.renew(nic, plan));
    change(&[], &one)?;
    let wanted = objects()?;
    renew(&one)?;
    change(&[], &other)?;
    let both = [one.clone(), other];
    change(&both, &one)?;
    renew(&one)?;
    let found = objects()?;
    check(found == wanted, format!("not what is wanted:\n{found}\ninstead of\n{wanted}"))?;
    change(&both, &Plan::default())?;
    check(objects()? == before, "nothing is left")
}

/// How many next hops of the spare table are on an interface, for IPv4 and for IPv6.
fn spare_hops(name: &str) -> Result<[usize; 2], Failed> {
    let table = format!("route show table {SPARE_TABLE}");
    let count = |text: &str| {
        let words: Vec<&str> = text.split_whitespace().collect();
        words.windows(2).filter(|pair| *pair == ["dev", name]).count()
    };
    Ok([count(&said("ip", &table)?), count(&said("ip", &format!("-6 {table}"))?)])
}

/// Two NICs with the same routes, to the same gateways, and so with the same rules: each is carried
/// until it is taken back itself, whichever is first.
pub(crate) fn two_nics() -> Result<(), Failed> {
    let stage = Stage::new()?;
    stage.set_up("lo", true)?;
    stage.add_address("nic", "192.0.2.11/24")?;
    stage.add_address("peer", "192.0.2.12/24")?;
    let before = objects()?;
    let nics = [stage.index("nic")?, stage.index("peer")?];
    let carrier = Carrier::new(stage.handle());
    let none = Plan::default();
    let mut plan = plan()?;
    // Of two routers on one link each has its route.
    let default = |route: &&Route| route.prefix_len == 0 && route.destination.is_ipv6();
    let mut router = *plan.routes.iter().find(default).ok_or("no default route")?;
    router.gateway = Some("2001:db8::101".parse()?);
    plan.routes.insert(router);
    let plans = [plan.clone()];
    let change = |nic: u32, old: &[Plan], new: &Plan, beside: &[Plan]| {
        let all: Vec<&Plan> = beside.iter().chain([new]).collect();
        stage.block_on(carrier.change(nic, old, new, Some(&detours(&all))))
    };
    let renew = || nics.iter().try_for_each(|nic| stage.block_on(carrier.renew(*nic, &plan)));
    let check_hops = |expected: [[usize; 2]; 2]| {
        let found = [spare_hops("nic")?, spare_hops("peer")?];
        check(found == expected, format!("{found:?} next hops, not {expected:?}"))
    };

    let [nic, peer] = nics;
    for (one, other, left, way_left) in
        [(nic, peer, [[0, 0], [2, 3]], "peer"), (peer, nic, [[2, 3], [0, 0]], "nic")]
    {
        change(one, &[], &plan, &[])?;
        change(other, &[], &plan, &plans)?;
        check_hops([[2, 3]; 2])?;
        // For longer than they last.
        let began = monotonic_ns()?;
        stage.wait_for(|_| {
            renew()?;
            Ok(monotonic_ns()? > began + 5_000_000_000)
        })?;
        check_hops([[2, 3]; 2])?;
        let failed = [none.clone(), plan.clone()];
        change(one, &failed, &none, &plans)?;
        check_hops(left)?;
        for to in ["203.0.113.9", "2001:db8:1::9"] {
            let found = way(to)?;
            check(found == way_left, format!("{to} goes to {found}, not {way_left}"))?;
        }
        change(other, &plans, &none, &[])?;
        let after = objects()?;
        check(after == before, format!("something is left:\n{after}\ninstead of\n{before}"))?;
    }
    for nic in nics {
        change(nic, &[], &plan, &[])?;
    }
    stage.block_on(carrier.sweep(&BTreeMap::new()))?;
    check(objects()? == before, "nothing is left of what was swept")
}

/// Whatever others' rules say goes before what is carried: those that were there, those that come without a
/// priority, and, as soon as they are followed, those that come to the very same place. What is local is
/// local wherever the local table's rule is.
pub(crate) fn behind_others() -> Result<(), Failed> {
    let stage = Stage::new()?;
    furnish(&stage)?;
    for arguments in [
        "route add 203.0.113.0/24 dev peer table 77",
        "route add 192.0.2.0/24 dev peer table 77",
        "-6 route add default dev peer table 77",
        "rule add fwmark 1 lookup 77",
        "-6 rule add fwmark 1 lookup 77",
        "rule add pref 32765 fwmark 2 lookup 77",
    ] {
        ip(arguments)?;
    }
    let before = objects()?;
    let (plan, none) = (plan()?, Plan::default());
    let nic = stage.index("nic")?;
    let carrier = Carrier::new(stage.handle());
    let marked = |mark: u32| {
        for to in ["203.0.113.9", "192.0.2.77"] {
            stage.block_on(carrier.renew(nic, &plan))?;
            let found = way(&format!("{to} mark {mark}"))?;
            check(found == "peer", format!("{to} with mark {mark} goes to {found}"))?;
        }
        check(way("203.0.113.9")? == "nic" && way("192.0.2.77")? == "nic", "the rest is carried")
    };
    change(&stage, nic, &[], &plan)?;
    let seen = [&"192.0.2.10", &"192.0.2.11"].map(|ip| way(ip));
    check(seen.into_iter().all(|way| way.is_ok_and(|way| way == "local")), "the node's own")?;
    (1..=2).try_for_each(marked)?;
    check(way("2001:db8::77 mark 1")? == "peer" && way("2001:db8::77")? == "nic", "IPv6 too")?;

    ip("rule add fwmark 3 lookup 77")?;
    marked(3)?;
    ip("rule add pref 32765 fwmark 4 lookup 77")?;
    check(way("203.0.113.9 mark 4")? == "nic", "it came behind")?;
    let followed = detours(&[&plan]);
    let held = std::slice::from_ref(&plan);
    let again = |detours: &Detours| {
        // Twice, as after an answer that was lost.
        stage.block_on(carrier.change(nic, held, &plan, Some(detours)))?;
        stage.block_on(carrier.change(nic, held, &plan, Some(detours)))
    };
    again(&followed)?;
    (1..=4).try_for_each(marked)?;

    ip("rule add pref 32765 lookup local")?;
    ip("rule del pref 0")?;
    check(way("192.0.2.11")? == "local", "its address is local, and nobody has done anything")?;
    // Behind it by now, or it would be ours that is deleted.
    again(&followed)?;
    ip("rule add pref 0 lookup local")?;
    ip("rule del pref 32765 lookup local")?;

    // No rule is a second time there, and each of the others is where it was.
    for mark in 3..=4 {
        ip(&format!("rule del fwmark {mark}"))?;
    }
    change(&stage, nic, held, &none)?;
    let after = objects()?;
    check(after == before, format!("something is left:\n{after}\ninstead of\n{before}"))
}

/// As many routes as may be: the rules are no more for that, and all of them are carried.
pub(crate) fn many_routes() -> Result<(), Failed> {
    let stage = Stage::new()?;
    furnish(&stage)?;
    let before = objects()?;
    let (mut plan, none) = (plan()?, Plan::default());
    let gateway: IpAddr = "192.0.2.7".parse()?;
    plan.routes.extend((0..250_u32).map(|net| {
        let [_, _, high, low] = net.to_be_bytes();
        Route {
            destination: [10, high, low, 0].into(),
            prefix_len: 24,
            metric: 0,
            gateway: Some(gateway),
            source: None,
            mtu: 0,
        }
    }));
    let nic = stage.index("nic")?;
    let carrier = Carrier::new(stage.handle());
    let began = monotonic_ns()?;
    change(&stage, nic, &[], &plan)?;
    eprintln!("{} routes carried in {} us", plan.routes.len(), (monotonic_ns()? - began) / 1000);
    let rules = said("ip", "rule show")?.lines().filter(|line| line.contains("proto 118")).count();
    check(rules == 6, format!("{rules} rules"))?;
    ip("route del 192.0.2.0/24 dev nic")?;
    stage.block_on(carrier.renew(nic, &plan))?;
    for to in ["192.0.2.77", "10.0.0.9", "10.0.249.9", "203.0.113.9"] {
        let found = way(to)?;
        check(found == "nic", format!("{to} goes to {found}"))?;
    }
    check(way("192.0.2.50")? == "peer", "a host route of others wins")?;
    ip("route add 192.0.2.0/24 dev nic proto kernel scope link src 192.0.2.11")?;
    change(&stage, nic, &[plan], &none)?;
    let after = objects()?;
    check(after == before, format!("something is left:\n{after}\ninstead of\n{before}"))
}
