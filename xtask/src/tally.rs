//! Counting what passed, and naming what did not.

use std::collections::HashSet;
use std::fmt;
use std::iter::Sum;
use std::ops::Add;

/// So much is repeated of what a check that failed had to say: lines, and characters of each. A property's least input
/// has many lines, and without it a failure that luck found is lost.
const WORDS: (usize, usize) = (80, 300);
/// Before a property's least input.
const LEAST: &str = "minimal failing input";

/// Whether a line is one of a backtrace, which tells nothing that the words before it do not. A property has one for each
/// input that failed, and its words behind them.
fn is_of_backtrace(line: &str) -> bool {
    let number = line.split(':').next().unwrap_or_default();
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
        || ["stack backtrace:", "at ", "note: "].iter().any(|begin| line.starts_with(begin))
}

/// How many checks passed, failed, and could not run here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    pub(crate) skipped: u32,
    /// Which failed, as far as they said so, and with what words.
    pub(crate) failures: Vec<String>,
}

impl Tally {
    pub(crate) const PASSED: Self = Self { passed: 1, failed: 0, skipped: 0, failures: Vec::new() };
    pub(crate) const FAILED: Self = Self { passed: 0, failed: 1, skipped: 0, failures: Vec::new() };
    pub(crate) const SKIPPED: Self =
        Self { passed: 0, failed: 0, skipped: 1, failures: Vec::new() };

    /// One line as `cargo test` ends each test binary with, or as `vipshield-lab test` ends with.
    fn of_line(line: &str) -> Option<Self> {
        let line = line.trim();
        // "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; ..."
        let counts = match line.strip_prefix("test result: ") {
            Some(result) => result.split_once(". ")?.1,
            None => line,
        };
        let mut tally = Self::default();
        let mut fields = 0;
        for field in counts.split([',', ';']) {
            let Some((number, what)) = field.trim().split_once(' ') else { continue };
            let Ok(number) = number.parse() else { continue };
            match what {
                "passed" => tally.passed = number,
                "failed" => tally.failed = number,
                "ignored" | "skipped" => tally.skipped = number,
                _ => continue,
            }
            fields += 1;
        }
        (fields == 3).then_some(tally)
    }

    /// The sum of all counts in a program's output. `None` if it has none: it did not get as far.
    pub(crate) fn of_output(lines: &[String]) -> Option<Self> {
        let mut tallies = lines.iter().filter_map(|line| Self::of_line(line)).peekable();
        tallies.peek()?;
        Some(tallies.sum())
    }

    /// The counts in a program's output, and one failure more if it failed but counts none.
    pub(crate) fn of_run(lines: &[String], succeeded: bool) -> Self {
        let mut tally = Self::of_output(lines).unwrap_or_default();
        tally.failures = failures(lines);
        if !succeeded && tally.failed == 0 { tally + Self::FAILED } else { tally }
    }
}

/// What failed, by the words of test binaries (`---- NAME ----` and what was said) and of `vipshield-lab test`
/// (`FAILED NAME [WHERE] (WHY)`).
fn failures(lines: &[String]) -> Vec<String> {
    let (most, longest) = WORDS;
    let short = |words: &str| words.chars().take(longest).collect::<String>();
    let mut all = Vec::new();
    let mut left = 0;
    let mut said = HashSet::new();
    for line in lines {
        let begins = line.strip_prefix("---- ").and_then(|name| name.strip_suffix(" ----"));
        let failed =
            line.find("FAILED ").and_then(|at| line.get(at..)).filter(|it| it.contains(" ["));
        match (begins, failed) {
            (Some(name), _) => {
                all.push(name.to_owned());
                left = most;
                said.clear();
            }
            (None, Some(failed)) => all.push(short(failed.trim_start_matches("FAILED "))),
            (None, None)
                if left > 0 && !line.trim().is_empty() && !is_of_backtrace(line.trim()) =>
            {
                let line = short(line.trim());
                // What failed the same way for one input after the other; the least of them is told as it is.
                let is_new = |all: &&mut String| all.contains(LEAST) || !said.contains(&line);
                if let Some(last) = all.last_mut().filter(is_new) {
                    left -= 1;
                    last.push_str("\n    ");
                    last.push_str(&line);
                    said.insert(line);
                }
            }
            (None, None) => {}
        }
    }
    all
}

impl Add for Tally {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            skipped: self.skipped + other.skipped,
            failures: [self.failures, other.failures].concat(),
        }
    }
}

impl Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(tallies: I) -> Self {
        tallies.fold(Self::default(), Add::add)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn counts_of_several_test_binaries_add_up() {
        let output = lines(
            "running 2 tests\ntest a ... ok\n\
             test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
             test result: FAILED. 4 passed; 1 failed; 0 ignored; 0 measured; 3 filtered out; finished in 1.00s\n",
        );
        let expected = Tally { passed: 6, failed: 1, skipped: 1, ..Tally::default() };
        assert_eq!(Tally::of_run(&output, false), expected);
        assert_eq!(Tally::of_output(&output), Some(expected));
    }

    #[test]
    fn the_lab_ends_with_its_own_count() {
        let output = lines("bind/bridge: passed in 12 s\n3 passed, 0 failed, 2 skipped\n");
        assert_eq!(
            Tally::of_output(&output),
            Some(Tally { passed: 3, skipped: 2, ..Tally::default() })
        );
    }

    #[test]
    fn what_failed_is_named_with_its_words() {
        let output = lines(
            "test a word is read ... FAILED\n\nfailures:\n\n---- a word is read ----\nno word\n\n\
             stack backtrace:\n 0: core\n    at a.rs\nno word\nminimal failing input: [\n x,\n x,\n]\n\nfailures:\n    a word is read\n\ntest result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured\n",
        );
        let named = Tally::of_run(&output, false).failures;
        assert!(
            named[0].starts_with(
                "a word is read\n    no word\n    minimal failing input: [\n    x,\n    x,\n    ]"
            ),
            "{named:?}"
        );
        let output = lines(
            "said by another; FAILED bind [bridge, 9.4 s] (why)\n0 passed, 1 failed, 0 skipped\n",
        );
        assert_eq!(Tally::of_run(&output, false).failures, ["bind [bridge, 9.4 s] (why)"]);
    }

    #[test]
    fn words_about_counts_are_no_counts() {
        assert_eq!(Tally::of_output(&lines("2 passed\nall 3 passed, 1 failed\n")), None);
    }

    #[test]
    fn a_failure_before_the_first_count_is_a_failure() {
        assert_eq!(Tally::of_run(&lines("error: could not compile"), false), Tally::FAILED);
        let passed = lines("1 passed, 0 failed, 0 skipped");
        assert_eq!(Tally::of_run(&passed, false), Tally::PASSED + Tally::FAILED);
    }

    #[test]
    fn a_tally_is_read_back_as_it_is_written() {
        let tally = Tally { passed: 12, failed: 3, skipped: 4, ..Tally::default() };
        assert_eq!(Tally::of_line(&tally.to_string()), Some(tally));
    }
}
