//! Files that are taken, and what comes of them.

mod wrong;

use std::fs;

use clap::Parser as _;
use proptest::prelude::*;

use super::*;
use crate::{
    cli::{Cli, Command},
    engine::{OnStop, rules},
};

/// Everything that there can be.
const ALL: &str = r#"# All of it.
interfaces = ["ens192", "bond*"]
deadline = "1s 500ms"
on_stop = "release"
metrics = "127.0.0.1:9591"

daemons = [
    "keepalived",
    { path = "/opt/vrrp/sbin/keepalived", cgroup = "*/keepalived.service" },
]

[[rules]]
table = "guard"
name = "carrier-of-bonds"
when = { message = "carrier-loss", interface = "bond*", phase = ["leaving", "returning"], role = "backup" }
then = "pass"
why = "Their carrier is another machine's."

[[rules]]
table = "telling"
name = "quick-addresses"
when = { untrue = "address", for = "500ms" }
then = "tell"
"#;

fn said_of(text: &str) -> String {
    match File::parse("vipshield.toml", text) {
        Ok(_) => "taken".to_owned(),
        Err(problems) => problems.to_string(),
    }
}

#[test]
fn all_that_a_file_can_say_is_taken() {
    let file = File::parse("vipshield.toml", ALL).unwrap();
    assert_eq!(file.interfaces, ["ens192", "bond*"]);
    assert_eq!(file.deadline, Some(Duration::from_millis(1500)));
    assert_eq!(file.on_stop, Some(Leave::Release));
    assert_eq!(file.metrics, Some("127.0.0.1:9591".parse().unwrap()));
    let daemons: Vec<String> = file.daemons.iter().map(ToString::to_string).collect();
    assert_eq!(daemons, ["keepalived", "/opt/vrrp/sbin/keepalived in */keepalived.service"]);
    let lines = rules::lines(file.rules());
    let own: Vec<String> = lines
        .iter()
        .filter(|line| ["carrier-of-bonds", "quick-addresses"].contains(&line.name.as_ref()))
        .map(|line| {
            format!("{} | {} | {} | {} | {}", line.table, line.name, line.when, line.then, line.why)
        })
        .collect();
    assert_eq!(
        own,
        [
            "guard | carrier-of-bonds | message carrier-loss, interface bond*, phase leaving or returning, \
             this node is backup | pass | Their carrier is another machine's.",
            "telling | quick-addresses | the address, for 500 ms | tell the daemons | The configuration says so.",
        ]
    );
    let first = |table: &str| {
        lines.iter().find(|line| line.table == table).map(|line| line.name.to_string())
    };
    assert_eq!(first("guard").as_deref(), Some("carrier-of-bonds"), "before the built-in ones");
    assert_eq!(first("telling").as_deref(), Some("quick-addresses"));
    assert_eq!(File::parse("vipshield.toml", "").unwrap(), File::default());
}

#[test]
fn a_file_that_is_named_has_to_be_there_and_be_a_text() {
    let directory = std::env::temp_dir().join(format!("vipshield-config-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let said = |path: &Path| File::read(Some(path)).map(|_| ()).unwrap_err().to_string();
    let path = directory.join("vipshield.toml");
    assert!(said(&path).contains("No such file"), "{}", said(&path));
    assert!(said(&directory).contains("it is no regular file"), "{}", said(&directory));
    fs::write(&path, b"interfaces = \"ens192\"\n# \xff\n").unwrap();
    assert!(said(&path).contains(":2:3: what follows is not UTF-8"), "{}", said(&path));
    fs::write(&path, "interfaces = \"ens192\"\n").unwrap();
    assert_eq!(File::read(Some(&path)).unwrap().unwrap().interfaces, ["ens192"]);
    fs::write(&path, " ".repeat(300 * 1024)).unwrap();
    assert!(said(&path).contains("larger than 256 KiB"), "{}", said(&path));
    fs::remove_dir_all(&directory).unwrap();
}

fn run(arguments: &[&str]) -> Run {
    let all = ["vipshield", "run"].iter().chain(arguments);
    match Cli::try_parse_from(all).unwrap().command {
        Command::Run(run) => run,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_command_line_comes_before_the_file_and_that_before_the_defaults() {
    let file = || Some(File::parse("vipshield.toml", ALL).unwrap());
    let none = Settings::new(&run(&[]), None);
    assert_eq!(none.deadline, Duration::from_millis(1900));
    assert_eq!((none.on_stop, none.metrics), (Leave::Keep, "127.0.0.1:9590".parse().unwrap()));
    assert_eq!(none.daemons, [Wanted::named("keepalived".to_owned())]);
    assert!(none.interfaces.is_empty());
    let filed = Settings::new(&run(&[]), file());
    assert_eq!(filed.deadline, Duration::from_millis(1500));
    assert_eq!((filed.on_stop, filed.daemons.len()), (Leave::Release, 2));
    let given = run(&[
        "--deadline",
        "800",
        "--on-stop",
        "keep",
        "--metrics",
        "off",
        "--interface",
        "ens224",
        "--daemon",
        "vrrpd",
    ]);
    let given = Settings::new(&given, file());
    assert_eq!(given.deadline, Duration::from_millis(800));
    assert_eq!((given.on_stop, given.metrics), (Leave::Keep, Metrics::Off));
    assert_eq!(given.interfaces, ["ens224"]);
    assert_eq!(given.daemons, [Wanted::named("vrrpd".to_owned())]);
    assert_eq!(given.rules, filed.rules);
}

fn config() -> crate::engine::Config {
    crate::engine::Config {
        interfaces: Vec::new(),
        deadline: DEADLINE,
        replay_port: 7,
        own_addresses: Vec::new(),
        on_stop: OnStop::Keep,
        rules: OwnRules::default(),
        observe: false,
    }
}

#[test]
fn a_file_is_taken_anew_wholly_or_not_at_all() {
    let path = std::env::temp_dir().join(format!("vipshield-reload-{}.toml", std::process::id()));
    let given = run(&["--config", path.to_str().unwrap()]);
    fs::write(&path, "").unwrap();
    let settings = Settings::new(&given, File::read(Some(&path)).unwrap());
    let mut reloader = Reloader::new(given, settings, true);
    assert!(matches!(reloader.reload(&config()), Ok(Reloaded::Same)));
    fs::write(&path, "deadline = \"1s\"\nmetrics = \"off\"\ndaemons = \"vrrpd\"\n").unwrap();
    let said = reloader.reload(&config()).unwrap_err().to_string();
    assert_eq!(
        said,
        "the daemons are keepalived and cannot become vrrpd while it runs; metrics are at 127.0.0.1:9590 \
         and cannot move to off while it runs: restart vipshield for that (nothing has changed)"
    );
    fs::write(&path, "deadline = \"1s\"\non_stop = 5\n").unwrap();
    assert!(
        reloader.reload(&config()).unwrap_err().to_string().contains(":2:11: on_stop is a string")
    );
    fs::write(&path, "deadline = \"1s\"\ninterfaces = \"ens*\"\n").unwrap();
    let Ok(Reloaded::Taken(taken)) = reloader.reload(&config()) else { panic!("not taken") };
    assert_eq!((taken.deadline, taken.replay_port), (Duration::from_secs(1), 7));
    assert_eq!(taken.interfaces, ["ens*"]);
    assert!(matches!(reloader.reload(&taken), Ok(Reloaded::Same)));
    fs::remove_file(&path).unwrap();
    assert!(reloader.reload(&taken).is_err(), "it was named");
}

/// The kubelet swaps a directory behind a symbolic link.
#[test]
fn what_a_config_map_has_is_taken_anew() {
    use std::os::unix::fs::symlink;

    let mount = std::env::temp_dir().join(format!("vipshield-mount-{}", std::process::id()));
    let put = |version: &str, text: &str| {
        fs::create_dir_all(mount.join(version)).unwrap();
        fs::write(mount.join(version).join("vipshield.toml"), text).unwrap();
        symlink(version, mount.join("..data_tmp")).unwrap();
        fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
    };
    put("..1", "");
    let path = mount.join("vipshield.toml");
    symlink("..data/vipshield.toml", &path).unwrap();
    let given = run(&["--config", path.to_str().unwrap()]);
    let settings = Settings::new(&given, File::read(Some(&path)).unwrap());
    let mut reloader = Reloader::new(given, settings, true);
    assert!(matches!(reloader.reload(&config()), Ok(Reloaded::Same)));
    put("..2", "deadline = \"1s\"\n");
    fs::remove_dir_all(mount.join("..1")).unwrap();
    let Ok(Reloaded::Taken(taken)) = reloader.reload(&config()) else { panic!("not taken") };
    assert_eq!(taken.deadline, Duration::from_secs(1));
    // The ConfigMap is deleted: what was in force stays.
    fs::remove_file(mount.join("..data")).unwrap();
    assert!(reloader.reload(&taken).is_err());
    fs::remove_dir_all(&mount).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = said_of(&String::from_utf8_lossy(&bytes));
    }

    /// A good file with some of its bytes replaced, doubled or left out.
    #[test]
    fn nothing_that_was_a_good_file_makes_it_panic(
        deeds in proptest::collection::vec((0..ALL.len(), 0..4_u8, any::<u8>(), 0..30_usize), 1..6),
    ) {
        let mut bytes = ALL.as_bytes().to_vec();
        for (at, deed, byte, length) in deeds {
            let at = at.min(bytes.len().saturating_sub(1));
            let end = (at + length).min(bytes.len());
            match deed {
                0 => bytes[at] = byte,
                1 => drop(bytes.drain(at..end)),
                2 => { let part = bytes[at..end].to_vec(); bytes.splice(at..at, part); }
                _ => bytes.insert(at, b"\"[]{}=,.\n#"[usize::from(byte) % 10]),
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        match File::parse("f", &text) {
            Ok(file) => {
                // Whatever it says, what is printed of it is whole.
                prop_assert!(rules::lines(file.rules()).len() >= rules::lines(&OwnRules::default()).len());
            }
            Err(problems) => prop_assert!(problems.to_string().starts_with("f:")),
        }
    }
}

#[test]
fn what_the_documents_show_is_taken() {
    let page = include_str!("../../../../docs/CONFIGURATION.md");
    let example = page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let file = File::parse("CONFIGURATION.md", example).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((file.rules.guard.len(), file.rules.telling.len()), (1, 1));
    for key in parse::KEYS {
        assert!(page.contains(&format!("| `{key}` |")), "{key}");
    }
    for message in crate::engine::Message::ALL {
        assert!(page.contains(&format!("`{message}`")), "{message}");
    }
}
