//! A real Prometheus on a host of a lab, and what it knows.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::clock;
use crate::lab::Host;
use crate::process::{Daemon, Program};

/// Where it listens.
const PORT: u16 = 9090;
/// How often it scrapes, and looks its rules through.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// What an answer may take at the most.
const LIMIT: Duration = Duration::from_secs(5);

/// Labels, and a value.
pub type Sample = (BTreeMap<String, String>, f64);

/// A running Prometheus. Dropping it kills it.
#[derive(Debug)]
pub struct Prometheus {
    host: Host,
    rules: usize,
    /// Held for as long as it is to run.
    _daemon: Daemon,
}

impl Prometheus {
    /// Start `program` on `host`, with its files in `dir`: it scrapes these addresses and looks these rules
    /// through. Wait until it has seen all of them answer.
    ///
    /// # Errors
    /// When it cannot be started, or does not come so far.
    pub async fn start(
        program: &Path,
        host: &Host,
        dir: &Path,
        targets: &[(IpAddr, u16)],
        rules: &str,
        (token, epoch): (&str, Instant),
    ) -> Result<Self> {
        let put = |name: &str, text: &str| -> Result<PathBuf> {
            let path = dir.join(name);
            std::fs::write(&path, text).with_context(|| path.display().to_string())?;
            Ok(path)
        };
        put("alerts.yaml", rules)?;
        let config = put("prometheus.conf", &config(targets))?;
        let daemon = Program::new("prometheus", program, token)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("prometheus").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{PORT}"))
            .inside(&host.namespace)
            .start(&dir.join("prometheus.log"), epoch)?;
        let rules = rules.matches("- alert: ").count();
        let started = Self { host: host.clone(), rules, _daemon: daemon };
        let all = targets.len() as f64;
        clock::until("Prometheus to scrape", Duration::from_secs(20), async || {
            let up = started.number("sum(up)").await.ok().flatten();
            Ok(up.filter(|up| (up - all).abs() < 0.5))
        })
        .await?;
        Ok(started)
    }

    /// What an expression yields now.
    ///
    /// # Errors
    /// When it does not answer, or refuses the expression.
    pub async fn query(&self, expression: &str) -> Result<Vec<Sample>> {
        let path = format!("/api/v1/query?query={}", encoded(expression));
        let answer = self.get(path).await.with_context(|| expression.to_owned())?;
        let found = answer.pointer("/data/result").and_then(Value::as_array);
        let samples = found.with_context(|| format!("{expression}: {answer}"))?.iter().map(sample);
        samples.collect::<Option<_>>().with_context(|| format!("{expression}: {answer}"))
    }

    /// The one number that an expression yields, if it yields anything.
    ///
    /// # Errors
    /// As [`Prometheus::query`], and when there are several.
    pub async fn number(&self, expression: &str) -> Result<Option<f64>> {
        let found = self.query(expression).await?;
        ensure!(found.len() <= 1, "{expression} is no single number: {found:?}");
        Ok(found.first().map(|(_, value)| *value))
    }

    /// The names of the alerts that fire now.
    ///
    /// # Errors
    /// As [`Prometheus::query`].
    pub async fn firing(&self) -> Result<Vec<String>> {
        let found = self.query("ALERTS{alertstate=\"firing\"}").await?;
        let names = found.into_iter().filter_map(|(mut labels, _)| labels.remove("alertname"));
        Ok(names.collect())
    }

    /// An error unless it has looked every rule through and could make something of it.
    ///
    /// # Errors
    /// Which one it is.
    pub async fn has_rules(&self) -> Result<()> {
        let answer = self.get("/api/v1/rules?type=alert".to_owned()).await?;
        let groups = answer.pointer("/data/groups").and_then(Value::as_array);
        let rules = groups.into_iter().flatten().filter_map(|group| group.get("rules")?.as_array());
        let rules: Vec<&Value> = rules.flatten().collect();
        let bad =
            rules.iter().find(|rule| rule.get("health").and_then(Value::as_str) != Some("ok"));
        ensure!(bad.is_none(), "a rule that is not looked through: {bad:?}");
        ensure!(rules.len() == self.rules, "{} rules of {}", rules.len(), self.rules);
        Ok(())
    }

    async fn get(&self, path: String) -> Result<Value> {
        let namespace = self.host.namespace.clone();
        let asked = move || namespace.run(|| ask(&path));
        let text = tokio::task::spawn_blocking(asked).await??;
        let (head, body) = text.split_once("\r\n\r\n").context("no HTTP")?;
        let answer: Value =
            serde_json::from_str(body).with_context(|| format!("not JSON: {head}\n{body}"))?;
        if answer.get("status").and_then(Value::as_str) != Some("success") {
            bail!("{answer}");
        }
        Ok(answer)
    }
}

fn config(targets: &[(IpAddr, u16)]) -> String {
    let targets: Vec<String> = targets
        .iter()
        .map(|(address, port)| format!("'{}'", SocketAddr::from((*address, *port))))
        .collect();
    format!(
        "global: {{scrape_interval: {0}s, scrape_timeout: {0}s, evaluation_interval: {0}s}}\n\
         rule_files: [alerts.yaml]\n\
         scrape_configs:\n\
         - job_name: vipshield\n  \
           static_configs:\n  \
           - targets: [{1}]\n",
        INTERVAL.as_secs(),
        targets.join(", ")
    )
}

/// HTTP 1.0, in which an answer ends with the connection and comes in one piece.
fn ask(path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", PORT)).context("Prometheus")?;
    stream.set_read_timeout(Some(clock::patience(LIMIT)))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// As part of an address.
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// `{"metric": {...}, "value": [TIME, "NUMBER"]}`
fn sample(value: &Value) -> Option<Sample> {
    let number = value.pointer("/value/1")?.as_str()?.parse().ok()?;
    let labels = value.get("metric")?.as_object()?.iter();
    let labels = labels.map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
    Some((labels.collect::<Option<_>>()?, number))
}

/// Rules with every `for` shortened to this, where it is longer: whoever is to see them fire has not the
/// minutes.
#[must_use]
pub fn shortened(rules: &str, longest: Duration) -> String {
    let shorter = |line: &str| {
        let Some((before, held)) = line.split_once("for: ") else { return line.to_owned() };
        if before.trim().is_empty() && held != "0m" {
            format!("{before}for: {}s", longest.as_secs())
        } else {
            line.to_owned()
        }
    };
    rules.lines().map(|line| shorter(line) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_in_an_address() {
        assert_eq!(encoded("up{a=\"b c\"}"), "up%7Ba%3D%22b%20c%22%7D");
    }

    #[test]
    fn samples_have_labels_and_a_number() {
        let value = serde_json::json!({ "metric": { "nic": "ens192" }, "value": [1.5, "2"] });
        let labels = BTreeMap::from([("nic".to_owned(), "ens192".to_owned())]);
        assert_eq!(sample(&value), Some((labels, 2.0)));
        assert_eq!(sample(&serde_json::json!({ "metric": {}, "value": [1.5] })), None);
    }

    #[test]
    fn what_waits_waits_shorter_and_what_does_not_is_left() {
        let rules =
            "  - alert: A\n    for: 3m\n  - alert: B\n    for: 0m\n    text: wait for: it\n";
        let expected =
            "  - alert: A\n    for: 5s\n  - alert: B\n    for: 0m\n    text: wait for: it\n";
        assert_eq!(shortened(rules, Duration::from_secs(5)), expected);
    }
}
