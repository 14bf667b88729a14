//! All that is said of files that are not taken.

use super::said_of;

#[test]
fn what_is_wrong_is_said_with_its_place_and_what_to_write() {
    for (text, expected) in [
        (
            "interface = \"ens192\"\n",
            "vipshield.toml:1:1: unknown key \"interface\": did you mean \"interfaces\"?\n \
             1 | interface = \"ens192\"\n   | ^^^^^^^^^",
        ),
        (
            "\nsocket = \"/run/x\"\n",
            "vipshield.toml:2:1: unknown key \"socket\": expected \"interfaces\", \"daemons\", \"deadline\", \
             \"on_stop\", \"metrics\" or \"rules\"\n 2 | socket = \"/run/x\"\n   | ^^^^^^",
        ),
        (
            "deadline = 1900\n",
            "vipshield.toml:1:12: deadline needs a unit: write \"1900ms\"\n 1 | deadline = 1900\n   |            ^^^^",
        ),
        (
            "deadline = \"soon\"\n",
            "vipshield.toml:1:12: \"soon\" is no time: write it as \"1900ms\" or \"1s 500ms\"\n \
             1 | deadline = \"soon\"\n   |            ^^^^^^",
        ),
        (
            "deadline = \"2h\"\n",
            "vipshield.toml:1:12: deadline is not between 50 ms and 60000 ms\n \
             1 | deadline = \"2h\"\n   |            ^^^^",
        ),
        (
            "on_stop = \"kepp\"\n",
            "vipshield.toml:1:11: unknown on_stop \"kepp\": did you mean \"keep\"?\n \
             1 | on_stop = \"kepp\"\n   |           ^^^^^^",
        ),
        (
            "metrics = \":9591\"\n",
            "vipshield.toml:1:11: \":9591\" is no address with a port: write \"127.0.0.1:9591\", or \"off\"\n \
             1 | metrics = \":9591\"\n   |           ^^^^^^^",
        ),
        (
            "metrics = false\n",
            "vipshield.toml:1:11: metrics is a string, not a boolean: write \"127.0.0.1:9590\" or \"off\"\n \
             1 | metrics = false\n   |           ^^^^^",
        ),
        (
            "interfaces = [\"ens192:1\"]\n",
            "vipshield.toml:1:15: \"ens192:1\" is no interface: an interface name has 1 to 15 bytes, without \
             spaces, '/' and ':'\n 1 | interfaces = [\"ens192:1\"]\n   |               ^^^^^^^^^^",
        ),
        (
            "interfaces = []\n",
            "vipshield.toml:1:14: interfaces is an empty list, which is never so: leave it out, or write \
             \"ens192\" or [\"ens192\", \"bond*\"]\n 1 | interfaces = []\n   |              ^^",
        ),
        (
            "daemons = [\"/usr/sbin/keepalived\"]\n",
            "vipshield.toml:1:12: \"/usr/sbin/keepalived\" is a path: write { path = \"/usr/sbin/keepalived\" }\n \
             1 | daemons = [\"/usr/sbin/keepalived\"]\n   |            ^^^^^^^^^^^^^^^^^^^^^^",
        ),
        (
            "daemons = [{ executable = \"keepalived\" }]\n",
            "vipshield.toml:1:12: a daemon has a name or a path: write name = \"keepalived\"\n \
             1 | daemons = [{ executable = \"keepalived\" }]\n   |            ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^\n\
             vipshield.toml:1:14: unknown key \"executable\" of a daemon: expected \"name\", \"path\" or \"cgroup\"\n \
             1 | daemons = [{ executable = \"keepalived\" }]\n   |              ^^^^^^^^^^",
        ),
        (
            "[rules]\n",
            "vipshield.toml:1:1: rules is a list of tables: write [[rules]], with two brackets, before each\n \
             1 | [rules]\n   | ^^^^^^^",
        ),
    ] {
        let said = said_of(text);
        assert!(said == expected, "{text}said:\n{said}\nexpected:\n{expected}");
    }
}

/// The rule with this `when`, in a file with what is before it.
fn rule(table: &str, before: &str, when: &str) -> String {
    let then = if table == "guard" { "pass" } else { "tell" };
    let text = format!(
        "{before}[[rules]]\ntable = \"{table}\"\nname = \"mine\"\nthen = \"{then}\"\nwhen = {{ {when} }}\n"
    );
    said_of(&text)
}

#[test]
fn what_is_wrong_with_a_rule_is_said() {
    for (table, before, when, expected) in [
        (
            "guard",
            "",
            "message = \"carier-loss\"",
            ":5:20: unknown message \"carier-loss\": did you mean \"carrier-loss\"?",
        ),
        (
            "guard",
            "",
            "interface = \"ens192\"",
            ":5:8: when has no \"message\": write message = \"carrier-loss\", or a list of messages",
        ),
        (
            "guard",
            "",
            "message = []",
            ":5:20: message is an empty list, which is never so: leave it out, or write \"address-removal\", \"admin-down\"",
        ),
        (
            "guard",
            "",
            "message = \"rename\", phase = \"lost\"",
            ":5:38: unknown phase \"lost\": expected \"free\", \"leaving\", \"bridged\", \"returning\" or \"down\"",
        ),
        (
            "guard",
            "",
            "message = \"rename\", role = \"master\"",
            ":5:37: unknown role \"master\": expected \"owner\" or \"backup\"",
        ),
        (
            "guard",
            "",
            "message = \"rename\", for = \"1s\"",
            ":5:30: unknown key \"for\" in when: expected \"message\", \"interface\", \"phase\" or \"role\"",
        ),
        (
            "guard",
            "interfaces = \"ens*\"\n",
            "message = \"rename\", interface = \"eno1\"",
            ":6:42: the rule never matches: \"eno1\" is none of the interfaces that are guarded (ens*)",
        ),
        (
            "guard",
            "",
            "message = [\"rename\", \"carrier-loss\"], phase = \"down\"",
            ":5:8: the rule never matches: in phase \"down\" the built-in rules pass that already",
        ),
        (
            "telling",
            "",
            "untrue = \"adress\"",
            ":5:19: unknown untrue \"adress\": did you mean \"address\"?",
        ),
        (
            "telling",
            "",
            "untrue = \"link\", for = \"1900ms\"",
            ":5:33: the rule never decides: daemons are told after 1900 ms in any case: write a shorter time",
        ),
        (
            "telling",
            "deadline = \"300ms\"\n",
            "untrue = \"link\", for = \"300ms\"",
            ":6:33: the rule never decides: daemons are told after 300 ms",
        ),
        (
            "telling",
            "",
            "for = \"1s\"",
            ":5:8: when has no \"untrue\": write untrue = \"link\" or untrue = \"address\"",
        ),
        (
            "policy",
            "",
            "message = \"rename\"",
            ":2:9: the table \"policy\" takes no rules of one's own: to have a message passed write table = \"guard\"",
        ),
        (
            "phase",
            "",
            "message = \"rename\"",
            ":2:9: the table \"phase\" takes no rules of one's own, for they could break what vipshield promises",
        ),
        ("vip", "", "message = \"rename\"", ":2:9: the table \"vip\" takes no rules of one's own"),
        (
            "gard",
            "",
            "message = \"rename\"",
            ":2:9: unknown table \"gard\": did you mean \"guard\"?",
        ),
    ] {
        let said = rule(table, before, when);
        assert!(said.contains(expected), "{table} {when}: {said}");
    }
}

#[test]
fn a_rule_that_may_decide_is_taken() {
    assert_eq!(
        rule("guard", "interfaces = \"ens*\"\n", "message = \"rename\", interface = \"e?s192\""),
        "taken"
    );
    assert_eq!(rule("guard", "", "message = \"address-removal\", phase = \"down\""), "taken");
    assert_eq!(rule("telling", "", "untrue = [\"link\", \"address\"], for = \"1899ms\""), "taken");
}

#[test]
fn a_rule_withholds_nothing_has_a_name_of_its_own_and_a_turn() {
    let guard = |name: &str, when: &str, then: &str| {
        format!(
            "[[rules]]\ntable = \"guard\"\nname = \"{name}\"\nwhen = {{ {when} }}\nthen = \"{then}\"\n"
        )
    };
    let any = "message = \"rename\"";
    let said = said_of(&guard("mine", any, "withhold"));
    let expected =
        ":5:8: in the table guard a rule of one's own can only pass: write then = \"pass\"";
    assert!(said.contains(expected), "{said}");
    for (name, expected) in [
        ("admin-down", "a built-in rule is called \"admin-down\": choose another name"),
        ("Mine", "a rule's name has 1 to 40 of a-z, 0-9 and -"),
    ] {
        let said = said_of(&guard(name, any, "pass"));
        assert!(said.contains(&format!(":3:8: {expected}")), "{said}");
    }
    let two = |first: &str, second: &str| {
        said_of(&(guard("first", first, "pass") + &guard("second", second, "pass")))
    };
    let said = two(any, "message = \"rename\", phase = \"free\"");
    let expected = ":9:8: the rule never matches: \"first\" before it decides all of it: take one of the two out";
    assert!(said.contains(expected), "{said}");
    assert_eq!(two("message = \"rename\", phase = \"free\"", any), "taken");
    assert_eq!(
        two(
            "message = \"rename\", interface = \"ens*\"",
            "message = \"rename\", interface = \"e*\""
        ),
        "taken"
    );
    let said = two(
        "message = \"rename\", interface = \"ens*\"",
        "message = \"rename\", interface = \"ens1*\"",
    );
    assert!(said.contains("never matches"), "{said}");
    let said =
        said_of(&(guard("same", any, "pass") + &guard("same", "message = \"admin-down\"", "pass")));
    assert!(said.contains(":8:8: another rule is called \"same\""), "{said}");
    let said = said_of("[[rules]]\nwhen = 5\n");
    for expected in ["has no name", "when is a table"] {
        assert!(said.contains(expected), "all of it at once: {said}");
    }
}

#[test]
fn what_is_no_toml_is_said_with_its_place() {
    let said = said_of("interfaces = [\"ens192\"\ndeadline = \"1s\"\n");
    assert!(said.starts_with("vipshield.toml:"), "{said}");
    let said = said_of("deadline = \"1s\"\ndeadline = \"2s\"\n");
    assert!(said.starts_with("vipshield.toml:2:1: duplicate key"), "{said}");
}

#[test]
fn what_is_shown_fits_a_terminal() {
    let long = format!("interfaces = [\"{}\", 5]\n\u{1b}[2J = 1\n", "x".repeat(300));
    let said = said_of(&long);
    assert!(
        said.lines().filter(|line| line.starts_with(' ')).all(|line| line.chars().count() < 140),
        "{said}"
    );
    assert!(!said.contains('\u{1b}'), "{said:?}");
}
