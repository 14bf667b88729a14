//! What an operator is told to mend: in the log once, in the status until it is mended.

use super::{
    super::{Action, Engine, Event, Filter, Link},
    bench::{Bench, DEADLINE, engine_for},
    node::{Datapath, NIC, NIC_INDEX},
};

const VMAC: u32 = 40;

/// How often the operator was told this.
fn mentions(bench: &Bench, words: &str) -> usize {
    let told = bench.log.iter().filter(
        |(_, action)| matches!(action, Action::Tell { notice } if notice.text.contains(words)),
    );
    told.count()
}

/// keepalived's virtual interface on the NIC, with its sockets bound to it.
fn with_vmac(engine: Engine) -> Bench {
    let mut bench = Bench::unshielded(Datapath::Bridge);
    let vmac = Link {
        ifindex: VMAC,
        name: "vrrp.51".to_owned(),
        up: true,
        running: true,
        kind: Some("macvlan".to_owned()),
        link: Some(NIC_INDEX),
        ..Link::default()
    };
    bench.node.links.insert(VMAC, vmac);
    bench.daemon.as_mut().unwrap().bound = [VMAC; 2];
    bench.begin_with(engine);
    bench
}

#[test]
fn use_vmac_cannot_work_and_is_said() {
    for engine in [engine_for(&[NIC]), engine_for(&[])] {
        let mut bench = with_vmac(engine);
        assert_eq!(bench.nic().name, NIC, "the NIC is guarded, not what lies on it");
        let [warning] = &bench.status().warnings[..] else { panic!("one warning") };
        for words in
            [NIC, "vrrp.51", "use_vmac", "receive handler", "Kube-OVN", "take use_vmac out"]
        {
            assert!(warning.contains(words), "{words} in {warning}");
        }
        bench.scan();
        bench.advance(DEADLINE);
        assert_eq!(mentions(&bench, "use_vmac"), 1);
        assert_eq!(bench.keepalived().bound, [VMAC; 2], "they are left where they are");

        // Mended.
        bench.daemon.as_mut().unwrap().bound = [NIC_INDEX; 2];
        bench.scan();
        assert!(bench.status().warnings.is_empty());
    }
}

#[test]
fn a_daemon_that_polls_the_carrier_is_said_and_guarded() {
    let mut bench = Bench::new(Datapath::Bridge);
    let mut daemons = bench.found();
    daemons[0].polls = true;
    for _ in 0..3 {
        bench.scanned(daemons.clone());
    }
    assert_eq!(mentions(&bench, "linkbeat_use_polling"), 1);
    let [warning] = &bench.status().warnings[..] else { panic!("one warning") };
    assert!(warning.contains("keepalived 700 polls"), "{warning}");
    assert!(bench.is_healthy());
    // It was restarted without.
    daemons[0].polls = false;
    bench.scanned(daemons);
    assert!(bench.status().warnings.is_empty());
}

#[test]
fn a_daemon_that_cannot_be_looked_at_is_said() {
    let mut bench = Bench::new(Datapath::Bridge);
    assert!(bench.status().warnings.is_empty() && bench.is_healthy());
    let mut daemons = bench.found();
    daemons[0].trouble = Some("duplicating descriptor 10: not permitted".to_owned());
    for _ in 0..3 {
        bench.scanned(daemons.clone());
    }
    assert_eq!(mentions(&bench, "not permitted"), 1);
    let [warning] = &bench.status().warnings[..] else { panic!("one warning") };
    assert!(warning.contains("keepalived 700") && warning.contains("not permitted"), "{warning}");
    assert!(!bench.is_healthy());
}

#[test]
fn a_foreign_filter_stays_in_the_status() {
    let mut bench = Bench::unshielded(Datapath::Bridge);
    bench.daemon.as_mut().unwrap().filter = Filter::Foreign;
    bench.begin();
    assert_eq!(bench.status().warnings.len(), 1);
    bench.daemon = None;
    bench.scan();
    assert!(bench.status().warnings.is_empty());
}

#[test]
fn what_fails_is_in_the_status_until_it_does_not() {
    let mut bench = Bench::unshielded(Datapath::Bridge);
    bench.fails = |action| matches!(action, Action::Guard { .. });
    bench.begin();
    bench.feed(Event::Tick);
    let [warning] = &bench.status().warnings[..] else { panic!("one warning") };
    assert!(warning.contains("guarding") && warning.contains("made to fail"), "{warning}");
    bench.fails = |_| false;
    bench.advance(DEADLINE);
    assert!(bench.status().warnings.is_empty());
}
