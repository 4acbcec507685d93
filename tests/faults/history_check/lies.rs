//! Can the instrument find anything? Between clients and daemon stands a proxy that lies now and then, in one of the
//! ways in which a store like this one may be wrong. The clients, the recording and the checker are those of the
//! instrument itself, and each lie must be found.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    call::{History, now},
    check, client, life,
    planted::NO_ORDER,
    space::put,
};
use crate::harness::{Conn, Random, Site};

/// What the proxy does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    /// It never does.
    None,
    /// A read is answered from a cache.
    Stale,
    /// A store is sent on again later.
    Twice,
    /// What was stored is deleted behind the client's back.
    Undone,
    /// Of a batch only the first operation is sent on, and the whole is answered.
    Half,
    /// A condition is left out.
    Unconditional,
    /// Two answers on a connection are exchanged.
    Swapped,
}

/// What connections have in common.
struct Shared {
    lie: Lie,
    socket: String,
    random: Mutex<Random>,
    /// The last answer to each read.
    cache: Mutex<HashMap<String, Value>>,
}

/// The proxy: a thread that accepts, and one for each connection.
struct Proxy {
    socket: String,
    stop: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Proxy {
    fn start(site: &Site, lie: Lie, seed: u64) -> Self {
        let socket = site.path("proxy").to_string_lossy().into_owned();
        let listener = UnixListener::bind(&socket).expect("bind the proxy");
        let shared = Arc::new(Shared {
            lie,
            socket: site.socket().to_owned(),
            random: Mutex::new(Random::seeded(seed)),
            cache: Mutex::default(),
        });
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let accepting = thread::spawn(move || {
            for stream in listener.incoming() {
                if told.load(Ordering::Relaxed) {
                    break;
                }
                let (stream, shared) = (stream.expect("a connection"), Arc::clone(&shared));
                // It ends when its client goes.
                thread::spawn(move || shared.serve(&stream));
            }
        });
        Self { socket, stop, accepting: Some(accepting) }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes it.
        let _ = UnixStream::connect(&self.socket);
        let _ = self.accepting.take().map(JoinHandle::join);
    }
}

impl Shared {
    fn lies(&self, of: u64) -> bool {
        self.random.lock().expect("the choices").one_in(of)
    }

    /// Passes on what a client asks, and the answers, until either is gone.
    fn serve(&self, client: &UnixStream) -> Option<()> {
        let mut conn = Conn::try_connect(&self.socket).ok()?;
        let mut lines = BufReader::new(client.try_clone().ok()?);
        // What is to be sent again, and in how many requests.
        let mut later: Option<(Value, u64)> = None;
        loop {
            let mut line = String::new();
            if lines.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let request: Value = serde_json::from_str(&line).ok()?;
            if let Some((again, left)) = later.take() {
                if left == 0 {
                    conn.try_ask(again)?;
                } else {
                    later = Some((again, left - 1));
                }
            }
            if self.lie == Lie::Twice && later.is_none() && is_plain_store(&request) && self.lies(20) {
                later = Some((request.clone(), 5));
            }
            let answers = if self.lie == Lie::Swapped && lines.buffer().contains(&b'\n') && self.lies(20) {
                let mut second = String::new();
                lines.read_line(&mut second).ok()?;
                let second: Value = serde_json::from_str(&second).ok()?;
                let are_alike = second["op"] == request["op"];
                let mut both = [self.answer(&mut conn, request)?, self.answer(&mut conn, second)?];
                // Others are told at once: what answers a read is no answer to a store.
                if are_alike {
                    both.reverse();
                }
                both.to_vec()
            } else {
                vec![self.answer(&mut conn, request)?]
            };
            for answer in answers {
                writeln!(&*client, "{answer}").ok()?;
            }
        }
    }

    /// The daemon's answer, or what the proxy makes of it.
    fn answer(&self, conn: &mut Conn, mut request: Value) -> Option<Value> {
        let is_read = request["op"].as_str().is_some_and(|op| op.starts_with("get_"));
        match self.lie {
            Lie::Stale if is_read && self.lies(20) => {
                let cached = self.cache.lock().expect("the cache").get(&request.to_string()).cloned();
                return cached.or_else(|| conn.try_ask(&request));
            }
            Lie::Half if request["op"] == "batch" && self.lies(2) => return half(conn, &request),
            Lie::Unconditional if request["op"] != "batch" && self.lies(5) => {
                request.as_object_mut()?.shift_remove("if_seq");
            }
            _ => {}
        }
        let answer = conn.try_ask(&request)?;
        if self.lie == Lie::Stale && is_read {
            self.cache.lock().expect("the cache").insert(request.to_string(), answer.clone());
        }
        if self.lie == Lie::Undone && is_plain_store(&request) && answer["ok"] == true && self.lies(20) {
            let mut delete = request.clone();
            put(&mut delete, json!({"op": "delete"}));
            for field in ["data", "value"] {
                delete.as_object_mut()?.shift_remove(field);
            }
            conn.try_ask(delete)?;
        }
        Some(answer)
    }
}

fn is_plain_store(request: &Value) -> bool {
    request["op"] == "store" && request.get("if_seq").is_none()
}

/// Has the first operation of a batch done, and answers as if all were.
fn half(conn: &mut Conn, request: &Value) -> Option<Value> {
    let mut first = request.clone();
    first["ops"].as_array_mut()?.truncate(1);
    let mut answer = conn.try_ask(first)?;
    if let Some(seq) = answer["seqs"][0].as_u64() {
        let count = request["ops"].as_array()?.len() as u64;
        answer["seqs"] = (seq..seq + count).collect();
    } else if answer["ok"] == true {
        return conn.try_ask(request);
    }
    Some(answer)
}

/// What is found in a short history that was made behind the proxy.
fn findings(lie: Lie, seed: u64) -> Vec<String> {
    let mut random = Random::seeded(seed);
    let site = Site::new(&life::config(&mut random));
    let daemon = site.start();
    let proxy = Proxy::start(&site, lie, seed);
    let crowd = client::Crowd::start(&site, &proxy.socket, seed);
    // This wait waits for nothing: the clients work meanwhile.
    thread::sleep(Duration::from_millis(150));
    let mut history = History { calls: crowd.stop(), ends: Vec::new() };
    daemon.stop();
    history.ends.push(now());
    println!("{lie:?}: {} calls", history.calls.len());
    check::findings(&history).iter().map(|finding| finding.tell(&history)).collect()
}

#[test]
fn a_proxy_that_lies_is_found_out() {
    let honest = findings(Lie::None, 0);
    assert!(honest.is_empty(), "nothing was wrong:\n{}", honest.join("\n"));
    for lie in [Lie::Stale, Lie::Twice, Lie::Undone, Lie::Half, Lie::Unconditional, Lie::Swapped] {
        // A lie that nobody happens to look at is none. Each is to be found at a record, not only by its seqs.
        let found = (0..20).map(|seed| findings(lie, seed));
        let count =
            found.map(|found| (found.iter().filter(|text| text.contains(NO_ORDER)).count(), found.len()));
        let (records, all) = count
            .into_iter()
            .find(|(records, _)| *records > 0)
            .unwrap_or_else(|| panic!("{lie:?} was not found"));
        println!("{lie:?}: {all} findings, {records} of them records without an order");
    }
}
