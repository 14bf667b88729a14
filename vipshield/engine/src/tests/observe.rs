//! A vipshield that only looks.

use super::{
    super::{Config, Engine, Event, Health},
    bench::{Bench, DEADLINE, engine},
    kube_ovn::Sequence,
    node::{Datapath, NIC, NIC_INDEX},
};

#[test]
fn one_that_observes_changes_nothing_and_hides_nothing() {
    for datapath in [Datapath::Bridge, Datapath::Ovs] {
        let mut bench = Bench::unshielded(datapath);
        bench.begin_with(Engine::new(Config { observe: true, ..engine().config }));
        let mut noticed = false;
        for sequence in [Sequence::Bind, Sequence::Unbind, Sequence::Exchange, Sequence::Unexchange]
        {
            for step in &sequence.steps(&bench.node) {
                bench.advance(step.takes);
                bench.change(&step.op);
                noticed |= !bench.keepalived().view.trusts(NIC_INDEX, NIC);
            }
            bench.advance(10 * DEADLINE);
        }
        assert!(noticed, "{datapath:?}: the daemon sees what happens");
        let done: Vec<_> = bench.log.iter().filter(|(_, action)| !action.only_looks()).collect();
        assert!(done.is_empty(), "{datapath:?}: {done:?}");
        assert!(!bench.told.iter().any(|(_, event)| matches!(event, Event::Withheld { .. })));
        let Health::Degraded { reasons } = bench.status().health else { panic!("{datapath:?}") };
        assert!(reasons[0].contains("--observe"), "{reasons:?}");
        assert_eq!(bench.status().released, 0);
        bench.feed(Event::Stop);
        let done: Vec<_> = bench.log.iter().filter(|(_, action)| !action.only_looks()).collect();
        assert!(done.is_empty(), "{datapath:?}, at the end: {done:?}");
    }
}
