//! What may have been meant.

/// A word of these that `word` may be a slip of.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let close = |other: &&&str| distance(word, other) <= other.chars().count().max(3) / 3;
    known.iter().filter(close).min_by_key(|other| distance(word, other)).copied()
}

/// How many characters have to be put in, taken out or replaced.
fn distance(one: &str, other: &str) -> usize {
    // A word that long is nobody's slip.
    let one: Vec<char> = one.to_lowercase().chars().take(64).collect();
    let mut row: Vec<usize> = (0..=one.len()).collect();
    for found in other.chars() {
        let mut next = Vec::with_capacity(row.len());
        next.extend(row.first().map(|first| first + 1));
        for ((wanted, diagonal), above) in one.iter().zip(&row).zip(row.iter().skip(1)) {
            let left = next.last().copied().unwrap_or(0);
            let replaced = diagonal + usize::from(*wanted != found);
            next.push(replaced.min(above + 1).min(left + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

/// What else could have been written, in words.
pub(super) fn instead(word: &str, known: &[&str]) -> String {
    match nearest(word, known) {
        Some(near) => format!("did you mean {near:?}?"),
        None => format!("expected {}", one_of(known)),
    }
}

/// "a", "b" or "c".
pub(super) fn one_of(known: &[&str]) -> String {
    let quoted: Vec<String> = known.iter().map(|word| format!("{word:?}")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_near_and_another_word_is_not() {
        let known = ["interfaces", "deadline", "on_stop", "metrics"];
        assert_eq!(nearest("interface", &known), Some("interfaces"));
        assert_eq!(nearest("dead-line", &known), Some("deadline"));
        assert_eq!(nearest("onstop", &known), Some("on_stop"));
        assert_eq!(nearest("Metrics", &known), Some("metrics"));
        assert_eq!(nearest("socket", &known), None);
        assert_eq!(nearest("", &known), None);
        assert_eq!(distance("abc", ""), 3);
    }
}
