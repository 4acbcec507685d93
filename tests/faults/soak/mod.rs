//! The soak: everything that clients may do, at once and for long, and what the daemon takes of the machine levels off.
//!
//! Writers, readers, queries, followers, locks, visitors and keepers work on both models, while dates come, close and are
//! opened again. Then: memory, descriptors and threads have not grown from the first half behind the warm-up to the second, a good
//! client has not become slower, nothing was refused for good, all that was answered is there, and it stops in good order.

mod clients;
mod level;
mod load;
mod watch;
mod writers;

use std::{thread, time::Duration};

use serde_json::json;

use self::{clients::Latency, load::Load, watch::Sample, writers::Ledger};
use crate::{
    harness::{Config, Daemon, PATIENCE, Random, Site, wait_for},
    runs::{Tally, count},
};

const WRITERS: u64 = 4;
const MIB: u64 = 1 << 20;
/// Of an hour of history: the export and the backup that a stop makes.
const STOPPING: Duration = Duration::from_secs(600);

/// Everything that has a bound reaches it within the warm-up, and so does nearly all of the history, which has none.
fn config() -> Config {
    let lines = "duckdb_flush_interval_seconds = 2\nmax_wal_size = 2097152\nwal_retain_days = 0\n\
        backup = true\nretain_days = 1";
    Config::new()
        .limits("max_open_dates = 4\nmax_producers = 500\nduckdb_memory_bytes = 134217728")
        .dated("jobs", &format!("{lines}\ncache_max_bytes = 262144\nparquet_path = \"{{dir}}/parquet/jobs\""))
        .collection(
            "settings",
            &format!("{lines}\ncache_max_bytes = 2097152\nparquet_path = \"{{dir}}/parquet/settings\""),
        )
}

/// All clients, until `length` is over.
fn run(
    site: &Site,
    daemon: &Daemon,
    load: &Load,
    length: Duration,
    random: &mut Random,
) -> (Vec<Ledger>, Vec<Latency>) {
    thread::scope(|scope| {
        let mut fork = || random.fork();
        let writers: Vec<_> = (0..WRITERS)
            .map(|number| {
                let random = fork();
                scope.spawn(move || writers::run(load, number, random))
            })
            .collect();
        let good = {
            let random = fork();
            scope.spawn(move || clients::good(load, random))
        };
        let mut others: Vec<_> = [
            clients::reader,
            clients::reader,
            clients::follower,
            clients::follower,
            clients::sleeper,
            clients::sleeper,
            clients::locker,
            clients::locker,
            clients::visitor,
            clients::visitor,
            clients::keeper,
        ]
        .into_iter()
        .map(|client| {
            let random = fork();
            scope.spawn(move || client(load, random))
        })
        .collect();
        for handed_over in [false, true] {
            let random = fork();
            others.push(scope.spawn(move || clients::asker(load, random, handed_over)));
        }
        let (samples, open_dates, disk) = watch::watch(site, daemon, load, length);
        load.leave();
        let latencies = good.join().expect("the good client");
        for other in others {
            other.join().expect("a client");
        }
        load.stop();
        let ledgers = writers.into_iter().map(|writer| writer.join().expect("a writer")).collect();
        watch::judge(&samples, &open_dates, load);
        println!("{} MiB on the disk, at most", disk.max(watch::disk_bytes(&site.path(""))) / MIB);
        settles(daemon, &samples);
        (ledgers, latencies)
    })
}

/// With nobody there, what was taken for clients is given back: there is no more memory than at the half of the load's time, and
/// no more descriptors than a daemon without clients has (30) and each open date needs (8).
fn settles(daemon: &Daemon, samples: &[Sample]) {
    daemon.connect().ok(json!({"op": "flush"}));
    let mut conn = daemon.connect();
    let mut usual: Vec<_> = samples[samples.len() / 3..].iter().map(|sample| sample.resident).collect();
    usual.sort_unstable();
    let usual = usual[usual.len() / 2];
    let settled = wait_for("memory and descriptors come down", PATIENCE, || {
        let now = Sample::of(daemon);
        let dates =
            clients::stats(&mut conn)["storages"]["jobs"]["open_partitions"].as_u64().expect("a number");
        (now.resident <= usual && now.descriptors <= 30 + 8 * dates).then_some((now, dates))
    });
    let (now, dates) = settled;
    println!(
        "afterwards: {} MiB, {} of them anonymous, {} descriptors with {dates} open dates, {} threads",
        now.resident / MIB,
        now.anonymous / MIB,
        now.descriptors,
        now.threads
    );
}

/// A good client waits in the last third no longer than three times what it did in the middle one. A quarter of a second is what
/// other work on the machine may cost it.
fn stays_quick(latencies: &[Latency], length: Duration, load: &Load) {
    let third = |part: u32| {
        let of_part =
            latencies.iter().filter(|(at, _)| *at >= length * part / 3 && *at < length * (part + 1) / 3);
        level::p99(&of_part.map(|(_, took)| *took).collect::<Vec<_>>())
    };
    let (Some(middle), Some(last)) = (third(1), third(2)) else {
        load.wrong("the good client was not answered in a whole third".to_owned());
        return;
    };
    println!("a good client's p99: {middle:.1?} in the middle third, {last:.1?} in the last");
    if last > middle * 3 + Duration::from_millis(250) {
        load.wrong(format!("a good client's p99 went from {middle:?} to {last:?}"));
    }
}

#[test]
fn under_full_load_everything_levels_off() {
    let length = Duration::from_secs(count(120, 3600));
    let mut tally = Tally::new("soak");
    let mut random = Random::new();
    let site = Site::new(&config());
    let daemon = site.start();
    let load = Load::new(site.socket(), length);
    let (ledgers, latencies) = run(&site, &daemon, &load, length, &mut random);
    stays_quick(&latencies, length, &load);
    let mut conn = daemon.connect();
    let (checked, lost) = writers::check(&mut conn, &ledgers, &mut random);
    let stats = clients::stats(&mut conn);
    println!("requests: {}", stats["daemon"]["requests"]);
    println!("errors: {}", stats["daemon"]["errors"]);
    println!("clients: {:?}, {checked} records checked", load.counts());
    drop(conn);
    daemon.signal(rustix::process::Signal::TERM);
    daemon.ended_cleanly_within(STOPPING);
    tally.runs = 1;
    // What this one injects is load.
    tally.injected = stats["daemon"]["requests"]
        .as_object()
        .map_or(0, |requests| requests.values().filter_map(serde_json::Value::as_u64).sum());
    tally.lost = lost;
    tally.wrong = load.take_wrong();
    tally.end();
}
