//! Which systemd unit a process belongs to, as its cgroup tells.
//!
//! systemd names a unit's cgroup after the unit, so no bus and no library are needed. A service may have cgroups of its
//! own below, and each user's session manager is a service with the user's units below: so the last name that is
//! a unit's counts.
//!
//! Invariant: what is not known is `None`, and never an error: where there is no systemd, or the process is gone, its
//! writes are as good as any.

/// The line of the unified hierarchy; those of cgroup v1 have other numbers.
const UNIFIED: &str = "0::";

/// How the kernel marks a cgroup that was removed.
const REMOVED: &str = " (deleted)";

/// The ends of the names of units that processes run in. A slice only holds other units.
const UNITS: [&str; 6] = [".service", ".scope", ".socket", ".mount", ".swap", ".timer"];

/// Says so where the daemon does not see other users' processes, so that their units stay unknown.
pub(super) fn warn_where_hidden() {
    // There is always a first process, and it is another user's, or else the daemon is root or it.
    if std::fs::read_to_string("/proc/1/cgroup").is_err() {
        tracing::warn!(
            "record_writer: processes of other users are hidden from the daemon, so writer_unit is null for them; \
             as a service it needs ProtectProc=default"
        );
    }
}

/// The unit of a process, at this moment.
pub(super) fn unit_of(pid: u32) -> Option<Box<str>> {
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    unit_in(&cgroups).map(Into::into)
}

/// The unit in what `/proc/PID/cgroup` says.
fn unit_in(cgroups: &str) -> Option<&str> {
    let path = cgroups.lines().find_map(|line| line.strip_prefix(UNIFIED))?;
    let path = path.strip_suffix(REMOVED).unwrap_or(path);
    path.rsplit('/')
        .find(|name| UNITS.iter().any(|end| name.strip_suffix(end).is_some_and(|stem| !stem.is_empty())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_unit_of_the_path_counts() {
        for (line, unit) in [
            ("0::/system.slice/cron.service\n", "cron.service"),
            ("0::/system.slice/system-getty.slice/getty@tty1.service\n", "getty@tty1.service"),
            ("0::/init.scope\n", "init.scope"),
            ("0::/user.slice/user-1000.slice/session-3.scope\n", "session-3.scope"),
            (
                "0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-org.gnome.Terminal.slice/vte-spawn-0f3b.scope\n",
                "vte-spawn-0f3b.scope",
            ),
            (
                "0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-nightly@autostart.service\n",
                "app-nightly@autostart.service",
            ),
            ("0::/user.slice/user-1000.slice/user@1000.service/init.scope\n", "init.scope"),
            // Cgroups that a service made for itself.
            ("0::/system.slice/containerd.service/worker/3\n", "containerd.service"),
            ("0::/system.slice/docker-4f2a0c.scope\n", "docker-4f2a0c.scope"),
            // Seen from a cgroup namespace of the daemon's own.
            ("0::/../cron.service\n", "cron.service"),
            ("0::/system.slice/dev-hugepages.mount\n", "dev-hugepages.mount"),
            // Escapes stay as they are.
            ("0::/system.slice/system-my\\x2dapp.slice/my\\x2dapp@1.service\n", "my\\x2dapp@1.service"),
            ("0::/system.slice/old.service (deleted)\n", "old.service"),
            // Both hierarchies.
            ("12:pids:/\n1:name=systemd:/user.slice\n0::/system.slice/ssh.service\n", "ssh.service"),
        ] {
            assert_eq!(unit_in(line), Some(unit), "{line}");
        }
    }

    #[test]
    fn without_a_unit_there_is_none() {
        for lines in [
            "",
            "0::/\n",
            "0::/docker/4f2a0c\n",
            "0::/kubepods.slice/kubepods-besteffort.slice\n",
            "0::/lxc.payload.web/.service\n",
            "0::/.lxc\n",
            // cgroup v1 only.
            "11:memory:/system.slice/cron.service\n1:name=systemd:/system.slice/cron.service\n",
            "9:name=systemd:/\n0::/\n",
            "no cgroups at all",
        ] {
            assert_eq!(unit_in(lines), None, "{lines}");
        }
    }

    #[test]
    fn a_process_that_is_gone_has_none() {
        // Above the highest number that the kernel gives.
        assert_eq!(unit_of(u32::MAX), None);
    }
}
