//! The independent reader: DuckDB and pyarrow for Python, which know nothing of the daemon.

use std::{path::Path, process::Command, sync::OnceLock};

use serde_json::Value;

/// Whether there is a Python with both packages; says so once where there is none.
pub(crate) fn available() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let tried = Command::new("python3").args(["-c", "import duckdb, pyarrow.dataset"]).output();
        let found = tried.is_ok_and(|output| output.status.success());
        if !found {
            eprintln!("skipped: no python3 with the packages duckdb and pyarrow to read the files back");
        }
        found
    })
}

/// Runs a script and gives what it printed, read as JSON.
pub(crate) fn run(script: &str, args: &[&str]) -> Value {
    let output = Command::new("python3").arg("-c").arg(script).args(args).output().expect("start python3");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "python failed: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&printed).unwrap_or_else(|e| panic!("python printed {printed:?}: {e}"))
}

/// The rows of one SELECT on a DuckDB file, opened read-only.
pub(crate) fn rows(database: &Path, sql: &str) -> Vec<Vec<Value>> {
    const SCRIPT: &str = "import duckdb, json, sys\n\
        con = duckdb.connect(sys.argv[1], read_only=True)\n\
        print(json.dumps(con.execute(sys.argv[2]).fetchall(), default=str))";
    assert!(database.is_file(), "{} is not there", database.display());
    let rows = run(SCRIPT, &[&database.to_string_lossy(), sql]);
    let rows = rows.as_array().expect("a list of rows");
    rows.iter().map(|row| row.as_array().expect("a row").clone()).collect()
}

/// The one value that a SELECT gives.
pub(crate) fn value(database: &Path, sql: &str) -> Value {
    rows(database, sql).swap_remove(0).swap_remove(0)
}

/// The rows of one SELECT over a Parquet tree, read by DuckDB with Hive partitions. `{files}` in the SQL is the tree.
pub(crate) fn parquet_rows(root: &Path, sql: &str) -> Vec<Vec<Value>> {
    const SCRIPT: &str = "import duckdb, json, sys\n\
        rows = duckdb.connect().execute(sys.argv[1]).fetchall()\n\
        print(json.dumps(rows, default=str))";
    let files = format!("read_parquet('{}/**/*.parquet', hive_partitioning=true)", root.display());
    let rows = run(SCRIPT, &[&sql.replace("{files}", &files)]);
    let rows = rows.as_array().expect("a list of rows");
    rows.iter().map(|row| row.as_array().expect("a row").clone()).collect()
}
