//! Keys made from a document's fields.
//!
//! A template is text with fields in braces: `{carrier}{flight}-{origin}`. `{hour:02}` pads with zeros
//! from the left; `{{` and `}}` are braces themselves. A text without braces is a field's name.

use std::borrow::Cow;

use fastpersist_client::protocol::json::{Kind, Scanner};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Field { name: String, width: usize },
}

impl Template {
    /// Reads a template; the error says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if !text.contains(['{', '}']) {
            return Ok(Self { parts: vec![Part::Field { name: text.to_owned(), width: 0 }] });
        }
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            let (brace, behind) = rest[at..].split_at(1);
            if let Some(behind) = behind.strip_prefix(brace) {
                literal.push_str(brace);
                rest = behind;
                continue;
            }
            let field = (brace == "{").then(|| behind.split_once('}')).flatten();
            let Some((field, behind)) = field else {
                return Err(format!(
                    "the braces in {text:?} do not match; {{{{ and }}}} are braces themselves"
                ));
            };
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal)));
            }
            parts.push(Part::field(field)?);
            rest = behind;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Self { parts })
    }

    /// The text for one document; `field` gives the JSON text of a field. The error names the field that
    /// is not there.
    pub(crate) fn render<'d>(&self, field: impl Fn(&str) -> Option<&'d str>) -> Result<String, String> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Field { name, width } => {
                    let value = field(name).ok_or_else(|| format!("the field {name:?} is missing"))?;
                    let value = scalar(value)
                        .ok_or_else(|| format!("the field {name:?} is {value}, which makes no name"))?;
                    let missing = width.saturating_sub(value.chars().count());
                    text.extend(std::iter::repeat_n('0', missing));
                    text.push_str(&value);
                }
            }
        }
        Ok(text)
    }
}

impl Part {
    fn field(text: &str) -> Result<Self, String> {
        let (name, width) = match text.split_once(':') {
            None => (text, 0),
            Some((name, format)) => {
                let width = format.strip_prefix('0').and_then(|width| width.parse().ok());
                let width = width.filter(|width| (1..=64).contains(width));
                (
                    name,
                    width.ok_or_else(|| {
                        format!("{{{text}}} is not understood; padding is written {{{name}:04}}")
                    })?,
                )
            }
        };
        if name.is_empty() {
            return Err("a field in braces has no name".to_owned());
        }
        Ok(Self::Field { name: name.to_owned(), width })
    }
}

/// A string's value, or a number or boolean as it is written; `None` for anything else.
pub(crate) fn scalar(json: &str) -> Option<Cow<'_, str>> {
    let raw = Scanner::new(json, 1).value().ok()?;
    match raw.kind {
        Kind::String { .. } => raw.as_str(),
        Kind::Number { .. } | Kind::Bool => Some(Cow::Borrowed(raw.text)),
        Kind::Object | Kind::Array | Kind::Null => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(template: &str) -> Result<String, String> {
        Template::parse(template)?.render(|name| match name {
            "carrier" => Some("\"UA\""),
            "flight" => Some("1545"),
            "time" => Some("515"),
            "cancelled" => Some("true"),
            "nothing" => Some("null"),
            "quoted" => Some(r#""a\"b""#),
            _ => None,
        })
    }

    #[test]
    fn fields_become_text() {
        for (template, text) in [
            ("carrier", "UA"),
            ("flight", "1545"),
            ("{carrier}{flight}-{time:04}", "UA1545-0515"),
            ("{flight:02}", "1545"),
            ("{{{carrier}}}", "{UA}"),
            ("x{cancelled}y", "xtruey"),
            ("{quoted}", "a\"b"),
        ] {
            assert_eq!(render(template).as_deref(), Ok(text), "{template}");
        }
    }

    #[test]
    fn what_cannot_be_is_told() {
        for (template, what) in [
            ("gate", "the field \"gate\" is missing"),
            ("{nothing}", "is null"),
            ("{carrier", "do not match"),
            ("carrier}", "do not match"),
            ("{}", "no name"),
            ("{time:4}", "{time:04}"),
            ("{time:0}", "{time:04}"),
            ("{time:0x}", "{time:04}"),
        ] {
            let error = render(template).unwrap_err();
            assert!(error.contains(what), "{template}: {error}");
        }
    }
}
