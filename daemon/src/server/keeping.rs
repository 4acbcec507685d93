//! The operations that bring records where others read them, `flush` and `export_parquet`, and `stats`.

use std::sync::Arc;

use fastpersist_protocol::request::StatsFormat;
use fastpersist_protocol::{json, reply};

use super::dispatch::{Answer, Ask, Dispatcher};
use super::pass::Pass;
use super::{errors, report};

impl Dispatcher<'_> {
    /// The figures are collected away from the threads that answer everybody: some of them are behind locks
    /// that a commit holds while the disk works.
    pub(super) async fn stats(
        &mut self,
        id: Option<&str>,
        format: StatsFormat,
        out: &mut Vec<u8>,
    ) -> Answer<()> {
        let server = Arc::clone(self.server);
        let collecting = tokio::task::spawn_blocking(move || {
            let mut fields = Vec::new();
            match format {
                StatsFormat::OpenMetrics => report::open_metrics(&server, &mut fields),
                StatsFormat::Json => report::stats(&server, &mut fields),
            }
            fields
        });
        let fields = collecting.await.map_err(|error| errors::internal("collecting the figures", &error))?;
        reply::begin_ok(out, id);
        out.extend_from_slice(&fields);
        reply::end(out);
        Ok(())
    }

    /// Flushes one storage; all that the peer may write where none is named and there are several.
    pub(super) async fn flush(
        &mut self,
        id: Option<&str>,
        ask: Ask<'_>,
        pass: &mut Pass<'_>,
        out: &mut Vec<u8>,
    ) -> Answer<()> {
        let storages = self.all_allowed(ask)?;
        pass.finish(out).await;
        let mut rows = 0;
        for storage in storages {
            for partition in storage.open_partitions() {
                let flushed = partition.flush_in_background().await;
                rows += flushed.map_err(|error| errors::of_flush(&error))?;
            }
        }
        reply::begin_ok(out, id);
        reply::field(out, "flushed");
        json::write_u64(out, rows);
        reply::end(out);
        Ok(())
    }

    pub(super) async fn export(
        &mut self,
        id: Option<&str>,
        ask: Ask<'_>,
        path: Option<&str>,
        pass: &mut Pass<'_>,
        out: &mut Vec<u8>,
    ) -> Answer<()> {
        let (_, storage) = self.allowed(ask)?;
        pass.finish(out).await;
        let root = storage.parquet_root(path).map_err(|error| errors::of_export(&error))?;
        let outcome = storage.export(root).await.map_err(|error| errors::of_export(&error))?;
        reply::begin_ok(out, id);
        reply::field(out, "files");
        json::write_u64(out, outcome.files);
        reply::field(out, "rows");
        json::write_u64(out, outcome.rows);
        reply::end(out);
        Ok(())
    }
}
