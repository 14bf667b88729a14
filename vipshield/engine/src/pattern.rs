//! Patterns of names, as a shell has them: `*` stands for any characters, `?` for one.

/// Whether it is more than a name.
#[must_use]
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?'])
}

/// Whether `name` is one that `pattern` stands for.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    fits(pattern, name, |wanted, found| wanted == found || wanted == '?')
}

/// Whether `wide` stands for every name that `narrow` stands for. Of what it cannot tell it says no.
#[must_use]
pub fn covers(wide: &str, narrow: &str) -> bool {
    fits(wide, narrow, |wanted, found| wanted == found || wanted == '?' && found != '*')
}

/// Whether there is a name that both stand for.
#[must_use]
pub fn overlap(one: &str, other: &str) -> bool {
    let other: Vec<char> = other.chars().collect();
    // Which beginnings of the other have a name in common with what was read of the one.
    let mut ends = vec![false; other.len() + 1];
    let skip_stars = |ends: &mut Vec<bool>| {
        let mut before = false;
        for (end, last) in ends.iter_mut().zip([None].into_iter().chain(other.iter().map(Some))) {
            *end |= before && last == Some(&'*');
            before = *end;
        }
    };
    if let Some(first) = ends.first_mut() {
        *first = true;
    }
    skip_stars(&mut ends);
    for wanted in one.chars() {
        let mut next: Vec<bool> = Vec::with_capacity(ends.len());
        let mut before = false;
        for (end, last) in ends.iter().zip([None].into_iter().chain(other.iter().map(Some))) {
            let is_alike = |last: &char| *last == '?' || wanted == '?' || *last == wanted;
            next.push(if wanted == '*' {
                *end || next.last().is_some_and(|it| *it)
            } else {
                // A star of the other's takes the character and stays.
                before && last.is_some_and(is_alike) || *end && last == Some(&'*')
            });
            before = *end;
        }
        ends = next;
        skip_stars(&mut ends);
    }
    ends.last().is_some_and(|end| *end)
}

/// With the star that was met last read as ever more, if it has to be.
fn fits(pattern: &str, name: &str, alike: fn(char, char) -> bool) -> bool {
    let (mut pattern, mut name) = (pattern.chars(), name.chars());
    let mut star = None;
    loop {
        let mut rest = name.clone();
        match (pattern.next(), rest.next()) {
            (Some('*'), _) => star = Some((pattern.clone(), name.clone())),
            (Some(wanted), Some(found)) if alike(wanted, found) => name = rest,
            (None, None) => return true,
            _ => {
                let Some((after, taken)) = &mut star else { return false };
                if taken.next().is_none() {
                    return false;
                }
                (pattern, name) = (after.clone(), taken.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_star_is_anything_and_a_question_mark_is_one() {
        for (pattern, name, fits) in [
            ("ens192", "ens192", true),
            ("ens*", "ens192", true),
            ("ens*", "ens", true),
            ("ens*", "eno1", false),
            ("*", "", true),
            ("en??92", "ens192", true),
            ("en?", "ens192", false),
            ("*1*2", "ens192", true),
            ("*1*3", "ens192", false),
            ("", "", true),
            ("", "a", false),
            ("a*b*c", "aXbYbZc", true),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }

    proptest! {
        /// By all short names over two letters.
        #[test]
        fn what_is_said_of_two_patterns_holds_for_every_name(one in "[ab*?]{0,5}", other in "[ab*?]{0,5}") {
            let mut names = vec![String::new()];
            for length in 1..=8_usize {
                let longer: Vec<String> = names
                    .iter()
                    .filter(|name| name.len() == length - 1)
                    .flat_map(|name| ["a", "b"].map(|letter| format!("{name}{letter}")))
                    .collect();
                names.extend(longer);
            }
            let both = names.iter().any(|name| matches(&one, name) && matches(&other, name));
            prop_assert_eq!(overlap(&one, &other), both);
            if covers(&one, &other) {
                prop_assert!(names.iter().all(|name| !matches(&other, name) || matches(&one, name)));
            }
        }
    }

    #[test]
    fn what_is_wider_covers() {
        assert!(covers("*", "ens*") && covers("ens*", "ens192") && covers("ens*", "ens?"));
        assert!(!covers("ens?", "ens*") && !covers("ens192", "ens*"));
    }
}
