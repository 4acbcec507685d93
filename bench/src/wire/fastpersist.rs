//! The daemon's own protocol: one line of JSON a request, one line an answer.
//!
//! Invariant: requests carry no `id`, so a success is a line that starts with `{"ok":true`.

use memchr::memchr_iter;

use super::{Answers, Tally, Wire, keep_head};
use crate::error::BenchError;
use crate::load::{Durability, Load, Model};
use crate::template::{DIGITS, Template, document};

const SUCCESS: &[u8] = br#"{"ok":true"#;
const NOT_FOUND: &[u8] = br#"{"ok":true,"record":null"#;

/// Speaks to a storage of a daemon.
#[derive(Debug, Clone)]
pub struct FastPersist {
    /// The storage's name as JSON, quotes included.
    storage_json: String,
}

impl FastPersist {
    /// Speaks to the storage of this name.
    #[must_use]
    pub fn new(storage: &str) -> Self {
        Self { storage_json: serde_json::Value::from(storage).to_string() }
    }

    /// One op of a `batch`: a store without the storage, which stands on the batch.
    #[must_use]
    pub fn batched_store(load: &Load) -> Template {
        let pattern = format!(r#"{{"op":"store",{}}}"#, stored_fields(load));
        Template::new(&pattern, load.key_digits())
    }
}

impl Wire for FastPersist {
    type Answers = Lines;

    fn store(&self, load: &Load) -> Template {
        let durability = match load.durability {
            Durability::Sync => "",
            Durability::Buffered => r#""durability":"buffered","#,
        };
        let pattern = format!(
            "{{\"op\":\"store\",\"storage\":{},{durability}{}}}\n",
            self.storage_json,
            stored_fields(load)
        );
        Template::new(&pattern, load.key_digits())
    }

    fn read(&self, load: &Load) -> Template {
        let op = match load.model {
            Model::Dated => "get_key_process",
            Model::Collection => "get_item",
        };
        let pattern =
            format!("{{\"op\":\"{op}\",\"storage\":{},{}}}\n", self.storage_json, address(load.model));
        Template::new(&pattern, load.key_digits())
    }
}

fn address(model: Model) -> String {
    match model {
        Model::Dated => format!(r#""key":"key_{DIGITS}","process_name":"worker1""#),
        Model::Collection => {
            format!(r#""key":"key_{DIGITS}","collection_name":"bench","item_name":"item1""#)
        }
    }
}

fn stored_fields(load: &Load) -> String {
    let value = match load.model {
        Model::Dated => "",
        Model::Collection => r#","value":100"#,
    };
    format!(r#"{},"data":{}{value}"#, address(load.model), document(load.value_bytes, load.key_digits()))
}

/// Counts lines.
#[derive(Debug, Default)]
pub struct Lines {
    /// The start of a line whose end has not come yet.
    head: Vec<u8>,
}

impl Answers for Lines {
    #[inline]
    fn count(&mut self, bytes: &[u8], tally: &mut Tally) -> Result<usize, BenchError> {
        let mut answers = 0;
        let mut start = 0;
        for end in memchr_iter(b'\n', bytes) {
            let line = &bytes[start..end];
            if self.head.is_empty() {
                judge(line, tally);
            } else {
                keep_head(&mut self.head, line);
                judge(&self.head, tally);
                self.head.clear();
            }
            answers += 1;
            start = end + 1;
        }
        keep_head(&mut self.head, &bytes[start..]);
        Ok(answers)
    }
}

#[inline]
fn judge(line: &[u8], tally: &mut Tally) {
    if !line.starts_with(SUCCESS) {
        tally.add_error(line);
    } else if line.starts_with(NOT_FOUND) {
        tally.misses += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::count_in_all_splits;
    use super::*;
    use serde_json::{Value, json};

    fn request(template: &Template, key: u64) -> Value {
        let mut bytes = Vec::new();
        template.append_to(&mut bytes, key);
        serde_json::from_slice(&bytes).expect("a request is JSON")
    }

    fn load(model: Model) -> Load {
        Load { model, ..Load::default() }
    }

    #[test]
    fn a_dated_store_and_its_read_have_the_same_address() {
        let wire = FastPersist::new("jo\"bs");
        let mut store = request(&wire.store(&load(Model::Dated)), 123);
        let data = store["data"].take();
        assert_eq!(data.to_string().len(), 130);
        assert_eq!(
            store,
            json!({"op":"store","storage":"jo\"bs","key":"key_000123","process_name":"worker1","data":null})
        );
        assert_eq!(
            request(&wire.read(&load(Model::Dated)), 123),
            json!({"op":"get_key_process","storage":"jo\"bs","key":"key_000123","process_name":"worker1"})
        );
    }

    #[test]
    fn a_collection_store_has_a_value() {
        let wire = FastPersist::new("s");
        let store = request(&wire.store(&load(Model::Collection)), 9);
        assert_eq!(store["value"], 100);
        assert_eq!(store["item_name"], "item1");
        let read = request(&wire.read(&load(Model::Collection)), 9);
        assert_eq!(
            read,
            json!({"op":"get_item","storage":"s","key":"key_000009","collection_name":"bench","item_name":"item1"})
        );
    }

    #[test]
    fn buffered_is_said_and_a_batched_store_names_no_storage() {
        let buffered = Load { durability: Durability::Buffered, ..Load::default() };
        let store = request(&FastPersist::new("s").store(&buffered), 1);
        assert_eq!(store["durability"], "buffered");
        let op = request(&FastPersist::batched_store(&buffered), 1);
        assert_eq!(op.get("storage"), None);
        assert_eq!(op.get("durability"), None);
        assert_eq!(op["key"], "key_000001");
    }

    #[test]
    fn lines_are_counted_wherever_they_are_cut() {
        let stream = concat!(
            "{\"ok\":true,\"seq\":1,\"durable\":true}\n",
            "{\"ok\":false,\"error\":{\"code\":\"busy\"}}\n",
            "{\"ok\":true,\"record\":null}\n",
            "{\"ok\":true,\"record\":{\"key\":\"a\"}}\n",
            "{\"ok\":false,\"error\":{\"code\":\"late\"}}\n",
            "{\"ok\":true,\"unfinished",
        );
        let tally = Tally {
            errors: 2,
            misses: 1,
            first_error: Some(r#"{"ok":false,"error":{"code":"busy"}}"#.to_owned()),
        };
        count_in_all_splits::<Lines>(stream.as_bytes(), 5, &tally);
    }

    #[test]
    fn a_cut_line_longer_than_what_is_kept_of_it_is_one_answer() {
        let stream = format!("{{\"ok\":true,\"data\":\"{}\"}}\n", "x".repeat(2_000));
        count_in_all_splits::<Lines>(stream.as_bytes(), 1, &Tally::default());
    }
}
