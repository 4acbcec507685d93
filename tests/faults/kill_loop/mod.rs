//! The kill loop: four processes write, the daemon is killed at random moments and started again, and a checker that
//! knows every answer finds each answered write exactly once, in order, in memory, in DuckDB, in history, in the last
//! export and in the last backup.
//!
//! A tenth of the kills meets the recovery from the kill before, a tenth a backup or an export. Every hundred kills the
//! writers begin anew in another directory: so what a kill costs does not grow with their number, and all files are judged
//! as often.

mod checker;
mod doctored;
mod ledger;
mod moments;
mod rows;
mod steps;
pub(crate) mod writer;

use checker::Checker;
use moments::{Kills, Moment, Spans};

use crate::{
    harness::{Config, Daemon, Random, Site},
    runs::{Tally, count},
};

const WRITERS: u64 = 4;
/// Kills in one directory.
const KILLS: u64 = 100;

/// Flushes, sealed segments and deleted ones all the time: a kill meets each of them.
fn config() -> Config {
    let lines =
        "batch_size = 150\nduckdb_flush_interval_seconds = 1\nmax_wal_size = 65536\nwal_retain_days = 0";
    Config::new()
        .dated("jobs", &format!("{lines}\nparquet_path = \"{{dir}}/parquet\""))
        .collection("settings", lines)
}

#[test]
fn no_answered_write_is_lost_or_doubled_by_kills() {
    let wanted = count(100, 2_000);
    let (mut random, mut tally, mut kills) = (Random::new(), Tally::new("kill_loop"), Kills::default());
    let (mut spans, mut figures) = (Spans::new(), [0; 3]);
    while tally.runs < wanted && is_sound(&tally) {
        let some = KILLS.min(wanted - tally.runs);
        let life = live(some, &mut random, &mut spans, &mut kills, &mut tally);
        figures.iter_mut().zip(life).for_each(|(sum, one)| *sum += one);
    }
    let [answered, sent, reread] = figures;
    println!("{kills}; {answered} requests answered of {sent} sent, {reread} own ones read again");
    tally.end();
    kills.assert_shares();
    assert!(answered > 10 * wanted && reread > wanted, "hardly anything was written: nothing was tested");
}

fn is_sound(tally: &Tally) -> bool {
    tally.lost.is_empty() && tally.wrong.is_empty()
}

/// So many kills in one directory, and then a look at everything.
fn live(some: u64, random: &mut Random, spans: &mut Spans, kills: &mut Kills, tally: &mut Tally) -> [u64; 3] {
    let site = Site::new(&config());
    let writers: Vec<_> = (0..WRITERS).map(|number| writer::Writer::start(&site, number)).collect();
    let mut checker = Checker::new(writers.iter().map(writer::Writer::log));
    for round in 0..some {
        let wanted = kills.next(random);
        let met = if wanted == Moment::Recovery {
            spans.kill_recovering(&site, random)
        } else {
            let daemon = spans.start(&site);
            if round % 4 == 3 {
                checker.check_new(&mut daemon.connect(), random, tally);
            }
            moments::let_run(random);
            kill(daemon, wanted, spans, random, &mut checker, tally)
        };
        kills.add(met);
        tally.runs += 1;
        tally.injected += 1;
        if matches!(met, Moment::Backup | Moment::Export) {
            let daemon = spans.start(&site);
            checker.check_backups(&mut daemon.connect(), tally);
            checker.check_exported(&site, tally);
            daemon.kill();
        }
        if !is_sound(tally) {
            return checker.figures();
        }
    }
    let daemon = spans.start(&site);
    for writer in writers {
        writer.stop();
    }
    let mut conn = daemon.connect();
    checker.check_all(&mut conn, tally);
    checker.check_backups(&mut conn, tally);
    daemon.stop();
    checker.check_files(&site, tally);
    let daemon = site.start();
    checker.check_sample(&mut daemon.connect(), random, 300, tally);
    checker.figures()
}

/// Kills a daemon that serves, and says in the midst of what.
fn kill(
    daemon: Daemon,
    wanted: Moment,
    spans: &mut Spans,
    random: &mut Random,
    checker: &mut Checker,
    tally: &mut Tally,
) -> Moment {
    if !matches!(wanted, Moment::Backup | Moment::Export) {
        daemon.kill();
        return Moment::Running;
    }
    let Some(answer) = spans.kill_keeping(daemon, wanted, random) else { return wanted };
    if answer["ok"] != true {
        tally.wrong.push(format!("{wanted:?} was answered {answer}"));
    }
    checker.backed_up(&answer);
    Moment::Running
}
