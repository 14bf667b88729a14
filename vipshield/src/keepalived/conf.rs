//! keepalived.conf as a tree of words. Whatever the text, something is read: what makes no sense is left out.
//!
//! Words are parted by blanks, `!` and `#` begin a comment, `{` and `}` enclose what belongs to the words
//! before, and quotes keep blanks (`keepalived.conf(5)`). Definitions (`$NAME`) are not expanded.

/// Blocks within blocks; keepalived has four.
const MAX_DEPTH: usize = 16;

/// A line, and what is in the braces behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Statement {
    /// Its words, at least one, but for a block that follows nothing.
    pub(crate) words: Vec<String>,
    /// What is in its block.
    pub(crate) block: Vec<Self>,
}

impl Statement {
    /// The word at this place.
    pub(crate) fn word(&self, at: usize) -> Option<&str> {
        self.words.get(at).map(String::as_str)
    }

    /// The first statement of its block that begins with this word.
    pub(crate) fn find(&self, keyword: &str) -> Option<&Self> {
        self.block.iter().find(|it| it.word(0) == Some(keyword))
    }

    /// All of them.
    pub(crate) fn all<'a>(&'a self, keyword: &'a str) -> impl Iterator<Item = &'a Self> {
        self.block.iter().filter(move |it| it.word(0) == Some(keyword))
    }

    /// Whether it is so of a statement anywhere below.
    pub(crate) fn has_anywhere(&self, is_it: impl Fn(&Self) -> bool) -> bool {
        let mut open: Vec<&Self> = vec![self];
        while let Some(statement) = open.pop() {
            if statement.block.iter().any(&is_it) {
                return true;
            }
            open.extend(&statement.block);
        }
        false
    }
}

/// Reads a configuration: its statements are the block of what is returned.
pub(crate) fn read(text: &str) -> Statement {
    let mut open = vec![Statement::default()];
    for line in text.lines() {
        let mut words = Vec::new();
        for token in tokens(line) {
            match token {
                Token::Word(word) => words.push(word),
                Token::Open => {
                    begin(&mut open, &mut words);
                }
                Token::Close => {
                    end_line(&mut open, &mut words);
                    if open.len() > 1 {
                        close(&mut open);
                    }
                }
            }
        }
        end_line(&mut open, &mut words);
    }
    while open.len() > 1 {
        close(&mut open);
    }
    open.pop().unwrap_or_default()
}

/// A block belongs to the words before it, or, on a line of its own, to the statement before.
fn begin(open: &mut Vec<Statement>, words: &mut Vec<String>) {
    let statement = if words.is_empty() {
        open.last_mut().and_then(|around| around.block.pop()).unwrap_or_default()
    } else {
        Statement { words: std::mem::take(words), block: Vec::new() }
    };
    open.push(statement);
    if open.len() > MAX_DEPTH {
        close(open);
    }
}

fn end_line(open: &mut [Statement], words: &mut Vec<String>) {
    // `@id` in front: only on the host with that id.
    if words.first().is_some_and(|word| word.starts_with('@')) {
        words.remove(0);
    }
    if !words.is_empty()
        && let Some(around) = open.last_mut()
    {
        let words = std::mem::take(words);
        around.block.push(Statement { words, block: Vec::new() });
    }
    words.clear();
}

fn close(open: &mut Vec<Statement>) {
    if let Some(mut done) = open.pop()
        && let Some(around) = open.last_mut()
    {
        if done.words.first().is_some_and(|word| word.starts_with('@')) {
            done.words.remove(0);
        }
        around.block.push(done);
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Open,
    Close,
}

fn tokens(line: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut word = String::new();
    let mut quoted = None;
    // `${NAME}` is a word.
    let mut in_definition = false;
    for c in line.chars() {
        match (quoted, c) {
            (Some(quote), c) if c == quote => quoted = None,
            (None, '"' | '\'') => quoted = Some(c),
            (None, '!' | '#') => break,
            (None, '{') if word.ends_with('$') => {
                in_definition = true;
                word.push(c);
            }
            (None, '}') if in_definition => {
                in_definition = false;
                word.push(c);
            }
            (None, '{' | '}') => {
                flush(&mut word, &mut tokens);
                tokens.push(if c == '{' { Token::Open } else { Token::Close });
            }
            (None, c) if c.is_whitespace() => flush(&mut word, &mut tokens),
            (Some(_) | None, c) => word.push(c),
        }
    }
    flush(&mut word, &mut tokens);
    tokens
}

fn flush(word: &mut String, tokens: &mut Vec<Token>) {
    if !word.is_empty() {
        tokens.push(Token::Word(std::mem::take(word)));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(statement: &Statement) -> String {
        let block: Vec<String> = statement.block.iter().map(shown).collect();
        let words = statement.words.join(" ");
        if block.is_empty() { words } else { format!("{words}{{{}}}", block.join(";")) }
    }

    #[test]
    fn blocks_are_read_wherever_their_braces_are() {
        for text in [
            "a b {\n c\n d { e }\n}\n",
            "a b\n{\n  c ! a comment\n d\n {\n e # }\n }\n}",
            "a b { c\n d {e\n}\n}\n}\n}",
        ] {
            assert_eq!(shown(&read(text)), "{a b{c;d{e}}}", "{text}");
        }
        assert_eq!(shown(&read("a { b\n")), "{a{b}}", "cut short");
        assert_eq!(read("").block, Vec::new());
    }

    #[test]
    fn words_are_told_from_definitions_and_conditions() {
        assert_eq!(
            shown(&read("@one interface ${NIC}\n$A=b\n\"a b\" c")),
            "{interface ${NIC};$A=b;a b c}"
        );
        assert_eq!(shown(&read("@one a {\nb\n}")), "{a{b}}");
    }

    #[test]
    fn anything_below_is_found() {
        let conf = read("a {\n b {\n c\n}\n}");
        assert!(conf.has_anywhere(|it| it.word(0) == Some("c")));
        assert!(!conf.has_anywhere(|it| it.word(0) == Some("d")));
        assert!(conf.find("a").is_some_and(|a| a.find("c").is_none()));
    }

    #[test]
    fn blocks_are_bounded() {
        let mut deepest = 0;
        let deep = read(&"a {\n".repeat(10_000));
        let mut statement = Some(&deep);
        while let Some(it) = statement {
            deepest += 1;
            statement = it.block.first();
        }
        assert!(deepest <= MAX_DEPTH + 1, "{deepest}");
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "[a-z@$\"'{}!# \n]{0,200}") {
            read(&text);
        }

        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            read(&String::from_utf8_lossy(&bytes));
        }
    }
}
