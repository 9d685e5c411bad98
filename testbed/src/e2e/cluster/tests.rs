//! A whole run, against an API server that keeps what it is given.

mod fake;
mod ownership;
mod script;

use std::{
    fs,
    future::pending,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use axum::http::Method;
use serde_json::json;
use socket2::{Domain, Socket, Type};

use self::fake::Fake;
use super::*;

const MANIFEST: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: holdfast}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: holdfast, namespace: holdfast}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: holdfast}
rules: [{apiGroups: [""], resources: [pods], verbs: [get, list, watch]}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: holdfast, namespace: holdfast}
spec:
  selector: {matchLabels: {app.kubernetes.io/name: holdfast}}
  template:
    metadata: {labels: {app.kubernetes.io/name: holdfast}}
    spec:
      containers: [{name: agent, image: "holdfast:1"}]
"#;

const DAEMONSET: &str = "/apis/apps/v1/namespaces/holdfast/daemonsets/holdfast";
const ALL: [&str; 4] = [
    "/api/v1/namespaces/holdfast",
    "/api/v1/namespaces/holdfast/serviceaccounts/holdfast",
    "/apis/rbac.authorization.k8s.io/v1/clusterroles/holdfast",
    DAEMONSET,
];

/// A cluster, and a folder for files.
struct Bench {
    fake: Fake,
    dir: PathBuf,
}

impl Bench {
    async fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("e2e-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("holdfast.yaml"), MANIFEST).unwrap();
        Self { fake: Fake::start().await, dir }
    }

    fn options(&self) -> Options {
        Options {
            kubeconfig: self.fake.kubeconfig(&self.dir),
            context: None,
            import: None,
            image: None,
            manifest: self.dir.join("holdfast.yaml"),
            keep: false,
            timeout: Duration::from_secs(20),
        }
    }

    /// Somebody else has installed holdfast.
    fn install(&self) {
        for path in ALL.into_iter().filter(|path| *path != DAEMONSET) {
            self.fake.lock().put(path, json!({"metadata": {"name": "holdfast"}}));
        }
        self.install_agents(DAEMONSET);
    }

    fn install_agents(&self, path: &str) {
        self.fake.lock().put(
            path,
            json!({
                "metadata": {
                    "name": "holdfast",
                    "labels": {"app.kubernetes.io/name": "holdfast"},
                    "managedFields": [{"manager": "helm"}],
                },
                "spec": {
                    "selector": {"matchLabels": {"app.kubernetes.io/name": "holdfast"}},
                    "template": {
                        "metadata": {"labels": {"app.kubernetes.io/name": "holdfast"}},
                        "spec": {"containers": [{"name": "agent", "image": "theirs:7"}]},
                    },
                },
            }),
        );
    }

    /// The paths of deleted objects that are no pods or Jobs of cases, in order.
    fn deleted(&self) -> Vec<String> {
        let all = self.fake.writes("DELETE");
        let paths = all.iter().map(|write| write.split([' ', '?']).nth(1).unwrap().to_owned());
        paths.filter(|path| !path.contains("/pods/") && !path.contains("/jobs/")).collect()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // A folder in the place for such; a second failure would hide the first.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn failed(report: &Report) -> Vec<&Row> {
    report.rows.iter().filter(|row| !row.ok).collect()
}

#[tokio::test]
async fn a_run_applies_every_document_plays_every_case_and_leaves_nothing() {
    let bench = Bench::new("whole").await;
    let options = Options { image: Some("mine:2".into()), ..bench.options() };
    let Outcome { report, left } = run(&options, pending).await;
    let report = report.unwrap();
    assert_eq!(failed(&report), [] as [&Row; 0]);
    assert_eq!(left, [""; 0]);

    let mut names = vec!["agents".to_owned()];
    names.extend(cases().iter().flat_map(crate::e2e::Case::rows));
    assert_eq!(report.rows.iter().map(|row| row.case.clone()).collect::<Vec<_>>(), names);
    assert_eq!(report.version.as_deref(), Some("v1.33.4"));
    assert_eq!(report.image.as_deref(), Some("mine:2"));
    assert_eq!(report.agents[0].ready_s, Some(2));
    let of = |case: &str| report.rows.iter().find(|row| row.case == case).unwrap();
    assert_eq!(of("classic-sidecar").after_ms, Some(2.0));

    let applied = bench.fake.writes("PATCH");
    let expected = ALL.map(|path| {
        format!("PATCH {path}?&force=true&fieldManager=holdfast-e2e application/apply-patch+yaml")
    });
    assert_eq!(applied[..4], expected);
    assert_eq!(bench.fake.paths(), [""; 0]);
    // The cases' namespaces first, then what was applied, the last first.
    let deleted = bench.deleted();
    assert!(deleted[..3].iter().all(|path| path.contains("/namespaces/holdfast-e2e-")));
    let mut reversed = ALL;
    reversed.reverse();
    assert_eq!(deleted[3..], reversed);
}

#[tokio::test]
async fn a_connection_that_breaks_ends_no_case() {
    let bench = Bench::new("cut").await;
    bench.fake.lock().cut = [("/pods", 4), ("/log", 4), ("/daemonsets/holdfast", 1)].into();
    let Outcome { report, left } = run(&bench.options(), pending).await;
    assert_eq!(failed(&report.unwrap()), [] as [&Row; 0]);
    assert_eq!(left, [""; 0]);
    assert!(bench.fake.lock().cut.values().all(|left| *left == 0));
}

#[tokio::test]
async fn a_context_is_chosen_by_its_name() {
    let bench = Bench::new("context").await;
    let of = |name: &str| Options { context: Some(name.to_owned()), ..bench.options() };
    let error = run(&of("other"), pending).await.report.unwrap_err().to_string();
    assert!(error.contains("other") && error.contains("--context"), "{error}");
    let Outcome { report, .. } = run(&of("fake"), pending).await;
    assert!(report.unwrap().ok);
}

#[tokio::test]
async fn a_refusal_in_the_middle_removes_what_was_made_before() {
    let bench = Bench::new("refusal").await;
    bench.fake.lock().forbidden.push((Method::PATCH, "/clusterroles/holdfast"));
    let Outcome { report, left } = run(&bench.options(), pending).await;
    let error = report.unwrap_err();
    assert_eq!(error.to_string(), "failed to apply ClusterRole holdfast: you may not (403)");
    assert!(!error.is_unreachable());
    assert_eq!(left, [""; 0]);
    assert_eq!(bench.fake.paths(), [""; 0]);
    assert!(!bench.fake.writes("PATCH").iter().any(|write| write.contains(DAEMONSET)));
}

#[tokio::test]
async fn agents_that_do_not_get_ready_are_told_with_their_reason() {
    let bench = Bench::new("stuck").await;
    bench.fake.lock().stuck = true;
    let options = Options { timeout: Duration::from_millis(600), ..bench.options() };
    let Outcome { report, .. } = run(&options, pending).await;
    let error = report.unwrap_err().to_string();
    for part in
        ["1 of 1 updated, 0 available", "pod holdfast-x on node1: Pending", "ImagePullBackOff"]
    {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(bench.fake.paths(), [""; 0]);
}

#[tokio::test]
async fn an_interruption_removes_everything() {
    let bench = Bench::new("interrupt").await;
    let mut signals = 0;
    // One comes while the cases are being played.
    let interrupted = async || {
        signals += 1;
        while signals > 1 || !bench.fake.writes("POST").iter().any(|write| write.contains("/pods"))
        {
            sleep(Duration::from_millis(10)).await;
        }
    };
    let Outcome { report, left } = run(&bench.options(), interrupted).await;
    assert!(matches!(report, Err(ClusterError::Interrupted)));
    assert_eq!(left, [""; 0]);
    assert_eq!(bench.fake.paths(), [""; 0]);
}

#[tokio::test]
async fn a_second_interruption_ends_the_removal_and_tells_what_is_left() {
    let bench = Bench::new("twice").await;
    bench.fake.lock().clinging = Some(DAEMONSET);
    let interrupted = async || {
        // The first is there when the agents are, the second when they do not go.
        let writes = || bench.fake.writes("");
        let is_due = |write: &String| write.contains(DAEMONSET);
        let known = writes().iter().filter(|write| is_due(write)).count();
        while writes().iter().filter(|write| is_due(write)).count() == known {
            sleep(Duration::from_millis(10)).await;
        }
    };
    let Outcome { report, left } = run(&bench.options(), interrupted).await;
    assert!(matches!(report, Err(ClusterError::Interrupted)));
    assert_eq!(left[0], "Namespace holdfast: interrupted");
    assert_eq!(left[3], "DaemonSet holdfast/holdfast: interrupted");
    assert_eq!(bench.fake.paths().iter().filter(|path| ALL.contains(&path.as_str())).count(), 4);
}

#[tokio::test]
async fn what_cannot_be_removed_is_told_and_the_rest_goes() {
    let bench = Bench::new("left").await;
    {
        let mut cluster = bench.fake.lock();
        cluster.stuck = true;
        cluster.forbidden.push((Method::DELETE, "/clusterroles/holdfast"));
    }
    let options = Options { timeout: Duration::ZERO, ..bench.options() };
    let Outcome { left, .. } = run(&options, pending).await;
    assert_eq!(left, ["ClusterRole holdfast: you may not (403)"]);
    assert_eq!(bench.fake.paths(), [ALL[2]]);
}

#[tokio::test]
async fn a_case_that_fails_comes_with_states_and_logs_and_no_other_does() {
    let bench = Bench::new("fails").await;
    bench.fake.lock().refused.extend(["classic-sidecar", "job"]);
    let Outcome { report, .. } = run(&bench.options(), pending).await;
    let report = report.unwrap();
    assert!(!report.ok);
    let failed = failed(&report);
    assert_eq!(failed.iter().map(|row| &*row.case).collect::<Vec<_>>(), ["classic-sidecar", "job"]);
    assert_eq!(failed[0].seen, "ECONNREFUSED in 1.0 ms");
    for (row, pod) in failed.iter().zip(["classic-sidecar", "job-x"]) {
        let details = row.details.join("\n");
        for part in [
            &format!("pod {pod} on node1: Running"),
            "container istio-proxy: running, ready, 0 restarts",
            "app: {",
            "ECONNREFUSED",
            &format!("agent: INFO gate closed pod=\"{pod}\""),
        ] {
            assert!(details.contains(part), "{details}");
        }
        // Of its own pod only.
        assert_eq!(details.matches("agent: ").count(), 1, "{details}");
    }
    assert!(report.rows.iter().filter(|row| row.ok).all(|row| row.details.is_empty()));
    assert_eq!(bench.fake.paths(), [""; 0]);
}

#[tokio::test]
async fn a_cluster_that_is_not_there_is_told_apart_from_a_kubeconfig_that_is_none() {
    let bench = Bench::new("away").await;
    // Bound, and not listening: nobody else can take it meanwhile.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let free = socket.local_addr().unwrap().as_socket().unwrap();
    let mut away = bench.options();
    away.kubeconfig = fake::kubeconfig(&bench.dir, free);
    let error = run(&away, pending).await.report.unwrap_err();
    assert!(error.is_unreachable(), "{error}");
    for part in [&free.to_string(), "Connection refused"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    let none = Options { kubeconfig: Path::new("/nonexistent").into(), ..away };
    let error = run(&none, pending).await.report.unwrap_err();
    assert!(!error.is_unreachable(), "{error}");
    assert!(error.to_string().contains("name another with --kubeconfig"), "{error}");
}
