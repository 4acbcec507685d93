use super::*;

fn load_text(text: &str) -> Result<Config, String> {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("config.toml");
    std::fs::write(&file, text).expect("written");
    let overrides = Overrides { config: Some(file.clone()), ..Overrides::default() };
    load(&overrides).map_err(|error| {
        assert_eq!(error.file, file.display().to_string(), "the message names the file");
        error.message
    })
}

fn with_storage(lines: &str) -> String {
    format!(
        "[daemon]\nsocket = \"/run/x.sock\"\n[storage.jobs]\nmodel = \"dated\"\nbase_dir = \"/srv/jobs\"\n{lines}"
    )
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let config = load_text(&with_storage("")).expect("right");
    let storage = &config.storages[0];
    assert_eq!(storage.max_wal_size, 10_485_760);
    assert_eq!(storage.max_wal_age, Duration::from_secs(300));
    assert_eq!(storage.batch_size, 1000);
    assert_eq!(storage.flush_interval, Duration::from_secs(30));
    assert_eq!(storage.wal_sync_interval, Duration::from_millis(100));
    assert_eq!(storage.wal_retain, Duration::from_secs(86_400), "a day, for a dated storage");
    assert_eq!(storage.max_pending_bytes, 268_435_456);
    assert_eq!((storage.cache_max_bytes, storage.retain_days), (0, 5));
    assert_eq!(storage.database_path("2025-01-15"), PathBuf::from("/srv/jobs/2025-01-15/data.duckdb"));
    let limits = &config.limits;
    assert_eq!((limits.max_line_bytes, limits.max_json_depth), (1 << 20, 64));
    assert_eq!((limits.max_connections, limits.max_connections_per_uid), (256, 64));
    assert_eq!((limits.max_inflight_requests, limits.max_inflight_bytes), (1024, 8 << 20));
    assert_eq!((limits.max_output_bytes, limits.max_batch_ops), (8 << 20, 10_000));
    assert_eq!((config.daemon.socket_mode, config.daemon.default_role), (0o660, Role::None));
}

#[test]
fn without_a_file_there_are_two_storages_below_base_dir() {
    let overrides = Overrides { base_dir: Some("/srv/fp".into()), ..Overrides::default() };
    if Path::new(SYSTEM_CONFIG).exists() {
        eprintln!("skipped: this machine has {SYSTEM_CONFIG}");
        return;
    }
    let config = load(&overrides).expect("right");
    let storages: Vec<_> =
        config.storages.iter().map(|s| (s.name.as_str(), s.model(), s.base_dir.clone())).collect();
    assert_eq!(
        storages,
        [
            ("collection", Model::Collection, PathBuf::from("/srv/fp/collection")),
            ("dated", Model::Dated, PathBuf::from("/srv/fp/dated")),
        ]
    );
    assert_eq!(config.daemon.socket, "/srv/fp/fastpersistd.sock");
}

#[test]
fn a_collection_keeps_its_log_as_long_as_its_backups() {
    let text = "[daemon]\nsocket = \"@x\"\n[storage.s]\nmodel = \"collection\"\nbase_dir = \"/srv/s\"\nretain_days = 9";
    let config = load_text(text).expect("right");
    assert_eq!(config.storages[0].wal_retain, Duration::from_secs(9 * 86_400));
}

#[test]
fn extra_columns_keep_their_order() {
    let config =
        load_text(&with_storage("extra_schema = { zeta = \"int64\", alpha = \"date32\" }")).expect("right");
    let names: Vec<_> = config.storages[0].schema.extra.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["zeta", "alpha"]);
}

#[test]
fn writers_are_kept_where_it_is_said() {
    for (lines, expected, said) in [
        ("", false, false),
        ("record_writer = false", false, false),
        ("record_writer = true", true, true),
        // Without the key the names are free.
        ("extra_schema = { writer_uid = \"uint32\", writer_unit = \"string\" }", false, false),
        ("record_writer = true\nextra_schema = { writer = \"string\" }", true, true),
    ] {
        let config = load_text(&with_storage(lines)).expect(lines);
        assert_eq!(config.storages[0].schema.record_writer, expected, "{lines}");
        assert_eq!(config.records_writers(), expected, "{lines}");
        assert_eq!(config.summary().contains("with each record's writer"), said, "{lines}");
    }
}

#[test]
fn every_mistake_is_named_with_what_would_be_right() {
    for (lines, key, right) in [
        ("colour = 1", "colour", "unknown field"),
        ("batch_size = 0", "storage.jobs.batch_size", "from 1"),
        ("batch_size = \"many\"", "batch_size", "expected i64"),
        ("timezone = \"Mars/Base\"", "storage.jobs.timezone", "Europe/Berlin"),
        ("export_at = \"25:00\"", "storage.jobs.export_at", "03:30"),
        ("db_path = \"/srv/all.duckdb\"", "storage.jobs.db_path", "{date}"),
        ("db_path = \"wal_000001.jsonl\"", "storage.jobs.db_path", "data.duckdb"),
        ("db_path = \"settled/data.duckdb\"", "storage.jobs.db_path", "data.duckdb"),
        ("db_path = \"of/settled\"", "storage.jobs.db_path", "data.duckdb"),
        ("db_path = \"data.duckdb.wal\"", "storage.jobs.db_path", "data.duckdb"),
        ("db_path = \"/srv/{date}/torn-1\"", "storage.jobs.db_path", "data.duckdb"),
        ("db_path = \"../x\"", "storage.jobs.db_path", "below the date's directory"),
        ("extra_schema = { key = \"int64\" }", "storage.jobs.extra_schema.key", "already"),
        ("extra_schema = { Status = \"int64\" }", "storage.jobs.extra_schema.Status", "already"),
        ("extra_schema = { date = \"int64\" }", "storage.jobs.extra_schema.date", "already"),
        ("extra_schema = { rowid = \"int64\" }", "storage.jobs.extra_schema.rowid", "already"),
        (
            "record_writer = true\nextra_schema = { Writer_UID = \"int64\" }",
            "storage.jobs.extra_schema.Writer_UID",
            "record_writer = true makes a column of that name already",
        ),
        (
            "record_writer = true\nextra_schema = { writer_unit = \"string\" }",
            "storage.jobs.extra_schema.writer_unit",
            "already",
        ),
        ("record_writer = \"yes\"", "record_writer", "expected a boolean"),
        (
            "parquet_path = \"/srv/p\"\n[storage.more]\nmodel = \"dated\"\nbase_dir = \"/srv/m\"\nparquet_path = \"/srv/p\"",
            "storage.more.parquet_path",
            "remove files of the other",
        ),
        ("extra_schema = { a = \"int65\" }", "storage.jobs.extra_schema.a", "int64"),
        ("[limits]\nmax_line_bytes = -1", "limits.max_line_bytes", "from 1024"),
        ("[[access]]\nrole = \"reader\"", "access[0]", "exactly one of"),
        ("[[access]]\nuid = 1\nrole = \"boss\"", "access[0].role", "admin"),
        (
            "[[access]]\nuid = 1\nrole = \"reader\"\nstorages = [\"x\"]",
            "access[0].storages",
            "not configured",
        ),
        ("[storage.more]\nmodel = \"tree\"", "storage.more.model", "\"dated\""),
        (
            "[storage.more]\nmodel = \"dated\"\nbase_dir = \"/srv/x/../jobs\"",
            "storage.more.base_dir",
            "directory of its own",
        ),
    ] {
        let message = load_text(&with_storage(lines)).expect_err(lines);
        assert!(message.contains(key), "{lines}: {message}");
        assert!(message.contains(right), "{lines}: {message}");
    }
}

#[test]
fn the_daemon_table_is_checked_too() {
    for (lines, key) in [
        ("socket_mode = \"0999\"", "socket_mode"),
        ("log_level = \"loud\"", "log_level"),
        ("log_format = \"xml\"", "log_format"),
        ("default_role = \"god\"", "default_role"),
        ("socket_group = \"no-such-group-here\"", "socket_group"),
    ] {
        let text = with_storage("").replace("[daemon]", &format!("[daemon]\n{lines}"));
        let message = load_text(&text).expect_err(lines);
        assert!(message.contains(key), "{lines}: {message}");
    }
}

#[test]
fn what_cannot_change_while_running_is_named() {
    let old = load_text(&with_storage("")).expect("right");
    assert_eq!(old.fixed_keys_changed(&old), [""; 0]);
    let text = with_storage(
        "batch_size = 7\n[limits]\nmax_line_bytes = 4096\n[storage.more]\nmodel = \"dated\"\nbase_dir = \"/srv/more\"",
    );
    let new = load_text(&text).expect("right");
    assert_eq!(
        new_keys(&old, &new),
        ["limits.max_line_bytes", "storage.jobs.batch_size", "storage.more (added)"]
    );
    assert_eq!(
        new_keys(&new, &old),
        ["limits.max_line_bytes", "storage.jobs.batch_size", "storage.more (removed)"]
    );
    let writers = load_text(&with_storage("record_writer = true")).expect("right");
    assert_eq!(new_keys(&old, &writers), ["storage.jobs.record_writer"]);
    let access = load_text(&with_storage("[[access]]\nuid = 1\nrole = \"reader\"")).expect("right");
    assert_eq!(new_keys(&old, &access), [""; 0], "who may do what can change");
}

fn new_keys(old: &Config, new: &Config) -> Vec<String> {
    old.fixed_keys_changed(new)
}
