//! What differs between two JSON texts, leaf by leaf.
//!
//! Invariant: numbers are compared and shown as they are written, so nothing is rounded on the way.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::value::RawValue;

/// One leaf that was added, removed or changed.
#[derive(Debug, Serialize)]
pub(super) struct Change {
    /// Where it stands, as a JSON pointer.
    path: String,
    /// What was there; nothing where it was added.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<Box<RawValue>>,
    /// What is there; nothing where it was removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<Box<RawValue>>,
}

impl Change {
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// The change in words: `1 → 2`, `added 2`, `removed 1`.
    pub(super) fn text(&self) -> String {
        match (&self.from, &self.to) {
            (Some(from), Some(to)) => format!("{from} → {to}"),
            (None, Some(to)) => format!("added {to}"),
            (Some(from), None) => format!("removed {from}"),
            (None, None) => String::new(),
        }
    }
}

type Fields<'a> = BTreeMap<String, &'a RawValue>;

/// Adds what differs between `from` and `to` to `changes`; `None` is nothing there.
pub(super) fn differences(
    path: &str,
    from: Option<&RawValue>,
    to: Option<&RawValue>,
    changes: &mut Vec<Change>,
) {
    match (from, to) {
        (None, None) => return,
        (Some(a), Some(b)) if a.get() == b.get() => return,
        _ => {}
    }
    if let Some((a, b)) = objects(from, to) {
        let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
        for name in names {
            let below = format!("{path}/{}", name.replace('~', "~0").replace('/', "~1"));
            differences(&below, a.get(name).copied(), b.get(name).copied(), changes);
        }
    } else if let Some((a, b)) = arrays(from, to) {
        for index in 0..a.len().max(b.len()) {
            let below = format!("{path}/{index}");
            differences(&below, a.get(index).copied(), b.get(index).copied(), changes);
        }
    } else if !same_text(from, to) {
        let owned = |side: Option<&RawValue>| side.map(ToOwned::to_owned);
        changes.push(Change { path: path.to_owned(), from: owned(from), to: owned(to) });
    }
}

/// Both as objects that are worth looking into.
fn objects<'a>(from: Option<&'a RawValue>, to: Option<&'a RawValue>) -> Option<(Fields<'a>, Fields<'a>)> {
    let read = |side: Option<&'a RawValue>| match side {
        None => Some(Fields::new()),
        Some(side) => serde_json::from_str::<Fields<'a>>(side.get()).ok(),
    };
    let (a, b) = (read(from)?, read(to)?);
    // An empty object beside nothing is a leaf of its own.
    let leaf = |side: Option<&RawValue>, fields: &Fields<'_>| side.is_some() && fields.is_empty();
    let one_sided = from.is_none() || to.is_none();
    (!(one_sided && (leaf(from, &a) || leaf(to, &b)))).then_some((a, b))
}

fn arrays<'a>(
    from: Option<&'a RawValue>,
    to: Option<&'a RawValue>,
) -> Option<(Vec<&'a RawValue>, Vec<&'a RawValue>)> {
    let read = |side: &'a RawValue| serde_json::from_str::<Vec<&'a RawValue>>(side.get()).ok();
    Some((read(from?)?, read(to?)?))
}

/// Whether both are strings with the same text, written with other escapes.
fn same_text(from: Option<&RawValue>, to: Option<&RawValue>) -> bool {
    let read = |side: Option<&RawValue>| serde_json::from_str::<String>(side?.get()).ok();
    read(from).is_some_and(|a| Some(a) == read(to))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diff(from: &str, to: &str) -> Vec<String> {
        let read = |text: &str| serde_json::from_str::<Box<RawValue>>(text).ok();
        let (from, to) = (read(from), read(to));
        let mut changes = Vec::new();
        differences("", from.as_deref(), to.as_deref(), &mut changes);
        changes.iter().map(|change| format!("{} {}", change.path(), change.text())).collect()
    }

    #[test]
    fn leaves_that_differ_are_told_with_their_place() {
        let from = r#"{"a":1,"b":{"c":[1,2,3],"d":"x"},"e/f":true,"g":{}}"#;
        let to = r#"{ "a":1, "b":{"c":[1,5],"d":"y"}, "n":{"m":null} }"#;
        assert_eq!(
            diff(from, to),
            [
                "/b/c/1 2 → 5",
                "/b/c/2 removed 3",
                "/b/d \"x\" → \"y\"",
                "/e~1f removed true",
                "/g removed {}",
                "/n/m added null",
            ]
        );
    }

    #[test]
    fn spaces_order_and_escapes_are_no_difference_and_digits_are() {
        assert!(diff(r#"{"a":1,"b":"é"}"#, r#"{"b":"\u00e9", "a": 1}"#).is_empty());
        assert_eq!(diff("12345678901234567890123", "12345678901234567890124").len(), 1);
        assert_eq!(diff("1", "1.0"), [" 1 → 1.0"]);
        assert_eq!(diff(r#"{"a":1}"#, "[1]"), [r#" {"a":1} → [1]"#]);
    }
}
