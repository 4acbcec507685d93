//! Who is at the other end, and what they may do.
//!
//! The kernel tells the peer's uid and gid when a connection is accepted; nothing the client says about
//! itself counts. The daemon's own user and root are admin. For everybody else the rules of `[[access]]`
//! decide, the highest role that applies wins, and `default_role` stands where none does.
//!
//! Invariant: a peer whose uid is hidden behind a user namespace gets nothing. The kernel shows all of them as the
//! overflow uid, usually that of `nobody`. Where the daemon's own namespace has every uid, it is nobody else's, and may
//! be named.

use std::sync::OnceLock;

use fastpersist_protocol::request::Op;

use super::unit;
use crate::config::{AccessRule, Config, Role, Subject};
use crate::storage::record::Writer;

/// The uid that the kernel shows for users it cannot map, unless it is told another one.
const OVERFLOW_UID: u32 = 65534;

/// How many uids there are; the last is nobody's.
const ALL_UIDS: u64 = u32::MAX as u64;

/// The peer of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its user.
    pub uid: u32,
    /// Its process, where the kernel tells.
    pub pid: Option<i32>,
    gid: u32,
    gids: OnceLock<Vec<u32>>,
    /// Its systemd unit, where that was looked up.
    unit: Option<Box<str>>,
}

impl Peer {
    /// The peer with this user and primary group. Its other groups are looked up when a rule first asks.
    pub fn new(uid: u32, gid: u32, pid: Option<i32>) -> Self {
        Self { uid, pid, gid, gids: OnceLock::new(), unit: None }
    }

    /// Looks its systemd unit up. The sooner after it connected the better: a process may end, and its number be
    /// given to another one.
    pub fn look_up_unit(&mut self) {
        self.unit = self.known_pid().and_then(unit::unit_of);
    }

    /// Who it is, for the records that it writes.
    pub fn writer(&self) -> Writer<'_> {
        Writer { uid: self.uid, pid: self.known_pid(), unit: self.unit.as_deref() }
    }

    /// The kernel gives 0 for a process that the daemon's namespace does not have.
    fn known_pid(&self) -> Option<u32> {
        self.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0)
    }

    /// Its groups: the primary one, and those that the user database adds.
    fn gids(&self) -> &[u32] {
        self.gids.get_or_init(|| {
            let user = uzers::get_user_by_uid(self.uid);
            let groups = user.and_then(|user| uzers::get_user_groups(user.name(), self.gid));
            let mut gids: Vec<u32> = groups.unwrap_or_default().iter().map(uzers::Group::gid).collect();
            if !gids.contains(&self.gid) {
                gids.push(self.gid);
            }
            gids
        })
    }
}

/// The rules.
#[derive(Debug, Clone)]
pub struct AccessTable {
    own_uid: u32,
    default_role: Role,
    rules: Vec<AccessRule>,
    overflow_uid: u32,
    /// Whether the daemon's own namespace lacks uids, so that others can be behind the overflow uid.
    hides_uids: bool,
}

impl AccessTable {
    /// The table of a configuration.
    pub fn new(config: &Config) -> Self {
        Self {
            own_uid: uzers::get_current_uid(),
            default_role: config.daemon.default_role,
            rules: config.access.clone(),
            overflow_uid: overflow_uid(),
            hides_uids: hides_uids(),
        }
    }

    /// What the peer may do on one storage; with `None`, on the daemon itself.
    pub fn role(&self, peer: &Peer, storage: Option<&str>) -> Role {
        // Before all else: a daemon whose own uid is hidden too sees everybody as itself.
        if peer.uid == self.overflow_uid && self.hides_uids {
            return Role::None;
        }
        if peer.uid == self.own_uid || peer.uid == 0 {
            return Role::Admin;
        }
        if peer.uid == self.overflow_uid && !self.names_uid(peer.uid) {
            return Role::None;
        }
        let applies = |rule: &&AccessRule| {
            let subject = match rule.subject {
                Subject::Uid(uid) => uid == peer.uid,
                Subject::Gid(gid) => peer.gids().contains(&gid),
            };
            let on_storage = match (&rule.storages, storage) {
                (None, _) => true,
                // What concerns the daemon itself may be read by whoever may read something.
                (Some(_), None) => rule.role >= Role::Reader,
                (Some(names), Some(storage)) => names.iter().any(|name| name == storage),
            };
            subject && on_storage
        };
        let limited = |rule: &AccessRule| match (&rule.storages, storage) {
            (Some(_), None) => Role::Reader,
            _ => rule.role,
        };
        self.rules.iter().filter(applies).map(limited).max().unwrap_or(self.default_role)
    }

    fn names_uid(&self, uid: u32) -> bool {
        self.rules.iter().any(|rule| rule.subject == Subject::Uid(uid))
    }
}

fn overflow_uid() -> u32 {
    let text = std::fs::read_to_string("/proc/sys/kernel/overflowuid").unwrap_or_default();
    text.trim().parse().unwrap_or(OVERFLOW_UID)
}

fn hides_uids() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    has_gaps(&map)
}

/// Whether a `uid_map` leaves uids out. Its lines are: first uid inside, first uid outside, how many.
fn has_gaps(map: &str) -> bool {
    let count = |line: &str| line.split_whitespace().nth(2).and_then(|count| count.parse::<u64>().ok());
    map.lines().filter_map(count).sum::<u64>() < ALL_UIDS
}

/// The role that an operation needs.
pub fn needed_role(op: &Op<'_>) -> Role {
    match op {
        Op::GetKeyProcess { .. }
        | Op::GetKey { .. }
        | Op::GetItem { .. }
        | Op::Keys { .. }
        | Op::Collections { .. }
        | Op::Dates
        | Op::History(_)
        | Op::Query(_)
        | Op::Subscribe { .. }
        | Op::Unsubscribe { .. }
        | Op::Stats { .. }
        | Op::Info
        | Op::Ping => Role::Reader,
        Op::Store(_) | Op::Delete(_) | Op::Batch(_) | Op::Lock { .. } | Op::Unlock { .. } | Op::Flush => {
            Role::Writer
        }
        _ => Role::Admin,
    }
}

#[cfg(test)]
mod tests {
    use fastpersist_protocol::request::{ParseLimits, parse};

    use super::*;

    fn table(default_role: Role, rules: Vec<AccessRule>) -> AccessTable {
        AccessTable { own_uid: 1000, default_role, rules, overflow_uid: OVERFLOW_UID, hides_uids: false }
    }

    fn peer(uid: u32, gids: &[u32]) -> Peer {
        Peer { gids: OnceLock::from(gids.to_vec()), ..Peer::new(uid, 0, None) }
    }

    #[test]
    fn the_daemon_itself_and_root_are_admin_whatever_the_rules_say() {
        let table = table(Role::None, Vec::new());
        assert_eq!(table.role(&peer(0, &[]), Some("jobs")), Role::Admin);
        assert_eq!(table.role(&peer(1000, &[]), None), Role::Admin);
        assert_eq!(table.role(&peer(1001, &[]), None), Role::None);
    }

    #[test]
    fn a_process_that_the_kernel_hides_has_no_number() {
        let pid = |pid| Peer::new(7, 7, pid).writer().pid;
        assert_eq!((pid(None), pid(Some(0)), pid(Some(-1)), pid(Some(9))), (None, None, None, Some(9)));
        let mut peer = Peer::new(7, 7, Some(0));
        peer.look_up_unit();
        assert_eq!(peer.writer(), Writer { uid: 7, pid: None, unit: None });
    }

    #[test]
    fn only_an_admin_may_say_when_a_record_was_taken() {
        let line = br#"{"op":"import","ops":[]}"#;
        let parsed = parse(line, ParseLimits::default());
        assert_eq!(needed_role(&parsed.request.expect("a request").op), Role::Admin);
    }

    #[test]
    fn the_highest_rule_that_applies_wins() {
        let on_jobs = Some(vec!["jobs".to_owned()]);
        let rules = vec![
            AccessRule { subject: Subject::Gid(7), role: Role::Reader, storages: None },
            AccessRule { subject: Subject::Uid(2), role: Role::Admin, storages: on_jobs },
        ];
        let table = table(Role::None, rules);
        assert_eq!(table.role(&peer(2, &[7]), Some("jobs")), Role::Admin);
        assert_eq!(table.role(&peer(2, &[7]), Some("other")), Role::Reader);
        assert_eq!(table.role(&peer(2, &[]), Some("other")), Role::None);
        assert_eq!(table.role(&peer(2, &[]), None), Role::Reader, "an admin of one storage may ping");
        assert_eq!(table.role(&peer(3, &[8]), Some("jobs")), Role::None);
    }

    #[test]
    fn a_rule_for_a_group_that_comes_later_counts_for_who_is_here() {
        // Whoever is in a second group by the user database.
        let groups_of = |user: &uzers::User| {
            uzers::get_user_groups(user.name(), user.primary_group_id()).unwrap_or_default()
        };
        let in_a_second_group = (1..=1000).filter_map(uzers::get_user_by_uid).find_map(|user| {
            let second =
                groups_of(&user).iter().map(uzers::Group::gid).find(|g| *g != user.primary_group_id());
            second.map(|gid| (user, gid))
        });
        let Some((user, gid)) = in_a_second_group else {
            eprintln!("skipped: no user of this machine is in a second group");
            return;
        };
        let peer = Peer::new(user.uid(), user.primary_group_id(), None);
        assert_eq!(table(Role::None, Vec::new()).role(&peer, None), Role::None);
        let rule = AccessRule { subject: Subject::Gid(gid), role: Role::Reader, storages: None };
        assert_eq!(table(Role::None, vec![rule]).role(&peer, None), Role::Reader);
    }

    #[test]
    fn a_hidden_uid_gets_nothing_unless_it_is_named() {
        let open = table(Role::Writer, Vec::new());
        assert_eq!(open.role(&peer(OVERFLOW_UID, &[]), None), Role::None);
        let rule = AccessRule { subject: Subject::Uid(OVERFLOW_UID), role: Role::Reader, storages: None };
        let mut named = table(Role::None, vec![rule]);
        assert_eq!(named.role(&peer(OVERFLOW_UID, &[]), None), Role::Reader);
        named.hides_uids = true;
        assert_eq!(named.role(&peer(OVERFLOW_UID, &[]), None), Role::None, "it may be anybody's");
    }

    #[test]
    fn a_daemon_that_is_hidden_itself_takes_nobody_for_its_own_user() {
        let mut table = table(Role::Admin, Vec::new());
        table.own_uid = OVERFLOW_UID;
        assert_eq!(table.role(&peer(OVERFLOW_UID, &[]), None), Role::Admin, "nobody else has that uid");
        table.hides_uids = true;
        assert_eq!(table.role(&peer(OVERFLOW_UID, &[]), Some("jobs")), Role::None, "it may be anybody's");
    }

    #[test]
    fn a_namespace_with_every_uid_hides_nobody() {
        assert!(!has_gaps("         0          0 4294967295\n"));
        assert!(has_gaps("         0       1000          1\n"));
        assert!(has_gaps("0 100000 65536\n65536 200000 10\n"));
        assert!(has_gaps(""), "where it cannot be read, anybody may be hidden");
    }
}
