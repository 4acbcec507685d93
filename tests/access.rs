//! Roles: who may do what, by the uid behind the socket. The tests run as root and ask as somebody else.

use serde_json::{Value, json};

use crate::harness::{
    Config, Daemon, Site,
    child::{STRANGER, Stranger},
    is_root,
};

fn start(config: Config) -> (Site, Daemon) {
    let site = Site::new(&config.daemon("socket_mode = \"0666\""));
    let daemon = site.start();
    daemon.connect().ok(json!({"op": "store", "storage": "jobs", "key": "k", "data": {}}));
    (site, daemon)
}

/// A request for each thing that a role may be allowed, with the least role that is.
fn requests() -> Vec<(&'static str, Value)> {
    vec![
        ("reader", json!({"op": "ping"})),
        ("reader", json!({"op": "info"})),
        ("reader", json!({"op": "stats"})),
        ("reader", json!({"op": "get_key", "storage": "jobs", "key": "k"})),
        ("reader", json!({"op": "get_key_process", "storage": "jobs", "key": "k"})),
        ("reader", json!({"op": "keys", "storage": "jobs"})),
        ("reader", json!({"op": "dates", "storage": "jobs"})),
        ("reader", json!({"op": "get_item", "storage": "settings", "key": "k"})),
        ("reader", json!({"op": "collections", "storage": "settings", "key": "k"})),
        ("reader", json!({"op": "subscribe", "id": 1, "storage": "jobs"})),
        ("reader", json!({"op": "unsubscribe", "subscription": 1})),
        ("writer", json!({"op": "store", "storage": "jobs", "key": "n", "data": {}})),
        ("writer", json!({"op": "delete", "storage": "jobs", "key": "n"})),
        (
            "writer",
            json!({"op": "batch", "storage": "jobs", "ops": [{"op": "store", "key": "n", "data": {}}]}),
        ),
        ("writer", json!({"op": "flush", "storage": "jobs"})),
        ("admin", json!({"op": "export_parquet", "storage": "jobs"})),
    ]
}

/// Asks everything as another user; what `role` does not cover must be `forbidden`, and all else must work.
fn assert_role(site: &Site, role: &str) {
    let rank =
        |role: &str| ["none", "reader", "writer", "admin"].iter().position(|name| *name == role).unwrap();
    let mut stranger = Stranger::connect(site);
    for (least, request) in requests() {
        let expected = if rank(role) >= rank(least) { "ok" } else { "forbidden" };
        assert_eq!(stranger.verdict(&request), expected, "as {role}: {request}");
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
