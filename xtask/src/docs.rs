//! The commands that the documents tell people to type.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Command, CommandFactory as _};

use crate::{Verb, workspace};

/// How such a command begins.
const PREFIX: &str = "cargo xtask ";

/// Every `cargo xtask ...` in the documents that this program would not take, with its place.
pub(crate) fn wrong_commands() -> Result<Vec<String>> {
    let root = workspace::root()?;
    let mut files = markdown(root)?;
    files.extend(markdown(&root.join("docs"))?);
    let mut wrong = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let place = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        let complaints = wrong_in(&text, &Verb::command());
        wrong.extend(complaints.into_iter().map(|complaint| format!("{place}:{complaint}")));
    }
    Ok(wrong)
}

/// The Markdown files of a directory; none if it does not exist.
fn markdown(directory: &Path) -> Result<Vec<PathBuf>> {
    if !directory.is_dir() {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "md") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The verbs and options in the text that the command line does not have, as `LINE: complaint`.
fn wrong_in(text: &str, program: &Command) -> Vec<String> {
    let mut wrong = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        for typed in line.split(PREFIX).skip(1) {
            let typed = typed.split(['`', '#', ';', '&', '|']).next().unwrap_or_default();
            if let Some(complaint) = complaint(typed, program) {
                wrong.push(format!("{number}: {complaint}"));
            }
        }
    }
    wrong
}

/// What is wrong with the words after `cargo xtask`.
fn complaint(typed: &str, program: &Command) -> Option<String> {
    let mut words =
        typed.split_whitespace().map(|word| word.trim_matches(['[', ']', '.', ',', ')']));
    let verb = words.next()?;
    let Some(command) = program.find_subcommand(verb) else {
        // A placeholder for any verb.
        let placeholder = verb.chars().all(|c| !c.is_lowercase());
        return (!placeholder).then(|| format!("there is no `{PREFIX}{verb}`"));
    };
    let has = |name: &str| command.get_arguments().any(|known| known.get_long() == Some(name));
    words
        .take_while(|word| *word != "--")
        .filter_map(|word| word.strip_prefix("--"))
        .map(|option| option.split('=').next().unwrap_or(option))
        .find(|option| *option != "help" && !has(option))
        .map(|option| format!("`{PREFIX}{verb}` has no option --{option}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Verb::command().debug_assert();
    }

    #[test]
    fn commands_that_exist_pass() {
        let text = "Run `cargo xtask setup --check`, then\n    cargo xtask vm [--json FILE] -- --x\n\
                    and `cargo xtask VERB`.\n";
        assert_eq!(wrong_in(text, &Verb::command()), Vec::<String>::new());
    }

    #[test]
    fn a_verb_or_an_option_that_does_not_exist_is_found() {
        let text = "first line\n`cargo xtask deploy` and `cargo xtask setup --chek`\n";
        let expected =
            ["2: there is no `cargo xtask deploy`", "2: `cargo xtask setup` has no option --chek"];
        assert_eq!(wrong_in(text, &Verb::command()), expected);
    }
}
