//! Many nodes with an agent each, and one API server for all of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::{
    Agent, AgentOptions, Node, NodeOptions, Resource,
    api::{Api, Came, Count, Refusal, Trouble},
    bench::{Options, recorded},
};

/// Longer than anything takes that is not stuck: dozens of agents start at once on a few cores.
const SOON: Duration = Duration::from_secs(120);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Nothing has been sent for so long: all that was to come has come.
const QUIET: Duration = Duration::from_secs(1);
/// What a real API server takes for a bookmark (`defaultBookmarkFrequency`, watch_cache.go); the
/// testbed's own are closer together, for tests that wait for one.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

/// HTTP status of a server that does not stream lists.
const UNPROCESSABLE: u16 = 422;

/// What there is to watch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Nodes, with an agent each.
    pub(super) nodes: usize,
    /// On each node.
    pub(super) pods: usize,
    /// In the cluster.
    pub(super) namespaces: usize,
    /// The API server streams lists, as a real one does by default in Kubernetes 1.32 and from 1.34 on.
    pub(super) streams: bool,
}

/// The nodes.
pub(super) struct Fleet {
    pub(super) shape: Shape,
    // Agents are dropped before the nodes on which they run.
    agents: Vec<Agent>,
    nodes: Vec<Node>,
    api: Api,
}

/// What the API server saw from one instant on until all agents watched.
pub(super) struct Seen {
    /// What was asked and answered.
    pub(super) cost: Count,
    /// Of these, pages of lists and watches that begin with one.
    pub(super) lists: u64,
    /// When the requests came, in seconds.
    pub(super) arrivals: Vec<f64>,
    /// When each agent watched all again, in seconds.
    pub(super) back: Vec<f64>,
    /// The requests.
    pub(super) came: Vec<Came>,
}

// === impl Fleet ===

impl Fleet {
    /// The nodes and the objects; no agent yet.
    pub(super) fn new(shape: Shape) -> Result<Self> {
        let api = Api::start()?;
        api.bookmark_every(BOOKMARK_EVERY);
        // As a watch cache answers.
        api.refuse_old_watches_with(Refusal::Event);
        if !shape.streams {
            api.trouble(|asked| {
                let refused = Trouble::Status { code: UNPROCESSABLE, retry_after: None };
                is_streamed(asked.query).then_some(refused)
            });
        }
        for number in 0..shape.namespaces {
            api.put(Resource::Namespaces, namespace(&format!("team-{number:05}")));
        }
        let pod = recorded::pod()?;
        let mut nodes = Vec::new();
        for number in 0..shape.nodes {
            let name = format!("node-{number:03}");
            let node = Node::with(NodeOptions { name: name.clone(), ..NodeOptions::default() })?;
            // Of all nodes it is this API that counts, and it tells them apart by their tokens.
            fs::write(node.kubeconfig(), api.kubeconfig_with_token(&name))
                .context("write the kubeconfig")?;
            for pod_number in 0..shape.pods {
                let mut pod = pod.clone();
                pod["metadata"]["name"] = json!(format!("web-{number:03}-{pod_number:03}"));
                pod["metadata"]["uid"] = Value::Null;
                pod["spec"]["nodeName"] = json!(name);
                api.put(Resource::Pods, pod);
            }
            nodes.push(node);
        }
        Ok(Self { shape, agents: Vec::new(), nodes, api })
    }

    /// Starts all agents and waits until they are armed, and watch. One after another, as on nodes of their
    /// own: dozens that load their programs on a few cores at once are late for what they ask first, and
    /// go on without an answer (`FIRST_TRY` of the agent), so that fewer requests would be counted.
    pub(super) fn start(&mut self, options: &Options) -> Result<Seen> {
        let (since, before) = (Instant::now(), self.api.total_cost());
        for node in &self.nodes {
            let agent = node.start_agent(&AgentOptions::new(&options.agent))?;
            agent.wait_message(SOON, "agent armed")?;
            self.agents.push(agent);
        }
        self.watching(since, before)
    }

    pub(super) fn api(&self) -> &Api {
        &self.api
    }

    /// Bytes of one of its pods, as the API server writes it.
    pub(super) fn pod_bytes(&self) -> Result<f64> {
        let pods = self.api.list(Resource::Pods);
        let pod = pods.first().context("the fleet has no pods")?;
        Ok(pod.to_string().len() as f64)
    }

    /// The API server goes away for so long; with `history`, what was watched can be taken up from
    /// where it was.
    pub(super) fn restart_api(&self, away: Duration, history: bool) -> Result<Seen> {
        self.api.stop();
        thread::sleep(away);
        if !history {
            self.api.expire_history();
        }
        let (since, before) = (Instant::now(), self.api.total_cost());
        self.api.resume()?;
        self.watching(since, before)
    }

    /// All watches end with 410.
    pub(super) fn expire(&self) -> Result<Seen> {
        let (since, before) = (Instant::now(), self.api.total_cost());
        self.api.expire_history();
        self.watching(since, before)
    }

    /// What was sent because of so many changes, each of another pod or all of one namespace.
    pub(super) fn sent_for(&self, resource: Resource, changes: usize) -> Result<u64> {
        let sent = || self.api.cost("watch", resource.plural()).sent;
        let before = sent();
        for change in 0..changes {
            let value = if change % 2 == 0 { "12345678" } else { "87654321" };
            let patch = json!({"metadata": {"annotations": {"example.com/change": value}}});
            let changed = match resource {
                Resource::Pods => {
                    let name = format!("web-{:03}-000", change / 2 % self.shape.nodes);
                    self.api.patch(resource, Some(recorded::NAMESPACE), &name, &patch)
                }
                _ => self.api.patch(resource, None, "team-00000", &patch),
            };
            changed.context("there is nothing to change")?;
        }
        let after = quiet(sent)?;
        ensure!(after > before, "nobody was told of {changes} changes");
        Ok(after - before)
    }

    /// Waits until all agents watch all, by requests that came `since` then.
    fn watching(&self, since: Instant, before: Count) -> Result<Seen> {
        let deadline = Instant::now() + SOON;
        loop {
            let came = self.api.came(since);
            let mut watched: BTreeMap<&str, BTreeMap<&str, f64>> = BTreeMap::new();
            for came in came.iter().filter(|came| came.verb == "watch" && came.code == 200) {
                let at = came.at.duration_since(since).as_secs_f64();
                let of = watched.entry(came.token.as_deref().unwrap_or_default()).or_default();
                of.insert(&came.resource, at);
            }
            watched.retain(|_, of| of.len() == 2);
            let open: u64 =
                ["pods", "namespaces"].map(|all| self.api.cost("watch", all).open).iter().sum();
            if watched.len() == self.nodes.len() && open == 2 * self.nodes.len() as u64 {
                let back = |of: &BTreeMap<&str, f64>| of.values().copied().fold(0.0, f64::max);
                let back = watched.values().map(back).collect();
                // Lists that are streamed go on behind the answer's head.
                quiet(|| {
                    let cost = self.api.total_cost();
                    cost.sent + cost.requests
                })?;
                return Ok(self.seen(since, before, back));
            }
            for agent in &self.agents {
                ensure!(agent.exit_status().is_none(), "an agent ended: {:#?}", agent.stderr());
            }
            ensure!(
                Instant::now() < deadline,
                "only {} of {} agents watch",
                watched.len(),
                self.nodes.len()
            );
            thread::sleep(LOOK_EVERY);
        }
    }

    fn seen(&self, since: Instant, before: Count, back: Vec<f64>) -> Seen {
        let came = self.api.came(since);
        let arrivals = came.iter().map(|came| came.at.duration_since(since).as_secs_f64());
        let is_list = |came: &&Came| {
            let is_list = came.verb == "list" || is_streamed(&came.query);
            // One object only is asked for to see whether it may be.
            let is_probe = came.query.split('&').any(|one| one == "limit=1");
            is_list && !is_probe && came.code == 200
        };
        Seen {
            cost: self.api.total_cost().since(before),
            lists: came.iter().filter(is_list).count() as u64,
            arrivals: arrivals.collect(),
            back,
            came,
        }
    }
}

impl Seen {
    /// Of the requests, how many came in the second in which most came.
    pub(super) fn peak_per_second(&self) -> usize {
        let mut arrivals = self.arrivals.clone();
        arrivals.sort_by(f64::total_cmp);
        let within = |start: usize| {
            arrivals[start..].iter().take_while(|at| **at < arrivals[start] + 1.0).count()
        };
        (0..arrivals.len()).map(within).max().unwrap_or_default()
    }

    /// What the watches asked for as their time, in seconds: the shortest and the longest.
    pub(super) fn watch_seconds(&self) -> Result<(f64, f64)> {
        let of = |came: &Came| {
            came.query.split('&').find_map(|one| one.strip_prefix("timeoutSeconds=")?.parse().ok())
        };
        let seconds: BTreeSet<u32> = self.came.iter().filter_map(of).collect();
        let ends = seconds.first().zip(seconds.last());
        let (first, last) = ends.context("no watch said how long it is to last")?;
        Ok((f64::from(*first), f64::from(*last)))
    }
}

/// What has come to be in the end, when it grows no more.
fn quiet(sent: impl Fn() -> u64) -> Result<u64> {
    let deadline = Instant::now() + SOON;
    let mut last = (sent(), Instant::now());
    while last.1.elapsed() < QUIET {
        ensure!(Instant::now() < deadline, "the API server is asked and sends without end");
        thread::sleep(LOOK_EVERY);
        let now = sent();
        if now != last.0 {
            last = (now, Instant::now());
        }
    }
    Ok(last.0)
}

/// Whether a watch is asked to begin with what there is.
fn is_streamed(query: &str) -> bool {
    query.contains("sendInitialEvents=true")
}

/// A namespace as `kubectl create namespace` leaves it, with what the API server adds to its metadata.
fn namespace(name: &str) -> Value {
    json!({
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/metadata.name": name},
            "managedFields": [{
                "apiVersion": "v1",
                "fieldsType": "FieldsV1",
                "fieldsV1": {"f:metadata": {"f:labels": {".": {}, "f:kubernetes.io/metadata.name": {}}}},
                "manager": "kubectl-create",
                "operation": "Update",
                "time": "2026-01-02T03:04:05Z",
            }],
        },
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    })
}
