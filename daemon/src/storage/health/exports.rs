//! Whether the exported Parquet files are those that were written.

use std::sync::atomic::Ordering;

use super::{HealthReport, ProblemKind};
use crate::storage::exported;
use crate::storage::{Kind, Storage};

impl Storage {
    /// Looks at the files of the last export to the configured root, unless they are being replaced just now.
    pub(super) fn look_at_exports(&self, deep: bool, report: &mut HealthReport) {
        let (Some(root), Ok(_turn)) = (&self.config.parquet_path, self.export_turn.try_lock()) else {
            return;
        };
        let dates = match &self.kind {
            Kind::Collection(_) => vec![None],
            // A directory that cannot be listed is told of by the look at the databases.
            Kind::Dated(dated) => dated.dates().unwrap_or_default().into_iter().map(Some).collect(),
        };
        let go_on = || !self.shared.stopping.load(Ordering::Relaxed);
        for date in dates {
            let directory = match date {
                Some(date) => self.config.base_dir.join(date.to_string()),
                None => self.config.base_dir.clone(),
            };
            for what in exported::differences(&*self.shared.disk, &directory, root, deep, &go_on) {
                let message = format!("{what}; export_parquet writes it again");
                report.add(date, ProblemKind::ExportDamaged, message);
            }
        }
    }
}
