//! Rules of the operator's own, and a configuration that is taken anew.

use std::{collections::BTreeSet, time::Duration};

use proptest::{collection::vec, prelude::*, sample::select};
use vipshield_common::guard::withhold;

use super::{
    super::{
        Action, Config, Engine, Event, Message, OwnRule, OwnRules, Pass, Phase, Scope, Tell, Truth,
        VipRole,
    },
    all,
    bench::{Bench, DEADLINE, engine},
    kube_ovn::Sequence,
    node::{Datapath, KUBE_OVN, NIC, NIC_INDEX, NODE_IP, Op, VIP, address},
    properties::cases,
    ready_for,
};

const SOON: Duration = Duration::from_millis(200);

fn pass(messages: &[Message], scope: Scope) -> OwnRules {
    let of = Pass { messages: messages.iter().copied().collect() };
    let rule = OwnRule { name: "mine".to_owned(), scope, of, why: String::new() };
    OwnRules { guard: vec![rule], telling: Vec::new() }
}

fn tell(truth: Truth, after: Duration, scope: Scope) -> OwnRules {
    let of = Tell { truths: BTreeSet::from([truth]), after };
    let rule = OwnRule { name: "sooner".to_owned(), scope, of, why: String::new() };
    OwnRules { guard: Vec::new(), telling: vec![rule] }
}

fn with(rules: OwnRules) -> Engine {
    Engine::new(Config { rules, ..engine().config })
}

fn bench(rules: OwnRules) -> Bench {
    let mut bench = Bench::unshielded(Datapath::Bridge);
    bench.begin_with(with(rules));
    bench
}

fn configure(bench: &mut Bench, config: Config) {
    bench.feed(Event::Configured { config: Box::new(config) });
}

fn down(bench: &mut Bench) {
    bench.change(&Op::Down(NIC.to_owned()));
}

fn knows_it_is_down(bench: &Bench) -> bool {
    !bench.keepalived().view.trusts(NIC_INDEX, NIC)
}

#[test]
fn a_message_that_a_rule_passes_is_seen_at_once_and_counts_as_told() {
    let mut bench = bench(pass(&[Message::AdminDown], Scope::default()));
    assert_eq!(bench.phase(), Phase::Free);
    down(&mut bench);
    assert!(knows_it_is_down(&bench), "the daemon sees it");
    assert_eq!(bench.phase(), Phase::Down, "and so it is a failure that it knows of");
    bench.change(&Op::Up(NIC.to_owned()));
    bench.advance(2 * DEADLINE);
    assert!(!knows_it_is_down(&bench), "and sees the end of it");
    assert_eq!(bench.phase(), Phase::Free);
}

#[test]
fn a_rule_is_for_its_interfaces_phases_and_role_only() {
    let of = |names: &[&str]| Scope {
        interfaces: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Scope::default()
    };
    let phases =
        |phases: &[Phase]| Scope { phases: phases.iter().copied().collect(), ..Scope::default() };
    let role = |role| Scope { role: Some(role), ..Scope::default() };
    let sees = |scope: Scope, owner: bool| {
        let mut bench = bench(pass(&[Message::AdminDown], scope));
        if owner {
            bench.daemon_asks(address(VIP), true);
        } else {
            bench.daemon_asks(address(VIP), false);
        }
        down(&mut bench);
        knows_it_is_down(&bench)
    };
    assert!(sees(of(&["ens192"]), true) && sees(of(&["eno1", "ens*"]), true));
    assert!(!sees(of(&["ens224"]), true) && !sees(of(&["eno*"]), true));
    assert!(sees(phases(&[Phase::Free]), true) && !sees(phases(&[Phase::Bridged]), true));
    assert!(sees(role(VipRole::Owner), true) && !sees(role(VipRole::Backup), true));
    assert!(!sees(role(VipRole::Owner), false) && sees(role(VipRole::Backup), false));
}

/// Of each message: what else is withheld stays so.
#[test]
fn a_rule_passes_what_it_names_and_nothing_else() {
    let withheld = |rules: OwnRules, sequence: Sequence| {
        let mut bench = ready_for(sequence, Datapath::Bridge);
        let config = Config { rules, ..engine().config };
        configure(&mut bench, config);
        let from = bench.told.len();
        bench.sequence(sequence);
        let all = bench.told[from..].iter().filter_map(|(_, event)| match event {
            Event::Withheld { message } => Some(message.rule.name()),
            _ => None,
        });
        all.collect::<BTreeSet<_>>()
    };
    for sequence in [Sequence::Bind, Sequence::Exchange] {
        let before = withheld(OwnRules::default(), sequence);
        for message in [Message::AddressRemoval, Message::BridgePort] {
            let name = message.to_string();
            let after = withheld(pass(&[message], Scope::default()), sequence);
            // An address is only known to a daemon that was not told that it left.
            let follows = |it: &str| name == "address-removal" && it == "known-address";
            let expected: BTreeSet<_> =
                before.iter().copied().filter(|it| *it != name && !follows(it)).collect();
            assert_eq!(after, expected, "{sequence:?} {name}");
        }
    }
    let exchanged = withheld(OwnRules::default(), Sequence::Exchange);
    assert!(exchanged.contains("admin-down") && exchanged.contains("name-conflict"));
    let passed = withheld(
        pass(&[Message::NameConflict, Message::Rename], Scope::default()),
        Sequence::Exchange,
    );
    assert!(!passed.contains("name-conflict") && !passed.contains("rename"), "{passed:?}");
    assert!(passed.contains("admin-down"), "{passed:?}");
}

#[test]
fn a_rule_has_daemons_told_sooner_and_never_later() {
    for (after, told) in [(SOON, SOON), (Duration::ZERO, Duration::ZERO), (4 * DEADLINE, DEADLINE)]
    {
        let mut bench = bench(tell(Truth::Address, after, Scope::default()));
        let ip = address(NODE_IP).ip;
        bench.change(&Op::RemoveAddress(NIC.to_owned(), address(NODE_IP), KUBE_OVN));
        if let Some(almost) = told.checked_sub(Duration::from_millis(1)) {
            bench.advance(almost);
            assert!(bench.keepalived().view.has(NIC_INDEX, ip), "{after:?}");
            bench.advance(Duration::from_millis(1));
        }
        assert!(!bench.keepalived().view.has(NIC_INDEX, ip), "{after:?}");
    }
    let mut bench = bench(tell(Truth::Link, SOON, Scope::default()));
    down(&mut bench);
    bench.advance(SOON);
    assert!(knows_it_is_down(&bench));
    let said = |action: &Action| matches!(action, Action::Tell { notice } if notice.text.contains("200 ms have passed (rule sooner)"));
    assert!(bench.log.iter().any(|(_, action)| said(action)), "it says by which rule");
}

#[test]
fn another_configuration_in_the_middle_of_a_move_makes_no_deadline_longer() {
    let mut bench = bench(OwnRules::default());
    bench.change(&Op::RemoveAddress(NIC.to_owned(), address(NODE_IP), KUBE_OVN));
    bench.advance(DEADLINE / 2);
    let longer = Config { deadline: 10 * DEADLINE, ..engine().config };
    configure(&mut bench, longer.clone());
    assert_eq!(bench.nic().deadline_ms, 1000, "not yet");
    // The bench looks after the deadline.
    bench.advance(DEADLINE / 2);
    assert!(!bench.keepalived().view.has(NIC_INDEX, address(NODE_IP).ip), "told as it was due");
    assert_eq!(bench.nic().deadline_ms, 10_000, "nothing is untrue any more");
    assert_eq!(bench.engine.config, longer);
}

#[test]
fn the_same_configuration_again_changes_nothing_in_any_step() {
    for (sequence, datapath) in all() {
        let mut plain = ready_for(sequence, datapath);
        plain.sequence(sequence);
        plain.advance(5 * DEADLINE);
        let steps = plain.steps(sequence).len();
        for step in 0..=steps {
            let mut bench = ready_for(sequence, datapath);
            let all = bench.steps(sequence);
            bench.run(&all[..step.min(all.len())]);
            let from = bench.log.len();
            let config = bench.engine.config.clone();
            configure(&mut bench, config);
            assert_eq!(bench.log.len(), from, "{sequence:?} {datapath:?} {step}");
            bench.run(&all[step.min(all.len())..]);
            bench.advance(5 * DEADLINE);
            assert_eq!(bench.outcome(), plain.outcome(), "{sequence:?} {datapath:?} {step}");
        }
    }
}

#[test]
fn a_nic_that_is_named_no_longer_is_let_go_of_once_it_is_home() {
    let other = || Config { interfaces: vec!["ens224".to_owned()], ..engine().config };
    let mut bench = bench(OwnRules::default());
    configure(&mut bench, other());
    assert!(bench.status().nics.is_empty() && bench.guard.policies.is_empty());
    let mut bench = ready_for(Sequence::Unbind, Datapath::Bridge);
    configure(&mut bench, other());
    assert_eq!(bench.phase(), Phase::Bridged, "a port is guarded until it is given back");
    bench.sequence(Sequence::Unbind);
    bench.advance(4 * DEADLINE);
    assert!(bench.status().nics.is_empty(), "{:?}", bench.status().nics);
}

#[test]
fn a_pattern_chooses_among_what_daemons_use() {
    let guarded = |patterns: &[&str]| {
        let interfaces = patterns.iter().map(|name| (*name).to_owned()).collect();
        let mut bench = Bench::unshielded(Datapath::Bridge);
        bench.begin_with(Engine::new(Config { interfaces, ..engine().config }));
        let nics = bench.status().nics;
        nics.into_iter().map(|nic| nic.name).collect::<Vec<_>>()
    };
    assert_eq!(guarded(&["ens*"]), [NIC]);
    assert_eq!(guarded(&["eno*", "e?s192"]), [NIC]);
    assert_eq!(guarded(&["eno*"]), [""; 0]);
    assert_eq!(guarded(&["*"]), [NIC], "the daemon's, and no other");
}

/// What is due sooner in a phase that begins now is not overdue for what was before it.
#[test]
fn a_phase_in_which_it_is_told_sooner_makes_nothing_overdue() {
    let scope = Scope { phases: [Phase::Down].into(), ..Scope::default() };
    let rules = tell(Truth::Link, Duration::ZERO, scope);
    let steps = ready_for(Sequence::Unexchange, Datapath::Bridge).steps(Sequence::Unexchange);
    for stopped in 0..steps.len() {
        let mut bench = ready_for(Sequence::Unexchange, Datapath::Bridge);
        configure(&mut bench, Config { rules: rules.clone(), ..engine().config });
        bench.run(&steps[..stopped]);
        // The bench looks at what was overdue.
        bench.advance(5 * DEADLINE);
    }
}

fn some_rules() -> impl Strategy<Value = OwnRules> {
    let scope = (
        select(vec![None, Some("ens*"), Some("eno1")]),
        prop::option::of(select(Phase::ALL.to_vec())),
        prop::option::of(select(VipRole::ALL.to_vec())),
    )
        .prop_map(|(interface, phase, role)| Scope {
            interfaces: interface.map(str::to_owned).into_iter().collect(),
            phases: phase.into_iter().collect(),
            role,
        });
    let scope = scope.boxed();
    let guard = (vec(select(Message::ALL.to_vec()), 1..3), scope.clone())
        .prop_map(|(messages, scope)| pass(&messages, scope));
    let telling = (select(Truth::ALL.to_vec()), 0_u64..3000, scope)
        .prop_map(|(truth, after, scope)| tell(truth, Duration::from_millis(after), scope));
    vec(prop_oneof![guard, telling], 0..4).prop_map(|all| {
        let mut rules = OwnRules::default();
        for one in all {
            rules.guard.extend(one.guard);
            rules.telling.extend(one.telling);
        }
        rules
    })
}

proptest! {
    #![proptest_config(cases(60))]

    /// The bench sees to the deadline, whatever the rules say.
    #[test]
    fn whatever_rules_there_are_nothing_is_hidden_for_longer(
        rules in some_rules(),
        sequence in select(Sequence::ALL.to_vec()),
        datapath in select(Datapath::ALL.to_vec()),
        stopped in 0_usize..30,
    ) {
        let mut bench = ready_for(sequence, datapath);
        configure(&mut bench, Config { rules, ..engine().config });
        let steps = bench.steps(sequence);
        let stopped = stopped.min(steps.len());
        bench.run(&steps[..stopped]);
        bench.advance(5 * DEADLINE);
        bench.run(&steps[stopped..]);
        bench.advance(5 * DEADLINE);
        let end = if sequence.takes() { Phase::Bridged } else { Phase::Free };
        prop_assert_eq!(bench.phase(), end);
        for (_, bits, _) in bench.guard.policies.values() {
            if !bench.engine.nics.values().any(|nic| nic.names_known) {
                prop_assert_eq!(*bits, end.withhold(false));
            }
            prop_assert_eq!(*bits & withhold::CARRIER_LOSS, 0);
        }
    }
}
