//! Results for people: an aligned table and a verdict.

use crate::config::Taken;
use crate::measure::RunResult;

/// Lay rows out in columns: the first row is the head; columns are as wide as
/// their widest cell; numbers go right, words left.
#[must_use]
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let numeric = |column: usize| {
        rows.iter().skip(1).filter_map(|row| row.get(column)).all(|cell| {
            cell.chars().next().is_none_or(|first| first.is_ascii_digit() || first == '-')
        })
    };
    let right: Vec<bool> = (0..columns).map(numeric).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for ((cell, width), right) in row.iter().zip(&widths).zip(&right) {
            let padded = if *right { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
            line.push_str(&padded);
            line.push_str("  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn number<T: std::fmt::Display>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn rounded(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"))
}

const HEAD: [&str; 16] = [
    "sequence",
    "role",
    "nodes",
    "shield",
    "took ms",
    "NIC down ms",
    "transitions",
    "owners",
    "overlap ms",
    "sent",
    "lost",
    "gap ms",
    // The longest time in which the lab itself sent nothing: a gap that is no longer is its own.
    "pause ms",
    "idle gap ms",
    "TCP",
    "stall ms",
];

/// One row per run, those of one sequence and role together.
#[must_use]
pub fn results(results: &[RunResult]) -> String {
    let mut sorted: Vec<&RunResult> = results.iter().collect();
    sorted.sort_by_key(|result| {
        let what = (result.datapath as u8, result.sequence as u8, result.role as u8);
        (what, result.nodes as u8, result.shield)
    });
    let mut rows = vec![HEAD.iter().map(|head| (*head).to_owned()).collect::<Vec<_>>()];
    rows.extend(sorted.into_iter().map(row));
    table(&rows)
}

fn row(result: &RunResult) -> Vec<String> {
    let tcp = result.tcp.map(|tcp| if tcp.alive { "alive" } else { "broken" });
    vec![
        result.sequence.to_string(),
        result.role.to_string(),
        result.nodes.to_string(),
        if result.shield { "on" } else { "off" }.to_owned(),
        rounded(Some(result.sequence_ms)),
        rounded(result.nic_down_ms),
        number(result.vrrp_transitions),
        number(result.owners_max),
        rounded(result.owners_overlap_ms),
        number(result.probe.as_ref().map(|probe| probe.sent)),
        number(result.probe.as_ref().map(|probe| probe.lost)),
        rounded(result.probe.as_ref().map(|probe| probe.longest_gap_ms)),
        rounded(result.probe.as_ref().map(|probe| probe.longest_pause_ms)),
        rounded(result.idle.as_ref().map(|probe| probe.longest_gap_ms)),
        number(tcp),
        rounded(result.tcp.map(|tcp| tcp.longest_stall_ms)),
    ]
}

/// What happened, in one line.
#[must_use]
pub fn verdict(result: &RunResult) -> String {
    let shield = if result.shield { "with vipshield" } else { "without a shield" };
    let mut parts = vec![match result.vrrp_transitions {
        None => "VRRP not watched".to_owned(),
        Some(0) => "no VRRP transition".to_owned(),
        Some(_) => {
            let changes = result.transitions.iter();
            let told: Vec<_> =
                changes.map(|change| format!("{} {}", change.node, change.state)).collect();
            told.join(", ")
        }
    }];
    match result.owners_max {
        Some(owners) if owners > 1 => parts.push(format!("the VIP on {owners} nodes")),
        Some(0) => parts.push("nobody had the VIP".to_owned()),
        _ => {}
    }
    if let Some(tcp) = result.tcp {
        let state = if tcp.alive { "alive" } else { "broken" };
        parts.push(format!("TCP {state}"));
    }
    let who = match result.nodes {
        Taken::One => result.role.to_string(),
        Taken::All => "on all nodes".to_owned(),
    };
    format!("{} {who} {shield}: {}", result.sequence, parts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(row: &[&str]) -> Vec<String> {
        row.iter().map(|cell| (*cell).to_owned()).collect()
    }

    #[test]
    fn words_left_numbers_right() {
        let rows = [cells(&["name", "ms"]), cells(&["a", "1.5"]), cells(&["long", "-"])];
        assert_eq!(table(&rows), "name   ms\na     1.5\nlong    -\n");
    }

    #[test]
    fn nothing_is_an_empty_table() {
        assert_eq!(table(&[]), "");
    }
}
