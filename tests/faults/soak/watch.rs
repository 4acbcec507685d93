//! What the kernel and the daemon tell of its size, once a second.

use std::{fs, path::Path, time::Duration};

use serde_json::json;

use super::{level, load::Load};
use crate::harness::{Daemon, Site, files};

/// What an hour may take of the disk.
const MAX_DISK_BYTES: u64 = 10 << 30;

#[derive(Clone, Copy, Default)]
pub(super) struct Sample {
    pub(super) resident: u64,
    pub(super) anonymous: u64,
    pub(super) descriptors: u64,
    pub(super) threads: u64,
}

impl Sample {
    pub(super) fn of(daemon: &Daemon) -> Self {
        let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("the daemon runs");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a known field");
            line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).expect("a number")
        };
        let descriptors = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("its descriptors");
        Self {
            resident: field("VmRSS:") * 1024,
            anonymous: field("RssAnon:") * 1024,
            descriptors: descriptors.count() as u64,
            threads: field("Threads:"),
        }
    }
}

pub(super) fn disk_bytes(dir: &Path) -> u64 {
    // Files come and go meanwhile.
    files::tree(dir).iter().filter_map(|path| fs::metadata(path).ok()).map(|file| file.len()).sum()
}

/// One sample a second until `length` is over, or the load has ended by itself.
pub(super) fn watch(
    site: &Site,
    daemon: &Daemon,
    load: &Load,
    length: Duration,
) -> (Vec<Sample>, Vec<u64>, u64) {
    let mut conn = daemon.connect();
    let (mut samples, mut open_dates) = (Vec::new(), Vec::new());
    let mut disk = 0;
    while load.elapsed() < length && load.goes_on() {
        samples.push(Sample::of(daemon));
        let stats = conn.ok(json!({"op": "stats"}));
        open_dates.push(stats["storages"]["jobs"]["open_partitions"].as_u64().expect("a number"));
        if samples.len() % 30 == 0 {
            disk = disk.max(disk_bytes(&site.path("")));
            if disk > MAX_DISK_BYTES {
                load.wrong(format!("{disk} bytes on the disk are too many"));
                break;
            }
        }
        load.pause(Duration::from_secs(1));
    }
    (samples, open_dates, disk)
}

/// Prints the table, and says what does not level off.
pub(super) fn judge(samples: &[Sample], open_dates: &[u64], load: &Load) {
    println!("{:12} {:>10} {:>14} {:>12} {:>10}", "", "peak", "median", "later", "later p95");
    let memory = level::memory(samples.len() as u64);
    let series = |part: fn(&Sample) -> u64| samples.iter().map(part).collect::<Vec<_>>();
    let rows = [
        ("resident", series(|sample| sample.resident), memory, 20),
        ("anonymous", series(|sample| sample.anonymous), memory, 20),
        ("descriptors", series(|sample| sample.descriptors), level::COUNT, 0),
        ("threads", series(|sample| sample.threads), level::COUNT, 0),
        ("open dates", open_dates.to_vec(), level::COUNT, 0),
    ];
    for (name, series, bounds, shift) in rows {
        match level::levels_off(name, &series, bounds) {
            Ok(level::Halves { peak, medians: [middle, last], high: [_, high] }) => {
                let [peak, middle, last, high] = [peak, middle, last, high].map(|value| value >> shift);
                let unit = if shift > 0 { "MiB" } else { "" };
                println!("{name:12} {peak:>10} {middle:>14} {last:>12} {high:>10} {unit}");
            }
            Err(told) => {
                let step = (series.len() / 60).max(1);
                let shown: Vec<_> = series.iter().step_by(step).map(|value| value >> shift).collect();
                println!("{name:12} {shown:?}");
                load.wrong(told);
            }
        }
    }
}
