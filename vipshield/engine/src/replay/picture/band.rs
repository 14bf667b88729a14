//! A lane's spans, grown from what is so after each event.

use std::time::Duration;

use super::{Extent, Shade, Span};

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Band {
    spans: Vec<Span>,
    /// The last of them lasts still.
    open: bool,
}

impl Band {
    /// This is so from now on; none: there is nothing to say. What was over before `shown` is forgotten.
    pub(super) fn set(&mut self, at: Duration, now: Option<(Shade, String)>, shown: Extent) {
        let at = at.max(shown.from);
        if self.open
            && let Some(last) = self.spans.last_mut()
        {
            last.time.to = at;
            if now.as_ref().is_some_and(|(shade, text)| (last.shade, &last.text) == (*shade, text))
            {
                return;
            }
            if last.time.from == at {
                self.spans.pop();
            }
        }
        self.open = now.is_some();
        if let Some((shade, text)) = now {
            self.spans.push(Span { time: Extent { from: at, to: at }, shade, text });
        }
    }

    /// How often it changed.
    pub(super) const fn changes(&self) -> usize {
        self.spans.len()
    }

    /// What was so until the end.
    pub(super) fn finish(mut self, end: Duration) -> Vec<Span> {
        if self.open
            && let Some(last) = self.spans.last_mut()
        {
            last.time.to = end.max(last.time.from);
        }
        self.spans
    }
}
