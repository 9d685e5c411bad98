//! What is answered while the agent cannot say much.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::*;
use crate::{
    cluster::Watches,
    health::{Readiness, Reason},
    metrics::PodMetrics,
    reconcile::Asker,
    telemetry::LinesDropped,
};

/// An agent of which nothing is there but who is asked, with the other end of the questions.
fn exporter() -> (Exporter, Readiness, impl Sized) {
    let readiness = Readiness::default();
    let (asker, asks) = Asker::new();
    let status = Status::new("node-1", readiness.clone(), asker, Watches::default());
    let counts = Counts::new(PodMetrics::Off);
    let exporter = Exporter::new(status, counts, EntryStream::default(), LinesDropped::none());
    (exporter, readiness, asks)
}

fn has(text: &str, line: &str) -> bool {
    text.lines().any(|other| other == line)
}

#[tokio::test]
async fn an_agent_whose_task_is_stuck_says_so_in_time() {
    let (exporter, readiness, asks) = exporter();
    readiness.met(Reason::ProgramsLoaded);
    exporter.entries.note_lost(3);
    let start = Instant::now();
    let text = exporter.render(Format::Classic).await;
    // Prometheus waits for 10 s by itself.
    assert!(start.elapsed() < Duration::from_secs(8));
    assert!(has(&text, "holdfast_agent_state{state=\"stuck\"} 1"), "{text}");
    assert!(has(&text, "holdfast_armed 0"));
    assert!(has(&text, "holdfast_stream_entries_lost_total 3"));
    assert!(text.contains("\nprocess_resident_memory_bytes "));
    assert!(!text.contains("holdfast_pods"));
    drop(asks);
}

#[tokio::test]
async fn an_agent_that_starts_answers_at_once_and_in_the_form_that_was_asked_for() {
    let (exporter, _readiness, _asks) = exporter();
    let address = "127.0.0.1:0".parse::<ListenAddress>().unwrap();
    let server = exporter.server(address).unwrap();
    let address = server.address();
    tokio::spawn(server.run());
    for (accept, content_type) in [
        ("*/*", Format::Classic.content_type()),
        ("application/openmetrics-text; version=1.0.0", Format::OpenMetrics.content_type()),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(head.contains(&format!("content-type: {content_type}")), "{head}");
        assert!(has(body, "holdfast_agent_state{state=\"starting\"} 1"), "{body}");
    }
}
