//! `systemd/README.md`: its commands install and uninstall, below another root, and its drop-ins are right.

use std::{fs, os::unix::fs::symlink, path::Path};

use super::{SERVICE, page::root, shell, to_run};
use crate::{harness::binary, systemd::units};

fn installed(destination: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut directories = vec![destination.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for path in fs::read_dir(directory).unwrap().flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                directories.push(path);
            } else {
                found.push(path.strip_prefix(destination).unwrap().to_string_lossy().into_owned());
            }
        }
    }
    found.sort_unstable();
    found
}

#[test]
fn what_it_installs_it_removes() {
    let dir = tempfile::tempdir().unwrap();
    let (clone, destination) = (dir.path().join("clone"), dir.path().join("root"));
    fs::create_dir_all(clone.join("target/release")).unwrap();
    fs::create_dir(&destination).unwrap();
    symlink(root().join("systemd"), clone.join("systemd")).unwrap();
    for program in ["fastpersist", "fastpersistd"] {
        symlink(binary(program), clone.join("target/release").join(program)).unwrap();
    }
    let blocks = to_run(SERVICE, "sh");
    let [install, uninstall] = &blocks[..] else { panic!("{SERVICE} installs and uninstalls") };
    let run = |block: &super::Block| {
        let script = format!("export DESTDIR={}\n{}", destination.display(), block.text);
        shell::run(&clone, "", &block.to_string(), &script);
    };
    run(install);
    let there = installed(&destination);
    let expected = [
        "etc/fastpersistd/config.toml",
        "usr/bin/fastpersist",
        "usr/bin/fastpersistd",
        "usr/lib/systemd/system/fastpersistd.service",
        "usr/lib/systemd/system/fastpersistd.socket",
        "usr/lib/sysusers.d/fastpersistd.conf",
        "usr/lib/tmpfiles.d/fastpersistd.conf",
    ];
    assert_eq!(there, expected);
    run(uninstall);
    assert_eq!(installed(&destination), ["etc/fastpersistd/config.toml"]);
}

#[test]
fn its_drop_ins_are_right() {
    for block in to_run(SERVICE, "ini") {
        let unit = if block.text.starts_with("[Socket]") { units::SOCKET } else { units::SERVICE };
        units::verify_with(&[(unit, &block.text)]);
    }
}
