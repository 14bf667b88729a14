//! One bug in each rule, and the test that catches it.
//!
//! The bug is that the rule is not there: the next that fits decides, and where none does, the last. The tests
//! are those of what a user would notice; that each rule decides of something is tested with the tables. The
//! guard's own are tested in the kernel: `tests/ebpf/seeded.rs`.

use std::{collections::BTreeSet, env, process::Command, sync::OnceLock};

use crate::{OwnRules, rules::lines};

/// Names the rule that is not there, as `TABLE/RULE`.
const WITHOUT: &str = "VIPSHIELD_WITHOUT_RULE";

/// By rule, the test that fails without it.
const CAUGHT: &[(&str, &str)] = &[
    ("policy/failed", "failures::of_a_link_that_failed_all_is_seen"),
    ("policy/names-known", "restarts::a_daemon_that_uses_the_bridge_hears_of_its_end"),
    ("policy/moving", "scenarios::a_lost_carrier_is_hidden_in_transitions_only"),
    (
        "policy/carrier-settles",
        "scenarios::a_carrier_that_does_not_come_back_after_the_nic_was_down_is_told",
    ),
    ("policy/at-rest", "failures::a_carrier_lost_while_free_or_bridged_passes_at_once"),
    ("phase/gone", "phases::down_needs_a_failure_that_is_known"),
    ("phase/link-told", "failures::a_carrier_that_does_not_return_is_told_by_the_deadline"),
    ("phase/name-told", "names::a_new_nic_with_the_name_is_guarded_and_known"),
    ("phase/home", "scenarios::no_sequence_is_noticed"),
    ("phase/carried", "scenarios::no_sequence_is_noticed"),
    ("phase/carrier-lost", "failures::a_carrier_lost_while_free_or_bridged_passes_at_once"),
    ("phase/port-carrier-lost", "failures::a_carrier_lost_while_free_or_bridged_passes_at_once"),
    ("phase/still-bridged", "failures::a_port_whose_bridge_lost_an_address_is_bridged_still"),
    ("phase/carrier-returning", "scenarios::on_its_way_back_it_is_returning_even_as_a_port_again"),
    ("phase/given-back", "scenarios::on_its_way_back_it_is_returning_even_as_a_port_again"),
    ("phase/still-returning", "phases::looking_twice_changes_nothing"),
    ("phase/taken", "failures::a_link_down_for_good_is_told_at_the_deadline"),
    ("address/on-nic", "daemons::a_daemon_that_starts_on_a_port_is_told_the_address"),
    (
        "address/vip-on-bridge",
        "failures::a_switch_that_takes_no_new_flows_is_told_after_a_minute_and_its_return",
    ),
    ("address/deaf", "probe::a_waiting_daemon_is_told_before_it_takes_over"),
    (
        "address/cut-off",
        "passage::a_bridge_that_ceases_to_forward_is_told_a_deadline_after_the_first_that_is_lost",
    ),
    ("address/on-bridge", "scenarios::no_sequence_is_noticed"),
    ("address/nowhere", "audit::what_cannot_be_told_is_counted_until_it_is"),
    ("link/told", "failures::a_carrier_that_does_not_return_is_told_by_the_deadline"),
    ("link/usurped", "names::a_new_nic_with_the_name_is_guarded_and_known"),
    ("link/works", "carrying::a_new_bridge_makes_ready_for_a_while_and_changes_no_phase"),
    ("link/fails", "failures::a_link_down_for_good_is_told_at_the_deadline"),
    ("telling/link-unheard", "names::a_carrier_lost_after_an_exchange_passes_at_once"),
    ("telling/link-passed", "own::a_message_that_a_rule_passes_is_seen_at_once_and_counts_as_told"),
    ("telling/link-due", "failures::a_link_down_for_good_is_told_at_the_deadline"),
    ("telling/address-due", "audit::what_cannot_be_told_is_counted_until_it_is"),
    ("telling/in-time", "scenarios::no_sequence_is_noticed"),
    ("vip/may-be-claimed", "ipv6::nothing_is_taken_off_before_all_was_heard"),
    ("vip/off-bridges", "vips::a_daemon_that_dies_takes_its_vip_along"),
    ("vip/given-up", "vips::another_vip_that_went_along_is_still_wanted"),
    ("vip/given-up-lately", "vips::what_somebody_else_adds_when_the_daemon_is_gone_is_his"),
    ("vip/operators", "vips::the_next_daemon_may_have_it_before_it_is_known"),
    ("carry/no-carrier", "carrying::a_nic_that_works_is_carried_for_while_its_addresses_are_away"),
    ("carry/late-on-bridge", "carrying::for_a_port_that_lacks_something_ipv6_alone_is_carried"),
    ("carry/moving", "carrying::a_nic_that_works_is_carried_for_while_its_addresses_are_away"),
    ("carry/lingers", "outranked::what_is_not_carried_is_not_missed"),
    ("carry/ahead", "carrying::a_new_bridge_makes_ready_for_a_while_and_changes_no_phase"),
    ("carry/at-rest", "carrying::a_nic_that_works_is_carried_for_while_its_addresses_are_away"),
    ("shunt/no-wire", "carrying::no_shunt_leads_to_a_bridge_of_another_hardware_address"),
    ("shunt/cut", "carrying::a_shunt_is_laid_before_a_port_joins_and_before_it_leaves"),
    ("shunt/join", "carrying::a_shunt_is_laid_before_a_port_joins_and_before_it_leaves"),
];

/// Whether a rule is not there.
pub(crate) fn is_without(table: &str, rule: &str) -> bool {
    static SEEDED: OnceLock<Option<String>> = OnceLock::new();
    let seeded = SEEDED.get_or_init(|| env::var(WITHOUT).ok());
    seeded.as_deref().and_then(|it| it.split_once('/')) == Some((table, rule))
}

/// Each test is run without its rule, in a process of its own, and fails.
#[test]
fn each_rule_is_missed_by_a_test() {
    let rules = lines(&OwnRules::default());
    let rules = rules.iter().filter(|line| line.table != "guard");
    let rules: BTreeSet<String> =
        rules.map(|line| format!("{}/{}", line.table, line.name)).collect();
    let caught = CAUGHT.iter().map(|(rule, _)| (*rule).to_owned()).collect();
    assert_eq!(rules, caught);
    let mut missing = Vec::new();
    for (rule, test) in CAUGHT {
        let mut run = Command::new(env::current_exe().unwrap());
        let run = run.args(["--exact", &format!("tests::{test}")]).env(WITHOUT, rule).output();
        let run = run.unwrap();
        let said = String::from_utf8_lossy(&run.stdout);
        assert!(said.contains("running 1 test"), "there is no test {test}");
        if run.status.success() {
            missing.push(format!("{test} does not miss the rule {rule}"));
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}
