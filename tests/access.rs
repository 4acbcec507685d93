//! Roles: who may do what, by the uid behind the socket. The tests run as root and ask as somebody else.

use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{
    Config, Conn, Daemon, PATIENCE, Site,
    child::{STRANGER, Stranger},
    is_root, wait_for,
};

fn start(config: Config) -> (Site, Daemon) {
    let site = Site::new(&config.daemon("socket_mode = \"0666\""));
    let daemon = site.start();
    daemon.connect().ok(json!({"op": "store", "storage": "jobs", "key": "k", "data": {}}));
    (site, daemon)
}

/// What a request gets from somebody who may ask it.
#[derive(Clone, Copy, PartialEq)]
enum Gets {
    Done,
    /// Whatever it is, it is not `forbidden`: it depends on more than the role.
    Anything,
}
use Gets::{Anything, Done};

/// For every operation the least role that may ask for it, and a request.
fn table() -> Vec<(&'static str, &'static str, Gets, Value)> {
    let jobs = |op: &str, fields: Value| request(op, "jobs", fields);
    let settings = |op: &str, fields: Value| request(op, "settings", fields);
    let imported = json!({"op": "store", "key": "n", "data": {}, "updated_at": "2025-01-15T10:00:00Z"});
    vec![
        ("ping", "reader", Done, json!({"op": "ping"})),
        ("info", "reader", Done, json!({"op": "info"})),
        ("stats", "reader", Done, json!({"op": "stats"})),
        ("get_key", "reader", Done, jobs("get_key", json!({"key": "k"}))),
        ("get_key_process", "reader", Done, jobs("get_key_process", json!({"key": "k"}))),
        ("get_item", "reader", Done, settings("get_item", json!({"key": "k"}))),
        ("keys", "reader", Done, jobs("keys", json!({}))),
        ("dates", "reader", Done, jobs("dates", json!({}))),
        ("collections", "reader", Done, settings("collections", json!({"key": "k"}))),
        ("history", "reader", Done, settings("history", json!({"key": "k"}))),
        ("query", "reader", Anything, jobs("query", json!({"sql": "SELECT 1"}))),
        ("subscribe", "reader", Done, settings("subscribe", json!({"prefix": "none", "id": "s"}))),
        // There is none of that id on a new connection.
        ("unsubscribe", "reader", Anything, json!({"op": "unsubscribe", "subscription": "s"})),
        ("store", "writer", Done, jobs("store", json!({"key": "n", "data": {}}))),
        ("delete", "writer", Done, jobs("delete", json!({"key": "n"}))),
        ("batch", "writer", Done, jobs("batch", json!({"ops": [{"op": "store", "key": "n", "data": {}}]}))),
        ("lock", "writer", Done, json!({"op": "lock", "name": "l", "ttl_ms": 1})),
        // Not the lock's token.
        ("unlock", "writer", Anything, json!({"op": "unlock", "name": "l", "token": 0})),
        ("flush", "writer", Done, jobs("flush", json!({}))),
        ("export_parquet", "admin", Done, jobs("export_parquet", json!({}))),
        ("backup", "admin", Done, settings("backup", json!({}))),
        ("list_backups", "admin", Done, settings("list_backups", json!({}))),
        // Nothing is there of these days.
        ("verify_backup", "admin", Anything, settings("verify_backup", json!({"backup": "2025-01-15"}))),
        ("check_health", "admin", Done, settings("check_health", json!({}))),
        (
            "rebuild_history_from_wal",
            "admin",
            Anything,
            settings("rebuild_history_from_wal", json!({"date": "2025-01-15"})),
        ),
        ("rebuild_latest_from_history", "admin", Done, settings("rebuild_latest_from_history", json!({}))),
        ("import", "admin", Done, jobs("import", json!({"ops": [imported]}))),
    ]
}

fn request(op: &str, storage: &str, fields: Value) -> Value {
    let mut request = fields;
    request["op"] = json!(op);
    request["storage"] = json!(storage);
    request
}

#[test]
fn every_operation_has_its_row() {
    let mut rows: Vec<_> = table().into_iter().map(|(op, ..)| op).collect();
    let mut operations = fastpersist_client::protocol::request::Op::NAMES.to_vec();
    rows.sort_unstable();
    operations.sort_unstable();
    assert_eq!(rows, operations);
    for (op, _, _, request) in table() {
        assert_eq!(request["op"], op);
    }
}

/// Asks everything as another user; what `role` does not cover must be `forbidden` and name the role that does, and
/// all else must work.
fn assert_role(site: &Site, role: &str) {
    let rank =
        |role: &str| ["none", "reader", "writer", "admin"].iter().position(|name| *name == role).unwrap();
    for (_, least, gets, request) in table() {
        // One connection each: what one leaves behind (a lock, a subscription) is no matter to the next.
        let mut stranger = Stranger::connect(site);
        let answer = stranger.ask(&request).unwrap_or_else(|| panic!("as {role}: no answer to {request}"));
        if rank(role) < rank(least) {
            assert_eq!(answer["error"]["code"], "forbidden", "as {role}: {request}: {answer}");
            assert_eq!(answer["error"]["needed_role"], least, "as {role}: {request}: {answer}");
        } else if gets == Done {
            assert_eq!(answer["ok"], true, "as {role}: {request}: {answer}");
        } else {
            assert_ne!(answer["error"]["code"], "forbidden", "as {role}: {request}: {answer}");
        }
    }
}

fn parquet() -> Config {
    Config::new().dated("jobs", "parquet_path = \"{dir}/parquet\"").collection("settings", "")
}

#[test]
fn by_default_another_user_may_do_nothing() {
    if !is_root() {
        return;
    }
    let (site, daemon) = start(parquet());
    assert_role(&site, "none");
    let keys = daemon.connect().ok(json!({"op": "keys", "storage": "jobs"}));
    assert_eq!(keys["keys"], json!(["k"]), "nothing was stored");
}

#[test]
fn the_default_role_counts_for_everyone_else() {
    if !is_root() {
        return;
    }
    for role in ["none", "reader", "writer", "admin"] {
        let (site, _daemon) = start(parquet().daemon(&format!("default_role = \"{role}\"")));
        assert_role(&site, role);
    }
}

#[test]
fn access_is_given_by_uid_gid_user_or_group() {
    if !is_root() {
        return;
    }
    let uid = format!("uid = {STRANGER}");
    let gid = format!("gid = {STRANGER}");
    for (who, role) in [
        (uid.as_str(), "writer"),
        (gid.as_str(), "reader"),
        ("user = \"daemon\"", "admin"),
        ("group = \"daemon\"", "writer"),
    ] {
        let (site, _daemon) = start(parquet().text(&format!("[[access]]\n{who}\nrole = \"{role}\"")));
        assert_role(&site, role);
    }
}

#[test]
fn access_to_somebody_else_is_no_access() {
    if !is_root() {
        return;
    }
    let (site, _daemon) = start(parquet().text("[[access]]\nuid = 12345\nrole = \"admin\""));
    assert_role(&site, "none");
}

#[test]
fn access_may_be_to_some_storages_only() {
    if !is_root() {
        return;
    }
    let access = format!("[[access]]\nuid = {STRANGER}\nrole = \"writer\"\nstorages = [\"jobs\"]");
    let (site, _daemon) = start(Config::both().text(&access));
    let mut stranger = Stranger::connect(&site);
    let ask = |storage: &str| {
        [
            json!({"op": "store", "storage": storage, "key": "k", "data": {}}),
            json!({"op": "get_key", "storage": storage, "key": "k"}),
            json!({"op": "keys", "storage": storage}),
        ]
    };
    for request in ask("jobs") {
        assert_eq!(stranger.verdict(&request), "ok", "{request}");
    }
    for request in ask("settings") {
        assert_eq!(stranger.verdict(&request), "forbidden", "{request}");
    }
}

#[test]
fn who_may_write_to_one_storage_may_take_turns() {
    if !is_root() {
        return;
    }
    let access =
        |role: &str| format!("[[access]]\nuid = {STRANGER}\nrole = \"{role}\"\nstorages = [\"jobs\"]");
    for (role, expected) in [("writer", "ok"), ("reader", "forbidden")] {
        let (site, _daemon) = start(Config::both().text(&access(role)));
        let mut stranger = Stranger::connect(&site);
        assert_eq!(stranger.verdict(&json!({"op": "lock", "name": "a"})), expected);
        assert_eq!(stranger.verdict(&json!({"op": "lock", "name": "b", "storage": "jobs"})), expected);
        let elsewhere = json!({"op": "lock", "name": "c", "storage": "settings"});
        assert_eq!(stranger.verdict(&elsewhere), "forbidden");
        assert_eq!(
            stranger.verdict(&json!({"op": "history", "storage": "settings", "key": "k"})),
            "forbidden"
        );
    }
}

#[test]
fn a_refusal_says_what_is_missing_and_the_connection_goes_on() {
    if !is_root() {
        return;
    }
    let (site, _daemon) = start(Config::both().daemon("default_role = \"reader\""));
    let mut stranger = Stranger::connect(&site);
    let answer =
        stranger.ask(&json!({"op": "store", "id": "x", "storage": "jobs", "key": "n", "data": {}})).unwrap();
    assert_eq!(
        (&answer["id"], &answer["ok"], &answer["error"]["retryable"]),
        (&json!("x"), &json!(false), &json!(false))
    );
    assert!(answer["error"]["message"].as_str().unwrap().contains("writer"), "the role it takes: {answer}");
    assert_eq!(stranger.verdict(&json!({"op": "get_key", "storage": "jobs", "key": "n"})), "ok");
}

/// Reads the configuration again, and waits until that is done.
fn reload(site: &Site, daemon: &Daemon, config: &Config) {
    site.configure(&config.clone().daemon("socket_mode = \"0666\""));
    let told = |daemon: &Daemon| daemon.log().matches("the configuration was read again").count();
    let before = told(daemon);
    daemon.signal(Signal::HUP);
    wait_for("the configuration is read again", PATIENCE, || (told(daemon) > before).then_some(()));
}

#[test]
fn who_may_not_any_more_gets_no_lock_however_long_it_was_waited_for() {
    if !is_root() {
        return;
    }
    let config = Config::both();
    let access = format!("[[access]]\nuid = {STRANGER}\nrole = \"writer\"");
    let (site, daemon) = start(config.clone().text(&access));
    let mut conn = daemon.connect();
    let held = conn.ok(json!({"op": "lock", "name": "a"}))["token"].clone();
    let answer = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            Stranger::connect(&site)
                .ask(&json!({"op": "lock", "name": "a", "wait_ms": PATIENCE.as_millis() as u64}))
        });
        wait_for("one waits", PATIENCE, || {
            (conn.ok(json!({"op": "stats"}))["daemon"]["lock_waiters"] == 1).then_some(())
        });
        reload(&site, &daemon, &config);
        conn.ok(json!({"op": "unlock", "name": "a", "token": held}));
        waiting.join().expect("the waiting one").expect("an answer")
    });
    assert_eq!(answer["error"]["code"], "forbidden", "{answer}");
    conn.ok(json!({"op": "lock", "name": "a"}));
}

#[test]
fn a_daemon_in_a_user_namespace_takes_nobody_for_somebody() {
    if !is_root() {
        return;
    }
    // The second shows even the daemon itself under the uid that stands for all unknown ones.
    for (options, own) in [(["--user", "--map-root-user"].as_slice(), "ok"), (&["--user"], "forbidden")] {
        let unshare = || {
            let mut command = Command::new("unshare");
            command.args(options).arg("--");
            command
        };
        if !unshare().arg("true").status().is_ok_and(|status| status.success()) {
            eprintln!("skipped: no user namespaces here");
            return;
        }
        let open = "[[access]]\nuid = 65534\nrole = \"admin\"\n[[access]]\nuid = 1\nrole = \"admin\"";
        let config = parquet().daemon("socket_mode = \"0666\"\ndefault_role = \"admin\"").text(open);
        let site = Site::new(&config);
        let inner = site.command();
        let mut command = unshare();
        command.arg(inner.get_program()).args(inner.get_args());
        let mut daemon = site.spawn(command, site.socket());
        wait_for("somebody listens", PATIENCE, || {
            daemon.assert_running();
            Conn::try_connect(site.socket()).ok()
        });
        let ping = json!({"op": "ping"});
        for id in [STRANGER, 65_534] {
            assert_eq!(Stranger::connect_as(&site, id).verdict(&ping), "forbidden", "uid {id}, {options:?}");
        }
        let answer = daemon.connect().ask(&ping);
        let verdict =
            if answer["ok"] == true { "ok" } else { answer["error"]["code"].as_str().unwrap_or("") };
        assert_eq!(verdict, own, "the user itself, {options:?}");
    }
}

#[test]
fn the_uid_that_stands_for_all_unknown_ones_gets_nothing_unless_it_is_named() {
    if !is_root() {
        return;
    }
    // 65534 is what the kernel shows for every user behind a namespace that it cannot map.
    let overflow = 65_534;
    let everyone = parquet().daemon("default_role = \"admin\"");
    let named = parquet().text(&format!("[[access]]\nuid = {overflow}\nrole = \"reader\""));
    for (config, expected) in [(everyone, "forbidden"), (named, "ok")] {
        let (site, _daemon) = start(config);
        let mut stranger = Stranger::connect_as(&site, overflow);
        assert_eq!(stranger.verdict(&json!({"op": "keys", "storage": "jobs"})), expected);
    }
}
