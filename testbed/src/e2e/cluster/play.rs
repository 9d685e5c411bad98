//! One case: its objects are made, kubelet plays, its logs are read.

use std::time::Duration;

use k8s_openapi::api::{
    batch::v1::{Job, JobStatus},
    core::v1::{Namespace, Pod},
    events::v1::Event,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use testpod::{Event as What, Record};
use tokio::time::{Instant, sleep};

use super::{
    ClusterError, MANAGER, diagnose,
    install::Installed,
    object::{CASE_LABEL, Workload, workload},
    patience::patiently,
};
use crate::{
    clock::monotonic_ns,
    e2e::{
        APP, Case, Expected, HOLD, LabelTimes, Observation, Place, Row, SETUP, judge,
        observation::{attempts, is_done},
    },
};

const LOOK_EVERY: Duration = Duration::from_millis(400);
/// While the label's effect is measured: what is seen is late by this much at most.
const LOOK_CLOSELY_EVERY: Duration = Duration::from_millis(50);
/// Nothing new for so long from a client that connects ten times a second: it waits. Longer than
/// kubelet takes to hand a line out.
const SILENCE: Duration = Duration::from_secs(3);
/// By which the node's time may be estimated too early: a line's way through its log, and the
/// observer's own pauses on a busy machine.
const LOG_TAKES: Duration = Duration::from_secs(2);
/// Attempts before the label is set, and after it is removed.
const SOME_ATTEMPTS: usize = 3;

/// The namespaces of the cases.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub(super) enabled: String,
    pub(super) not_enabled: String,
    pub(super) labelled: String,
}

/// What every case needs.
pub(super) struct Player<'a> {
    pub(super) client: &'a Client,
    pub(super) places: Places,
    pub(super) image: &'a str,
    /// Where there is an agent.
    pub(super) nodes: Vec<&'a str>,
    pub(super) installed: Installed,
    pub(super) timeout: Duration,
    /// Leave the pods as they are.
    pub(super) keep: bool,
}

/// One case that is being played.
struct Play<'a> {
    player: &'a Player<'a>,
    case: &'a Case,
    namespace: &'a str,
    deadline: Instant,
    pod: Option<Pod>,
    seen: Observation,
    clock: NodeClock,
}

/// What this machine's clock is ahead of the node's, as far as lines of its log can tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct NodeClock {
    ahead_ns: Option<i128>,
}

// === impl NodeClock ===

impl NodeClock {
    /// A record of `node_ns` was there when it was `here_ns` here. It has been under way for some
    /// time, so the difference is never too small; the smallest is the best.
    fn learn(&mut self, here_ns: u64, node_ns: u64) {
        let ahead = i128::from(here_ns) - i128::from(node_ns);
        self.ahead_ns = Some(self.ahead_ns.map_or(ahead, |known| known.min(ahead)));
    }

    /// The node's time at an instant here; never later than the truth.
    fn node_ns(self, here_ns: u64) -> Option<u64> {
        u64::try_from(i128::from(here_ns) - self.ahead_ns?).ok()
    }
}

// === impl Player ===

impl Player<'_> {
    /// Plays a case to its end and, unless all is kept, removes its pod.
    pub(super) async fn rows(&self, case: &Case) -> Vec<Row> {
        let mut play = Play {
            player: self,
            case,
            namespace: match case.place {
                Place::Enabled => &self.places.enabled,
                Place::NotEnabled => &self.places.not_enabled,
                Place::Labelled => &self.places.labelled,
            },
            deadline: Instant::now() + self.timeout,
            pod: None,
            seen: Observation::default(),
            clock: NodeClock::default(),
        };
        if let Err(error) = play.run().await {
            play.seen.trouble = Some(error.to_string());
        }
        let mut rows = judge(case, &play.seen);
        if rows.iter().any(|row| !row.ok)
            && let Some(pod) = &play.pod
        {
            let details = diagnose::about(self.client, &self.installed, pod).await;
            for row in rows.iter_mut().filter(|row| !row.ok) {
                row.details.clone_from(&details);
            }
        }
        if !self.keep {
            play.remove().await;
        }
        rows
    }
}

// === impl Play ===

impl Play<'_> {
    async fn run(&mut self) -> Result<(), ClusterError> {
        self.create().await?;
        if self.case.expected == Expected::Labelled {
            return self.label().await;
        }
        while !self.is_over() {
            if !self.has_time() {
                return Ok(());
            }
            sleep(LOOK_EVERY).await;
            self.look().await?;
        }
        Ok(())
    }

    async fn create(&self) -> Result<(), ClusterError> {
        let what = format!("create {}/{}", self.namespace, self.case.name);
        let Player { client, image, nodes, .. } = self.player;
        let made = workload(self.case, self.namespace, image, nodes)
            .map_err(kube::Error::SerdeError)
            .map_err(ClusterError::api(what.clone()))?;
        let parameters = PostParams::default();
        let post = async || match &made {
            Workload::Pod(pod) => {
                let api = Api::namespaced((*client).clone(), self.namespace);
                api.create(&parameters, &**pod).await.map(drop)
            }
            Workload::Job(job) => {
                let api = Api::namespaced((*client).clone(), self.namespace);
                api.create(&parameters, &**job).await.map(drop)
            }
        };
        match patiently(self.deadline, post).await {
            // Nobody else knows the namespace: an earlier try whose answer was lost.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            created => created.map_err(ClusterError::api(what)),
        }
    }

    /// Whether there is time left; if not, what the pod is doing instead is put on record.
    fn has_time(&mut self) -> bool {
        if Instant::now() < self.deadline {
            return true;
        }
        let state = self.pod.as_ref().map_or(vec!["no pod".to_owned()], diagnose::states);
        let after = humantime::format_duration(self.player.timeout);
        self.seen.trouble = Some(format!("not over after {after}: {}", state.join("; ")));
        false
    }

    /// Whether all that the case is about has happened.
    fn is_over(&self) -> bool {
        let Observation { proxy, client, job_succeeded, events, .. } = &self.seen;
        is_done(client)
            && match self.case.expected {
                Expected::JobSucceeds => job_succeeded.is_some(),
                Expected::InitRefused => events.iter().any(|reason| reason.starts_with("Init")),
                Expected::Survives { .. } => {
                    proxy.iter().filter(|record| record.event == What::ProxyReady).count() > 1
                }
                _ => true,
            }
    }

    /// Reads all that there is about the pod.
    async fn look(&mut self) -> Result<(), ClusterError> {
        let client = || self.player.client.clone();
        let failed = |what: &str| ClusterError::api(format!("{what} of case {}", self.case.name));
        let pods: Api<Pod> = Api::namespaced(client(), self.namespace);
        let mine = ListParams::default().labels(&format!("{CASE_LABEL}={}", self.case.name));
        let list = patiently(self.deadline, async || pods.list(&mine).await).await;
        let list = list.map_err(failed("list the pod"))?;
        let Some(pod) = list.items.into_iter().next() else {
            return Ok(());
        };
        self.seen.client = self.records(&pod, APP, false).await?;
        let proxy = self.case.mesh.proxy();
        let mut records = Vec::new();
        if restarts(&pod, proxy) > 0 {
            records = self.records(&pod, proxy, true).await?;
        }
        records.extend(self.records(&pod, proxy, false).await?);
        self.seen.proxy = records;
        if self.case.init.is_some() {
            self.seen.init = self.records(&pod, SETUP, false).await?;
            let events: Api<Event> = Api::namespaced(client(), self.namespace);
            let all = patiently(self.deadline, async || events.list(&ListParams::default()).await);
            let all = all.await.map_err(failed("list Events"))?;
            let about = |event: &Event| {
                event.regarding.as_ref().and_then(|object| object.name.clone())
                    == Some(pod.name_any())
            };
            let mine = all.items.into_iter().filter(about);
            self.seen.events = mine.filter_map(|event| event.reason).collect();
        }
        if self.case.is_job {
            let jobs: Api<Job> = Api::namespaced(client(), self.namespace);
            let job = patiently(self.deadline, async || jobs.get(self.case.name).await).await;
            let job = job.map_err(failed("read the Job"))?;
            self.seen.job_succeeded = job.status.as_ref().and_then(succeeded);
        }
        self.pod = Some(pod);
        Ok(())
    }

    /// What a container has printed; nothing while it has not been started.
    async fn records(
        &self,
        pod: &Pod,
        container: &str,
        previous: bool,
    ) -> Result<Vec<Record>, ClusterError> {
        let api: Api<Pod> = Api::namespaced(self.player.client.clone(), self.namespace);
        let container = Some(container.to_owned());
        let parameters = LogParams { container, previous, ..LogParams::default() };
        let read = async || match api.logs(&pod.name_any(), &parameters).await {
            Ok(log) => Ok(Record::all(&log)),
            // "container is waiting to start", gone, or kubelet cannot be asked just now.
            Err(kube::Error::Api(status)) if matches!(status.code, 400 | 404 | 500..) => {
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        };
        let records = patiently(self.deadline, read).await;
        records.map_err(ClusterError::api(format!("read a log of {}", self.case.name)))
    }

    /// Sets the namespace's label while the client is refused, removes it while the client waits.
    async fn label(&mut self) -> Result<(), ClusterError> {
        loop {
            self.look_closely().await?;
            if attempts(&self.seen.client) >= SOME_ATTEMPTS {
                break;
            }
            if !self.has_time() {
                return Ok(());
            }
        }
        let set = monotonic_ns();
        self.set_label(Some("enabled")).await?;
        let (mut count, mut since) = (attempts(&self.seen.client), Instant::now());
        while since.elapsed() < SILENCE {
            if !self.has_time() {
                return Ok(());
            }
            self.look_closely().await?;
            let now = attempts(&self.seen.client);
            if now > count {
                (count, since) = (now, Instant::now());
            }
        }
        let removed = monotonic_ns();
        self.set_label(None).await?;
        while attempts(&self.seen.client) < count + SOME_ATTEMPTS && self.has_time() {
            self.look_closely().await?;
        }
        let (set, removed) = (self.clock.node_ns(set), self.clock.node_ns(removed));
        let early = LOG_TAKES;
        self.seen.label =
            set.zip(removed).map(|(set_ns, removed_ns)| LabelTimes { set_ns, removed_ns, early });
        Ok(())
    }

    async fn look_closely(&mut self) -> Result<(), ClusterError> {
        sleep(LOOK_CLOSELY_EVERY).await;
        let known = self.seen.client.len();
        match &self.pod {
            Some(pod) => self.seen.client = self.records(pod, APP, false).await?,
            None => self.look().await?,
        }
        if let Some(last) = self.seen.client.last()
            && self.seen.client.len() > known
        {
            self.clock.learn(monotonic_ns(), last.mono_ns);
        }
        Ok(())
    }

    async fn set_label(&self, value: Option<&str>) -> Result<(), ClusterError> {
        let api: Api<Namespace> = Api::all(self.player.client.clone());
        let patch = json!({"metadata": {"labels": {HOLD: value}}});
        let parameters =
            PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        let set = async || api.patch(self.namespace, &parameters, &Patch::Merge(&patch)).await;
        patiently(self.deadline, set)
            .await
            .map(drop)
            .map_err(ClusterError::api(format!("label namespace {}", self.namespace)))
    }

    /// The namespace is deleted at the end, and what is in it; until then this pod is not to disturb
    /// others.
    async fn remove(&self) {
        let client = self.player.client.clone();
        let parameters = DeleteParams::background();
        let name = self.case.name;
        if self.case.is_job {
            let jobs: Api<Job> = Api::namespaced(client, self.namespace);
            let _: Result<_, kube::Error> = jobs.delete(name, &parameters).await;
        } else {
            let pods: Api<Pod> = Api::namespaced(client, self.namespace);
            let _: Result<_, kube::Error> = pods.delete(name, &parameters).await;
        }
    }
}

fn restarts(pod: &Pod, container: &str) -> i32 {
    let status = pod.status.as_ref();
    let lists = status.map(|status| [&status.init_container_statuses, &status.container_statuses]);
    let mut all = lists.into_iter().flatten().flatten().flatten();
    all.find(|status| status.name == container).map_or(0, |status| status.restart_count)
}

/// How a Job has ended, once it has.
fn succeeded(status: &JobStatus) -> Option<bool> {
    let conditions = status.conditions.as_ref()?;
    let is = |kind: &str| conditions.iter().any(|one| one.type_ == kind && one.status == "True");
    if is("Complete") { Some(true) } else { is("Failed").then_some(false) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_s_time_is_never_estimated_later_than_it_was() {
        // The node's clock is 1000 behind; lines take 7, 3 and 9.
        let mut clock = NodeClock::default();
        assert_eq!(clock.node_ns(5_000), None);
        for (node, way) in [(1_000, 7), (2_000, 3), (3_000, 9)] {
            clock.learn(node + 1_000 + way, node);
        }
        assert_eq!(clock.node_ns(5_000), Some(3_997));
        // One that is ahead, as another machine's may be.
        let mut clock = NodeClock::default();
        clock.learn(1_000, 9_000);
        assert_eq!(clock.node_ns(2_000), Some(10_000));
    }

    #[test]
    fn a_job_s_end_is_told_by_its_conditions() {
        let status = |kind: &str, value: &str| -> JobStatus {
            let condition = json!({"type": kind, "status": value});
            serde_json::from_value(json!({"conditions": [condition]})).unwrap()
        };
        assert_eq!(succeeded(&status("Complete", "True")), Some(true));
        assert_eq!(succeeded(&status("Failed", "True")), Some(false));
        assert_eq!(succeeded(&status("Complete", "False")), None);
        // Comes first where pods are still ending.
        assert_eq!(succeeded(&status("SuccessCriteriaMet", "True")), None);
        assert_eq!(succeeded(&JobStatus::default()), None);
    }
}
