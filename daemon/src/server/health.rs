//! The operations that look at the state of storages and mend it.

use std::sync::Arc;

use fastpersist_protocol::request::Op;
use fastpersist_protocol::time::Date;
use fastpersist_protocol::{json, reply};

use super::dispatch::{Answer, Ask, Dispatcher};
use super::errors;
use super::pass::Pass;
use crate::storage::Storage;
use crate::storage::health::HealthReport;

impl Dispatcher<'_> {
    pub(super) async fn health(
        &mut self,
        id: Option<&str>,
        ask: Ask<'_>,
        op: &Op<'_>,
        pass: &mut Pass<'_>,
        out: &mut Vec<u8>,
    ) -> Answer<()> {
        if let Op::CheckHealth { deep } = op {
            let storages = self.all_allowed(ask)?;
            pass.finish(out).await;
            let mut reports = Vec::with_capacity(storages.len());
            for storage in storages {
                let report = storage.check_health(*deep, &storage.jobs_in_time().await).await;
                reports.push((storage.config().name.clone(), report));
            }
            write_health(out, id, &reports);
            return Ok(());
        }
        let storage = Arc::clone(self.allowed(ask)?.1);
        pass.finish(out).await;
        match op {
            Op::RebuildHistoryFromWal { date } => rebuild_history(id, &storage, *date, out).await,
            _ => rebuild_latest(id, &storage, out).await,
        }
    }
}

async fn rebuild_history(id: Option<&str>, storage: &Storage, date: Date, out: &mut Vec<u8>) -> Answer<()> {
    let filled = storage.rebuild_history_from_wal(date).await.map_err(|error| errors::of_mend(&error))?;
    reply::begin_ok(out, id);
    number(out, "records", filled.records);
    number(out, "inserted", filled.inserted);
    reply::end(out);
    Ok(())
}

async fn rebuild_latest(id: Option<&str>, storage: &Storage, out: &mut Vec<u8>) -> Answer<()> {
    let rows = storage.rebuild_latest_from_history().await.map_err(|error| errors::of_mend(&error))?;
    reply::begin_ok(out, id);
    number(out, "rows", rows);
    reply::end(out);
    Ok(())
}

fn write_health(out: &mut Vec<u8>, id: Option<&str>, reports: &[(String, HealthReport)]) {
    let sum = |of: fn(&HealthReport) -> u64| reports.iter().map(|(_, report)| of(report)).sum::<u64>();
    let well = reports.iter().all(|(_, report)| report.problems.is_empty());
    reply::begin_ok(out, id);
    reply::field(out, "status");
    json::write_string(out, if well { "ok" } else { "degraded" });
    reply::field(out, "problems");
    let problems =
        reports.iter().flat_map(|(name, report)| report.problems.iter().map(move |one| (name, one)));
    reply::array(out, problems, |out, (name, problem)| {
        out.extend_from_slice(b"{\"storage\":");
        json::write_string(out, name);
        reply::field(out, "date");
        json::write_opt_string(out, problem.date.map(|date| date.to_string()).as_deref());
        reply::field(out, "kind");
        json::write_string(out, problem.kind.as_str());
        reply::field(out, "message");
        json::write_string(out, &problem.message);
        out.push(b'}');
    });
    number(out, "torn_count", sum(|report| report.torn_count));
    out.extend_from_slice(b",\"checked\":{\"files\":");
    json::write_u64(out, sum(|report| report.files));
    number(out, "rows", sum(|report| report.rows));
    number(out, "wal_segments", sum(|report| report.wal_segments));
    number(out, "wal_records", sum(|report| report.wal_records));
    out.push(b'}');
    reply::end(out);
}

fn number(out: &mut Vec<u8>, name: &str, value: u64) {
    reply::field(out, name);
    json::write_u64(out, value);
}
