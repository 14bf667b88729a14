//! Who is guarded decides how all is, and whether anything may be put on the node.

use std::time::Duration;

use super::{
    super::{Action, Engine, Event, Filter, Health, Speaker, Weight},
    bench::{Bench, COMMAND_PORT, DEADLINE, engine_for},
    keepalived::Keepalived,
    kube_ovn::Sequence,
    node::{BRIDGE, Datapath, NIC, NIC_INDEX, NODE_IP, Op, VIP, address},
};

const SECOND: &str = "ens224";
const SECOND_IP: &str = "198.51.100.11/24";
const SECOND_VIP: &str = "198.51.100.10/32";
const MINUTE: Duration = Duration::from_mins(1);

/// What happens before a daemon was ever guarded.
#[derive(Clone, Copy, Debug)]
enum Wrong {
    /// No daemon is seen.
    Unseen,
    /// Its netlink socket has somebody else's filter.
    Foreign,
    /// It speaks on another interface than the one that is named.
    Interface,
}

fn reasons(bench: &Bench) -> Vec<String> {
    match bench.status().health {
        Health::Degraded { reasons } => reasons,
        health => panic!("{health}"),
    }
}

fn has(reasons: &[String], words: &[&str]) -> bool {
    reasons.iter().any(|reason| words.iter().all(|word| reason.contains(word)))
}

fn told(bench: &Bench, weight: Weight, words: &str) -> usize {
    let told = bench.log.iter().filter(|(_, action)| match action {
        Action::Tell { notice } => notice.weight == weight && notice.text.contains(words),
        _ => false,
    });
    told.count()
}

/// Two NICs; the daemon speaks on the second.
fn on_the_second(datapath: Datapath, engine: Engine) -> Bench {
    let mut bench = Bench::unshielded(datapath);
    bench.node.apply(&Op::AddNic(SECOND.to_owned()));
    for text in [SECOND_IP, SECOND_VIP] {
        bench.node.apply(&Op::AddAddress(SECOND.to_owned(), address(text)));
    }
    bench.node.apply(&Op::RemoveAddress(NIC.to_owned(), address(VIP), 0));
    let mut daemon = Keepalived::start(700, &bench.node, NIC);
    daemon.bound = [bench.node.index(SECOND).unwrap(); 2];
    bench.daemon = Some(daemon);
    bench.begin_with(engine);
    bench
}

fn wrong(wrong: Wrong, datapath: Datapath) -> Bench {
    match wrong {
        Wrong::Unseen => {
            let mut bench = Bench::unshielded(datapath);
            bench.daemon = None;
            bench.begin();
            bench
        }
        Wrong::Foreign => {
            let mut bench = Bench::unshielded(datapath);
            bench.daemon.as_mut().unwrap().filter = Filter::Foreign;
            bench.begin();
            bench
        }
        Wrong::Interface => on_the_second(datapath, engine_for(&[NIC])),
    }
}

/// The node is as if there were no vipshield: the guard and the watch are vipshield's own.
#[test]
fn nothing_is_put_on_a_node_where_nothing_is_guarded() {
    for datapath in Datapath::ALL {
        for how in [Wrong::Unseen, Wrong::Foreign, Wrong::Interface] {
            let mut bench = wrong(how, datapath);
            for sequence in
                [Sequence::Bind, Sequence::Unbind, Sequence::Exchange, Sequence::Unexchange]
            {
                bench.expect_transition();
                bench.feed(Event::Turnover);
                for step in bench.steps(sequence) {
                    bench.run(&[step]);
                    assert!(!bench.is_healthy(), "{how:?}");
                }
                // It gives its VIP up where it is not any more.
                bench.daemon_asks(address(VIP), false);
                bench.advance(3 * DEADLINE);
            }
            let touched = bench.asked(0).find(|(_, action)| {
                matches!(
                    action,
                    Action::Carry { .. }
                        | Action::Shunt { .. }
                        | Action::StandIn { .. }
                        | Action::ShowAddress { .. }
                        | Action::RemoveVip { .. }
                        | Action::MoveVip { .. }
                        | Action::Announce { .. }
                )
            });
            assert_eq!(touched, None, "{how:?} on {datapath:?}");
        }
    }
}

#[test]
fn without_a_daemon_it_is_idle_and_says_so_once() {
    for names in [&[NIC][..], &[]] {
        let mut bench = Bench::unshielded(Datapath::Bridge);
        bench.daemon = None;
        bench.begin_with(engine_for(names));
        for _ in 0..3 {
            bench.scan();
            bench.advance(MINUTE);
        }
        assert_eq!(bench.status().health, Health::Idle);
        assert!(bench.status().warnings.is_empty());
        assert_eq!(told(&bench, Weight::Info, "idle"), 1);
        assert_eq!(told(&bench, Weight::Warning, ""), 0);
        // One that starts is guarded, and all that is done for a NIC is done.
        bench.restart_daemon(700);
        assert!(bench.is_healthy());
        assert_eq!(told(&bench, Weight::Info, "healthy"), 1);
        bench.expect_transition();
        assert!(!bench.carried.is_empty());
    }
}

#[test]
fn before_the_first_look_nothing_is_known() {
    let mut bench = Bench::unshielded(Datapath::Bridge);
    let snapshot = bench.node.snapshot();
    bench.feed(snapshot);
    assert!(has(&reasons(&bench), &["just begun"]));
    assert_eq!(told(&bench, Weight::Info, "idle"), 0);
}

#[test]
fn what_is_not_guarded_yet_is_not_healthy() {
    let mut bench = Bench::unshielded(Datapath::Bridge);
    bench.fails = |action| matches!(action, Action::Guard { .. });
    bench.begin();
    assert!(has(&reasons(&bench), &["keepalived 700", "not guarded yet"]));
    bench.fails = |_| false;
    bench.advance(DEADLINE);
    assert!(bench.is_healthy());
    // A second process of which only the address monitor is guarded speaks no VRRP.
    let mut checkers = bench.found();
    checkers[0].vrrp.clear();
    bench.scanned(checkers);
    assert!(!bench.is_healthy());
}

/// What a death or a restart needs remains; and it is waited for, for a minute.
#[test]
fn a_daemon_that_is_gone_is_waited_for_and_then_is_not() {
    let mut bench = Bench::owner_of_vip(Datapath::Bridge);
    bench.sequence(Sequence::Bind);
    bench.kill_daemon();
    assert!(bench.places(address(VIP)).is_empty(), "it takes its VIP along");
    assert!(has(&reasons(&bench), &[NIC, "waited for"]));
    bench.feed(Event::Turnover);
    assert!(bench.stood_in.contains(&NIC_INDEX), "the next one finds an address");
    bench.advance(MINUTE);
    assert_eq!(bench.status().health, Health::Idle);
    assert!(bench.status().warnings.is_empty());
    bench.restart_daemon(701);
    assert!(bench.is_healthy());
    assert_eq!(told(&bench, Weight::Info, "healthy"), 2, "and once more behind the idle one");
}

#[test]
fn a_reload_does_not_make_it_idle() {
    let mut bench = Bench::new(Datapath::Bridge);
    let mut between = bench.found();
    between[0].vrrp.clear();
    bench.scanned(between);
    assert!(has(&reasons(&bench), &["waited for"]));
    assert!(bench.status().warnings.is_empty());
    bench.reload_daemon();
    assert!(bench.is_healthy());
    assert_eq!((told(&bench, Weight::Info, "idle"), told(&bench, Weight::Info, "healthy")), (0, 1));
}

#[test]
fn the_wrong_interface_is_said_with_the_right_one() {
    let bench = on_the_second(Datapath::Bridge, engine_for(&[NIC]));
    let said = reasons(&bench);
    assert!(has(&said, &[NIC, "no daemon speaks VRRP"]), "{said:?}");
    assert!(has(&said, &["keepalived 700", SECOND, "--interface"]), "{said:?}");
    assert_eq!(bench.status().warnings, said);
    let bench = on_the_second(Datapath::Bridge, engine_for(&["ens999"]));
    let said = reasons(&bench);
    assert!(has(&said, &["there is no interface ens999"]), "{said:?}");
    assert!(has(&said, &["keepalived 700", SECOND, "--interface"]), "{said:?}");
    // Both named: the one without a daemon is not healthy.
    let bench = on_the_second(Datapath::Bridge, engine_for(&[NIC, SECOND]));
    assert!(has(&reasons(&bench), &[NIC, "no daemon speaks VRRP"]));
    // Named on purpose: what else it does elsewhere is the operator's own choice.
    let mut bench = Bench::unshielded(Datapath::Bridge);
    bench.node.apply(&Op::AddNic(SECOND.to_owned()));
    let second = bench.node.index(SECOND).unwrap();
    bench.daemon.as_mut().unwrap().bound = [NIC_INDEX, second];
    bench.begin();
    assert!(bench.is_healthy() && bench.status().warnings.is_empty());
}

#[test]
fn who_speaks_and_is_not_guarded_is_named() {
    let renamed = Speaker::Renamed { pid: 812, name: "vrrpd".to_owned() };
    let hidden = |refused| Speaker::Hidden { refused };
    let elsewhere = Speaker::Elsewhere { pid: 9, name: "keepalived".to_owned() };
    for (speaker, words) in [
        (&renamed, &["vrrpd 812", "--daemon vrrpd"][..]),
        (&hidden(false), &["hostPID", "shareProcessNamespace"]),
        (&hidden(true), &["SYS_PTRACE"]),
        (&elsewhere, &["keepalived 9", "network namespace", "hostNetwork"]),
    ] {
        for names in [&[NIC][..], &[]] {
            let mut bench = Bench::unshielded(Datapath::Bridge);
            bench.daemon = None;
            bench.begin_with(engine_for(names));
            bench.feed(Event::Speakers { speakers: vec![speaker.clone()] });
            let said = reasons(&bench);
            assert!(has(&said, words) && said.len() == 1, "{said:?}");
            assert_eq!(bench.status().warnings, said);
            bench.feed(Event::Speakers { speakers: Vec::new() });
            assert_eq!(bench.status().health, Health::Idle, "mended");
        }
        // Where what is meant is guarded, others are nothing that is missing.
        let mut bench = Bench::new(Datapath::Bridge);
        bench.feed(Event::Speakers { speakers: vec![speaker.clone()] });
        assert!(bench.is_healthy(), "{speaker}");
        let is_here = !matches!(speaker, Speaker::Elsewhere { .. });
        assert_eq!(has(&bench.status().warnings, words), is_here, "{speaker}");
    }
}

/// A VIP on another interface than its instance's makes that interface one to guard.
#[test]
fn where_a_daemon_has_a_vip_is_guarded() {
    for datapath in Datapath::ALL {
        let mut bench = on_the_second(datapath, engine_for(&[]));
        assert_eq!(bench.nic().name, SECOND);
        bench.daemon_asks(address(VIP), true);
        let names: Vec<_> = bench.status().nics.into_iter().map(|nic| nic.name).collect();
        assert_eq!(names, [NIC, SECOND]);
        assert!(bench.is_healthy());
        let second = bench.node.index(SECOND).unwrap();
        for (sequence, there) in [(Sequence::Bind, BRIDGE), (Sequence::Unbind, NIC)] {
            bench.sequence(sequence);
            assert_eq!(bench.places(address(VIP)), [there], "{datapath:?}");
            assert!(bench.keepalived().view.has(NIC_INDEX, address(VIP).ip), "{datapath:?}");
            assert_eq!(bench.keepalived().bound, [second; 2]);
            assert!(!bench.released());
        }
        // Given up while a bridge has it.
        bench.sequence(Sequence::Bind);
        bench.daemon_asks(address(VIP), false);
        assert!(bench.places(address(VIP)).is_empty());
        bench.sequence(Sequence::Unbind);
        // As long as that process lives it may want it again.
        bench.advance(5 * MINUTE);
        assert_eq!(bench.status().nics.len(), 2);
        let mut daemon = Keepalived::start(701, &bench.node, NIC);
        daemon.bound = [second; 2];
        bench.daemon = Some(daemon);
        bench.scan();
        bench.advance(MINUTE);
        assert_eq!(bench.nic().name, SECOND, "nobody uses the other one");
        assert!(!bench.guard.policies.contains_key(&NIC_INDEX));
        assert!(bench.is_healthy());
    }
}

#[test]
fn a_vip_elsewhere_guards_no_more_than_an_uplink() {
    for (kind, mac, guarded) in [
        (None, vec![2, 0, 0, 0, 0, 77], true),
        (Some("vlan"), vec![2, 0, 0, 0, 0, 77], true),
        (None, vec![0; 6], false),
        (Some("dummy"), vec![2, 0, 0, 0, 0, 77], false),
        (Some("vxlan"), vec![2, 0, 0, 0, 0, 77], false),
        (Some("wireguard"), Vec::new(), false),
        (Some("ipip"), vec![10, 0, 0, 1], false),
        (Some("bridge"), vec![2, 0, 0, 0, 0, 77], false),
    ] {
        let mut bench = on_the_second(Datapath::Bridge, engine_for(&[]));
        bench.node.apply(&Op::AddNic("other".to_owned()));
        let other = bench.node.index("other").unwrap();
        let link = bench.node.links.get_mut(&other).unwrap();
        (link.kind, link.mac) = (kind.map(str::to_owned), mac);
        let snapshot = bench.node.snapshot();
        bench.feed(snapshot);
        bench.daemon_asks_on(other, address(VIP));
        let is_guarded = bench.status().nics.iter().any(|nic| nic.ifindex == other);
        assert_eq!(is_guarded, guarded, "{kind:?}");
        assert!(bench.is_healthy(), "{kind:?}");
    }
}

/// Who names interfaces has those guarded, and no others.
#[test]
fn a_vip_elsewhere_is_not_guarded_where_interfaces_are_named() {
    let mut bench = on_the_second(Datapath::Bridge, engine_for(&[SECOND]));
    bench.daemon_asks(address(VIP), true);
    assert_eq!(bench.nic().name, SECOND);
    assert!(bench.is_healthy());
}

/// An interface that nobody uses any more is let go of, but not while anything is being done for it.
#[test]
fn what_is_used_no_more_is_guarded_no_longer() {
    let mut bench = on_the_second(Datapath::Bridge, engine_for(&[]));
    let second = bench.node.index(SECOND).unwrap();
    bench.daemon.as_mut().unwrap().bound = [NIC_INDEX; 2];
    bench.node.addresses.get_mut(&second).unwrap().remove(&address(SECOND_VIP));
    let snapshot = bench.node.snapshot();
    bench.feed(snapshot);
    bench.scan();
    assert_eq!(bench.status().nics.len(), 2);
    bench.advance(MINUTE / 2);
    let steps = Sequence::Bind.steps_for(&bench.node, SECOND, "br-second");
    bench.run(&steps);
    bench.advance(2 * MINUTE);
    assert_eq!(bench.status().nics.len(), 2, "it is a port");
    let steps = Sequence::Unbind.steps_for(&bench.node, SECOND, "br-second");
    bench.run(&steps);
    bench.advance(3 * DEADLINE);
    assert_eq!(bench.nic().name, NIC);
    assert!(!bench.places(address(NODE_IP)).is_empty() && bench.is_healthy());
    assert_eq!(bench.carried.keys().find(|nic| **nic == second), None);
}

/// What is left of an earlier vipshield says that a daemon was guarded here.
#[test]
fn marks_of_an_earlier_vipshield_count_as_a_guarded_daemon() {
    let mut bench = Bench::owner_of_vip(Datapath::Bridge);
    bench.sequence(Sequence::Bind);
    bench.kill_engine();
    bench.daemon = None;
    // What it carried ends.
    bench.advance(Duration::from_mins(1));
    bench.begin();
    bench.feed(Event::Turnover);
    assert!(bench.stood_in.is_empty(), "nothing is known of it");
    let bridge = bench.node.index(BRIDGE).unwrap();
    bench.feed(Event::Moved { addresses: vec![(bridge, address(VIP))] });
    assert!(bench.places(address(VIP)).is_empty(), "it is nobody's");
    bench.feed(Event::Tick);
    assert!(bench.stood_in.contains(&NIC_INDEX));
}

#[test]
fn requests_of_a_daemon_that_is_not_guarded_move_nothing() {
    let mut bench = wrong(Wrong::Foreign, Datapath::Bridge);
    bench.sequence(Sequence::Bind);
    bench.change(&Op::RemoveAddress(BRIDGE.to_owned(), address(VIP), COMMAND_PORT));
    bench.change(&Op::AddAddress(BRIDGE.to_owned(), address(VIP)));
    bench.advance(DEADLINE);
    assert_eq!(bench.places(address(VIP)), [BRIDGE]);
}
