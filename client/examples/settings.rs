//! A collection storage: settings as items with a typed value.
//!
//! Run it beside a daemon on its embedded default: `cargo run --release --example settings`.
//! `FASTPERSIST_SOCKET` names the socket, `FASTPERSIST_STORAGE` another storage than `collection`.

use std::env;

use fastpersist_client::{Client, Error, Value};
use serde_json::json;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let storage = env::var("FASTPERSIST_STORAGE").unwrap_or_else(|_| "collection".to_owned());
    let client = Client::connect_default().await?;
    let settings = client.collection(&storage);
    let user = "example_user";

    // Each value keeps its type: 32 is no 32.0, and true is no 1.
    let values =
        [("age", Value::from(32)), ("height", 1.0.into()), ("name", "Ann".into()), ("active", true.into())];
    let mut batch = settings.batch();
    for (item, value) in &values {
        let store = settings.store(user, &json!({"label": item}));
        batch.add(store.collection_name("personal").item_name(*item).value(value.clone()));
    }
    batch.send().await?;

    for (item, value) in &values {
        let record = settings.get_item(user, "personal", item).await?;
        let record = record.ok_or_else(|| Error::Data(format!("{item} is not there")))?;
        assert_eq!(record.value.as_ref(), Some(value));
        println!("{item} = {value}");
    }

    settings.store(user, &json!({"label": "Theme"})).collection_name("display").value("dark").send().await?;
    println!("collections of {user}: {}", settings.collections(user).await?.join(", "));
    println!("items in all: {}", settings.get_key(user, None).await?.len());

    let mut cleanup = settings.batch();
    for record in settings.get_key(user, None).await? {
        let delete = settings.delete(user).collection_name(record.collection_name);
        cleanup.add(delete.item_name(record.item_name));
    }
    println!("deleted {} items", cleanup.send().await?.seqs.iter().flatten().count());
    Ok(())
}
