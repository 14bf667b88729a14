//! Routing rules of others: they decide as they do without vipshield, wherever they stand.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::scene::{failover, phase, still};
use super::{Context, Runs, Scenario, ground};
use crate::clock;
use crate::config::{LabConfig, Prefix};
use crate::lab::Lab;
use crate::measure::{self, Role};
use crate::process::Program;
use crate::sequence::{Answer, Hooks, Sequence, Step, StepKind, Verdict};

/// For how long a node that is prepared for a transition is asked where packets go.
const WATCH: Duration = Duration::from_millis(500);

/// A node of which somebody has arranged the rules.
struct SetUp {
    name: &'static str,
    about: &'static str,
    /// Before vipshield starts.
    before: &'static [&'static str],
    /// While it is prepared for a transition that does not come.
    prepared: &'static [&'static str],
    /// Within bind and unbind.
    midway: &'static [&'static str],
    /// Where packets go in any case: destination, mark, and what of the answer is to be there.
    decided: &'static [(&'static str, u32, &'static str)],
    /// What the status says if nothing can be carried.
    refusal: Option<&'static str>,
}

/// What belongs to the node itself.
const OWN: (&str, u32, &str) = ("192.0.2.11", 0, "local");
const VIP: (&str, u32, &str) = ("192.0.2.10", 0, "local");
const OWN_SIX: (&str, u32, &str) = ("2001:db8::11", 0, "local");

/// What TPROXY needs, as its documentation has it: without a priority.
const TPROXY: &str = "ip rule add fwmark 1 lookup 100; \
                      ip route add local default dev lo table 100; \
                      ip -6 rule add fwmark 1 lookup 100; \
                      ip -6 route add local default dev lo table 100";

const SET_UPS: [SetUp; 5] = [
    SetUp {
        name: "local-behind",
        about: "the local table comes behind rules of others, as with VRFs",
        before: &[
            "ip rule add pref 1000 l3mdev; ip -6 rule add pref 1000 l3mdev",
            "ip rule add pref 32765 lookup local; ip rule del pref 0",
            "ip -6 rule add pref 32765 lookup local; ip -6 rule del pref 0",
        ],
        prepared: &[],
        midway: &[],
        decided: &[OWN, VIP, OWN_SIX],
        refusal: None,
    },
    SetUp {
        name: "fwmark",
        about: "rules without a priority, as TPROXY's, at any time",
        before: &[TPROXY],
        prepared: &[
            "ip rule add fwmark 2 lookup 100; ip -6 rule add fwmark 2 lookup 100",
            // In the very place that is left before the main table's.
            "ip rule add pref 32765 fwmark 3 lookup 100",
            "ip -6 rule add pref 32765 fwmark 3 lookup 100",
        ],
        midway: &[
            "ip rule add pref 32765 fwmark 4 lookup 100",
            "ip -6 rule add pref 32765 fwmark 4 lookup 100",
            "ip rule del fwmark 4; ip -6 rule del fwmark 4",
        ],
        decided: &[
            OWN,
            VIP,
            OWN_SIX,
            ("203.0.113.9", 1, "local"),
            ("192.0.2.77", 1, "local"),
            ("2001:db8::77", 1, "local"),
            ("2001:db8:9::9", 1, "local"),
        ],
        refusal: None,
    },
    SetUp {
        name: "local-moved",
        about: "the local table is moved behind rules of others at any time",
        before: &[],
        prepared: &["ip rule add pref 32765 lookup local && ip rule del pref 0"],
        midway: &[
            "ip -6 rule add pref 32765 lookup local && ip -6 rule del pref 0",
            "ip rule add pref 0 lookup local && ip rule del pref 32765 lookup local",
        ],
        decided: &[OWN, VIP, OWN_SIX],
        refusal: None,
    },
    SetUp {
        name: "main-first",
        about: "the main table comes before rules of others",
        before: &[
            "ip rule add pref 500 fwmark 1 lookup 100",
            "ip route add local default dev lo table 100",
            "ip rule add pref 1000 lookup main",
        ],
        prepared: &["ip rule del pref 32766"],
        midway: &[],
        decided: &[OWN, VIP, OWN_SIX, ("203.0.113.9", 1, "local"), ("192.0.2.77", 1, "local")],
        refusal: None,
    },
    SetUp {
        name: "main-for-some",
        about: "the main table is not for everything: nothing is carried, and that is said",
        before: &[
            "ip rule add pref 32766 from 192.0.2.0/24 lookup main",
            "ip rule del pref 32766 from all lookup main",
        ],
        prepared: &[],
        midway: &[],
        decided: &[OWN, VIP, OWN_SIX],
        refusal: Some("IPv4 is not carried"),
    },
];

pub(super) fn scenarios() -> Vec<Scenario> {
    SET_UPS
        .iter()
        .map(|set_up| {
            let name = format!("rules-{}", set_up.name);
            let directory = name.clone();
            Scenario::new(&name, set_up.about, true, move |context| {
                let directory = directory.clone();
                async move { Box::pin(play(context, set_up, &directory)).await }
            })
        })
        .collect()
}

async fn play(context: Context, set_up: &SetUp, directory: &str) -> Runs {
    let mut config = LabConfig::new(context.datapath);
    let six = |last: u16| Prefix {
        address: std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last).into(),
        length: 64,
    };
    for (node, last) in config.nodes.iter_mut().zip(0x11..) {
        node.addresses.push(six(last));
    }
    config.client.push(six(0x100));
    let mut lab = Lab::build(config).await?;
    let outcome = played(&context, &mut lab, set_up).await;
    if let Some(logs) = &context.logs {
        lab.save_logs(&logs.join(directory))?;
    }
    outcome.map(|()| Vec::new())
}

async fn played(context: &Context, lab: &mut Lab, set_up: &SetUp) -> Result<()> {
    measure::elect(lab, Role::Master).await?;
    commands(lab, set_up.before)?;
    let before = ways(lab, set_up).await?;
    lab.start_vipshield(0, &context.vipshield).await?;
    prepared(lab, set_up, &before).await.context("with nothing under way")?;
    let from = clock::now();
    if set_up.refusal.is_none() {
        for (sequence, settled) in [(Sequence::Bind, "bridged"), (Sequence::Unbind, "free")] {
            let mut hook = EachStep { lab, set_up, failed: None };
            sequence.run(lab, &mut hook).await.outcome?;
            hook.failed.map_or(Ok(()), Err).with_context(|| sequence.to_string())?;
            phase(lab, 0, settled, Duration::from_secs(5)).await?;
            decided(lab, set_up).await.with_context(|| format!("after {sequence}"))?;
        }
        clock::pass(failover(lab)).await;
    }
    still(lab, from)?;
    lab.node_mut(0)?.vipshield.take().context("vipshield does not run")?.stop().await?;
    decided(lab, set_up).await.context("after vipshield's end")
}

/// A new bridge has vipshield prepare for a transition: every packet goes where it went.
async fn prepared(lab: &Lab, set_up: &SetUp, before: &[String]) -> Result<()> {
    lab.node(0)?.host.shell("ip link add vipshield-sign type bridge")?;
    let vipshield = lab.node(0)?.vipshield.as_ref().context("vipshield does not run")?;
    clock::until("rules, or a word why not", Duration::from_secs(5), async || {
        let status = vipshield.status().await?;
        let warnings = status.get("warnings").and_then(Value::as_array).into_iter().flatten();
        let mut warnings = warnings.filter_map(Value::as_str);
        Ok(match set_up.refusal {
            Some(refusal) => warnings.any(|warning| warning.contains(refusal)).then_some(()),
            None => (!ground::rules(lab.node(0)?)?.is_empty()).then_some(()),
        })
    })
    .await?;
    let same = async || {
        let until = clock::now() + WATCH;
        while clock::now() < until {
            let now = ways(lab, set_up).await?;
            ensure!(now == before, "packets go {now:#?}, not {before:#?}");
        }
        decided(lab, set_up).await
    };
    same().await?;
    commands(lab, set_up.prepared)?;
    same().await?;
    lab.node(0)?.host.shell("ip link delete vipshield-sign")
}

fn commands(lab: &Lab, commands: &[&str]) -> Result<()> {
    commands.iter().try_for_each(|command| lab.node(0)?.host.shell(command))
}

/// Where packets go that nobody has decided about, while nothing is under way.
async fn ways(lab: &Lab, set_up: &SetUp) -> Result<Vec<String>> {
    let free = ["192.0.2.77", "192.0.2.100", "203.0.113.9", "2001:db8::77", "2001:db8::100"];
    let free = free.into_iter().flat_map(|to| [(to, 0), (to, 7)]);
    let decided = set_up.decided.iter().map(|(to, mark, _)| (*to, *mark));
    let mut ways = Vec::new();
    for (to, mark) in free.chain(decided) {
        ways.push(format!("{to} mark {mark}: {}", way(lab, to, mark).await?));
    }
    Ok(ways)
}

/// What somebody's rules, or the local table, decide about goes where they say.
async fn decided(lab: &Lab, set_up: &SetUp) -> Result<()> {
    for (to, mark, expected) in set_up.decided {
        let way = way(lab, to, *mark).await?;
        ensure!(way.contains(expected), "{to} with mark {mark} goes {way:?}, not {expected}");
    }
    Ok(())
}

/// Where the first node would send a packet.
async fn way(lab: &Lab, to: &str, mark: u32) -> Result<String> {
    route_get(lab, &format!("{to} mark {mark}")).await
}

/// What `ip route get` says of the first node: local or not, by which gateway and interface, from where.
pub(super) async fn route_get(lab: &Lab, question: &str) -> Result<String> {
    let ask = Program::new("ip route get", "ip", lab.token());
    let ask = ask.args(["-o", "route", "get"]).args(question.split(' '));
    let host = &lab.node(0)?.host;
    let text = match ask.inside(&host.namespace).succeed(Duration::from_secs(5)).await {
        Ok(text) => text,
        Err(error) => return Ok(format!("nowhere: {error:#}")),
    };
    let words: Vec<&str> = text.split_whitespace().collect();
    let kind = words.first().copied().filter(|word| *word == "local").unwrap_or("on");
    let said = words.windows(2).filter(|pair| matches!(pair, ["via" | "dev" | "src", _]));
    let said: Vec<String> = said.map(|pair| pair.join(" ")).collect();
    Ok(format!("{kind} {}", said.join(" ")))
}

/// Before each step of a sequence.
struct EachStep<'a> {
    lab: &'a Lab,
    set_up: &'a SetUp,
    failed: Option<anyhow::Error>,
}

impl Hooks for EachStep<'_> {
    fn before<'a>(&'a mut self, step: &'a Step) -> Answer<'a> {
        Box::pin(async move {
            let outcome = async {
                if step.kind == StepKind::BridgeUp {
                    commands(self.lab, self.set_up.midway)?;
                }
                // The VIP, or an address, may be on its way in this very moment.
                decided(self.lab, self.set_up).await
            }
            .await;
            if let Err(error) = outcome {
                self.failed.get_or_insert(error.context(format!("before {}", step.name)));
            }
            Verdict::Continue
        })
    }
}
