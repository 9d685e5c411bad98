//! What a run removes, and what is not its own to remove.

use serde_json::json;

use super::*;

/// A whole run on agents that are there: it succeeds, and nothing of theirs is written to.
async fn is_used_as_it_is(bench: &Bench) {
    let before = bench.fake.paths();
    let Outcome { report, left } = run(&bench.options(), pending).await;
    let report = report.unwrap();
    assert_eq!(failed(&report), [] as [&Row; 0]);
    assert_eq!(report.image.as_deref(), Some("theirs:7"));
    assert_eq!(left, [""; 0]);
    assert_eq!(bench.fake.paths(), before);
    let writes = bench.fake.writes("PATCH");
    assert!(writes.iter().all(|write| write.contains("/namespaces/holdfast-e2e-")), "{writes:?}");
}

#[tokio::test]
async fn an_installation_of_somebody_else_is_used_and_stays() {
    let bench = Bench::new("theirs").await;
    bench.install();
    let before = bench.fake.paths();
    is_used_as_it_is(&bench).await;

    let options = Options { image: Some("mine:2".into()), ..bench.options() };
    let error = run(&options, pending).await.report.unwrap_err().to_string();
    assert!(error.starts_with("DaemonSet holdfast/holdfast is there"), "{error}");
    assert_eq!(bench.fake.paths(), before);
}

#[tokio::test]
async fn what_is_kept_is_taken_over_and_removed_by_the_next_run() {
    let bench = Bench::new("keep").await;
    bench.fake.lock().stuck = true;
    let options = Options { keep: true, timeout: Duration::from_millis(600), ..bench.options() };
    run(&options, pending).await.report.unwrap_err();
    assert_eq!(bench.deleted(), [""; 0]);
    assert!(ALL.iter().all(|path| bench.fake.paths().contains(&(*path).to_owned())));
    let options = Options { keep: false, ..options };
    run(&options, pending).await.report.unwrap_err();
    assert_eq!(bench.fake.paths(), [""; 0]);
}

#[tokio::test]
async fn a_run_that_is_kept_keeps_the_cases_pods_and_the_next_one_removes_its_namespaces() {
    let bench = Bench::new("keep-cases").await;
    let options = Options { keep: true, ..bench.options() };
    let Outcome { report, left } = run(&options, pending).await;
    assert_eq!(failed(&report.unwrap()), [] as [&Row; 0]);
    assert_eq!(left, [""; 0]);
    assert_eq!(bench.fake.writes("DELETE"), [""; 0]);
    let kept = bench.fake.paths();
    let is_case = |path: &&String| path.contains("/namespaces/holdfast-e2e-");
    let pods = kept.iter().filter(is_case).filter(|path| path.contains("/pods/"));
    assert_eq!(pods.count(), cases().len());
    let theirs = "/api/v1/namespaces/theirs".to_owned();
    bench.fake.lock().put(&theirs, json!({"metadata": {"labels": {MANAGED_BY: "somebody"}}}));

    bench.fake.lock().label = [None; 2];
    // The agents were there before: nobody knows how long they took.
    let Outcome { report, left } = run(&bench.options(), pending).await;
    let report = report.unwrap();
    assert_eq!(failed(&report), [] as [&Row; 0]);
    assert_eq!((report.agents[0].ready, report.agents[0].ready_s), (true, None));
    assert_eq!(left, [""; 0]);
    assert_eq!(bench.fake.paths(), [theirs]);
    // Six namespaces of the cases, before what was applied.
    let deleted = bench.deleted();
    assert_eq!(deleted.iter().take_while(|path| is_case(path)).count(), 6);
}

#[tokio::test]
async fn what_an_operator_has_made_his_own_stays() {
    let bench = Bench::new("own").await;
    bench.fake.lock().stuck = true;
    let options = Options { keep: true, timeout: Duration::from_millis(600), ..bench.options() };
    run(&options, pending).await.report.unwrap_err();
    // `kubectl apply` of all but the namespace and the account, which this one needs from now on.
    for path in &ALL[2..] {
        let mut cluster = bench.fake.lock();
        let object = cluster.objects.get_mut(*path).unwrap();
        object["metadata"]["managedFields"] =
            json!([{"manager": MANAGER}, {"manager": "kubectl-client-side-apply"}]);
    }
    bench.fake.lock().stuck = false;
    let agents = bench.fake.lock().objects[DAEMONSET].clone();
    bench.fake.lock().put(DAEMONSET, agents);
    let before = bench.fake.paths();
    let Outcome { report, left } = run(&bench.options(), pending).await;
    assert_eq!(failed(&report.unwrap()), [] as [&Row; 0]);
    assert_eq!(left, [""; 0]);
    assert_eq!(bench.fake.paths(), before);
}

#[tokio::test]
async fn a_namespace_in_which_somebody_has_something_stays() {
    let bench = Bench::new("namespace").await;
    let written = |by: &str| json!({"metadata": {"managedFields": [{"manager": by}]}});
    bench.fake.lock().put(ALL[0], written(MANAGER));
    bench.fake.lock().put(ALL[1], written("kubectl-client-side-apply"));
    let Outcome { report, left } = run(&bench.options(), pending).await;
    assert_eq!(failed(&report.unwrap()), [] as [&Row; 0]);
    assert_eq!(left, [""; 0]);
    // The agent's pod goes by a controller that the fake has not.
    let mut paths = bench.fake.paths();
    paths.retain(|path| !path.contains("/pods/"));
    assert_eq!(paths, ALL[..2]);
}

#[tokio::test]
async fn what_has_taken_the_place_of_ours_stays() {
    let bench = Bench::new("replaced").await;
    let mut signals = 0;
    let once = async || {
        signals += 1;
        while signals > 1 || !bench.fake.writes("POST").iter().any(|write| write.contains("/pods"))
        {
            sleep(Duration::from_millis(10)).await;
        }
        let mut cluster = bench.fake.lock();
        cluster.objects.get_mut(ALL[2]).unwrap()["metadata"]["uid"] = json!("another");
    };
    let Outcome { report, left } = run(&bench.options(), once).await;
    assert!(matches!(report, Err(ClusterError::Interrupted)));
    assert_eq!(left, [""; 0]);
    assert_eq!(bench.fake.paths(), [ALL[2]]);
}

#[tokio::test]
async fn an_installation_in_another_namespace_is_used_and_nothing_is_applied() {
    const ELSEWHERE: &str = "/apis/apps/v1/namespaces/mesh/daemonsets/holdfast";
    let bench = Bench::new("elsewhere").await;
    bench.install_agents(ELSEWHERE);
    is_used_as_it_is(&bench).await;
}
