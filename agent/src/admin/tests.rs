//! Over a real socket.

use std::{path::PathBuf, sync::Weak, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::UnixStream,
    time::{sleep, timeout},
};

use super::*;
use crate::{
    cluster::Watches,
    core::{self, Entry, PodName, PodRef, PodUid, Stamp},
    health::Readiness,
    reconcile::{Asker, BEHIND, EntryStream},
    status::Status,
    telemetry::Levels,
};

/// Long enough for anything that should happen soon, on any machine.
const SOON: Duration = Duration::from_secs(60);

/// An agent that stands by: nobody answers for the gates, and its entries come from the test.
struct Agent {
    path: PathBuf,
    entries: EntryStream,
    _dir: tempfile::TempDir,
}

impl Agent {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let (entries, readiness) = (EntryStream::default(), Readiness::default());
        readiness.stand_by();
        let (asker, _) = Asker::new();
        let status = Status::new("node-a", readiness, asker, Watches::default());
        serve(Some(&path), Admin::new(status, entries.clone(), Levels::of_no_log())).unwrap();
        Self { path, entries, _dir: dir }
    }

    /// A reader that is subscribed and has read the answer's head.
    async fn follow(&self, query: &str) -> Lines<BufReader<UnixStream>> {
        let before = self.entries.readers();
        let mut stream = UnixStream::connect(&self.path).await.unwrap();
        let request = format!("GET /v1/entries?follow=true{query} HTTP/1.1\r\nHost: a\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let subscribed = async {
            while self.entries.readers() == before {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(SOON, subscribed).await.expect("nobody subscribes");
        BufReader::new(stream).lines()
    }

    fn tell(&self, seq: u64) -> Weak<Entry> {
        let name = PodName::new("shop", "cart");
        let pod = PodRef::new(PodUid::new("0e2f3a44"), Some(name));
        let at = Stamp::new(Duration::from_secs(seq));
        let entry = Entry::new(seq, at, pod, &core::Line::GateGuards).into();
        let weak = std::sync::Arc::downgrade(&entry);
        self.entries.tell(entry);
        weak
    }
}

/// The next line that is one of the stream's: what is around it is of HTTP.
async fn next(lines: &mut Lines<BufReader<UnixStream>>) -> Option<Line> {
    loop {
        let line = timeout(SOON, lines.next_line()).await.expect("nothing comes").unwrap()?;
        if line.starts_with('{') {
            return Some(serde_json::from_str(&line).unwrap());
        }
    }
}

#[tokio::test]
async fn a_reader_that_never_reads_costs_a_bounded_amount_and_is_told_what_it_lost() {
    const ENTRIES: u64 = 100_000;
    /// Lines that may be on their way: between journal and connection, and in the connection.
    const ON_THEIR_WAY: usize = 1024;
    let agent = Agent::start();
    let mut dead = agent.follow("").await;
    let mut told = Vec::new();
    for seq in 1..=ENTRIES {
        // Nothing to wait for: it is no async function, and on this thread nobody reads meanwhile.
        told.push(agent.tell(seq));
        if seq % 1000 == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    }
    let alive = told.iter().filter(|entry| entry.strong_count() > 0).count();
    assert!(alive <= BEHIND + ON_THEIR_WAY, "{alive} entries are kept for it");
    // Others are served all the same.
    let mut other = agent.follow("").await;
    agent.tell(ENTRIES + 1);
    assert!(matches!(next(&mut other).await, Some(Line::Entry(entry)) if entry.seq == ENTRIES + 1));
    // At last it reads: each entry was told or counted.
    let (mut seen, mut lost, mut last) = (0, 0, 0);
    while last <= ENTRIES {
        match next(&mut dead).await.unwrap() {
            Line::Lost { lost: more } => lost += more,
            Line::Entry(entry) => {
                assert!(entry.seq > last, "{} after {last}", entry.seq);
                last = entry.seq;
                seen += 1;
            }
        }
    }
    assert!(lost > 0);
    assert_eq!(seen + lost, ENTRIES + 1);
}

#[tokio::test]
async fn a_readers_place_is_free_when_it_goes_and_its_stream_lasts_until_then() {
    let agent = Agent::start();
    let mut readers = Vec::new();
    for _ in 0..entries::MAX_FOLLOWERS {
        readers.push(agent.follow("&kind=gate-guards&namespace=shop").await);
    }
    let mut refused = UnixStream::connect(&agent.path).await.unwrap();
    refused.write_all(b"GET /v1/entries?follow=true HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut answer = BufReader::new(refused).lines();
    assert_eq!(answer.next_line().await.unwrap().unwrap(), "HTTP/1.1 429 Too Many Requests");
    // Idle clients do not cut them: they are not among those that are counted.
    let mut idle = Vec::new();
    for _ in 0..4 * crate::http::MAX_CONNECTIONS {
        idle.push(UnixStream::connect(&agent.path).await.unwrap());
    }
    agent.tell(1);
    for reader in &mut readers {
        assert!(matches!(next(reader).await, Some(Line::Entry(_))));
    }
    readers.pop();
    let freed = async {
        while agent.entries.readers() == entries::MAX_FOLLOWERS {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(SOON, freed).await.expect("the place stays taken, without anything to write");
    drop(agent.follow("").await);
}

#[tokio::test]
async fn what_means_nothing_is_refused_in_one_line() {
    let agent = Agent::start();
    for (request, status) in [
        ("GET /v1/entries?follow=true&kind=urk", 400),
        ("GET /v1/entries?follow=true&pod=cart", 400),
        ("GET /v1/entries?follow=perhaps", 400),
        ("GET /v1/pods", 503),
        ("GET /v1/gates", 503),
        ("GET /v2/pods", 501),
        ("POST /v1/gate", 415),
    ] {
        let mut stream = UnixStream::connect(&agent.path).await.unwrap();
        let request = format!("{request} HTTP/1.1\r\nHost: a\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        let head = lines.next_line().await.unwrap().unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {head}");
    }
    // The client puts it into words.
    let path = agent.path.clone();
    let asked = tokio::task::spawn_blocking(move || {
        Client::new(&path).unwrap().get::<Value>("/v1/pods").unwrap_err().to_string()
    });
    let words = asked.await.unwrap();
    assert!(words.starts_with("this agent stands by for the one that works"), "{words}");
}
