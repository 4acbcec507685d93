//! `import`: records of another store, with what that store says about them.
//!
//! It goes the way of a batch, with the same durability and the same line in the log. Invariant: a record
//! that the storage has as new or newer is left alone, so an import that is repeated changes nothing, and
//! one that was interrupted goes on.

use fastpersist_protocol::request::{Imported, Placed};

use super::answers::{WriteKind, WriteMeta};
use super::dispatch::{Answer, Ask, Dispatcher, in_batch};
use super::pass::Pass;
use crate::storage::rules;

impl Dispatcher<'_> {
    pub(super) async fn import<'a>(
        &mut self,
        id: Option<&'a str>,
        ask: Ask<'_>,
        placed: Placed<'a, Vec<Imported<'a>>>,
        pass: &mut Pass<'a>,
        out: &mut Vec<u8>,
    ) -> Answer<()> {
        // An import is recognised by what it brings, and takes no producer.
        let Placed { date, durability, producer: _, write: imported } = placed;
        let (index, storage) = self.allowed(ask)?;
        let (schema, taken) = (&storage.config().schema, self.taken());
        let mut warnings = Vec::new();
        let mut records = Vec::with_capacity(imported.len());
        for (position, one) in imported.iter().enumerate() {
            let mut own_warnings = Vec::new();
            let record = rules::record_of_import(schema, one, taken, &mut own_warnings, &mut self.scratch);
            records.push(record.map_err(|error| in_batch(&error, position))?);
            warnings.extend(own_warnings.into_iter().map(|warning| format!("op {position}: {warning}")));
        }
        self.target((index, storage), date, pass, out).await?;
        let meta = WriteMeta { id: id.map(Into::into), kind: WriteKind::Import, durability, warnings };
        if let Some(partition) = self.held(index, date) {
            pass.add(storage, partition, meta, None, |submission| {
                for record in records {
                    submission.push_if_newer(record);
                }
            });
        }
        Ok(())
    }
}
