//! The Debian package: made from the programs that are tested here, installed into a root directory of its own, used,
//! upgraded, removed and purged. Nothing of this machine is changed.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use crate::harness::{Config, Site, binary, is_root};

/// What it brings, beside the man pages of the verbs.
const FILES: [&str; 16] = [
    "etc/fastpersistd/config.toml",
    "usr/bin/fastpersist",
    "usr/bin/fastpersistd",
    "usr/lib/systemd/system/fastpersistd.service",
    "usr/lib/systemd/system/fastpersistd.socket",
    "usr/lib/sysusers.d/fastpersistd.conf",
    "usr/lib/tmpfiles.d/fastpersistd.conf",
    "usr/share/bash-completion/completions/fastpersist",
    "usr/share/bash-completion/completions/fastpersistd",
    "usr/share/doc/fastpersistd/README.md",
    "usr/share/doc/fastpersistd/copyright",
    "usr/share/fish/vendor_completions.d/fastpersist.fish",
    "usr/share/man/man1/fastpersist.1.gz",
    "usr/share/man/man1/fastpersist-store.1.gz",
    "usr/share/man/man8/fastpersistd.8.gz",
    "usr/share/zsh/vendor-completions/_fastpersist",
];

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&said));
    output
}

fn stdout(command: &mut Command) -> String {
    String::from_utf8(run(command).stdout).expect("UTF-8")
}

fn is_here(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// The package, made of the programs of this build; `None` where the tools for that are not here, and says so.
fn package(into: &Path) -> Option<PathBuf> {
    for tool in ["cargo-deb", "dpkg", "dpkg-deb"] {
        if !is_here(tool) {
            eprintln!("skipped: {tool} is needed to make a Debian package");
            return None;
        }
    }
    let programs = binary("fastpersistd");
    let programs = programs.parent().expect("a directory");
    assert_eq!(binary("fastpersist").parent(), Some(programs), "both programs lie in one directory");
    // The environment that cargo gives its tests would tell another cargo about another package.
    let mut build = Command::new(project("packaging/build-deb"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARGO_PKG_")) {
        build.env_remove(name);
    }
    run(build.arg(into).arg("--fast").env("FASTPERSIST_BIN_DIR", programs).env("CARGO_NET_OFFLINE", "true"));
    let made = fs::read_dir(into).unwrap().flatten().map(|entry| entry.path());
    let made: Vec<_> = made.filter(|path| path.extension().is_some_and(|e| e == "deb")).collect();
    assert_eq!(made.len(), 1, "{made:?}");
    made.into_iter().next()
}

/// Files and links below a directory, without directories.
fn files(root: &Path) -> Vec<String> {
    let found = stdout(Command::new("find").arg(".").args(["!", "-type", "d"]).current_dir(root));
    let mut files: Vec<_> = found.lines().map(|line| line.trim_start_matches("./").to_owned()).collect();
    files.sort_unstable();
    files
}

/// `dpkg` on a root directory, its scripts told to leave this machine alone.
fn dpkg(root: &Path, arguments: &[&str]) {
    let mut command = Command::new("dpkg");
    command.arg(format!("--root={}", root.display()));
    command.args(["--force-script-chrootless", "--force-depends", "--force-confold", "--log=/dev/null"]);
    run(command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive"));
}

fn check_contents(package: &Path, dir: &Path) {
    run(Command::new("dpkg-deb").arg("-x").arg(package).arg(dir));
    let there = files(dir);
    for file in FILES {
        assert!(there.iter().any(|other| other == file), "{file} is not in {there:#?}");
    }
    for (packed, source) in [
        ("usr/lib/systemd/system/fastpersistd.service", "systemd/fastpersistd.service"),
        ("usr/lib/systemd/system/fastpersistd.socket", "systemd/fastpersistd.socket"),
        ("usr/lib/sysusers.d/fastpersistd.conf", "systemd/sysusers.d/fastpersistd.conf"),
        ("usr/lib/tmpfiles.d/fastpersistd.conf", "systemd/tmpfiles.d/fastpersistd.conf"),
        ("etc/fastpersistd/config.toml", "systemd/config.toml"),
    ] {
        assert_eq!(fs::read(dir.join(packed)).unwrap(), fs::read(project(source)).unwrap(), "{packed}");
    }
    for file in &there {
        let mode = fs::symlink_metadata(dir.join(file)).unwrap().mode() & 0o7777;
        let right = if file.starts_with("usr/bin/") { 0o755 } else { 0o644 };
        assert_eq!(mode, right, "{file} has {mode:o}");
    }
    // A page for each verb that the help names, and nothing for what it hides.
    let help = stdout(Command::new(dir.join("usr/bin/fastpersist")).arg("--help"));
    let verbs =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let verbs = verbs.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let mut pages: Vec<_> = verbs.map(|line| line.split_whitespace().next().unwrap()).collect();
    pages.retain(|verb| *verb != "help");
    assert!(pages.len() > 10, "{help}");
    for verb in pages {
        let page = format!("usr/share/man/man1/fastpersist-{verb}.1.gz");
        assert!(there.contains(&page), "{page}");
    }
    let bash = fs::read_to_string(dir.join(FILES[7])).unwrap();
    assert!(bash.contains("get-item") && !bash.contains("demo-writer"), "the completions");
    let conffiles = stdout(Command::new("dpkg-deb").arg("-I").arg(package).arg("conffiles"));
    assert_eq!(conffiles.trim(), "/etc/fastpersistd/config.toml");
    let depends = stdout(Command::new("dpkg-deb").arg("-f").arg(package).arg("Depends"));
    assert!(depends.contains("libc6") && depends.contains("systemd-sysusers"), "{depends}");
}

/// The installed programs work: the daemon is started, and the command finds it.
fn check_programs(root: &Path) {
    let site = Site::new(&Config::both());
    let mut command = Command::new(root.join("usr/bin/fastpersistd"));
    command.arg("--config").arg(site.config_file());
    let daemon = site.start_as(command, site.socket());
    let info =
        stdout(Command::new(root.join("usr/bin/fastpersist")).args(["--socket", site.socket(), "info"]));
    let info: Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["pid"], daemon.pid(), "{info}");
    daemon.stop();
    let config = root.join("etc/fastpersistd/config.toml");
    run(Command::new(root.join("usr/bin/fastpersistd")).arg("--check-config").arg("--config").arg(config));
}

#[test]
fn it_installs_upgrades_and_goes() {
    let dir = tempfile::tempdir().unwrap();
    let Some(package) = package(dir.path()) else { return };
    check_contents(&package, &dir.path().join("unpacked"));
    if !is_root() {
        return;
    }
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("var/lib/dpkg/info")).unwrap();
    fs::create_dir_all(root.join("var/lib/dpkg/updates")).unwrap();
    fs::write(root.join("var/lib/dpkg/status"), "").unwrap();
    let package = package.to_str().unwrap();

    dpkg(&root, &["-i", package]);
    check_programs(&root);
    let passwd = fs::read_to_string(root.join("etc/passwd")).unwrap();
    assert!(passwd.lines().any(|line| line.starts_with("fastpersistd:")), "{passwd}");
    let wanted = ["sockets.target.wants/fastpersistd.socket", "multi-user.target.wants/fastpersistd.service"];
    for link in wanted {
        let link = root.join("etc/systemd/system").join(link);
        assert!(link.is_symlink(), "{} is not enabled", link.display());
    }
    let state = root.join("var/lib/fastpersistd");
    assert_eq!(fs::metadata(&state).unwrap().mode() & 0o777, 0o750);

    // An upgrade leaves what the administrator wrote, and the data.
    let config = root.join("etc/fastpersistd/config.toml");
    fs::write(&config, "# mine\n").unwrap();
    fs::write(state.join("data"), "precious").unwrap();
    dpkg(&root, &["-i", package]);
    assert_eq!(fs::read_to_string(&config).unwrap(), "# mine\n");

    dpkg(&root, &["-r", "fastpersistd"]);
    let ours = |path: &String| path.contains("fastpersist") && !path.starts_with("var/lib/dpkg/");
    let left: Vec<_> = files(&root).into_iter().filter(ours).collect();
    let kept = |path: &str| !path.starts_with("usr/") && !path.starts_with("run/");
    assert!(left.iter().all(|path| kept(path)), "{left:#?}");
    assert!(config.exists() && state.join("data").exists(), "{left:#?}");

    dpkg(&root, &["-P", "fastpersistd"]);
    let left: Vec<_> = files(&root).into_iter().filter(ours).collect();
    assert_eq!(left, ["var/lib/fastpersistd/data"], "purged, and only the data is left");
    assert!(!root.join("var/log/fastpersistd").exists(), "logs go with a purge");
}
