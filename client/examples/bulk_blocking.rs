//! The blocking client: a bulk of measurements without a runtime.
//!
//! Run it beside a daemon on its embedded default: `cargo run --release --example bulk_blocking`.
//! `FASTPERSIST_SOCKET` names the socket, `FASTPERSIST_STORAGE` another dated storage than `dated`.

use std::env;
use std::time::Instant;

use fastpersist_client::{Date, Durability, Error, blocking::Client};
use serde_json::json;

const COUNT: u32 = 10_000;

fn main() -> Result<(), Error> {
    let storage = env::var("FASTPERSIST_STORAGE").unwrap_or_else(|_| "dated".to_owned());
    let client = Client::connect_default()?;
    let date = Date::parse("2025-01-15").ok_or_else(|| Error::Data("no date".to_owned()))?;
    let measurements = client.dated(&storage).on(date);

    // Every write by itself, and yet many on their way: one that is refused does not hold up the rest.
    let mut bulk = measurements.batch();
    for number in 0..COUNT {
        let reading = json!({"celsius": f64::from(number % 400) / 10.0});
        bulk.add(measurements.store(format!("sensor_{number:05}"), &reading).process_name("bulk_blocking"));
    }
    let started = Instant::now();
    let results = bulk.send_each()?;
    let stored = results.iter().filter(|result| result.is_ok()).count();
    assert_eq!(stored, COUNT as usize);
    println!("{stored} durable writes in {:?}", started.elapsed());

    // As one batch: one line, one answer, and all or none.
    let started = Instant::now();
    let outcome = bulk.durability(Durability::Sync).send()?;
    println!("a batch of {} in {:?}", outcome.seqs.len(), started.elapsed());

    let mut seen = 0;
    let mut page = measurements.keys().prefix("sensor_").send()?;
    loop {
        seen += page.keys.len();
        let Some(last) = page.keys.last().filter(|_| page.more) else { break };
        page = measurements.keys().prefix("sensor_").after(last.as_str()).send()?;
    }
    assert_eq!(seen, COUNT as usize);
    println!("{seen} keys, page by page");

    let flushed = measurements.flush()?;
    println!("{flushed} records brought into DuckDB");
    println!("dates with data: {}", measurements.dates()?.len());

    let mut cleanup = measurements.batch();
    for number in 0..COUNT {
        cleanup.add(measurements.delete(format!("sensor_{number:05}")).process_name("bulk_blocking"));
    }
    println!("deleted {}", cleanup.send()?.seqs.iter().flatten().count());
    Ok(())
}
