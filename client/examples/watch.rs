//! One task stores, another one follows what changes, and would go on over a restart of the daemon.
//!
//! Run it beside a daemon on its embedded default: `cargo run --release --example watch`.
//! `FASTPERSIST_SOCKET` names the socket, `FASTPERSIST_STORAGE` another storage than `collection`.

use std::env;

use fastpersist_client::{Change, Client, Error, Record};
use serde_json::json;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let storage = env::var("FASTPERSIST_STORAGE").unwrap_or_else(|_| "collection".to_owned());
    let client = Client::connect_default().await?;

    let mut changes = client.subscribe(storage.as_str()).prefix("example_lamp").stream();
    // From here on nothing is missed.
    changes.begun().await;

    let lamps = client.collection(&storage);
    let switching = tokio::spawn(async move {
        for on in [true, false, true] {
            lamps.store("example_lamp", &json!({})).item_name("on").value(on).send().await?;
        }
        lamps.delete("example_lamp").item_name("on").send().await
    });

    while let Some(change) = changes.next().await {
        match change? {
            Change::Store(Record::Collection(item)) => println!("{} is {:?}", item.key, item.value),
            Change::Delete(gone) => {
                println!("{} is gone, at {}", gone.key, gone.seq);
                break;
            }
            _ => {}
        }
    }
    switching.await.map_err(|error| Error::Data(error.to_string()))??;
    Ok(())
}
