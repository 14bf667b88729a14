//! Text that is safe to put into XML, and of a bounded length.

/// What a character of a label takes at the most, nearly: nobody here knows the font.
const CHARACTER: f64 = 5.7;

/// No more than so many characters.
pub(super) fn cut(text: &str, most: usize) -> String {
    let mut rest = text.chars();
    let mut kept: String = rest.by_ref().take(most).collect();
    if rest.next().is_some() {
        kept.pop();
        kept.push('\u{2026}');
    }
    kept
}

/// How wide it is.
pub(super) fn width(text: &str) -> f64 {
    text.chars().count() as f64 * CHARACTER
}

/// As XML has it. What no document of XML 1.0 may have (section 2.2) is replaced.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\n' | '\t' => out.push(' '),
            '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}' => {
                out.push(char::REPLACEMENT_CHARACTER);
            }
            other => out.push(other),
        }
    }
    out
}
