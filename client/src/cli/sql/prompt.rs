//! The prompt: SQL that ends in a semicolon, with a history that stays, and names that complete.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fastpersist_client::{Model, blocking};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Config, Editor};
use signal_hook::consts::SIGINT;

use super::SqlArgs;
use super::complete::Names;
use super::format;
use crate::cli::failure::{Failure, Outcome};
use crate::cli::output::Output;
use crate::cli::{Global, find_storage};

/// Entries that the history keeps.
const HISTORY_ENTRIES: usize = 1_000;
const HELP: &str = "\
A query ends with a semicolon and may go over several lines. Tab completes the names of tables and columns.
Ctrl-C drops what is written, or ends a query that runs, and this program with it; Ctrl-D, \\q or exit ends.";

type Line = Editor<Names, FileHistory>;

/// Asks until there is nothing more to ask.
pub(super) fn run(global: &Global, args: &SqlArgs, out: &mut Output) -> Outcome {
    let client = global.connect()?;
    let storage = find_storage(&client.info()?, global.storage.as_deref(), None)?;
    let failed = |error: ReadlineError| Failure::failed(format!("the prompt cannot be opened: {error}"));
    let config = Config::builder().auto_add_history(false).max_history_size(HISTORY_ENTRIES);
    let mut line = Line::with_config(config.map_err(failed)?.build()).map_err(failed)?;
    line.set_helper(Some(names(&client, global, args, storage.model)));
    let history = history_file();
    if let Some(file) = &history {
        // There is none the first time.
        let _ = line.load_history(file);
    }
    // The line editor takes the signal for itself as long as it lives, also while it reads nothing.
    let asking = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register_conditional_default(SIGINT, Arc::clone(&asking))
        .map_err(|error| Failure::io("signals", &error))?;
    out.line(format_args!("{} ({}). {HELP}", storage.name, storage.model))?;
    out.flush()?;
    while let Some(sql) = read(&mut line)? {
        // Before: the query may be ended with everything.
        save_history(&mut line, history.as_deref());
        asking.store(true, Ordering::Release);
        let asked = args.ask(&client, global, &sql);
        asking.store(false, Ordering::Release);
        match asked {
            Ok(result) => format::print(&result, args.format(out), out)?,
            Err(failure) => eprintln!("{failure}"),
        }
        out.flush()?;
    }
    Ok(())
}

fn save_history(line: &mut Line, file: Option<&Path>) {
    if let Some(file) = file
        && let Some(directory) = file.parent()
    {
        // Whoever cannot keep a history can ask all the same.
        let _ = std::fs::create_dir_all(directory).map(|()| line.save_history(file));
    }
}

/// The next query, `None` at the end.
fn read(line: &mut Line) -> Outcome<Option<String>> {
    let mut sql = String::new();
    loop {
        let prompt = if sql.is_empty() { "sql> " } else { "...> " };
        match line.readline(prompt) {
            Ok(text) if sql.is_empty() && text.trim().is_empty() => {}
            Ok(text) if sql.is_empty() && is_end(text.trim()) => return Ok(None),
            Ok(text) => {
                sql.push_str(&text);
                if text.trim_end().ends_with(';') {
                    let _ = line.add_history_entry(&sql);
                    return Ok(Some(sql));
                }
                sql.push('\n');
            }
            Err(ReadlineError::Interrupted) => sql.clear(),
            Err(ReadlineError::Eof) => return Ok(None),
            Err(error) => return Err(Failure::failed(format!("the prompt failed: {error}"))),
        }
    }
}

fn is_end(text: &str) -> bool {
    ["\\q", "exit", "quit", "exit;", "quit;"].contains(&text)
}

/// The tables and the columns that they have.
fn names(client: &blocking::Client, global: &Global, args: &SqlArgs, model: Model) -> Names {
    let tables: &[&str] = match model {
        Model::Dated => &["storage"],
        _ => &["storage_history", "storage_latest"],
    };
    let mut names = Names::new(tables);
    // A column is a help and no more: without them the prompt only completes less.
    if let Ok(result) = args.of_dates().ask(client, global, &format!("SELECT * FROM {} LIMIT 0", tables[0])) {
        result.columns.into_iter().for_each(|column| names.add(column.name));
    }
    names
}

fn history_file() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(state.join("fastpersist/sql_history"))
}
