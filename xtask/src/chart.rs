//! The Helm chart, held against what `vipshield manifest` prints, which is in `packaging` (a test of vipshield's own
//! keeps it so).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{shell, workspace};

/// The oldest that the chart is for.
const KUBERNETES: &str = "1.30.0";

/// What is refused, and a word of the reason.
const REFUSED: [(&[&str], &str); 6] = [
    (&["--set", "hostPID=false"], "vipshield manifest sidecar"),
    (&["--set", "hostNetwork=false"], "the NIC and keepalived's sockets are the node's"),
    (&["--set", "scrapeConfig.enabled=true"], "metrics.scrape"),
    // By its schema.
    (&["--set", "interface=ens192"], "interface"),
    (&["--set", "interfaces={not a name}"], "not a name"),
    (&["--kube-version", "1.29.0"], "kubeVersion"),
];

/// Everything that can be said of the chart with Helm at hand.
pub(crate) fn check(helm: &Path) -> Result<()> {
    let packaging = workspace::root()?.join("packaging");
    let chart = Chart { helm, directory: packaging.join("helm/vipshield") };
    let expected = packaging.join("helm/expected");
    let values = expected.join("values.yaml").display().to_string();
    let others = ["--namespace", "edge", "--values", &values];
    chart.lint(&[])?;
    chart.lint(&others)?;

    let manifest = packaging.join("kubernetes/daemonset.yaml");
    let rendered = chart.rendered(&["--namespace", "kube-system"])?;
    same(&[&manifest], &rendered).context("with default values")?;
    let (manifest, values) = (read(&manifest)?, read(&chart.directory.join("values.yaml"))?);
    let unsaid = unsaid(&manifest, &[&rendered, &values]);
    if !unsaid.is_empty() {
        bail!("the chart does not say why:\n  {}", unsaid.join("\n  "));
    }

    let manifests = [&expected.join("daemonset.yaml"), &expected.join("monitoring.yaml")];
    same(&manifests, &chart.rendered(&others)?).context("with other values")?;

    chart.takes_a_configuration()?;
    REFUSED.iter().try_for_each(|(arguments, why)| chart.refuses(arguments, why))
}

struct Chart<'a> {
    helm: &'a Path,
    directory: PathBuf,
}

impl Chart<'_> {
    fn lint(&self, arguments: &[&str]) -> Result<()> {
        let mut lint = Command::new(self.helm);
        lint.args(["lint", "--strict", "--quiet", "--kube-version", KUBERNETES]);
        shell::output(lint.args(arguments).arg(&self.directory)).map(drop)
    }

    fn rendered(&self, arguments: &[&str]) -> Result<String> {
        let mut template = Command::new(self.helm);
        template.args(["template", "vipshield", "--kube-version", KUBERNETES]);
        shell::output(template.arg(&self.directory).args(arguments))
    }

    /// Whatever is in it.
    fn takes_a_configuration(&self) -> Result<()> {
        let mut configs = Vec::new();
        for file in ["  # indented\ninterfaces = [\"ens192\"]\n", "deadline = \"1s\""] {
            let rendered = objects(&self.rendered(&["--set-literal", &format!("config={file}")])?)?;
            let config = rendered.get("v1 ConfigMap default/vipshield").context("no ConfigMap")?;
            if config.pointer("/data/vipshield.toml") != Some(&Value::from(file)) {
                bail!("another configuration came out: {config}");
            }
            let daemonset = "apps/v1 DaemonSet default/vipshield";
            let daemonset = rendered.get(daemonset).context("no DaemonSet")?;
            let annotations = daemonset.pointer("/spec/template/metadata/annotations");
            configs.push(annotations.context("no annotation")?.clone());
        }
        if let [one, other] = &configs[..]
            && one == other
        {
            bail!("pods stay when the configuration is another: {one}");
        }
        Ok(())
    }

    fn refuses(&self, arguments: &[&str], why: &str) -> Result<()> {
        match self.rendered(arguments) {
            Ok(_) => bail!("{} is not refused", arguments.join(" ")),
            Err(error) if error.to_string().contains(why) => Ok(()),
            Err(error) => bail!("{} is refused without {why:?}: {error}", arguments.join(" ")),
        }
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| path.display().to_string())
}

/// The objects of a text, by what they are.
fn objects(text: &str) -> Result<BTreeMap<String, Value>> {
    let all: Vec<Value> = serde_saphyr::from_multiple(text).context("no YAML")?;
    let named = |object: Value| {
        let at = |place| object.pointer(place).and_then(Value::as_str).unwrap_or("default");
        let name = format!(
            "{} {} {}/{}",
            at("/apiVersion"),
            at("/kind"),
            at("/metadata/namespace"),
            at("/metadata/name")
        );
        (name, object)
    };
    Ok(all.into_iter().filter(|object| !object.is_null()).map(named).collect())
}

/// Helm makes these objects, and no others.
fn same(manifests: &[&PathBuf], rendered: &str) -> Result<()> {
    let mut wanted = BTreeMap::new();
    for manifest in manifests {
        wanted.extend(objects(&read(manifest)?)?);
    }
    let differences = differences(&wanted, &objects(rendered)?);
    if !differences.is_empty() {
        bail!("the chart is not what vipshield prints:\n  {}", differences.join("\n  "));
    }
    Ok(())
}

fn differences(wanted: &BTreeMap<String, Value>, found: &BTreeMap<String, Value>) -> Vec<String> {
    let mut said = Vec::new();
    for (name, wanted) in wanted {
        match found.get(name) {
            None => said.push(format!("{name} is missing")),
            Some(found) => differ(name, wanted, found, &mut said),
        }
    }
    let others = found.keys().filter(|name| !wanted.contains_key(*name));
    said.extend(others.map(|name| format!("{name} is one too many")));
    said
}

/// Says where two values differ.
fn differ(place: &str, wanted: &Value, found: &Value, said: &mut Vec<String>) {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => {
            let keys = wanted.keys().chain(found.keys().filter(|key| !wanted.contains_key(*key)));
            for key in keys {
                let value = |of: &serde_json::Map<_, _>| of.get(key).cloned().unwrap_or_default();
                differ(&format!("{place}.{key}"), &value(wanted), &value(found), said);
            }
        }
        (Value::Array(wanted), Value::Array(found)) if wanted.len() == found.len() => {
            for (number, (wanted, found)) in wanted.iter().zip(found).enumerate() {
                differ(&format!("{place}[{number}]"), wanted, found, said);
            }
        }
        _ if wanted == found => {}
        _ => said.push(format!("{place}: {found} in place of {wanted}")),
    }
}

/// The reasons in a manifest that are in none of these texts.
fn unsaid<'a>(manifest: &'a str, texts: &[&str]) -> Vec<&'a str> {
    let said = |line: &str| texts.iter().any(|text| text.lines().any(|it| it.trim() == line));
    let reasons = manifest.lines().map(str::trim);
    reasons.filter(|line| !line.starts_with('#') && line.contains(" # ") && !said(line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str =
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\nspec:\n  hostPID: true # why\n";

    #[test]
    fn what_differs_is_named() {
        let wanted = objects(POD).unwrap();
        assert_eq!(differences(&wanted, &wanted), [""; 0]);
        let other = objects(&POD.replace("true", "false")).unwrap();
        let told = differences(&wanted, &other);
        assert_eq!(told, ["v1 Pod default/a.spec.hostPID: false in place of true"]);
        let more = objects(&format!("{POD}  hostIPC: true\n")).unwrap();
        assert_eq!(differences(&wanted, &more).len(), 1);
        assert_eq!(differences(&more, &wanted).len(), 1);
        let another = objects(&POD.replace("name: a", "name: b")).unwrap();
        assert_eq!(differences(&wanted, &another).len(), 2);
    }

    #[test]
    fn a_reason_that_is_left_out_is_found() {
        assert_eq!(unsaid(POD, &["", POD]), [""; 0]);
        assert_eq!(unsaid(POD, &["hostPID: true"]), ["hostPID: true # why"]);
    }
}
