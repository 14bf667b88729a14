//! Cases: what somebody's nodes are like, and what happens to them, as data. docs/CASES.md has the format.

mod mistake;
mod placeholder;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use toml::Spanned;

pub use self::mistake::Mistake;
pub(crate) use self::placeholder::fill;
use crate::config::{DatapathKind, InstanceConfig, LabConfig, Prefix, Taken};
use crate::sequence::Sequence;
use crate::stack::Stack;

/// The files of `cases/`, by the names of their cases.
pub(crate) const FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/cases.rs"));

/// keepalived's arguments where a case names none.
const ARGUMENTS: [&str; 2] = ["-D", "-P"];
/// How long nothing may happen where a case says no more.
const QUIET: Duration = Duration::from_secs(4);

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct Case {
    /// That of its file.
    pub name: String,
    /// What it is like, in one line.
    pub about: String,
    /// Whether it is run only if named or asked for.
    pub extra: bool,
    /// Modules that the kernel has to have; where it has not, the case is skipped.
    pub modules: Vec<String>,
    /// Programs that have to be there, by their paths; the same.
    pub programs: Vec<PathBuf>,
    /// Whether vipshield guards the nodes whose NIC is taken, and since when.
    pub shield: Shield,
    /// Shell commands for each node, before any keepalived runs.
    pub before: Vec<String>,
    /// What happens then.
    pub steps: Vec<Step>,
    nodes: u8,
    stack: Stack,
    vips: Vec<IpAddr>,
    instances: Vec<String>,
    raw: Raw,
}

/// keepalived as a case has it, with placeholders.
#[derive(Clone, Debug)]
pub struct Raw {
    /// Its configuration.
    pub configuration: String,
    /// Files beside that.
    pub files: Vec<CaseFile>,
    /// Its arguments.
    pub arguments: Vec<String>,
}

/// A file of a case.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseFile {
    /// Its name in `{{dir}}`.
    pub name: Spanned<String>,
    /// Whether it is a program.
    #[serde(default)]
    pub executable: bool,
    /// What it says.
    pub text: Spanned<String>,
}

/// Whether vipshield runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shield {
    /// It is started before keepalived is.
    Before,
    /// It is started when keepalived runs, and has an owner.
    #[default]
    After,
    /// It is not started.
    Off,
}

/// A host of the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum On {
    /// The owner to begin with; the one whose NIC is taken if nothing else is said.
    Node1,
    /// Another node.
    Node2,
    /// A third one.
    Node3,
    /// The host that looks at the VIP from outside.
    Client,
}

impl On {
    /// The position of a node.
    #[must_use]
    pub const fn node(self) -> Option<usize> {
        match self {
            Self::Node1 => Some(0),
            Self::Node2 => Some(1),
            Self::Node3 => Some(2),
            Self::Client => None,
        }
    }
}

/// What can be killed and started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Which {
    /// Both of its processes.
    Keepalived,
    /// Its one process.
    Vipshield,
}

/// What becomes of a cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cable {
    /// It is plugged in.
    In,
    /// It is pulled.
    Out,
}

/// A step, and its line in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Where it is written.
    pub line: usize,
    /// On which host.
    pub on: On,
    /// What happens.
    pub action: Action,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.action {
            Action::Sequence(sequence) => write!(f, "{sequence}")?,
            Action::Wait(_) => f.write_str("wait")?,
            Action::Run(_) => f.write_str("run")?,
            Action::Kill(_) => f.write_str("kill")?,
            Action::Start(_) => f.write_str("start")?,
            Action::Cable(_) => f.write_str("cable")?,
            Action::Assert(_) => f.write_str("assert")?,
        }
        // The usual steps are in no file.
        if self.line == 0 { Ok(()) } else { write!(f, " of line {}", self.line) }
    }
}

/// What happens in a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Kube-OVN does this to the NIC.
    Sequence(Sequence),
    /// Time goes by.
    Wait(Duration),
    /// A shell command, which has to succeed.
    Run(String),
    /// SIGKILL.
    Kill(Which),
    /// What was killed is started again.
    Start(Which),
    /// The NIC loses or regains the carrier.
    Cable(Cable),
    /// What has to be so since the last such step.
    Assert(Assert),
}

/// What has to be so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assert {
    /// For so long nothing happens: no instance changes its state, each VIP is on one node at a time, and
    /// the connections to them are alive.
    pub quiet: Option<Time>,
    /// The VIP is served by this node alone, within ten seconds.
    pub owner: Option<On>,
    /// So many times an instance told another state.
    pub transitions: Option<usize>,
    /// The longest time in which no probe of the VIP was answered.
    pub gap: Option<Time>,
    /// Words of `vipshield status` on the first node, within ten seconds.
    #[serde(default)]
    pub status: Vec<String>,
}

/// A time as it is written: `4s`, `250ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time(pub Duration);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let (number, unit) = match text.strip_suffix("ms") {
            Some(number) => (number, Duration::from_millis(1)),
            None => (text.strip_suffix('s').unwrap_or_default(), Duration::from_secs(1)),
        };
        match number.parse::<u16>() {
            Ok(number) => Ok(Self(unit * u32::from(number))),
            Err(_) => {
                Err(D::Error::custom(format!("{text:?} is no time: write \"4s\" or \"250ms\"")))
            }
        }
    }
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    about: String,
    #[serde(default)]
    extra: bool,
    #[serde(default)]
    modules: Vec<String>,
    #[serde(default)]
    programs: Vec<PathBuf>,
    #[serde(default)]
    shield: Shield,
    nodes: Option<Spanned<u8>>,
    #[serde(default)]
    stack: Stack,
    #[serde(default)]
    vips: Vec<Spanned<IpAddr>>,
    #[serde(default)]
    before: Vec<Spanned<String>>,
    configuration: Spanned<String>,
    #[serde(default)]
    files: Vec<CaseFile>,
    arguments: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    steps: Vec<Spanned<WrittenStep>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenStep {
    on: Option<Spanned<On>>,
    sequence: Option<Sequence>,
    wait: Option<Time>,
    run: Option<Spanned<String>>,
    kill: Option<Which>,
    start: Option<Which>,
    cable: Option<Cable>,
    assert: Option<Assert>,
}

/// Says where something is wrong.
struct Reader<'a> {
    file: &'a str,
    text: &'a str,
}

impl Reader<'_> {
    fn wrong(&self, at: &Range<usize>, what: &str) -> Mistake {
        Mistake::new(self.file, self.text, at, what)
    }

    /// The text, if all of its placeholders are known.
    fn filled(&self, text: Spanned<String>) -> Result<String, Mistake> {
        let span = text.span();
        // As it is in the file: so they have places there.
        let written = self.text.get(span.clone()).unwrap_or_default();
        for (place, name) in placeholder::all(written) {
            if !placeholder::NAMES.contains(&name) {
                let known = placeholder::NAMES.join(", ");
                let at = span.start + place.start..span.start + place.end;
                return Err(self.wrong(&at, &format!("no placeholder {name:?}: there are {known}")));
            }
        }
        Ok(text.into_inner())
    }

    fn all_filled(&self, texts: Vec<Spanned<String>>) -> Result<Vec<String>, Mistake> {
        texts.into_iter().map(|text| self.filled(text)).collect()
    }

    /// The names of the instances.
    fn instances(&self, configuration: &Spanned<String>) -> Result<Vec<String>, Mistake> {
        let names = configuration.get_ref().lines().filter_map(|line| {
            let name = line.trim_start().strip_prefix("vrrp_instance")?;
            Some(name.trim_matches(|c: char| c.is_whitespace() || c == '{').to_owned())
        });
        let names: Vec<String> = names.collect();
        if names.is_empty() {
            let what = "the configuration has no vrrp_instance: nothing would have a VIP";
            return Err(self.wrong(&configuration.span(), what));
        }
        Ok(names)
    }

    fn step(&self, step: Spanned<WrittenStep>, nodes: u8) -> Result<Step, Mistake> {
        let span = step.span();
        let line = self.text.get(..span.start).unwrap_or_default().matches('\n').count() + 1;
        let WrittenStep { on, sequence, wait, run, kill, start, cable, assert } = step.into_inner();
        let run = run.map(|run| self.filled(run)).transpose()?;
        let actions: Vec<Action> = [
            sequence.map(Action::Sequence),
            wait.map(|Time(time)| Action::Wait(time)),
            run.map(Action::Run),
            kill.map(Action::Kill),
            start.map(Action::Start),
            cable.map(Action::Cable),
            assert.map(Action::Assert),
        ]
        .into_iter()
        .flatten()
        .collect();
        let Ok([action]) = <[Action; 1]>::try_from(actions) else {
            let one = "a step is one of sequence, wait, run, kill, start, cable and assert";
            return Err(self.wrong(&span, one));
        };
        let Some(on) = on else { return Ok(Step { line, on: On::Node1, action }) };
        let (place, on) = (on.span(), on.into_inner());
        let wrong = match (&action, on.node()) {
            (Action::Wait(_) | Action::Assert(_), _) => "on means nothing to wait and assert",
            (Action::Run(_), None) => return Ok(Step { line, on, action }),
            (_, None) => "this happens to nodes alone",
            (_, Some(node)) if node >= usize::from(nodes) => "there is no such node: see `nodes`",
            (_, Some(_)) => return Ok(Step { line, on, action }),
        };
        Err(self.wrong(&place, wrong))
    }
}

impl Case {
    /// What a file says whose name, without its end, is that of the case.
    ///
    /// # Errors
    /// The first thing that is wrong with it, and where.
    pub fn parse(file: &str, text: &str) -> Result<Self, Mistake> {
        let reader = Reader { file, text };
        let written: Written = toml::from_str(text)
            .map_err(|error| reader.wrong(&error.span().unwrap_or(0..0), error.message()))?;
        let nodes = match written.nodes {
            None => 2,
            Some(nodes) if (2..=3).contains(nodes.get_ref()) => nodes.into_inner(),
            Some(nodes) => return Err(reader.wrong(&nodes.span(), "there are 2 or 3 nodes")),
        };
        for vip in &written.vips {
            let family = if vip.get_ref().is_ipv4() { Stack::Ipv6 } else { Stack::Ipv4 };
            if written.stack == family {
                return Err(reader.wrong(&vip.span(), "the nodes do not speak that: see `stack`"));
            }
        }
        let instances = reader.instances(&written.configuration)?;
        let files: Vec<CaseFile> = written.files;
        for file in &files {
            if file.name.get_ref().contains('/') {
                return Err(
                    reader.wrong(&file.name.span(), "a file is in {{dir}}: a name, no path")
                );
            }
            reader.filled(file.text.clone())?;
        }
        let steps = written.steps.into_iter().map(|step| reader.step(step, nodes));
        let mut steps: Vec<Step> = steps.collect::<Result<_, _>>()?;
        if steps.is_empty() {
            steps = usual();
        }
        let arguments = match written.arguments {
            Some(arguments) => reader.all_filled(arguments)?,
            None => ARGUMENTS.map(str::to_owned).into(),
        };
        let stem = Path::new(file).file_stem().unwrap_or_default();
        Ok(Self {
            name: stem.to_string_lossy().into_owned(),
            about: written.about,
            extra: written.extra,
            modules: written.modules,
            programs: written.programs,
            shield: written.shield,
            before: reader.all_filled(written.before)?,
            steps,
            nodes,
            stack: written.stack,
            vips: written.vips.into_iter().map(Spanned::into_inner).collect(),
            instances,
            raw: Raw { configuration: reader.filled(written.configuration)?, files, arguments },
        })
    }

    /// The lab that it is played in.
    #[must_use]
    pub fn config(&self, datapath: DatapathKind) -> LabConfig {
        let mut config = LabConfig::stacked(datapath, self.stack);
        let vips = if self.vips.is_empty() { config.watched() } else { self.vips.clone() };
        if self.nodes == 3 {
            config.add_node(self.stack);
        }
        let moved =
            |step: &Step| matches!(step.action, Action::Sequence(_)) && step.on != On::Node1;
        if self.steps.iter().any(moved) {
            config.taken = Taken::All;
        }
        let addresses = vips
            .iter()
            .map(|vip| Prefix { address: *vip, length: if vip.is_ipv4() { 32 } else { 128 } });
        // Whose address is whose is the configuration's affair.
        let mut addresses: Vec<Prefix> = addresses.collect();
        config.instances = self
            .instances
            .iter()
            .map(|name| InstanceConfig {
                name: name.clone(),
                router_id: 0,
                addresses: std::mem::take(&mut addresses),
                unicast: false,
                nic: None,
                addresses_on: None,
                options: Vec::new(),
            })
            .collect();
        config.raw = Some(self.raw.clone());
        config
    }
}

/// What is done to a case that says nothing else.
fn usual() -> Vec<Step> {
    let mut steps = Vec::new();
    for sequence in [Sequence::Bind, Sequence::Unbind] {
        let quiet = Assert { quiet: Some(Time(QUIET)), ..Assert::default() };
        for action in [Action::Sequence(sequence), Action::Assert(quiet)] {
            steps.push(Step { line: 0, on: On::Node1, action });
        }
    }
    steps
}
