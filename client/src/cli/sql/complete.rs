//! What Tab completes: tables, columns, and the words of a SELECT.

use rustyline::completion::Completer;
use rustyline::{Context, Helper, Highlighter, Hinter, Validator};

const WORDS: &[&str] = &[
    "AND",
    "AS",
    "BETWEEN",
    "CASE",
    "CAST",
    "COUNT",
    "DESC",
    "DISTINCT",
    "ELSE",
    "END",
    "EXISTS",
    "FROM",
    "GROUP BY",
    "HAVING",
    "IN",
    "IS NULL",
    "JOIN",
    "LEFT JOIN",
    "LIKE",
    "LIMIT",
    "NOT",
    "OFFSET",
    "ON",
    "OR",
    "ORDER BY",
    "SELECT",
    "THEN",
    "UNION ALL",
    "USING",
    "WHEN",
    "WHERE",
    "WITH",
];

/// See the module.
#[derive(Debug, Helper, Highlighter, Hinter, Validator)]
pub(super) struct Names {
    names: Vec<String>,
}

impl Names {
    pub(super) fn new(tables: &[&str]) -> Self {
        Self { names: tables.iter().map(|name| (*name).to_owned()).collect() }
    }

    pub(super) fn add(&mut self, name: String) {
        self.names.push(name);
    }

    /// Where the word before `at` begins, and what it may become: names first, as they are written.
    fn candidates(&self, line: &str, at: usize) -> (usize, Vec<String>) {
        let before = &line[..at];
        let begin = before
            .rfind(|c: char| !c.is_alphanumeric() && c != '_')
            .map_or(0, |found| found + before[found..].chars().next().map_or(1, char::len_utf8));
        let word = before[begin..].to_lowercase();
        if word.is_empty() {
            return (begin, self.names.clone());
        }
        let fits = |name: &&str| name.to_lowercase().starts_with(&word);
        let names = self.names.iter().map(String::as_str).filter(fits);
        let words = WORDS.iter().copied().filter(fits);
        (begin, names.chain(words).map(str::to_owned).collect())
    }
}

impl Completer for Names {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        at: usize,
        _context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(self.candidates(line, at))
    }
}

#[cfg(test)]
mod tests {
    use super::Names;

    #[test]
    fn names_and_words_are_completed_from_their_beginning() {
        let mut names = Names::new(&["storage"]);
        names.add("status".to_owned());
        names.add("key".to_owned());
        let complete = |line: &str| names.candidates(line, line.len());
        assert_eq!(complete("SELECT sta"), (7, vec!["status".to_owned()]));
        assert_eq!(complete("SELECT max(k"), (11, vec!["key".to_owned()]));
        assert_eq!(complete("sel"), (0, vec!["SELECT".to_owned()]));
        assert_eq!(complete("SELECT ü, st"), (11, vec!["storage".to_owned(), "status".to_owned()]));
        assert_eq!(complete("SELECT key FROM ").1.len(), 3);
        assert_eq!(complete("xyz").1.len(), 0);
    }
}
