//! `holdfast testpod`: a proxy that comes late and its clients, as real processes in a network
//! namespace of their own. Needs root for that.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "support/namespace.rs"]
mod namespace;

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStdout, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use testpod::{Attempt, End, Event, Record};

use self::namespace::in_own_namespace;

/// Long enough for anything that should happen soon, on any machine.
const SOON: Duration = Duration::from_secs(20);

const PORT: &str = "127.0.0.1:15001";
const READY_PORT: &str = "127.0.0.1:15021";
const READY_PATH: &str = "/healthz/ready";

/// A running part of a test pod; killed when it is dropped.
struct Part {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
    seen: Vec<Record>,
}

impl Part {
    fn start(args: &[&str]) -> Self {
        let mut child = holdfast(args).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines, seen: Vec::new() }
    }

    /// Reads on to the first record that is like this.
    fn wait_for(&mut self, wanted: impl Fn(&Event) -> bool) -> Record {
        loop {
            let line = self.lines.next().expect("it ended without the expected record").unwrap();
            let record: Record = serde_json::from_str(&line).unwrap();
            self.seen.push(record.clone());
            if wanted(&record.event) {
                return record;
            }
        }
    }

    fn wait_ready(&mut self) -> u64 {
        self.wait_for(|event| *event == Event::ProxyReady).mono_ns
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Waits for its end; its exit code, and why it ended.
    fn end(mut self) -> (Option<i32>, Option<End>) {
        for line in self.lines.by_ref() {
            self.seen.push(serde_json::from_str(&line.unwrap()).unwrap());
        }
        let reason = self.seen.iter().find_map(|record| match record.event {
            Event::ProxyEnded { reason } => Some(reason),
            _ => None,
        });
        (self.child.wait().unwrap().code(), reason)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Fails only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn holdfast(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.arg("testpod").args(args);
    command
}

/// Runs a client to its end: its exit code and what it printed.
fn client(args: &[&str]) -> (Option<i32>, Vec<Record>) {
    let Output { status, stdout, .. } =
        holdfast(&[&["client", "--to", PORT], args].concat()).output().unwrap();
    (status.code(), Record::all(&String::from_utf8(stdout).unwrap()))
}

fn attempts(records: &[Record]) -> Vec<&Attempt> {
    let of = |record| match record {
        &Record { event: Event::Attempt(ref attempt), .. } => Some(attempt),
        _ => None,
    };
    records.iter().filter_map(of).collect()
}

/// The status line of an answer; `None` if nobody answers.
fn ask(address: &str, method: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.lines().next().map(str::to_owned)
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_proxy_says_503_then_opens_its_port_then_says_200() {
    in_own_namespace(|| {
        let mut proxy = Part::start(&["proxy", "--delay", "1s"]);
        eventually("an answer", || ask(READY_PORT, "GET", READY_PATH).is_some());
        let health = || ask(READY_PORT, "GET", READY_PATH).unwrap();
        assert_eq!(health(), "HTTP/1.1 503 Service Unavailable");
        let (code, records) = client(&[]);
        assert_eq!((code, attempts(&records)[0].outcome.as_str()), (Some(1), "ECONNREFUSED"));
        let ready = proxy.wait_ready();
        assert_eq!(health(), "HTTP/1.1 200 OK");
        assert_eq!(ask(READY_PORT, "GET", "/other").unwrap(), "HTTP/1.1 404 Not Found");
        assert_eq!(ask("[::1]:15021", "GET", READY_PATH).unwrap(), "HTTP/1.1 200 OK");

        let events: Vec<&Event> = proxy.seen.iter().map(|record| &record.event).collect();
        assert_eq!(
            events,
            [
                &Event::ProxyStarted { delay_ms: 1_000 },
                &Event::ProxyListening { port: 15001 },
                &Event::ProxyReady,
            ]
        );
        let (code, records) = client(&["--attempts", "3", "--every", "10ms"]);
        assert_eq!(code, Some(0));
        for attempt in attempts(&records) {
            assert!(attempt.is_connected() && attempt.start_ns > ready, "{attempt:?}");
            assert_eq!(attempt.status, Some(200));
        }
        assert!(matches!(records[0].event, Event::ClientStarted { .. }));
        let done = &records.last().unwrap().event;
        assert_eq!(*done, Event::ClientDone { connected: 3, failed: 0 });
    });
}

#[test]
fn a_proxy_ends_when_it_is_asked_to_and_by_a_signal_also_as_long_as_it_is_late() {
    in_own_namespace(|| {
        let mut proxy = Part::start(&["proxy", "--delay", "0s"]);
        proxy.wait_ready();
        assert_eq!(client(&["--quit", READY_PORT]).0, Some(0));
        assert_eq!(proxy.end(), (Some(0), Some(End::Quit)));

        let late = Part::start(&["proxy", "--delay", "1h"]);
        eventually("an answer", || ask(READY_PORT, "GET", READY_PATH).is_some());
        late.signal(Signal::SIGTERM);
        assert_eq!(late.end(), (Some(128 + 15), Some(End::Signal)));
    });
}

#[test]
fn a_proxy_dies_once_and_its_successor_lives() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("died");
    in_own_namespace(move || {
        let file = file.to_str().unwrap();
        let args = ["proxy", "--delay", "0s", "--die-after", "100ms", "--die-once", file];
        let mut first = Part::start(&args);
        first.wait_ready();
        assert_eq!(first.end(), (Some(1), Some(End::DieAfter)));
        assert_eq!(client(&[]).1.len(), 3, "started, refused, done");
        let mut second = Part::start(&args);
        second.wait_ready();
        thread::sleep(Duration::from_millis(500));
        assert_eq!(ask(PORT, "GET", "/").unwrap(), "HTTP/1.1 200 OK");
        second.signal(Signal::SIGINT);
        assert_eq!(second.end(), (Some(128 + 2), Some(End::Signal)));
    });
}

#[test]
fn a_client_that_stays_or_hangs_ends_when_it_is_told_to() {
    in_own_namespace(|| {
        let mut proxy = Part::start(&["proxy", "--delay", "0s"]);
        proxy.wait_ready();
        let mut stays = Part::start(&["client", "--to", PORT, "--stay"]);
        stays.wait_for(|event| matches!(event, Event::ClientDone { .. }));
        thread::sleep(Duration::from_millis(200));
        assert!(stays.child.try_wait().unwrap().is_none());
        stays.signal(Signal::SIGTERM);
        // As a service that has nothing to regret.
        assert_eq!(stays.end().0, Some(0));

        // Nobody answers there, not even with a reset.
        let dead = "127.0.0.9:9";
        let rule = ["-A", "OUTPUT", "-d", "127.0.0.9", "-j", "DROP"];
        assert!(Command::new("iptables").args(rule).status().unwrap().success());
        let mut hangs = Part::start(&["client", "--to", dead]);
        hangs.wait_for(|event| matches!(event, Event::ClientStarted { .. }));
        thread::sleep(Duration::from_millis(200));
        hangs.signal(Signal::SIGTERM);
        assert_eq!(hangs.end().0, Some(128 + 15));
        let Output { status, stdout, .. } =
            holdfast(&["client", "--to", dead, "--timeout", "200ms", "--exit-zero"])
                .output()
                .unwrap();
        let records = Record::all(&String::from_utf8(stdout).unwrap());
        assert_eq!(attempts(&records)[0].outcome, "ETIMEDOUT");
        assert_eq!(status.code(), Some(0));
    });
}

#[test]
fn a_port_that_is_taken_is_told_and_so_is_what_testpod_is_but_not_in_the_list_of_commands() {
    in_own_namespace(|| {
        let _taken = TcpListener::bind(READY_PORT).unwrap();
        let Output { status, stderr, .. } = holdfast(&["proxy"]).output().unwrap();
        assert_eq!(status.code(), Some(1));
        let line = String::from_utf8(stderr).unwrap();
        assert!(line.starts_with("holdfast: failed to listen on 0.0.0.0:15021: "), "{line}");

        let help = |args: &[&str]| {
            let output = Command::new(env!("CARGO_BIN_EXE_holdfast")).args(args).output().unwrap();
            assert!(output.status.success());
            String::from_utf8(output.stdout).unwrap()
        };
        assert!(!help(&["--help"]).contains("testpod"));
        assert!(help(&["testpod", "--help"]).contains("client"));
        assert!(help(&["testpod", "proxy", "--help"]).contains("--delay"));
    });
}
