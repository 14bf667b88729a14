//! What was found, for people: a line each, the way out below.

use std::fmt::Write as _;

use textwrap::{Options, fill};

use super::{Finding, Report, Verdict};

const NAME_WIDTH: usize = 20;
/// A word, a name, and what is between them.
const INDENT: usize = 6 + NAME_WIDTH + 1;

/// The whole report. Lines are broken at `width`, where there is a terminal.
#[must_use]
pub fn report_text(report: &Report, width: Option<usize>) -> String {
    let mut text = String::new();
    let mut group = "";
    for finding in &report.findings {
        if finding.group != group {
            group = finding.group;
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{group}");
        }
        text.push_str(&finding_text(finding, width));
    }
    let _ = writeln!(text, "{}", summary(report));
    text
}

/// What is not well, and how many findings there are.
#[must_use]
pub fn brief_text(report: &Report, width: Option<usize>) -> String {
    let grave = report.findings.iter().filter(|finding| finding.verdict >= Verdict::Warn);
    let mut text: String = grave.map(|finding| finding_text(finding, width)).collect();
    let _ = writeln!(text, "{}", summary(report));
    text
}

fn summary(report: &Report) -> String {
    let count = |verdict| report.findings.iter().filter(|it| it.verdict == verdict).count();
    format!(
        "vipshield {}: {} fail, {} warn, {} pass, {} skip",
        report.version,
        count(Verdict::Fail),
        count(Verdict::Warn),
        count(Verdict::Pass),
        count(Verdict::Skip)
    )
}

fn finding_text(finding: &Finding, width: Option<usize>) -> String {
    let word = match finding.verdict {
        Verdict::Pass => "pass",
        Verdict::Skip => "skip",
        Verdict::Warn => "WARN",
        Verdict::Fail => "FAIL",
    };
    let first = format!("{word:<6}{:<NAME_WIDTH$} ", finding.name);
    let mut text = wrapped(&first, &finding.text, width);
    if let Some(way_out) = &finding.way_out {
        text.push_str(&wrapped(&format!("{:INDENT$}do: ", ""), way_out, width));
    }
    text
}

fn wrapped(first: &str, text: &str, width: Option<usize>) -> String {
    // What others named may have line breaks in it.
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let line = match width {
        Some(width) => {
            let rest = " ".repeat(INDENT);
            let options =
                Options::new(width.max(2 * INDENT)).initial_indent(first).subsequent_indent(&rest);
            fill(&text, options)
        }
        None => format!("{first}{text}"),
    };
    line + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report::new(vec![
            Finding::pass("process", "BPF", "loads eBPF programs"),
            Finding::fail(
                "process",
                "SYS_PTRACE",
                "missing: sees keepalived's sockets, and those of every daemon of that name",
                "give vipshield the capability SYS_PTRACE",
            ),
            Finding::skip("kernel", "lockdown", "two\nlines"),
        ])
    }

    #[test]
    fn a_report_is_a_line_each_where_no_terminal_is() {
        let expected = "\
process
pass  BPF                  loads eBPF programs
FAIL  SYS_PTRACE           missing: sees keepalived's sockets, and those of every daemon of that name
                           do: give vipshield the capability SYS_PTRACE
kernel
skip  lockdown             two lines
vipshield 0.1.0: 1 fail, 0 warn, 1 pass, 1 skip
";
        assert_eq!(report_text(&report(), None), expected);
        let brief: Vec<String> = brief_text(&report(), None).lines().map(str::to_owned).collect();
        assert_eq!(brief.len(), 3, "{brief:?}");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let text = report_text(&report(), Some(80));
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.lines().count() > report_text(&report(), None).lines().count());
    }
}
