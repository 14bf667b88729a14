//! Values of a configuration file, each with its place; what is wrong is noted, and reading goes on.

use std::{ops::Range, time::Duration};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    nearest::{instead, one_of},
    problem::Problem,
};

/// A place in the file.
pub(super) type Span = Range<usize>;
/// A value with its place.
pub(super) type Value<'a> = Spanned<DeValue<'a>>;

/// See the [module](self).
pub(super) struct Reader<'a> {
    text: &'a str,
    pub(super) problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(text: &'a str) -> Self {
        Self { text, problems: Vec::new() }
    }

    /// Notes that something is wrong.
    pub(super) fn wrong(&mut self, span: Span, text: impl Into<String>) {
        self.problems.push(Problem::new(self.text, span, text.into()));
    }

    /// What is written there.
    fn written(&self, span: Span) -> &'a str {
        self.text.get(span).unwrap_or_default()
    }

    /// Notes keys that mean nothing here.
    pub(super) fn only(&mut self, table: &DeTable<'_>, of: &str, keys: &[&str]) {
        for key in table.keys().filter(|key| !keys.contains(&key.get_ref().as_ref())) {
            let name = key.get_ref();
            self.wrong(key.span(), format!("unknown key {name:?}{of}: {}", instead(name, keys)));
        }
    }

    /// A string.
    pub(super) fn string(&mut self, key: &str, value: &Value<'_>, like: &str) -> Option<String> {
        let found = match value.get_ref() {
            DeValue::String(text) => return Some(text.to_string()),
            DeValue::Integer(_) | DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        let text = format!("{key} is a string, not {found}: write {like}");
        self.wrong(value.span(), text);
        None
    }

    /// A string, or a list of them.
    pub(super) fn strings(
        &mut self,
        key: &str,
        value: &Value<'_>,
        like: &str,
    ) -> Vec<(String, Span)> {
        let DeValue::Array(values) = value.get_ref() else {
            return self
                .string(key, value, like)
                .map(|it| (it, value.span()))
                .into_iter()
                .collect();
        };
        if values.is_empty() {
            let text =
                format!("{key} is an empty list, which is never so: leave it out, or write {like}");
            self.wrong(value.span(), text);
        }
        let read = |value: &Value<'_>| Some((self.string(key, value, like)?, value.span()));
        values.iter().filter_map(read).collect()
    }

    /// One of these words.
    pub(super) fn word<T: Copy + ToString>(
        &mut self,
        key: &str,
        (text, span): (&str, Span),
        all: &[T],
    ) -> Option<T> {
        let found = all.iter().find(|one| one.to_string() == text);
        if found.is_none() {
            let words: Vec<String> = all.iter().map(ToString::to_string).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            self.wrong(span, format!("unknown {key} {text:?}: {}", instead(text, &words)));
        }
        found.copied()
    }

    /// Some of these words.
    pub(super) fn words<T: Copy + ToString>(
        &mut self,
        key: &str,
        value: &Value<'_>,
        all: &[T],
    ) -> Vec<T> {
        let names: Vec<String> = all.iter().map(ToString::to_string).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let found = self.strings(key, value, &one_of(&names));
        found.into_iter().filter_map(|(text, span)| self.word(key, (&text, span), all)).collect()
    }

    /// A time within bounds, of which there is an example.
    pub(super) fn duration(
        &mut self,
        key: &str,
        value: &Value<'_>,
        bounds: (Duration, Duration),
    ) -> Option<Duration> {
        if let DeValue::Integer(_) = value.get_ref() {
            let number = self.written(value.span());
            let text = format!("{key} needs a unit: write \"{number}ms\"");
            self.wrong(value.span(), text);
            return None;
        }
        let text = self.string(key, value, "\"1900ms\"")?;
        let (least, most) = bounds;
        match humantime::parse_duration(&text) {
            Ok(time) if (least..=most).contains(&time) => Some(time),
            Ok(_) => {
                let (least, most) = (least.as_millis(), most.as_millis());
                let text = format!("{key} is not between {least} ms and {most} ms");
                self.wrong(value.span(), text);
                None
            }
            Err(_) => {
                let text = format!("{text:?} is no time: write it as \"1900ms\" or \"1s 500ms\"");
                self.wrong(value.span(), text);
                None
            }
        }
    }
}

/// The value of a key, if it is there.
pub(super) fn value<'t, 'a>(table: &'t DeTable<'a>, key: &str) -> Option<&'t Value<'a>> {
    table.iter().find(|(known, _)| known.get_ref() == key).map(|(_, value)| value)
}
