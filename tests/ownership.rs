//! The daemon has a user of its own; what root repairs and restores belongs to that user and not to root.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::Path,
    process::Command,
};

use serde_json::json;

use crate::harness::{
    Daemon, Site, binary,
    faults::{DATABASES, Fault, config, remove_log, settings_seqs, write},
    is_root, run_to_exit,
};

/// Of nobody on this machine.
const SERVICE: u32 = 4242;

/// Everything in a directory, and itself.
fn tree(path: &Path) -> Vec<std::path::PathBuf> {
    let mut all = vec![path.to_owned()];
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            all.extend(tree(&entry.unwrap().path()));
        }
    }
    all
}

/// A site that belongs to the service's user, with the programs in it: those of the build may be out of reach.
fn site_of_the_service() -> Site {
    let site = Site::new(&config());
    // By another process: one that another test starts meanwhile would inherit what this one writes to, and until
    // it has replaced itself the system lets nobody run the copy.
    let copied = Command::new("cp").arg(binary("fastpersistd")).arg(site.path("fastpersistd")).status();
    assert!(copied.expect("run cp").success(), "the program is copied");
    for path in tree(&site.path("")) {
        chown(path, Some(SERVICE), Some(SERVICE)).unwrap();
    }
    site
}

fn command(site: &Site) -> Command {
    let mut command = Command::new(site.path("fastpersistd"));
    command.env_clear().env("HOME", site.path("")).arg("--config").arg(site.config_file());
    command.uid(SERVICE).gid(SERVICE);
    command
}

fn start(site: &Site) -> Daemon {
    site.start_as(command(site), site.socket())
}

/// A subcommand as root.
fn as_root(site: &Site, arguments: &[&str]) {
    let mut command = Command::new(binary("fastpersistd"));
    command.args(arguments).arg("--config").arg(site.config_file());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn assert_all_belong_to_the_service(path: &Path) {
    for path in tree(path) {
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (SERVICE, SERVICE), "{}", path.display());
        let is_of_the_test = path.ends_with("log_removed_through");
        if metadata.is_file() && !path.ends_with("fastpersistd.lock") && !is_of_the_test {
            assert_eq!(metadata.permissions().mode() & 0o777, 0o640, "{}", path.display());
        }
    }
}

#[test]
fn what_root_repairs_the_daemon_can_open() {
    if !is_root() {
        return;
    }
    let site = site_of_the_service();
    let daemon = start(&site);
    write(&mut daemon.connect(), 1..=20);
    daemon.stop();
    for (file, storage) in [(DATABASES[0], "jobs"), (DATABASES[2], "settings")] {
        let seqs = if storage == "jobs" { 20 } else { settings_seqs(1..=20) };
        remove_log(&site.path(storage), seqs);
        Fault::Header.apply(&site.path(file));
        as_root(&site, &["repair", "--storage", storage, "--accept-loss"]);
        assert_all_belong_to_the_service(&site.path(storage));
    }
    start(&site).stop();
}

#[test]
fn what_root_restores_the_daemon_can_open() {
    if !is_root() {
        return;
    }
    let site = site_of_the_service();
    let daemon = start(&site);
    write(&mut daemon.connect(), 1..=20);
    daemon.stop();
    for storage in ["jobs", "settings"] {
        let to = site.path("restored/here").join(storage);
        as_root(&site, &["restore", "--storage", storage, "--to", &to.to_string_lossy()]);
    }
    assert_all_belong_to_the_service(&site.path("restored"));
    for storage in ["jobs", "settings"] {
        fs::rename(site.path(storage), site.path(&format!("old-{storage}"))).unwrap();
        fs::rename(site.path("restored/here").join(storage), site.path(storage)).unwrap();
    }
    let daemon = start(&site);
    let keys = daemon.connect().ok(json!({"op": "keys", "storage": "settings", "limit": 100}));
    assert_eq!(keys["keys"].as_array().unwrap().len(), 18, "of twenty, the 7th and the 14th are deleted");
}

#[test]
fn a_file_that_may_not_be_read_is_not_called_damaged() {
    if !is_root() {
        return;
    }
    let site = site_of_the_service();
    let daemon = start(&site);
    write(&mut daemon.connect(), 1..=20);
    daemon.stop();
    let file = site.path(DATABASES[2]);
    chown(&file, Some(0), Some(0)).unwrap();
    let exit = run_to_exit(command(&site));
    let said = exit.stderr;
    assert_eq!(exit.code, Some(78), "{said}");
    assert!(said.contains("Permission denied") && said.contains("uid 4242"), "{said}");
    assert!(!said.contains("damaged"), "{said}");
    assert!(file.exists(), "it stays where it is");
}
