//! Several processes on one storage: in turns, without losing a step, and each write once.
//!
//! Run it beside a daemon on its embedded default, as often and as many at once as you like:
//! `cargo run --release --example together`. `FASTPERSIST_SOCKET` names the socket, `FASTPERSIST_STORAGE` another
//! storage than `collection`.

use std::env;
use std::time::Duration;

use fastpersist_client::{Client, Edit, Error, Value};
use serde_json::json;

const LINES: [&str; 3] = ["first", "second", "third"];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let storage = env::var("FASTPERSIST_STORAGE").unwrap_or_else(|_| "collection".to_owned());
    let client = Client::connect_default().await?;
    let shared = client.collection(&storage);

    // One at a time; those who wait get it in turn.
    let lock = client.lock("example").wait(Duration::from_secs(10)).acquire().await?;
    println!("it is our turn, with token {}", lock.token());
    lock.release().await?;

    // Nobody's step is lost, however many count at once.
    let counted = shared.update("visits").run(|record| {
        let before = match record.and_then(|record| record.value.clone()) {
            Some(Value::Int(number)) => number,
            _ => 0,
        };
        Ok(Edit::store(&json!({"label": "Visits"})).value(before + 1))
    });
    println!("counted after {} attempts", counted.await?.attempts);

    // The number of each line is its own, so however often this runs, each line is stored once.
    for (number, line) in (1..).zip(LINES) {
        let store = shared.store("lines", &json!({"text": line})).item_name("latest");
        let stored = store.producer("example_importer", number).send().await?;
        println!("line {number}: {}", if stored.duplicate { "was there" } else { "stored" });
    }
    Ok(())
}
