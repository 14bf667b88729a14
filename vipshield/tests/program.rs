//! The program as it is called, where no privilege is needed: what it logs, and `vipshield events --follow`.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "what is not as it should be fails the test"
)]

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{fs::MetadataExt as _, net::UnixListener},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use serde_json::{Value, json};

/// Nothing here takes longer, on any machine.
const LIMIT: Duration = Duration::from_mins(1);

fn vipshield() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vipshield"));
    let ours = ["VIPSHIELD_LOG_FORMAT", "VIPSHIELD_CONFIG", "JOURNAL_STREAM", "RUST_LOG"];
    for name in ours {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("vipshield-{name}-{}", std::process::id()))
}

/// What a vipshield logs that finds no configuration file, and ends.
fn logged(
    name: &str,
    arguments: &[&str],
    variables: impl Fn(&File) -> Vec<(&'static str, String)>,
) -> String {
    let path = path(name);
    let file = File::create(&path).unwrap();
    let status = vipshield()
        .args(["run", "--config", "/nonexistent/vipshield.toml"])
        .args(arguments)
        .envs(variables(&file))
        .stderr(file)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(1));
    let text = fs::read_to_string(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(text.contains("/nonexistent/vipshield.toml"), "{text}");
    text
}

fn none(_: &File) -> Vec<(&'static str, String)> {
    Vec::new()
}

fn is_json(text: &str) -> bool {
    text.lines().all(|line| {
        serde_json::from_str(line).is_ok_and(|line: Value| {
            ["time", "level", "target", "message"].iter().all(|key| line[key].is_string())
        })
    })
}

#[test]
fn the_log_is_text_or_json() {
    let text = logged("text", &[], none);
    assert!(text.starts_with('[') && text.contains(" ERROR vipshield] "), "{text}");
    assert!(is_json(&logged("json", &["--log-format", "json"], none)));
    let variable = |_: &File| vec![("VIPSHIELD_LOG_FORMAT", "json".to_owned())];
    let line = logged("variable", &[], variable);
    assert!(is_json(&line), "{line}");
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["level"], "error");
    let time = line["time"].as_str().unwrap();
    assert!(time.len() == 24 && time.ends_with('Z') && &time[10..11] == "T", "{time}");
    // The command line comes first.
    assert!(!is_json(&logged("both", &["--log-format", "text"], variable)));
    let wrong = vipshield().args(["run", "--log-format", "xml"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("[possible values: text, json]"));
}

#[test]
fn the_journal_and_nothing_else_is_given_priorities() {
    let journal = |file: &File| {
        let stat = file.metadata().unwrap();
        vec![("JOURNAL_STREAM", format!("{}:{}", stat.dev(), stat.ino()))]
    };
    let text = logged("journal", &[], journal);
    assert!(text.starts_with("<3>["), "{text}");
    let text = logged("journal-json", &["--log-format", "json"], journal);
    assert!(text.strip_prefix("<3>").is_some_and(is_json), "{text}");
    // Inherited by somebody whose output goes elsewhere.
    let elsewhere = |_: &File| vec![("JOURNAL_STREAM", "1:1".to_owned())];
    assert!(logged("elsewhere", &[], elsewhere).starts_with('['));
}

/// A control socket that gives these answers, one after the other, and the last one again and again. What comes out
/// of it are the questions.
fn answering(name: &str, answers: Vec<Value>) -> (PathBuf, mpsc::Receiver<Value>) {
    let path = path(name);
    let listener = UnixListener::bind(&path).unwrap();
    let (asked, questions) = mpsc::channel();
    thread::spawn(move || {
        let last = answers.last().cloned().into_iter().cycle();
        for answer in answers.into_iter().chain(last) {
            let (mut stream, _) = listener.accept().unwrap();
            let mut question = String::new();
            BufReader::new(&stream).read_line(&mut question).unwrap();
            writeln!(stream, "{answer}").unwrap();
            if asked.send(serde_json::from_str(&question).unwrap()).is_err() {
                return;
            }
        }
    });
    (path, questions)
}

fn event(number: u64) -> Value {
    json!({ "number": number, "ago_ms": 1, "weight": "info", "nic": "ens192", "text": format!("event {number}") })
}

/// How it ends, which it has to.
fn ended(mut child: Child) -> ExitStatus {
    let id = child.id();
    let (send, receive) = mpsc::channel();
    thread::spawn(move || send.send(child.wait()));
    receive
        .recv_timeout(LIMIT)
        .unwrap_or_else(|_| {
            Command::new("kill").arg(id.to_string()).status().ok();
            panic!("it goes on without a reader");
        })
        .unwrap()
}

/// Follows until three lines were read, goes away, and returns them.
fn three_lines(name: &str, arguments: &[&str], answers: Vec<Value>) -> Vec<String> {
    let (socket, questions) = answering(name, answers);
    let mut child = vipshield()
        .args(["events", "--follow", "--socket"])
        .arg(&socket)
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let stderr = child.stderr.take().unwrap();
    // The reader is dropped behind the third.
    let lines: Vec<String> = stdout.lines().take(3).map(Result::unwrap).collect();
    assert_eq!(ended(child).code(), Some(0));
    let complaints: Vec<String> = BufReader::new(stderr).lines().map(Result::unwrap).collect();
    assert_eq!(complaints, [""; 0]);
    assert_eq!(questions.recv().unwrap(), json!({ "request": "events" }));
    fs::remove_file(socket).unwrap();
    lines
}

#[test]
fn events_are_followed_one_object_a_line_and_each_once() {
    let answers = vec![json!([event(1), event(2)]), json!([event(1), event(2), event(3)])];
    let lines = three_lines("follow-json", &["-o", "json"], answers);
    let events: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events, [event(1), event(2), event(3)]);
}

#[test]
fn who_follows_as_text_goes_on_with_the_next_vipshield() {
    // The second one counts anew.
    let answers = vec![json!([event(7), event(8)]), json!([event(1)])];
    let lines = three_lines("follow-text", &[], answers);
    for (line, text) in lines.iter().zip(["event 7", "event 8", "event 1"]) {
        assert!(line.ends_with(text), "{lines:?}");
    }
}
