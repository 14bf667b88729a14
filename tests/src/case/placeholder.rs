//! What stands for something that differs from node to node: `{{peers}}` in a configuration, a file, a command.

use std::net::IpAddr;
use std::ops::Range;
use std::path::Path;

use crate::config::{LabConfig, NodeConfig};

/// All of them, as docs/CASES.md has them.
pub(super) const NAMES: [&str; 11] =
    ["name", "own", "own6", "peers", "peers6", "priority", "state", "nic", "vip", "vip6", "dir"];

/// The placeholders of a text, with their places.
pub(super) fn all(text: &str) -> impl Iterator<Item = (Range<usize>, &str)> {
    text.match_indices("{{").filter_map(|(at, opening)| {
        let (name, _) = text.get(at + opening.len()..)?.split_once("}}")?;
        Some((at..at + name.len() + 2 * opening.len(), name))
    })
}

/// `text` for one node, whose files are in `directory`.
pub(crate) fn fill(text: &str, config: &LabConfig, node: &NodeConfig, directory: &Path) -> String {
    let of = |node: &NodeConfig, v4: bool| {
        let mut own = node.addresses.iter().map(|prefix| prefix.address);
        own.find(|own| own.is_ipv4() == v4).map(|own| own.to_string()).unwrap_or_default()
    };
    let peers = |v4| {
        let all = config.nodes.iter().filter(|peer| peer.name != node.name);
        all.map(|peer| of(peer, v4)).collect::<Vec<_>>().join("\n    ")
    };
    let vip = |v4: bool| {
        let mut all = config.vips().filter(|vip| match vip {
            IpAddr::V4(_) => v4,
            IpAddr::V6(vip) => !v4 && !vip.is_unicast_link_local(),
        });
        all.next().map(|vip| vip.to_string()).unwrap_or_default()
    };
    let is_owner = config.nodes.get(config.owner()).is_some_and(|owner| owner.name == node.name);
    let value = |name: &str| match name {
        "name" => node.name.clone(),
        "own" => of(node, true),
        "own6" => of(node, false),
        "peers" => peers(true),
        "peers6" => peers(false),
        "priority" => node.priority.to_string(),
        "state" => if is_owner { "MASTER" } else { "BACKUP" }.to_owned(),
        "nic" => config.nic.clone(),
        "vip" => vip(true),
        "vip6" => vip(false),
        "dir" => directory.display().to_string(),
        other => format!("{{{{{other}}}}}"),
    };
    let mut filled = String::new();
    let mut done = 0;
    for (place, name) in all(text) {
        filled.push_str(text.get(done..place.start).unwrap_or_default());
        filled.push_str(&value(name));
        done = place.end;
    }
    filled.push_str(text.get(done..).unwrap_or_default());
    filled
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DatapathKind;
    use crate::stack::Stack;

    fn filled(text: &str, node: usize) -> String {
        let config = LabConfig::stacked(DatapathKind::Bridge, Stack::Dual);
        fill(text, &config, &config.nodes[node], Path::new("/run/x"))
    }

    #[test]
    fn each_node_has_its_own() {
        assert_eq!(filled("{{state}} {{priority}} {{own}}", 0), "MASTER 150 192.0.2.11");
        assert_eq!(filled("{{state}} {{priority}} {{peers}};", 1), "BACKUP 100 192.0.2.11;");
        assert_eq!(filled("{{vip}} {{vip6}} {{own6}}", 1), "192.0.2.10 2001:db8::10 2001:db8::12");
        assert_eq!(filled("{ {{dir}}/check {{nic}} }", 0), "{ /run/x/check ens192 }");
    }

    #[test]
    fn each_is_known() {
        for name in NAMES {
            let text = format!("{{{{{name}}}}}");
            assert_ne!(filled(&text, 0), text);
        }
    }
}
