//! A large result as Arrow record batches, and how much longer it takes as rows.
//!
//! Run it beside a daemon on its embedded default: `cargo run --release --example large_result`.
//! `FASTPERSIST_SOCKET` names the socket, `FASTPERSIST_STORAGE` another storage than `dated`, and the first
//! argument another number of rows than 100,000. More of them as rows need the limits `max_query_rows` and
//! `max_query_bytes`; handed over as memory they do not.

use std::env;
use std::time::Instant;

use arrow::array::AsArray as _;
use arrow::datatypes::Int64Type;
use fastpersist_client::{Client, ConnectOptions, Error};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let storage = env::var("FASTPERSIST_STORAGE").unwrap_or_else(|_| "dated".to_owned());
    let count: i64 = env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(100_000);
    let client = Client::connect(ConnectOptions::new().max_reply_bytes(2 << 30)).await?;
    let jobs = client.dated(&storage);
    let sql = "SELECT range AS n, range / 3.0 AS third FROM range(?)";

    let begun = Instant::now();
    let batches = jobs.query(sql).param(&count).batches().await?;
    let (rows, bytes) = (batches.row_count(), batches.bytes());
    let mut sum = 0;
    for batch in batches {
        let batch = batch?;
        let numbers = batch.column(0).as_primitive::<Int64Type>();
        sum += numbers.values().iter().sum::<i64>();
    }
    let as_batches = begun.elapsed();
    assert_eq!(sum, count * (count - 1) / 2);
    println!("{rows} rows as Arrow, {bytes} bytes: {as_batches:.1?}");

    let begun = Instant::now();
    let result = jobs.query(sql).param(&count).send().await?;
    let numbers: Vec<(i64, f64)> = result
        .rows
        .iter()
        .map(|row| serde_json::from_str(row.get()))
        .collect::<Result<_, _>>()
        .map_err(|error| Error::Data(error.to_string()))?;
    let as_rows = begun.elapsed();
    println!("{} rows as JSON: {as_rows:.1?}", numbers.len());
    if result.truncated {
        println!("the daemon's limits allow no more of them as JSON");
    } else {
        assert_eq!(sum, numbers.iter().map(|(n, _)| n).sum::<i64>());
        println!("as Arrow {:.1} times as fast", as_rows.as_secs_f64() / as_batches.as_secs_f64());
    }
    Ok(())
}
