//! The operations on backups.

use fastpersist_protocol::request::Op;
use fastpersist_protocol::{json, reply};

use super::dispatch::{Answer, Ask, Dispatcher, check_field};
use super::errors;
use super::pass::Pass;
use crate::backup::manifest::Manifest;
use crate::storage::schema::Model;

impl Dispatcher<'_> {
    pub(super) async fn backups(
        &mut self,
        id: Option<&str>,
        ask: Ask<'_>,
        op: &Op<'_>,
        pass: &mut Pass<'_>,
        out: &mut Vec<u8>,
    ) -> Answer<()> {
        let (_, storage) = self.allowed(ask)?;
        if let Op::Backup { date } = op {
            check_field(storage, Model::Dated, date.is_some(), "date")?;
        }
        pass.finish(out).await;
        // The partition that is held would keep its date open for as long as this takes.
        self.let_go();
        match op {
            Op::Backup { date } => {
                let taken = storage.backup(*date).await.map_err(|error| errors::of_backup(&error))?;
                reply::begin_ok(out, id);
                reply::field(out, "backups");
                reply::array(out, taken, |out, manifest| write_backup(out, &manifest, true));
            }
            Op::VerifyBackup { backup } => {
                let manifest =
                    storage.verify_backup(backup).await.map_err(|error| errors::of_backup(&error))?;
                reply::begin_ok(out, id);
                write_fields(out, &manifest, reply::field);
            }
            _ => {
                let found = storage.list_backups().map_err(|error| errors::of_backup(&error))?;
                reply::begin_ok(out, id);
                reply::field(out, "backups");
                reply::array(out, found, |out, one| write_backup(out, &one.manifest, one.is_verified()));
            }
        }
        reply::end(out);
        Ok(())
    }
}

fn write_backup(out: &mut Vec<u8>, manifest: &Manifest, verified: bool) {
    let mut first = true;
    let mut field = |out: &mut Vec<u8>, name: &str| {
        out.push(if first { b'{' } else { b',' });
        first = false;
        json::write_string(out, name);
        out.push(b':');
    };
    write_fields(out, manifest, &mut field);
    field(out, "verified");
    json::write_bool(out, verified);
    out.push(b'}');
}

fn write_fields(out: &mut Vec<u8>, manifest: &Manifest, mut field: impl FnMut(&mut Vec<u8>, &'static str)) {
    field(out, "backup");
    json::write_string(out, &manifest.backup.to_string());
    for (name, number) in [("seq", manifest.seq), ("rows", manifest.rows()), ("bytes", manifest.bytes())] {
        field(out, name);
        json::write_u64(out, number);
    }
    field(out, "created_at");
    json::write_string(out, &manifest.created_at.to_string());
}
