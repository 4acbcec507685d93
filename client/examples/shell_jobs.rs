//! The async client: many tasks store and read jobs over one connection.
//!
//! Run it beside a daemon on its embedded default: `cargo run --release --example shell_jobs`.
//! `FASTPERSIST_SOCKET` names the socket, `FASTPERSIST_STORAGE` another dated storage than `dated`.

use std::env;

use fastpersist_client::{Client, Error, ErrorCode};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize, PartialEq)]
struct Job {
    command: String,
    status: String,
    exit_code: Option<i32>,
}

fn job(number: u32) -> Job {
    Job { command: format!("make part_{number}"), status: "running".to_owned(), exit_code: None }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let storage = env::var("FASTPERSIST_STORAGE").unwrap_or_else(|_| "dated".to_owned());
    let client = Client::connect_default().await?;
    let jobs = client.dated(&storage);

    // A hundred tasks, one connection: their writes travel and become durable together.
    let tasks: Vec<_> = (1..=100)
        .map(|number| {
            let jobs = jobs.clone();
            tokio::spawn(async move {
                jobs.store(format!("example_{number}"), &job(number)).process_name("shell_jobs").send().await
            })
        })
        .collect();
    for task in tasks {
        let stored = task.await.map_err(|error| Error::Data(error.to_string()))??;
        assert!(stored.durable);
    }
    println!("stored 100 jobs");

    // Typed data comes back as it was, and what is searched for has fields of its own.
    let key = "example_7";
    let record = jobs.get_key_process(key, Some("shell_jobs")).await?;
    let Some(record) = record else { return Err(Error::Data(format!("{key} is not there"))) };
    assert_eq!(record.get::<Job>()?, job(7));
    assert_eq!(record.status.as_deref(), Some("running"));
    println!("{key} is {}", record.data_json());

    // Only one of two who saw the same state may change it.
    let done = Job { status: "done".to_owned(), exit_code: Some(0), ..job(7) };
    jobs.store(key, &done).process_name("shell_jobs").if_seq(record.seq).send().await?;
    let second = jobs.store(key, &done).process_name("shell_jobs").if_seq(record.seq).send().await;
    let Err(late) = second else { return Err(Error::Data("a conflict was due".to_owned())) };
    assert_eq!(late.code(), Some(ErrorCode::Conflict));
    println!("the second came too late: {late}");

    let page = jobs.keys().prefix("example_").limit(5).send().await?;
    println!("the first keys: {}", page.keys.join(", "));

    // All or none.
    let mut batch = jobs.batch();
    for number in 1..=100 {
        batch.add(jobs.delete(format!("example_{number}")).process_name("shell_jobs"));
    }
    let deleted = batch.send().await?.seqs.iter().flatten().count();
    println!("deleted {deleted} jobs");
    Ok(())
}
