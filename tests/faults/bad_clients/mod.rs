//! Bad clients: every limit of the configuration, exactly at it and one past it, and a crowd of 256 connections that
//! do everything wrong at once. Those who did nothing wrong are served all the while, quickly and completely.

mod asking;
mod crowd;
mod ground;
mod sharing;
mod talking;

use crate::runs::Tally;

type Case = fn() -> u64;

/// A limit by its name in `[limits]`. At it everything works, one past it the documented answer comes; how often it
/// was passed is the result.
const CASES: [(&str, Case); 26] = [
    ("max_line_bytes", talking::line_bytes),
    ("max_json_depth", talking::json_depth),
    ("max_connections", talking::connections),
    ("max_connections_per_uid", talking::connections_per_uid),
    ("max_inflight_requests", talking::inflight_requests),
    ("max_inflight_bytes", talking::inflight_bytes),
    ("max_output_bytes", talking::output_bytes),
    ("output_stall_timeout_ms", talking::output_stall),
    ("max_batch_ops", talking::batch_ops),
    ("max_query_rows", asking::query_rows),
    ("max_query_bytes", asking::query_bytes),
    ("max_query_sql_bytes", asking::query_sql_bytes),
    ("max_concurrent_queries", asking::concurrent_queries),
    ("max_concurrent_queries_per_uid", asking::concurrent_queries_per_uid),
    ("max_query_dates", asking::query_dates),
    ("max_handed_over_bytes", asking::handed_over_bytes),
    ("query_timeout_ms", asking::query_timeout),
    ("max_locks", sharing::locks),
    ("max_producers", sharing::producers),
    ("max_subscriptions", sharing::subscriptions),
    ("max_subscriptions_per_uid", sharing::subscriptions_per_uid),
    ("max_open_dates", sharing::open_dates),
    ("busy_wait_ms", sharing::busy_wait),
    ("duckdb_memory_bytes", asking::duckdb_memory),
    ("duckdb_temp_bytes", asking::duckdb_temp),
    ("duckdb_threads", asking::duckdb_threads),
];

/// The keys of `[limits]`, from the configuration that has every key; another test holds that against the daemon.
fn keys() -> Vec<String> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../systemd/config.toml");
    let text = std::fs::read_to_string(file).expect("the example configuration");
    let table = text.split("\n[limits]\n").nth(1).and_then(|rest| rest.split("\n[").next());
    let keys = table.expect("[limits]").lines().filter_map(|line| line.split_once(" = "));
    keys.map(|(key, _)| key.trim_start_matches("# ").to_owned()).collect()
}

/// The keys without a case, and cases without a key.
fn differences(keys: &[String]) -> Vec<&str> {
    let cases = CASES.map(|(name, _)| name);
    let without_case = keys.iter().map(String::as_str).filter(|key| !cases.contains(key));
    let without_key = cases.into_iter().filter(|name| !keys.iter().any(|key| key == name));
    without_case.chain(without_key).collect()
}

#[test]
fn every_limit_has_a_case() {
    let mut keys = keys();
    assert_eq!(differences(&keys), [] as [&str; 0]);
    keys.push("max_new_things".to_owned());
    assert_eq!(differences(&keys), ["max_new_things"], "a new limit without a case is seen");
}

#[test]
fn at_every_limit_it_works_and_one_past_it_the_answer_is_as_documented() {
    let mut tally = Tally::new("bad_clients (limits)");
    for (name, case) in CASES {
        let begun = std::time::Instant::now();
        let passed = std::panic::catch_unwind(case);
        println!("{name}: {:.1?}", begun.elapsed());
        tally.runs += 1;
        match passed {
            Ok(times) => tally.injected += times,
            Err(_) => tally.wrong.push(format!("{name}: see above")),
        }
    }
    talking::out_of_range(&keys());
    tally.end();
}
