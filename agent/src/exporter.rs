//! What Prometheus scrapes: put together from those who know it, and served at `/metrics`.

use std::sync::{Arc, OnceLock};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
    routing::get,
};

use crate::{
    cluster::EventSink,
    http::{ListenAddress, ListenError, Purpose, Server},
    metrics::{
        self, Counts, EventReading, Filled, Format, MapReading, ProcessReading, Reading,
        ReplayReading,
    },
    readiness::{ProbeCounts, ProbeResult},
    reconcile::{EntryStream, ReplayCounts},
    status::Status,
    telemetry::LinesDropped,
};

/// What the server is for.
const PURPOSE: Purpose = Purpose { what: "metrics", option: "--metrics-address" };

/// Answers scrapes. Clones answer alike.
#[derive(Clone, Debug)]
pub struct Exporter {
    status: Status,
    counts: Counts,
    entries: EntryStream,
    log_lines_dropped: LinesDropped,
    sources: Arc<OnceLock<Sources>>,
}

/// What is there as soon as the agent works the gates.
#[derive(Debug)]
pub struct Sources {
    /// The Kubernetes Events.
    pub events: EventSink,
    /// The probes.
    pub probes: ProbeCounts,
    /// The replays.
    pub replays: ReplayCounts,
    /// How many held sockets have a record at most, and as many of their queries.
    pub max_sockets: u32,
}

// === impl Exporter ===

impl Exporter {
    /// Of an agent that does not work the gates yet.
    #[must_use]
    pub fn new(
        status: Status,
        counts: Counts,
        entries: EntryStream,
        log_lines_dropped: LinesDropped,
    ) -> Self {
        Self { status, counts, entries, log_lines_dropped, sources: Arc::default() }
    }

    /// The agent works the gates from now on. Has an effect once.
    pub fn connect(&self, sources: Sources) {
        let _: Result<(), Sources> = self.sources.set(sources);
    }

    /// Listens on `address` for whoever scrapes.
    ///
    /// # Errors
    ///
    /// If the address is somebody else's or may not be taken.
    pub fn server(&self, address: ListenAddress) -> Result<Server, ListenError> {
        Server::bind(address, PURPOSE, self.router())
    }

    /// `/metrics`.
    pub fn router(&self) -> Router {
        Router::new().route("/metrics", get(scrape)).with_state(self.clone())
    }

    /// The answer to a scrape. It comes within 2 s also if the agent's own task is stuck; what is
    /// known without that is in it.
    pub async fn render(&self, format: Format) -> String {
        metrics::render(&self.counts, &self.read().await, format)
    }

    async fn read(&self) -> Reading {
        // Anybody who reaches the port may scrape, as often as he likes.
        let known = self.status.recent().await;
        let (node, snapshot) = &*known;
        let sources = self.sources.get();
        let max = sources.map_or(0, |sources| sources.max_sockets.into());
        let maps = snapshot.as_ref().map(|snapshot| MapReading {
            dropped: snapshot.gates.dropped,
            sockets: Filled { used: snapshot.gates.records, max },
            datagrams: Filled { used: snapshot.gates.datagrams, max },
        });
        Reading {
            node: node.clone(),
            waiting: snapshot.as_ref().map(|snapshot| {
                let waiting = snapshot.pods.iter().filter(|report| report.held > 0);
                waiting.map(|report| (report.pod.clone(), report.held)).collect()
            }),
            maps,
            probes: sources.map_or_else(Vec::new, |sources| {
                let results = ProbeResult::ALL.into_iter();
                results.map(|result| (result.as_str(), sources.probes.get(result))).collect()
            }),
            replays: sources.map_or_else(ReplayReading::default, |sources| ReplayReading {
                sent: sources.replays.sent(),
                failed: sources.replays.failed(),
            }),
            events: sources.map_or_else(EventReading::default, |sources| EventReading {
                published: sources.events.published(),
                dropped: sources.events.dropped(),
                failed: sources.events.failed(),
            }),
            log_lines_dropped: self.log_lines_dropped.get(),
            stream_entries_lost: self.entries.lost(),
            process: ProcessReading::take()
                .inspect_err(
                    |error| tracing::debug!(%error, "the agent's own process cannot be read"),
                )
                .ok(),
        }
    }
}

async fn scrape(State(exporter): State<Exporter>, headers: HeaderMap) -> Response {
    let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = Format::accepted(accept);
    let text = exporter.render(format).await;
    ([(header::CONTENT_TYPE, format.content_type())], text).into_response()
}

#[cfg(test)]
mod tests;
