//! How the agent and its node stand, put together for whoever asks: the commands, the page and the
//! metrics.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Mutex, time::Instant};

use crate::{
    clock,
    cluster::Watches,
    core::{
        AgentState, Epoch, NodeReport, ObservedReport, PodReport, PodState, Stamp, Totals, Watched,
        in_words,
    },
    health::Readiness,
    preflight::Kernel,
    reconcile::{AskError, Asker, Snapshot, Workloads},
};

/// For so long what was found out is good for those who only look. Putting it together takes the task that
/// opens the gates a moment, and however many look, it is asked no more often.
const FRESH: Duration = Duration::from_millis(250);

/// How things stand. Nothing of the pods as long as the agent does not work their gates.
pub type Known = (NodeReport, Option<Snapshot>);

/// What was found out last, and when.
type Latest = (Instant, Arc<Known>);

/// Knows whom to ask. Clones know the same.
#[derive(Clone, Debug)]
pub struct Status {
    node: Arc<str>,
    started_at: Stamp,
    readiness: Readiness,
    asker: Asker,
    epoch: Epoch,
    watches: Watches,
    lost_reports: Arc<AtomicU64>,
    latest: Arc<Mutex<Option<Latest>>>,
}

// === impl Status ===

impl Status {
    /// Of the agent of this node.
    #[must_use]
    pub fn new(node: &str, readiness: Readiness, asker: Asker, watches: Watches) -> Self {
        let epoch = clock::epoch();
        let started_at = epoch.stamp(clock::now());
        let lost_reports = Arc::new(AtomicU64::new(0));
        let (node, latest) = (node.into(), Arc::default());
        Self { node, started_at, readiness, asker, epoch, watches, lost_reports, latest }
    }

    /// The node that it is of.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The clock by which its stamps are made.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Notes that so many reports of the kernel were lost.
    pub fn lost(&self, reports: u64) {
        self.lost_reports.fetch_add(reports, Ordering::Relaxed);
    }

    /// Whom it asks.
    #[must_use]
    pub const fn asker(&self) -> &Asker {
        &self.asker
    }

    /// What was found out about the workloads of this node's pods.
    ///
    /// # Errors
    ///
    /// If the agent does not work their gates.
    pub async fn observed(&self) -> Result<ObservedReport, AskError> {
        let Workloads { at, observe, workloads } = self.asker.workloads().await?;
        let (since, node) = (self.started_at, self.node.to_string());
        Ok(ObservedReport { at, since, node, observe, workloads })
    }

    /// How things stood a moment ago, for those whom anybody may send: browsers and scrapers.
    pub async fn recent(&self) -> Arc<Known> {
        // Held while asking: whoever comes meanwhile gets the same answer.
        let mut latest = self.latest.lock().await;
        if let Some((at, known)) = &*latest
            && at.elapsed() < FRESH
        {
            return Arc::clone(known);
        }
        let known = Arc::new(self.report().await);
        *latest = Some((Instant::now(), Arc::clone(&known)));
        known
    }

    /// How things stand now, for an operator's command.
    pub async fn report(&self) -> Known {
        let (state, snapshot) = if self.readiness.is_working() {
            match self.asker.snapshot().await {
                Ok(snapshot) => (AgentState::Working, Some(snapshot)),
                Err(AskError::Silent) => (AgentState::Stuck, None),
                Err(AskError::Gone) => (AgentState::Starting, None),
            }
        } else if self.readiness.stands_by() {
            (AgentState::StandingBy, None)
        } else {
            (AgentState::Starting, None)
        };
        (self.node_report(state, snapshot.as_ref()), snapshot)
    }

    fn node_report(&self, state: AgentState, snapshot: Option<&Snapshot>) -> NodeReport {
        let pods: &[PodReport] = snapshot.map_or(&[], |snapshot| &snapshot.pods);
        let mut by_state = BTreeMap::<PodState, usize>::new();
        for pod in pods {
            *by_state.entry(pod.state).or_default() += 1;
        }
        let missing = match state {
            AgentState::StandingBy => Vec::new(),
            _ => self.readiness.missing(),
        };
        let totals = Totals {
            lost_reports: self.lost_reports.load(Ordering::Relaxed),
            ..snapshot.map(|snapshot| snapshot.totals.clone()).unwrap_or_default()
        };
        let at = snapshot.map_or_else(|| self.epoch.stamp(clock::now()), |snapshot| snapshot.at);
        let watches = self.watches.report(self.epoch);
        let silent =
            watches.iter().filter_map(|watch| Some((watch.resource, watch.silent_for(at)?)));
        NodeReport {
            at,
            node: self.node.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: Kernel::running().release,
            pid: std::process::id(),
            started_at: self.started_at,
            state,
            problems: problems(state, &missing, &by_state, &totals, silent),
            missing,
            pods: by_state,
            held: pods.iter().map(|pod| pod.held).sum(),
            totals,
            watches,
        }
    }
}

fn problems(
    state: AgentState,
    missing: &[String],
    pods: &BTreeMap<PodState, usize>,
    totals: &Totals,
    silent: impl Iterator<Item = (Watched, Duration)>,
) -> Vec<String> {
    let count = |state| pods.get(&state).copied().unwrap_or_default();
    let mut problems = missing.to_vec();
    if state == AgentState::Stuck {
        problems.push("the agent's own task does not answer: kubelet should restart it".to_owned());
    }
    let (failed, given_up) = (count(PodState::Failed), count(PodState::GivenUp));
    if failed > 0 {
        problems.push(format!(
            "{} not held: the programs could not be worked; holdfast pods lists them, holdfast \
             explain tells why",
            are(failed)
        ));
    }
    if given_up > 0 {
        problems.push(format!(
            "{} without a ready proxy, and the time to wait for it is up; holdfast pods lists them, \
             holdfast explain tells why",
            are(given_up)
        ));
    }
    if totals.lost_reports > 0 {
        let lost = totals.lost_reports;
        problems.push(format!(
            "{lost} reports of the kernel were lost: some holds are not named; nobody waits longer for \
             that"
        ));
    }
    problems.extend(silent.map(|(watched, silent)| {
        format!(
            "the API server has not told of {} for {}: labels that change have no effect until it does",
            watched.as_str(),
            in_words(silent)
        )
    }));
    problems
}

/// `1 pod is`, `3 pods are`.
fn are(pods: usize) -> String {
    format!("{pods} {}", if pods == 1 { "pod is" } else { "pods are" })
}
