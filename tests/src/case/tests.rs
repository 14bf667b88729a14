//! What is read, and what is said of what cannot be.

use super::*;

const CONFIGURATION: &str =
    "configuration = '''\nvrrp_instance VI_1 {\n  interface {{nic}}\n}\n'''\n";

fn parsed(more: &str) -> Result<Case, String> {
    let text = format!("about = \"one\"\n{CONFIGURATION}{more}");
    Case::parse("some.toml", &text).map_err(|mistake| mistake.to_string())
}

#[test]
fn every_case_can_be_read_and_says_what_it_is() {
    assert!(!FILES.is_empty());
    for (name, text) in FILES {
        match Case::parse(&format!("{name}.toml"), text) {
            Ok(case) => assert!(!case.about.is_empty() && case.name == *name, "{name}"),
            Err(mistake) => panic!("{mistake}"),
        }
    }
}

#[test]
fn a_case_that_says_little_is_bound_and_unbound() {
    let case = parsed("").unwrap();
    let sequences = case.steps.iter().filter_map(|step| match step.action {
        Action::Sequence(sequence) => Some(sequence),
        _ => None,
    });
    assert_eq!(sequences.collect::<Vec<_>>(), [Sequence::Bind, Sequence::Unbind]);
    let config = case.config(DatapathKind::Bridge);
    assert_eq!(config.vips().map(|vip| vip.to_string()).collect::<Vec<_>>(), ["192.0.2.10"]);
    let text = config.keepalived(&config.nodes[0], "/run/x/notify");
    assert_eq!(
        text,
        "global_defs {\n  vrrp_notify_fifo /run/x/notify\n}\nvrrp_instance VI_1 {\n  interface ens192\n}\n"
    );
}

#[test]
fn steps_in_their_order() {
    let steps = "[[steps]]\nrun = \"true {{own}}\"\non = \"client\"\n[[steps]]\nwait = \"250ms\"\n\
                 [[steps]]\nkill = \"keepalived\"\non = \"node2\"\n[[steps]]\nassert = { owner = \"node1\" }\n";
    let case = parsed(steps).unwrap();
    let owner = Assert { owner: Some(On::Node1), ..Assert::default() };
    let all = [
        Step { line: 7, on: On::Client, action: Action::Run("true {{own}}".to_owned()) },
        Step { line: 10, on: On::Node1, action: Action::Wait(Duration::from_millis(250)) },
        Step { line: 12, on: On::Node2, action: Action::Kill(Which::Keepalived) },
        Step { line: 15, on: On::Node1, action: Action::Assert(owner) },
    ];
    assert_eq!(case.steps, all);
}

#[test]
fn another_node_s_nic_can_be_taken() {
    let taken = |on| {
        let case = parsed(&format!("nodes = 3\n[[steps]]\nsequence = \"bind\"\non = \"{on}\"\n"));
        let config = case.unwrap().config(DatapathKind::Bridge);
        (config.nodes.len(), config.taken)
    };
    assert_eq!(taken("node1"), (3, Taken::One));
    assert_eq!(taken("node3"), (3, Taken::All));
}

#[test]
fn what_is_wrong_has_a_place() {
    for (more, place, words) in [
        ("shild = \"off\"", "7:1", "unknown field `shild`"),
        ("nodes = 4", "7:9", "2 or 3 nodes"),
        ("vips = [\"192.0.2.10\", \"2001:db8::10\"]", "7:23", "see `stack`"),
        ("vips = [\"192.0.2.256\"]", "7:9", "IP address"),
        ("before = [\"echo {{peer}}\"]", "7:17", "no placeholder \"peer\": there are name,"),
        ("[[files]]\nname = \"a/b\"\ntext = \"\"", "8:8", "no path"),
        ("[[files]]\nname = \"a\"\ntext = '''\n\n {{x}}'''", "11:2", "no placeholder"),
        ("[[steps]]\n\n[[steps]]\nwait = \"1s\"", "7:1", "a step is one of"),
        ("[[steps]]\nwait = \"1s\"\ncable = \"out\"", "7:1", "a step is one of"),
        ("[[steps]]\nwait = \"1m\"", "8:8", "no time"),
        ("[[steps]]\nwait = \"1s\"\non = \"node2\"", "9:6", "nothing to wait"),
        ("[[steps]]\ncable = \"out\"\non = \"client\"", "9:6", "nodes alone"),
        ("[[steps]]\nrun = \"true\"\non = \"node3\"", "9:6", "see `nodes`"),
        ("[[steps]]\nsequence = \"bond\"", "8:12", "unknown variant `bond`"),
        ("[[steps]]\nassert = { quite = \"4s\" }", "8:12", "unknown field `quite`"),
    ] {
        let said = parsed(more).unwrap_err();
        assert!(said.starts_with(&format!("some.toml:{place}: ")), "{more:?}: {said}");
        assert!(said.contains(words), "{more:?}: {said}");
    }
    let none = Case::parse("x.toml", "about = \"\"\nconfiguration = \"global_defs {}\"\n");
    let said = none.unwrap_err().to_string();
    assert_eq!(
        said,
        "x.toml:2:17: the configuration has no vrrp_instance: nothing would have a VIP\n \
         2 | configuration = \"global_defs {}\"\n   |                 ^"
    );
}
