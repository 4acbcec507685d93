//! A page of metrics, read by rules of our own: every sample belongs to the family above it, none stands twice.

use std::collections::{BTreeMap, BTreeSet};

type Labels = BTreeMap<String, String>;

pub(super) struct Page {
    samples: BTreeMap<(String, Labels), f64>,
    /// The names of samples that only ever grow.
    growing: BTreeSet<String>,
}

impl Page {
    /// Reads OpenMetrics, which ends in `# EOF`.
    pub(super) fn read(text: &str) -> Self {
        let text = text.strip_suffix("# EOF\n").unwrap_or_else(|| panic!("no # EOF at the end of\n{text}"));
        Self::read_families(text, &["_total"])
    }

    /// Reads the Prometheus text format 0.0.4, which knows no more types than these.
    pub(super) fn read_prometheus(text: &str) -> Self {
        for line in text.lines().filter_map(|line| line.strip_prefix("# ")) {
            let words: Vec<_> = line.split(' ').collect();
            let known = words[0] == "HELP"
                || words[0] == "TYPE"
                    && ["counter", "gauge", "histogram", "summary", "untyped"].contains(&words[2]);
            assert!(known, "not in this format: # {line}");
        }
        Self::read_families(text, &[""])
    }

    fn read_families(text: &str, counter_suffixes: &[&str]) -> Self {
        let mut page = Self { samples: BTreeMap::new(), growing: BTreeSet::new() };
        let mut seen = BTreeSet::new();
        let mut family = (String::new(), String::new());
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# ") {
                let (keyword, rest) = rest.split_once(' ').expect("a keyword");
                let (name, value) = rest.split_once(' ').expect("a name");
                if keyword == "TYPE" {
                    assert!(seen.insert(name.to_owned()), "the family {name} stands twice");
                    family = (name.to_owned(), value.to_owned());
                }
                continue;
            }
            let (name, labels, value) = sample(line);
            let suffixes = match family.1.as_str() {
                "counter" => counter_suffixes,
                "info" => &["_info"],
                "histogram" => &["_bucket", "_sum", "_count"],
                "gauge" => &[""],
                other => panic!("a family of the type {other:?}"),
            };
            let belongs = suffixes.iter().any(|suffix| name == format!("{}{suffix}", family.0));
            assert!(belongs, "{line} does not belong to {family:?}");
            if ["counter", "histogram"].contains(&family.1.as_str()) {
                page.growing.insert(name.clone());
            }
            let twice = page.samples.insert((name, labels), value);
            assert!(twice.is_none(), "twice: {line}");
        }
        assert!(page.samples.len() > 50, "a page with little on it:\n{text}");
        page
    }

    pub(super) fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.samples.get(&(name.to_owned(), labels)).copied()
    }

    pub(super) fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels).unwrap_or_else(|| panic!("no {name} {labels:?}"))
    }

    pub(super) fn label_names(&self) -> BTreeSet<String> {
        self.samples.keys().flat_map(|(_, labels)| labels.keys().cloned()).collect()
    }

    pub(super) fn label_values(&self, name: &str) -> BTreeSet<String> {
        self.samples.keys().filter_map(|(_, labels)| labels.get(name).cloned()).collect()
    }

    /// What only grows is not below an earlier page, and nothing of it is gone.
    pub(super) fn assert_not_below(&self, earlier: &Self) {
        for ((name, labels), before) in &earlier.samples {
            if self.growing.contains(name) {
                let now = self.samples.get(&(name.clone(), labels.clone()));
                assert!(now.is_some_and(|now| now >= before), "{name} {labels:?}: {before}, then {now:?}");
            }
        }
    }
}

/// `name{label="value",…} number`; the values that are written here need no escapes.
fn sample(line: &str) -> (String, Labels, f64) {
    let (head, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
    let value = value.parse().unwrap_or_else(|e| panic!("{line}: {e}"));
    let Some((name, labels)) = head.split_once('{') else { return (head.to_owned(), Labels::new(), value) };
    let labels = labels.strip_suffix('}').unwrap_or_else(|| panic!("no end of the labels: {line}"));
    let pair = |pair: &str| {
        let (name, value) = pair.split_once("=\"").unwrap_or_else(|| panic!("no label {pair:?} in {line}"));
        (name.to_owned(), value.strip_suffix('"').expect("a quote").to_owned())
    };
    (name.to_owned(), labels.split(',').map(pair).collect(), value)
}
