//! Kills at calls: the real daemon is killed before and after each call that changes a file, one in each run, during its
//! start, a fixed script of 60 requests, a recovery and its stop. Then it is started again, and everything that was answered
//! must be there, once, and nothing by halves.

mod check;
mod script;
mod trace;

use std::collections::BTreeMap;

use rustix::process::Signal;
use script::{DATES, KEY, REQUESTS, State};
use serde_json::{Value, json};
use trace::{Ender, Place, Side};

use crate::{
    harness::{Conn, Daemon, PATIENCE, Random, Site, python, strace, wait_for},
    runs::{Tally, count},
};

/// The steps beside the requests, which are 1 to 60.
const START: usize = 0;
const RECOVERY: usize = REQUESTS + 1;
const STOP: usize = REQUESTS + 2;

#[test]
fn a_kill_at_any_call_loses_nothing_that_was_answered() {
    if !strace::available("end the daemon at a call") {
        return;
    }
    let mut tally = Tally::new("kill_at_calls");
    let places = places();
    let mut by_call: BTreeMap<&str, usize> = BTreeMap::new();
    for place in &places {
        *by_call.entry(&place.call).or_default() += 1;
    }
    println!("{} calls in the script: {by_call:?}", places.len());
    for call in ["fdatasync", "fsync", "rename", "unlink", "ftruncate", "openat", "pwrite64"] {
        assert!(by_call.contains_key(call), "the script has no {call}");
    }
    let all: Vec<_> =
        places.iter().flat_map(|place| [Side::Before, Side::After].map(|side| (place, side))).collect();
    // A part of them is spread over the whole script, each time others.
    let runs = count(SHORT, all.len() as u64).min(all.len() as u64);
    let first = Random::new().between(0, all.len() as u64 - 1);
    let mut missed = Vec::new();
    for run in 0..runs {
        let (place, side) = all[((first + run * all.len() as u64 / runs) % all.len() as u64) as usize];
        tally.runs += 1;
        if kill_at(place, side, &mut tally) {
            tally.injected += 1;
        } else {
            missed.push(format!("{place:?}"));
        }
        if tally.lost.len() + tally.wrong.len() > 20 {
            break;
        }
    }
    println!("{} of {runs} runs met no such call: {missed:?}", missed.len());
    let too_many = missed.len() as u64 > 1 + runs / 10;
    tally.end();
    assert!(!too_many, "the daemon does something else at each run: these places mean nothing");
}

const SHORT: u64 = 24;

/// All calls of an undisturbed life that change files.
fn places() -> Vec<Place> {
    let site = Site::new(&script::config());
    let mut ends = Vec::new();
    let mut daemon = site.start_as(trace::traced_start(&site, None), site.socket());
    ends.push((START, trace::settled(&site)));
    let mut state = State::default();
    let mut conn = daemon.connect();
    for (number, request) in script::requests().iter().enumerate() {
        assert!(answered(&mut conn, request, &mut state), "the daemon has ended by itself");
        ends.push((number + 1, trace::settled(&site)));
    }
    let mut places = trace::places(&site, &ends);
    daemon.kill();
    daemon = site.start_as(trace::traced_start(&site, None), site.socket());
    let recovered = trace::settled(&site);
    daemon.signal(Signal::TERM);
    daemon.ended_cleanly();
    places.append(&mut trace::places(&site, &[(RECOVERY, recovered), (STOP, trace::settled(&site))]));
    places.into_iter().collect()
}

/// Sends a request and looks at its answer. False where the daemon has ended without one.
fn answered(conn: &mut Conn, request: &Value, state: &mut State) -> bool {
    let Some(answer) = conn.try_ask(request) else { return false };
    assert_eq!(answer["ok"], true, "{request} was answered {answer}");
    let seqs = state.apply(request);
    match request["op"].as_str() {
        Some("batch") => assert_eq!(answer["seqs"], json!(seqs), "{request}"),
        Some("backup") => state.back_up(),
        Some("store" | "delete") => assert_eq!(answer["seq"], json!(seqs[0]), "{request}"),
        _ => {}
    }
    true
}

/// One life of the script with its end, and a look at what is left. False where the daemon was not killed.
fn kill_at(place: &Place, when: Side, tally: &mut Tally) -> bool {
    let site = Site::new(&script::config());
    let (allowed, killed) = live(&site, place, when);
    let killed = killed && trace::was_ended(&site);
    let what = format!("{when:?} {place:?}, {}", trace::last_call(&site, place));
    if let Some(end) = trace::own_end(&site) {
        tally.wrong.push(format!("{what}: it ended by itself: {end}"));
    }
    let mut daemon = match site.try_start() {
        Ok(daemon) => daemon,
        Err(exit) => {
            tally.wrong.push(format!("{what}: does not start, {:?}: {}", exit.code, exit.stderr));
            return killed;
        }
    };
    daemon.assert_running();
    let mut conn = daemon.connect();
    let found = check::asked(&mut conn);
    let Some(state) = check::judge(&what, &found, &allowed, tally) else { return killed };
    check::check_backups(&what, &mut conn, state, tally);
    check::check_exported(&what, &site, tally);
    let mut state = state.clone();
    for date in DATES {
        let store = json!({"op": "store", "storage": "jobs", "date": date, "key": "z", "process_name": "p", "data": {"n": 0}});
        assert!(answered(&mut conn, &store, &mut state), "{what}: no answer");
    }
    let store = json!({"op": "store", "storage": "settings", "key": KEY, "item_name": "z", "data": {"n": 0}, "value": 0});
    assert!(answered(&mut conn, &store, &mut state), "{what}: no answer");
    daemon.stop();
    if python::available() {
        for (lines, source) in check::read(&site).into_iter().zip(["in the databases", "in the export"]) {
            check::judge(&format!("{what}, {source}"), &lines, std::slice::from_ref(&state), tally);
        }
    }
    check::check_leftovers(&what, &site, tally);
    killed
}

/// Lives until the call at which it ends. Gives the states that may be there then, and whether it met its call.
fn live(site: &Site, place: &Place, when: Side) -> (Vec<State>, bool) {
    let mut state = State::default();
    let requests = script::requests();
    let traced = || site.spawn(trace::traced_start(site, Some((place, when))), site.socket());
    let mut daemon = if place.step == START { traced() } else { site.start() };
    let mut ender = (place.step == START).then(|| Ender::watch(site, &daemon));
    if ender.as_ref().is_some_and(|ender| !comes_up(site, ender)) {
        drop(ender);
        daemon.kill();
        return (vec![state], true);
    }
    let mut conn = daemon.connect();
    for (number, request) in requests.iter().enumerate() {
        if place.step == number + 1 {
            ender = Some(Ender::attach(site, &daemon, place, when));
        }
        let before = state.clone();
        if !answered(&mut conn, request, &mut state) {
            let mut after = before.clone();
            after.apply(request);
            drop(ender);
            daemon.kill();
            return (vec![before, after], true);
        }
    }
    if place.step == RECOVERY {
        daemon.kill();
        daemon = traced();
        let ender = Ender::watch(site, &daemon);
        let killed = !comes_up(site, &ender);
        drop(ender);
        daemon.kill();
        return (vec![state], killed);
    }
    if place.step == STOP {
        ender = Some(Ender::attach(site, &daemon, place, when));
    }
    (vec![state], stops_killed(site, daemon, ender))
}

/// Waits for a daemon that is being started. False where it was killed before it answered.
fn comes_up(site: &Site, ender: &Ender) -> bool {
    wait_for("the daemon is there, or gone", PATIENCE, || {
        if ender.is_gone() {
            return Some(false);
        }
        let mut conn = Conn::try_connect(site.socket()).ok()?;
        conn.try_ask(json!({"op": "ping"})).filter(|answer| answer["pong"] == true).map(|_| true)
    })
}

/// Tells the daemon to stop, and says whether it was killed meanwhile.
fn stops_killed(site: &Site, daemon: Daemon, ender: Option<Ender>) -> bool {
    daemon.signal(Signal::TERM);
    wait_for("the daemon is gone", PATIENCE, || trace::is_gone(daemon.pid()).then_some(()));
    drop(ender);
    daemon.kill();
    trace::was_killed(site)
}
