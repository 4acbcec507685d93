//! The file for node_exporter's textfile collector.

use std::{fs, os::unix::fs::PermissionsExt as _};

use serde_json::json;

use super::{busy, config, has_parsers, page::Page, parsed};
use crate::harness::{Config, PATIENCE, Site, wait_for};

const EACH_SECOND: &str = "textfile_interval_seconds = 1";

fn with_file(path: &str) -> Config {
    config().text(&format!("[metrics]\ntextfile_path = \"{{dir}}/{path}\"\n{EACH_SECOND}"))
}

#[test]
fn the_file_is_in_the_older_format_for_all_to_read_and_goes_with_the_daemon() {
    let site = Site::new(&with_file("fastpersist.prom"));
    let daemon = site.start();
    let mut conn = daemon.connect();
    busy(&mut conn);
    let file = site.path("fastpersist.prom");
    let stores = |text: &str| {
        let page = Page::read_prometheus(text);
        page.value("fastpersist_requests_total", &[("op", "store"), ("code", "ok")])
    };
    // A reader at any moment finds a whole file.
    wait_for("the file with the stores", PATIENCE, || {
        (stores(&fs::read_to_string(&file).ok()?) == 14.0).then_some(())
    });
    conn.ok(json!({"op": "store", "storage": "settings", "key": "k", "data": {}}));
    wait_for("the file written anew", PATIENCE, || {
        (stores(&fs::read_to_string(&file).ok()?) == 15.0).then_some(())
    });
    let mode = fs::metadata(&file).expect("the file").permissions().mode();
    assert_eq!(mode & 0o777, 0o644, "node_exporter is another user");
    let page = Page::read_prometheus(&fs::read_to_string(&file).expect("the file"));
    assert_eq!(page.find("process_start_time_seconds", &[]), None, "node_exporter has one of its own");
    assert!(page.find("fastpersist_process_start_time_seconds", &[]).is_some());
    if has_parsers() {
        // A copy: the file is replaced while it is read.
        let copy = site.path("copy.prom");
        fs::copy(&file, &copy).expect("a copy");
        let families = parsed("prometheus_client.parser", &copy).to_string();
        for family in ["fastpersist_requests counter", "fastpersist_build_info gauge"] {
            assert!(families.contains(family), "{family} is not in {families}");
        }
    }
    drop(conn);
    daemon.stop();
    let left =
        fs::read_dir(site.path("")).expect("the site").map(|entry| entry.expect("an entry").file_name());
    let left: Vec<_> = left.filter(|name| name.to_string_lossy().contains("fastpersist.prom")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_file_that_cannot_be_written_is_told_once_and_tried_again() {
    let site = Site::new(&with_file("later/fastpersist.prom"));
    let mut daemon = site.start();
    let complaint = "the metrics cannot be written";
    wait_for("the complaint", PATIENCE, || daemon.log().contains(complaint).then_some(()));
    fs::create_dir(site.path("later")).expect("the directory");
    wait_for("the file", PATIENCE, || site.path("later/fastpersist.prom").exists().then_some(()));
    wait_for("the all-clear", PATIENCE, || daemon.log().contains("written again").then_some(()));
    fs::remove_dir_all(site.path("later")).expect("removed");
    wait_for("the second complaint", PATIENCE, || {
        (daemon.log().matches(complaint).count() == 2).then_some(())
    });
    daemon.assert_running();
    daemon.stop();
}
