//! What is there after a restart, asked of the daemon and then read from its files without it.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::{Value, json};

use super::script::{DATES, KEY, State, history_line, live_line};
use crate::{
    harness::{Conn, Site, files, python},
    runs::Tally,
};

/// Everything that the daemon tells, a line each.
pub(super) fn asked(conn: &mut Conn) -> Vec<String> {
    let mut lines = Vec::new();
    for date in DATES {
        let page = conn.ok(json!({"op": "keys", "storage": "jobs", "date": date, "limit": 10_000}));
        let keys = page["keys"].as_array().expect("a list").clone();
        let reads =
            keys.iter().map(|key| json!({"op": "get_key", "storage": "jobs", "date": date, "key": key}));
        for (key, answer) in keys.iter().zip(conn.all_ok(reads)) {
            for record in answer["records"].as_array().expect("a list") {
                let name = key.as_str().expect("a key");
                lines.push(live_line(date, name, number(&record["data"]["n"]), number(&record["seq"])));
            }
        }
    }
    let answer = conn.ok(json!({"op": "get_key", "storage": "settings", "key": KEY}));
    for record in answer["records"].as_array().expect("a list") {
        let name = record["item_name"].as_str().expect("a name");
        lines.push(live_line("", name, number(&record["value"]), number(&record["seq"])));
    }
    let request =
        json!({"op": "history", "storage": "settings", "key": KEY, "all_items": true, "limit": 10_000});
    for record in conn.ok(request)["records"].as_array().expect("a list") {
        let name = record["item_name"].as_str().expect("a name");
        lines.push(history_line(name, record["value"].as_u64(), number(&record["seq"])));
    }
    lines
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Holds what was found against what may be there, and gives the state that it is.
pub(super) fn judge<'a>(
    what: &str,
    found: &[String],
    allowed: &'a [State],
    tally: &mut Tally,
) -> Option<&'a State> {
    let set: BTreeSet<_> = found.iter().cloned().collect();
    if set.len() < found.len() {
        tally.wrong.push(format!("{what}: something is there twice: {found:?}"));
        return None;
    }
    let fitting = allowed.iter().find(|state| state.lines() == set);
    if fitting.is_none() {
        let lines = allowed[0].lines();
        let missing: Vec<_> = lines.difference(&set).collect();
        let more: Vec<_> = set.difference(&lines).collect();
        let text = format!("{what}: missing {missing:?}, not expected {more:?}");
        // What the request in doubt may have replaced is not lost by that alone.
        let in_all = |line: &&&String| allowed.iter().all(|state| state.lines().contains(**line));
        let is_lost = missing.iter().any(|line| in_all(&line));
        if is_lost { &mut tally.lost } else { &mut tally.wrong }.push(text);
    }
    fitting
}

/// Every backup that is listed can be used, and the one that was answered is there.
pub(super) fn check_backups(what: &str, conn: &mut Conn, state: &State, tally: &mut Tally) {
    let listed = conn.ok(json!({"op": "list_backups", "storage": "settings"}))["backups"].clone();
    let backups = listed.as_array().expect("a list");
    for backup in backups {
        let request = json!({"op": "verify_backup", "storage": "settings", "backup": backup["backup"]});
        let verified = conn.ask(request);
        if backup["verified"] != true || verified["ok"] != true {
            tally.wrong.push(format!("{what}: {backup} is listed, and verified it is {verified}"));
        }
    }
    if backups.iter().filter_map(|backup| backup["seq"].as_u64()).max().unwrap_or(0) < state.backed_up {
        tally.lost.push(format!("{what}: the backup with seq {} is not listed: {listed}", state.backed_up));
    }
}

/// The Parquet files that stand under their final names, and those of them that are not whole.
pub(super) fn check_exported(what: &str, site: &Site, tally: &mut Tally) {
    for path in files::tree(&site.path("parquet")).iter().filter(|path| is_parquet(path)) {
        let bytes = fs::read(path).expect("read a Parquet file");
        let footer = bytes.len().checked_sub(8).and_then(|at| bytes[at..at + 4].try_into().ok());
        let length = footer.map_or(usize::MAX, |bytes| u32::from_le_bytes(bytes) as usize);
        let whole = bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1") && length < bytes.len();
        if !whole {
            tally.wrong.push(format!("{what}: {} is not whole", path.display()));
        }
    }
    // Read later, with everything else: the export when the daemon stops replaces them.
    files::copy_tree(&site.path("parquet"), &site.path("found"));
}

fn is_parquet(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "parquet")
}

/// All files at once, for to start Python takes longer than to read them.
const SCRIPT: &str = "
import duckdb, glob, json, sys
site, dates = sys.argv[1], sys.argv[2:]
def rows(path, sql):
    with duckdb.connect(path, read_only=True) as con:
        return con.execute(sql).fetchall()
def exported(root):
    if not glob.glob(root + '/**/*.parquet', recursive=True):
        return []
    sql = \"SELECT CAST(date AS VARCHAR), key, (data->>'n')::BIGINT, seq FROM read_parquet('\" + root + \"/**/*.parquet', hive_partitioning=true)\"
    return duckdb.connect().execute(sql).fetchall()
sql = \"SELECT '{}', key, (data->>'n')::BIGINT, seq FROM storage\"
live = [row for date in dates for row in rows(site + '/jobs/' + date + '/data.duckdb', sql.format(date))]
settings = site + '/settings/storage_'
latest = rows(settings + 'latest.duckdb', 'SELECT item_name, value_int, seq FROM storage_latest')
history = rows(settings + 'history.duckdb', 'SELECT item_name, CASE WHEN deleted THEN NULL ELSE value_int END, seq FROM storage_history')
print(json.dumps([live, exported(site + '/parquet'), latest, history, len(exported(site + '/found'))]))
";

/// Everything that the stopped daemon's files have, a line each; once for the databases, once for the export.
pub(super) fn read(site: &Site) -> [Vec<String>; 2] {
    let site = site.path("").to_string_lossy().trim_end_matches('/').to_owned();
    let tables = python::run(SCRIPT, &[&site, DATES[0], DATES[1]]);
    let rows = |table: usize| tables[table].as_array().expect("a list of rows").iter();
    let text = |cell: &Value| cell.as_str().expect("a text").to_owned();
    let record = |row: &Value| live_line(&text(&row[0]), &text(&row[1]), number(&row[2]), number(&row[3]));
    let latest = rows(2).map(|row| live_line("", &text(&row[0]), number(&row[1]), number(&row[2])));
    let history = rows(3).map(|row| history_line(&text(&row[0]), row[1].as_u64(), number(&row[2])));
    let collection: Vec<_> = latest.chain(history).collect();
    let with = |table: usize| rows(table).map(record).chain(collection.iter().cloned()).collect();
    [with(0), with(1)]
}

/// Files that were not finished and that nobody has tidied up, and files that were set aside.
pub(super) fn check_leftovers(what: &str, site: &Site, tally: &mut Tally) {
    let found = site.path("found");
    for path in files::tree(&site.path("")).iter().filter(|path| !path.starts_with(&found)) {
        let name = path.file_name().expect("a name").to_string_lossy();
        let is_unfinished = name.ends_with(".tmp") || name.contains(".duckdb.new");
        if is_unfinished || name.starts_with("damaged-") || name.contains(".damaged-") {
            tally.wrong.push(format!("{what}: {} was left", path.display()));
        }
    }
}

#[test]
fn the_judge_finds_what_is_lost_half_there_or_twice() {
    let (mut before, mut after) = (State::default(), State::default());
    for request in super::script::requests().iter().take(10) {
        before = after.clone();
        after.apply(request);
    }
    // The last one is a batch: two records more, and one less.
    let allowed = [before.clone(), after.clone()];
    let judged = |lines: Vec<String>| {
        let mut tally = Tally::new("doctored");
        let fits = judge("doctored", &lines, &allowed, &mut tally).is_some();
        assert_eq!(fits, tally.lost.is_empty() && tally.wrong.is_empty());
        (tally.lost.len(), tally.wrong.len())
    };
    let all = |state: &State| state.lines().into_iter().collect::<Vec<_>>();
    assert_eq!((judged(all(&before)), judged(all(&after))), ((0, 0), (0, 0)));
    let missing =
        |part: &str| all(&after).into_iter().filter(|line| !line.contains(part)).collect::<Vec<_>>();
    assert_eq!(judged(missing("k8:")), (1, 0), "a record");
    assert_eq!(judged(missing("latest i0")), (1, 0), "the latest value of an item");
    assert_eq!(judged(missing("history 1:")), (1, 0), "a write in the history");
    assert_eq!(judged(missing("k10/1")), (0, 1), "half of the batch in doubt");
    assert_eq!(judged([all(&after), all(&before)].concat()), (0, 1), "everything twice");
    let never = [all(&after), vec!["history 90: i1, n 90".to_owned()]].concat();
    assert_eq!(judged(never), (0, 1), "what nobody sent");
}
