//! What the page has to show: an ordinary node, one with tenants that mean harm, a crowded one.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use holdfast::{
    core::{
        AgentState, CloseReason, ConnectReport, ContainerReport, Episode, Exemption, KubeletWord,
        NodeReport, OrderReport, Origin, Outcome, PodName, PodRef, PodReport, PodState, PodUid,
        ProxyReport, ReadyCheck, Reason, SettingReport, SocketCookie, Stamp, Topic, Totals,
        Verdict, Workload,
    },
    page::Facts,
};
use serde_json::{Value, json};

/// Everything that is known of a node.
pub(crate) struct Scene {
    pub(crate) node: NodeReport,
    pub(crate) pods: Vec<PodReport>,
    pub(crate) episodes: Vec<Episode>,
}

impl Scene {
    pub(crate) fn facts(&self) -> Facts<'_> {
        let Self { node, pods, episodes } = self;
        Facts { node, pods, episodes }
    }

    fn of(pods: Vec<PodReport>, episodes: Vec<Episode>) -> Self {
        let mut by_state = BTreeMap::new();
        for pod in &pods {
            *by_state.entry(pod.state).or_default() += 1;
        }
        let node = NodeReport {
            at: now(),
            node: "worker-7.example".to_owned(),
            version: "0.1.0".to_owned(),
            kernel: "6.12.0-cloud-amd64".to_owned(),
            pid: 1,
            started_at: now() - Duration::from_secs(100_000),
            state: AgentState::Working,
            missing: Vec::new(),
            pods: by_state,
            held: pods.iter().map(|pod| pod.held).sum(),
            totals: Totals {
                held: 1204,
                outcomes: [(Outcome::Connected, 1198), (Outcome::TimedOut, 4)].into(),
                timed_out_gates: 1,
                ..Totals::default()
            },
            problems: Vec::new(),
            watches: Vec::new(),
        };
        Self { node, pods, episodes }
    }
}

/// When all scenes play.
fn now() -> Stamp {
    Stamp::new(Duration::from_secs(1_790_000_000))
}

/// So many milliseconds before that.
fn before(millis: u64) -> Stamp {
    now() - Duration::from_millis(millis)
}

fn reference(namespace: &str, name: &str) -> PodRef {
    PodRef {
        uid: PodUid::new("4d0b6cfa-1f6a-4b3c-9d6e-0a6b1f2c3d4e"),
        name: Some(PodName::new(namespace, name)),
        workload: Some(Workload { kind: "Deployment".into(), name: name.into() }),
    }
}

/// A pod of Istio's in this state.
pub(crate) fn pod(namespace: &str, name: &str, state: PodState) -> PodReport {
    let setting = |key: &str, value: &str, origin| SettingReport {
        key: key.to_owned(),
        value: value.to_owned(),
        origin,
        source: match origin {
            Origin::Namespace => format!("label holdfast.dev/{key} of namespace {namespace}"),
            _ => origin.as_str().to_owned(),
        },
    };
    let container = |name: &str, is_proxy, verdict| ContainerReport {
        id: "5f1c9a".repeat(10),
        name: Some(name.to_owned()),
        role: None,
        is_proxy,
        running: Some(true),
        verdict: Some(verdict),
        cgroup: 41_213,
    };
    PodReport {
        why: why(state).to_owned(),
        wanted: true,
        settings: Some(vec![
            setting("hold", "enabled", Origin::Namespace),
            setting("mode", "hold", Origin::Default),
            setting("timeout", "1m", Origin::Config),
            setting("on-timeout", "open", Origin::Default),
            setting("guard", "disabled", Origin::Default),
        ]),
        proxy: Some(ProxyReport {
            profile: "istio".to_owned(),
            container: "istio-proxy".to_owned(),
            clues: Vec::new(),
            ready: vec![ReadyCheck::Http { port: 15021, path: "/healthz/ready".to_owned() }],
            kube_ready: true,
            kubelet: KubeletWord::Counts,
            ports: vec![15001],
            dns_port: Some(15053),
            guessed: false,
            exclusion_hint: None,
        }),
        containers: vec![
            container("app", false, Verdict::Hold),
            container("istio-proxy", true, Verdict::Pass),
        ],
        reasons: vec![
            reason(
                Topic::State,
                "Connections through istio-proxy wait until it is ready: the pod starts.",
            ),
            reason(Topic::Hold, "Holding is enabled by label holdfast.dev/hold of namespace shop."),
            reason(
                Topic::Ready,
                "istio-proxy is ready when somebody listens on port 15001 and \
                 http://:15021/healthz/ready answers 200.",
            ),
            reason(Topic::Seen, "Nobody listens on port 15001."),
            reason(Topic::Container, "app waits."),
            reason(Topic::Container, "istio-proxy passes: it is the proxy."),
        ],
        ..PodReport::new(reference(namespace, name), state, before(184_000))
    }
}

fn reason(topic: Topic, text: &str) -> Reason {
    Reason { topic, text: text.to_owned(), source: None, command: None }
}

fn why(state: PodState) -> &'static str {
    match state {
        PodState::Open | PodState::Guarded => "the proxy is ready",
        PodState::GivenUp => "the time was up; nobody listens on port 15001",
        _ => "nobody listens on port 15001",
    }
}

fn exempt(namespace: &str, name: &str, exemption: Exemption) -> PodReport {
    let pod = pod(namespace, name, PodState::Exempt);
    let why = exemption.as_str().to_owned();
    PodReport { exemption: Some(exemption), wanted: false, why, ..pod }
}

/// A connect of a start, in milliseconds since its gate closed.
pub(crate) struct Connect<'a> {
    pub(crate) comm: &'a str,
    pub(crate) container: &'a str,
    pub(crate) to: &'a str,
    pub(crate) from: u64,
    pub(crate) until: Option<u64>,
    pub(crate) fate: &'a str,
    pub(crate) outcome: Option<&'a str>,
}

impl Connect<'static> {
    fn held(comm: &'static str, to: &'static str, from: u64, until: u64) -> Self {
        let outcome = Some("connected");
        Self { comm, container: "app", to, from, until: Some(until), fate: "held", outcome }
    }

    fn waits(comm: &'static str, to: &'static str, from: u64) -> Self {
        Self { until: None, outcome: None, ..Self::held(comm, to, from, 0) }
    }
}

/// A start that began so many milliseconds ago; its other instants count from there.
pub(crate) struct Start<'a> {
    pub(crate) id: u64,
    pub(crate) pod: PodRef,
    pub(crate) ago: u64,
    /// Name, whether it is the proxy, from, until.
    pub(crate) containers: Vec<(&'a str, bool, i64, Option<u64>)>,
    pub(crate) connects: Vec<Connect<'a>>,
    pub(crate) opened: Option<(u64, Value)>,
    pub(crate) changes: Value,
}

impl Start<'_> {
    /// As the agent would tell it.
    pub(crate) fn episode(self) -> Episode {
        let Self { id, pod, ago, containers, connects, opened, changes } = self;
        let closed = before(ago);
        let at = |millis: u64| closed + Duration::from_millis(millis);
        let around = |millis: i64| match millis {
            ..0 => closed - Duration::from_millis(millis.unsigned_abs()),
            _ => at(millis.unsigned_abs()),
        };
        let containers: Vec<Value> = containers
            .iter()
            .map(|(name, is_proxy, from, until)| {
                json!({
                    "name": name, "role": "app", "is_proxy": is_proxy,
                    "started_at": around(*from), "ended_at": until.map(at),
                })
            })
            .collect();
        let fates = |fate| connects.iter().filter(|connect| connect.fate == fate).count();
        let mut outcomes = BTreeMap::<&str, u64>::new();
        for outcome in connects.iter().filter_map(|connect| connect.outcome) {
            *outcomes.entry(outcome).or_default() += 1;
        }
        let longest =
            connects.iter().filter_map(|connect| Some(connect.until? - connect.from)).max();
        let longest = longest.unwrap_or_default();
        let (opened_at, open_reason) = opened.unzip();
        let mut episode = json!({
            "id": id,
            "reason": "start", "profile": "istio", "proxy": "istio-proxy", "mode": "hold",
            "enabled_by": "namespace", "timeout_ms": 60_000,
            "closed_at": closed, "containers": containers,
            "first_connect_at": connects.iter().map(|connect| connect.from).min().map(at),
            "held": fates("held"), "refused": fates("refused"), "observed": fates("observed"), "observed_refused": 0,
            "outcomes": outcomes, "longest_ms": longest, "refuses_at": null,
            "opened_at": opened_at.map(at), "open_reason": open_reason,
            "ended_at": opened_at.map(|opened| at(opened + 40)), "guards": false, "error": null,
            "connects": connects.iter().enumerate().map(|(nth, connect)| json!({
                "cookie": nth, "query": null, "container": connect.container,
                "comm": connect.comm, "pid": 4711 + nth, "uid": 1337,
                "destination": connect.to, "fate": connect.fate,
                "called_at": at(connect.from), "ended_at": connect.until.map(at),
                "outcome": connect.outcome,
            })).collect::<Vec<_>>(),
        });
        for (key, value) in [serde_json::to_value(pod).unwrap(), changes]
            .iter()
            .flat_map(|of| of.as_object().unwrap())
        {
            episode[key] = value.clone();
        }
        serde_json::from_value(episode).unwrap()
    }
}

const BACKEND: &str = "10.96.0.10:8080";

/// A pod whose annotation nobody understands.
fn inventory() -> PodReport {
    let problem = "holdfast.dev/timeout: \"soon\": it must be a duration from 1s to 1h";
    let mut pod = pod("shop", "inventory-0", PodState::GivenUp);
    pod.reasons.push(reason(Topic::Problem, &format!("{problem}.")));
    pod.problems = vec![problem.to_owned()];
    pod
}

/// A node on an ordinary day: a bit of everything.
pub(crate) fn ordinary() -> Scene {
    let waiting = |comm: &str, to: &str, since| ConnectReport {
        cookie: SocketCookie(1),
        container: Some("app".to_owned()),
        comm: comm.to_owned(),
        pid: Some(4711),
        destination: to.parse::<SocketAddr>().unwrap(),
        query: false,
        by_sentry: false,
        since: before(since),
    };
    let pods = vec![
        PodReport {
            since: before(2_640),
            closed_for: Some(CloseReason::Start),
            deadline: Some(now() + Duration::from_millis(57_360)),
            held: 3,
            waiting: vec![
                waiting("java", BACKEND, 2_400),
                waiting("java", "[fd00:10:96::a]:5432", 1_800),
                waiting("wget", "10.96.12.40:443", 300),
            ],
            ..pod("shop", "checkout-7c9b5d6f4-xk2lp", PodState::Closed)
        },
        pod("shop", "cart-6d5f7b9c8-2mzvq", PodState::Open),
        pod("shop", "payments-5b8c6d7f9-hq4rt", PodState::Guarded),
        inventory(),
        PodReport {
            order: Some(OrderReport::Closed { until: now() + Duration::from_secs(240) }),
            closed_for: Some(CloseReason::Operator),
            ..pod("search", "indexer-28f7d", PodState::Closed)
        },
        exempt("kube-system", "coredns-5d78c9869d-7xkqz", Exemption::ControlPlane),
        exempt("monitoring", "node-exporter-8ztrp", Exemption::HostNetwork),
        exempt("web", "static-6f7d8b9c5-qwert", Exemption::NotEnabled),
    ];
    let mut episodes = vec![
        Start {
            id: 6,
            pod: reference("shop", "checkout-7c9b5d6f4-xk2lp"),
            ago: 2_640,
            containers: vec![("app", false, 180, None), ("istio-proxy", true, 1_100, None)],
            connects: vec![
                Connect::waits("java", BACKEND, 240),
                Connect::waits("java", "[fd00:10:96::a]:5432", 840),
                Connect::waits("wget", "10.96.12.40:443", 2_340),
            ],
            opened: None,
            changes: json!({}),
        }
        .episode(),
        Start {
            id: 5,
            pod: reference("shop", "cart-6d5f7b9c8-2mzvq"),
            ago: 184_000,
            containers: vec![("app", false, 26, None), ("istio-proxy", true, 3_020, None)],
            connects: vec![
                Connect::held("cart", BACKEND, 60, 3_113),
                Connect::held("cart", "10.96.7.7:6379", 900, 3_114),
                Connect {
                    outcome: Some("closed-by-application"),
                    ..Connect::held("sh", BACKEND, 1_200, 2_210)
                },
            ],
            opened: Some((3_111, json!("probe-ready"))),
            changes: json!({}),
        }
        .episode(),
        Start {
            id: 4,
            pod: reference("shop", "inventory-0"),
            ago: 900_000,
            containers: vec![
                ("migrate", false, 40, Some(900)),
                ("app", false, 1_000, None),
                ("istio-proxy", true, 1_400, Some(12_000)),
            ],
            connects: vec![Connect {
                outcome: Some("refused"),
                ..Connect::held("inventoryd", BACKEND, 1_300, 61_310)
            }],
            opened: Some((61_300, json!("deadline"))),
            changes: json!({ "finding": { "kind": "nobody-listens", "ports": [15001] } }),
        }
        .episode(),
        Start {
            id: 3,
            pod: reference("shop", "payments-5b8c6d7f9-hq4rt"),
            ago: 4_000_000,
            containers: vec![
                ("app", false, -86_400_000, None),
                ("istio-proxy", true, -86_400_000, Some(0)),
                ("istio-proxy", true, 700, None),
            ],
            connects: vec![Connect::held("payments", BACKEND, 20, 1_002)],
            opened: Some((1_000, json!("probe-ready"))),
            changes: json!({ "reason": "proxy-died", "guards": true }),
        }
        .episode(),
        Start {
            id: 2,
            pod: reference("batch", "report-28471-9xw2k"),
            ago: 9_000_000,
            containers: vec![("report", false, 20, None), ("istio-proxy", true, 600, None)],
            connects: vec![
                Connect {
                    fate: "observed",
                    until: None,
                    outcome: None,
                    ..Connect::held("report", BACKEND, 35, 0)
                },
                Connect {
                    fate: "refused",
                    until: None,
                    outcome: None,
                    ..Connect::held("report", BACKEND, 235, 0)
                },
            ],
            opened: Some((1_900, json!("kube-ready"))),
            changes: json!({ "mode": "observe" }),
        }
        .episode(),
    ];
    for id in 0..6 {
        let earlier = Start {
            id: 10 + id,
            pod: reference("shop", &format!("web-{id}")),
            ago: 20_000_000 + id * 1_000_000,
            containers: vec![("web", false, 12, None), ("istio-proxy", true, 15, None)],
            connects: Vec::new(),
            opened: Some((420, json!("probe-ready"))),
            changes: json!({}),
        };
        episodes.push(earlier.episode());
    }
    Scene::of(pods, episodes)
}

/// Whatever a tenant can choose, chosen to break a page.
pub(crate) const HOSTILE: [&str; 6] = [
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "</style></title><b>bold</b>",
    "\u{202e}drawkcab\u{2066}\u{200b}",
    "\u{1b}[31mred\u{7}\r\n\u{0}",
    "javascript:alert(1)//",
];

/// A node whose tenants mean harm; no name could come from the API like that.
pub(crate) fn hostile() -> Scene {
    let (mut pods, mut episodes) = (Vec::new(), Vec::new());
    for (id, text) in (0..).zip(HOSTILE) {
        let long = format!("{text}{}", "x".repeat(200));
        let mut report = pod(text, &long, PodState::Closed);
        report.problems = vec![text.to_owned()];
        report.why = text.to_owned();
        report.reasons = vec![reason(Topic::Problem, text)];
        report.held = 1;
        for setting in report.settings.iter_mut().flatten() {
            (setting.value, setting.source) = (text.to_owned(), long.clone());
        }
        if let Some(proxy) = &mut report.proxy {
            (proxy.profile, proxy.container) = (text.to_owned(), long.clone());
            proxy.ready = vec![ReadyCheck::Http { port: 15021, path: text.to_owned() }];
        }
        for container in &mut report.containers {
            container.name = Some(text.to_owned());
        }
        report.waiting = vec![ConnectReport {
            cookie: SocketCookie(1),
            container: Some(text.to_owned()),
            comm: text.to_owned(),
            pid: None,
            destination: "10.0.0.1:1".parse().unwrap(),
            query: true,
            by_sentry: false,
            since: before(10),
        }];
        report.pod.workload = Some(Workload { kind: text.into(), name: text.into() });
        episodes.push(
            Start {
                id,
                pod: report.pod.clone(),
                ago: 2_000,
                containers: vec![(text, false, 10, None), (&long, true, 20, None)],
                connects: vec![Connect {
                    comm: text,
                    container: &long,
                    to: BACKEND,
                    from: 5,
                    until: Some(900),
                    fate: "held",
                    outcome: Some("connected"),
                }],
                opened: None,
                changes: json!({ "profile": text, "proxy": long, "error": text }),
            }
            .episode(),
        );
        pods.push(report);
    }
    let mut scene = Scene::of(pods, episodes);
    scene.node.node = HOSTILE[0].to_owned();
    scene.node.problems = HOSTILE.map(str::to_owned).to_vec();
    scene
}

/// As many pods and starts as the agent remembers, each with all that it remembers of one, under
/// names as long as they may be.
pub(crate) fn crowded(pods: usize, episodes: u64) -> Scene {
    let name = |nth: u64| format!("{}-{nth:05}", "workload-with-a-long-name".repeat(2));
    let namespace = "n".repeat(63);
    let reports = (0..).take(pods).map(|nth| pod(&namespace, &name(nth), PodState::Open)).collect();
    let start = |id| {
        let connects = (0..Episode::MAX_CONNECTS as u64)
            .map(|nth| {
                Connect::held("<<<<<<<<<<<<<<<", "[fd00:1234:5678:9abc::ffff]:65535", nth, 3_000)
            })
            .collect();
        let containers = (0..Episode::MAX_CONTAINERS)
            .map(|_| ("c".repeat(63), false, 1, None))
            .collect::<Vec<_>>();
        Start {
            id,
            pod: reference(&namespace, &name(id)),
            ago: 60_000,
            containers: containers
                .iter()
                .map(|(name, is, from, to)| (name.as_str(), *is, *from, *to))
                .collect(),
            connects,
            opened: Some((3_000, json!("probe-ready"))),
            changes: json!({}),
        }
        .episode()
    };
    Scene::of(reports, (0..episodes).map(start).collect())
}
