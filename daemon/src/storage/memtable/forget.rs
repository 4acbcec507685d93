//! Forgetting what came from DuckDB, when the table there was made anew.
//!
//! Invariant: what is not flushed stays; of everything else nothing is known any more, neither what is there
//! nor that nothing is.

use super::pending::Replaces;
use super::slots::Slots;
use super::{KEY_OVERHEAD_BYTES, Memtable};

impl Memtable {
    /// Forgets every record up to `flushed_seq`. Everybody waits meanwhile, about a tenth of a second for a
    /// million keys.
    pub fn forget_flushed(&mut self, flushed_seq: u64) {
        self.epoch += 1;
        self.complete = false;
        self.pending.forget_present();
        let Self { table, order, bytes, live_count, .. } = self;
        table.retain(|entry| {
            let (bytes_before, live_before) = entry.cost();
            entry.loaded = false;
            entry.slots.keep_newer(flushed_seq);
            let (bytes_after, live_after) = entry.cost();
            *bytes = (*bytes + bytes_after).saturating_sub(bytes_before);
            *live_count = (*live_count + live_after).saturating_sub(live_before);
            let keep = entry.pins > 0 || !matches!(entry.slots, Slots::None(_));
            if !keep && let Ok(key) = std::str::from_utf8(entry.slots.key_bytes()) {
                order.remove(key);
                *bytes = bytes.saturating_sub(KEY_OVERHEAD_BYTES + key.len());
            }
            keep
        });
    }
}

impl Slots {
    /// Drops the records up to `flushed_seq`; of those that stay it is no longer known what they replace.
    fn keep_newer(&mut self, flushed_seq: u64) {
        let key = String::from_utf8_lossy(self.key_bytes()).into_owned();
        let slots: Vec<_> = match std::mem::replace(self, Self::None(key.into_boxed_str())) {
            Self::None(_) => return,
            Self::One(slot) => vec![slot],
            Self::Many(slots) => slots.into_iter().collect(),
        };
        for mut slot in slots.into_iter().filter(|slot| slot.record.seq() > flushed_seq) {
            slot.replaces = Replaces::Unknown.into();
            self.insert(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::record::{Columns, Names, Record};
    use super::super::super::schema::Model;
    use super::super::{Known, Unflushed};
    use super::*;

    fn record(key: &str, item_name: &str, seq: u64) -> Record {
        Record::new(&Columns {
            key,
            names: Names::Collection { collection_name: "", item_name },
            data: "{}",
            value: None,
            timestamp: None,
            status: None,
            status_int: None,
            username: None,
            updated_at: fastpersist_protocol::time::Timestamp::from_micros(0).expect("in range"),
            seq,
            deleted: false,
            writer: None,
        })
    }

    #[test]
    fn what_is_flushed_is_forgotten_and_what_is_not_stays() {
        let names = |item_name| Names::Collection { collection_name: "", item_name };
        let mut table = Memtable::new(Model::Collection, true);
        for (seq, (key, item)) in (1..).zip([("a", "x"), ("a", "y"), ("b", "x"), ("c", "x")]) {
            table.publish(record(key, item, seq));
        }
        table.begin_taking();
        table.flushed(&[]);
        table.publish(record("a", "x", 5));
        table.publish(record("d", "x", 6));
        let epoch = table.epoch();
        table.forget_flushed(4);
        assert!(table.epoch() > epoch && !table.is_complete());
        assert_eq!(table.live_count(), 2);
        assert!(matches!(table.get("a", names("x")), Known::Live(found) if found.seq() == 5));
        for (key, item) in [("a", "y"), ("b", "x"), ("c", "x"), ("d", "y"), ("nobody", "x")] {
            assert_eq!(table.get(key, names(item)).map_seq(), Known::Cold, "{key} {item}");
        }
        let mut keys = Vec::new();
        table.visit_keys("", None, |key| {
            keys.push(key.to_owned());
            true
        });
        assert_eq!(keys, ["a", "d"]);
        let super::super::Taking::History(writes) = table.begin_taking() else { panic!("a collection") };
        assert!(writes.iter().all(|write| write.replaces == Replaces::Unknown), "{writes:?}");
        table.restore(Unflushed::History(writes), 4);
        assert!(table.load_key("a", vec![record("a", "y", 2)], table.epoch(), false));
        assert!(matches!(table.get("a", names("y")), Known::Live(found) if found.seq() == 2));
    }

    impl Known<&Record> {
        fn map_seq(self) -> Known<u64> {
            match self {
                Known::Live(record) => Known::Live(record.seq()),
                Known::Absent => Known::Absent,
                Known::Cold => Known::Cold,
            }
        }
    }
}
