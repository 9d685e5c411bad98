//! Against streams recorded from a real API server (Kubernetes 1.33).

use super::*;
use crate::core::{ContainerRole, PodView, Profiles};

/// The pod events of a recorded stream.
fn recorded(text: &str) -> Vec<Event> {
    let events = text.lines().filter(|line| !line.is_empty()).map(|line| {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        let pod: PodObject = serde_json::from_value(event["object"].clone()).unwrap();
        Ok(match event["type"].as_str() {
            Some("DELETED") => WatchEvent::Delete(pod),
            Some("ADDED" | "MODIFIED") => WatchEvent::Apply(pod),
            other => panic!("unexpected event {other:?}"),
        })
    });
    let events = collect(
        "pods",
        Heard::default(),
        stream::iter(events.collect::<Vec<_>>()),
        |pod: &PodObject| convert::pod(pod, &Kept::of(&Profiles::builtin())),
        Event::PodsListed,
        Event::PodApplied,
        |pod| Event::PodDeleted(pod.uid),
    );
    let count = text.lines().filter(|line| !line.is_empty()).count();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(events.take(count).collect())
}

fn applied(events: &[Event]) -> Vec<&PodView> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::PodApplied(view) => Some(view),
            _ => None,
        })
        .collect()
}

#[test]
fn a_classic_pods_proxy_becomes_ready_and_the_pod_goes() {
    let events = recorded(include_str!("../../../../testbed/fixtures/pod-watch/classic.jsonl"));
    let views = applied(&events);
    let roles: Vec<_> = views[0].containers.iter().map(|c| (c.name.as_str(), c.role)).collect();
    assert_eq!(
        roles,
        [
            ("istio-init", ContainerRole::Init),
            ("migrate", ContainerRole::Init),
            ("app", ContainerRole::App),
            ("istio-proxy", ContainerRole::App),
        ]
    );
    let ready: Vec<_> = views.iter().map(|v| v.container("istio-proxy").unwrap().ready).collect();
    assert!(!ready[0] && ready.contains(&true));
    assert!(views.iter().any(|view| view.container("app").unwrap().id.is_some()));
    assert!(views.last().unwrap().terminating);
    assert!(matches!(events.last(), Some(Event::PodDeleted(uid)) if *uid == views[0].uid));
}

#[test]
fn a_native_sidecar_is_told_from_an_init_container() {
    let events = recorded(include_str!("../../../../testbed/fixtures/pod-watch/native.jsonl"));
    let views = applied(&events);
    let proxy = views[0].container("istio-proxy").unwrap();
    assert_eq!(proxy.role, ContainerRole::Sidecar);
    let init =
        |view: &PodView| view.containers.iter().filter(|c| c.role == ContainerRole::Init).count();
    assert!(views.iter().all(|view| init(view) > 0));
    assert!(views.iter().any(|view| view.container("istio-proxy").unwrap().ready));
}

#[test]
fn while_a_post_start_hook_runs_the_proxy_has_neither_id_nor_readiness() {
    let events = recorded(include_str!("../../../../testbed/fixtures/pod-watch/poststart.jsonl"));
    let views = applied(&events);
    let first_id = views.iter().position(|v| v.container("istio-proxy").unwrap().id.is_some());
    assert!(first_id.is_some_and(|position| position > 1));
    assert!(!views[0].container("istio-proxy").unwrap().ready);
}

#[test]
fn a_job_that_lost_the_race_is_finished_and_a_plain_pod_has_no_proxy() {
    let events = recorded(include_str!("../../../../testbed/fixtures/pod-watch/job.jsonl"));
    assert!(applied(&events).iter().any(|view| view.finished));
    let events = recorded(include_str!("../../../../testbed/fixtures/pod-watch/plain.jsonl"));
    assert!(applied(&events).iter().all(|view| view.container("istio-proxy").is_none()));
}
