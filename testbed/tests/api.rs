//! The API, asked by the client that the agent uses: kube.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    pin::pin,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Namespace, Node, ObjectReference, Pod, Secret},
    events::v1,
};
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt as _,
        events::{Event, EventType, Recorder, Reporter},
        watcher::{self, watcher},
    },
};
use serde_json::json;
use testbed::{
    Api as TestApi, Recording, Resource,
    api::{Access, Events, Refusal, Rule},
};
use tokio::time::{sleep, timeout};

const SOON: Duration = Duration::from_secs(20);

async fn client(api: &TestApi) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(&api.kubeconfig()).unwrap();
    let config =
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

fn put_pod(api: &TestApi, name: &str, node: &str) {
    api.put(
        Resource::Pods,
        json!({
            "metadata": {"name": name, "namespace": "shop", "labels": {"app": name}},
            "spec": {"nodeName": node, "containers": [{"name": "app"}]},
            "status": {"phase": "Pending"},
        }),
    );
}

fn status_code(error: kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        other => panic!("not an API error: {other}"),
    }
}

#[tokio::test]
async fn lists_are_selected_and_paged() {
    let api = TestApi::start().unwrap();
    for index in 0..25 {
        put_pod(&api, &format!("pod-{index:02}"), "node1");
        put_pod(&api, &format!("other-{index:02}"), "node2");
    }
    let pods: Api<Pod> = Api::all(client(&api).await);
    let parameters = ListParams::default().fields("spec.nodeName=node1").limit(10);
    let mut names = Vec::new();
    let mut parameters = Some(parameters);
    let mut pages = 0;
    while let Some(current) = parameters.take() {
        let page = pods.list(&current).await.unwrap();
        pages += 1;
        names.extend(page.iter().map(kube::ResourceExt::name_any));
        if let Some(token) = page.metadata.continue_.filter(|token| !token.is_empty()) {
            parameters = Some(current.continue_token(&token));
        }
    }
    let expected: Vec<String> = (0..25).map(|index| format!("pod-{index:02}")).collect();
    assert_eq!((names, pages), (expected, 3));
    assert_eq!(api.requests("list", "pods"), 3);

    let by_label = ListParams::default().labels("app=pod-03");
    assert_eq!(pods.list(&by_label).await.unwrap().items.len(), 1);
    let error = pods.list(&ListParams::default().fields("spec.bogus=1")).await;
    assert_eq!(status_code(error.unwrap_err()), 400);

    let first = pods.list(&ListParams::default().limit(10)).await.unwrap();
    api.expire_history();
    let token = first.metadata.continue_.unwrap();
    let error = pods.list(&ListParams::default().limit(10).continue_token(&token)).await;
    assert_eq!(status_code(error.unwrap_err()), 410);
}

#[tokio::test]
async fn one_object_is_got_and_a_missing_one_is_a_readable_error() {
    let api = TestApi::start().unwrap();
    put_pod(&api, "cart", "node1");
    let client = client(&api).await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "shop");
    let pod = pods.get("cart").await.unwrap();
    assert_eq!(pod.spec.unwrap().node_name.as_deref(), Some("node1"));
    assert!(pod.metadata.uid.is_some() && pod.metadata.creation_timestamp.is_some());
    match pods.get("bogus").await.unwrap_err() {
        kube::Error::Api(status) => {
            assert_eq!(status.code, 404);
            assert_eq!(status.message, "pods \"bogus\" not found");
        }
        other => panic!("{other}"),
    }
    let meta = Api::<Pod>::namespaced(client.clone(), "shop").get_metadata("cart").await.unwrap();
    assert_eq!(meta.metadata.name.as_deref(), Some("cart"));
    let version = client.apiserver_version().await.unwrap();
    assert_eq!((version.major.as_str(), version.minor.as_str()), ("1", "33"));
    assert!(
        client
            .list_api_groups()
            .await
            .unwrap()
            .groups
            .iter()
            .any(|group| group.name == "events.k8s.io")
    );
}

#[tokio::test]
async fn a_watch_replays_from_its_version_bookmarks_and_expires() {
    let api = TestApi::start().unwrap();
    put_pod(&api, "a", "node1");
    let pods: Api<Pod> = Api::all(client(&api).await);
    let version =
        pods.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    put_pod(&api, "b", "node1");
    put_pod(&api, "c", "node2");
    api.delete(Resource::Pods, Some("shop"), "a");
    let parameters = WatchParams::default().fields("spec.nodeName=node1");
    let mut events = pin!(pods.watch(&parameters, &version).await.unwrap());
    let mut next = async || {
        timeout(SOON, events.try_next()).await.unwrap().unwrap().expect("the watch goes on")
    };
    assert!(matches!(next().await, WatchEvent::Added(pod) if pod.name_any() == "b"));
    assert!(matches!(next().await, WatchEvent::Deleted(pod) if pod.name_any() == "a"));
    // Only a bookmark tells that version of the change on the other node.
    match next().await {
        WatchEvent::Bookmark(bookmark) => {
            assert_eq!(bookmark.metadata.resource_version, api.version().to_string());
        }
        other => panic!("{other:?}"),
    }
    api.expire_history();
    loop {
        match next().await {
            WatchEvent::Bookmark(_) => {}
            WatchEvent::Error(status) => {
                assert_eq!(status.code, 410);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    let mut refused = pin!(pods.watch(&parameters, &version).await.unwrap());
    assert!(matches!(
        refused.try_next().await.unwrap(),
        Some(WatchEvent::Error(status)) if status.code == 410
    ));
    assert!(refused.try_next().await.unwrap().is_none());
    api.refuse_old_watches_with(Refusal::Status);
    let error = pods.watch(&parameters, &version).await.err().unwrap();
    assert_eq!(status_code(error), 410);
}

/// Applies watcher events to a set of names until it equals `expected`.
async fn wait_for_names(
    events: &mut (impl futures::Stream<Item = watcher::Result<watcher::Event<Pod>>> + Unpin),
    names: &mut std::collections::BTreeSet<String>,
    expected: &[&str],
) -> usize {
    let mut resets = 0;
    timeout(SOON, async {
        while !names.iter().map(String::as_str).eq(expected.iter().copied()) {
            match events.next().await.unwrap() {
                Ok(watcher::Event::Init) => {
                    resets += 1;
                    names.clear();
                }
                Ok(watcher::Event::InitApply(pod) | watcher::Event::Apply(pod)) => {
                    names.insert(pod.name_any());
                }
                Ok(watcher::Event::Delete(pod)) => {
                    names.remove(&pod.name_any());
                }
                Ok(watcher::Event::InitDone) | Err(_) => {}
            }
        }
    })
    .await
    .unwrap_or_else(|_| panic!("have {names:?}, want {expected:?}"));
    resets
}

async fn recovers(config: watcher::Config) {
    let api = TestApi::start().unwrap();
    put_pod(&api, "a", "node1");
    let pods: Api<Pod> = Api::all(client(&api).await);
    let mut events = pin!(watcher(pods, config.fields("spec.nodeName=node1")).default_backoff());
    let mut names = Default::default();
    wait_for_names(&mut events, &mut names, &["a"]).await;
    put_pod(&api, "b", "node1");
    wait_for_names(&mut events, &mut names, &["a", "b"]).await;

    // History is gone, and with it the news of a deletion.
    api.expire_history();
    api.delete(Resource::Pods, Some("shop"), "a");
    put_pod(&api, "c", "node1");
    wait_for_names(&mut events, &mut names, &["b", "c"]).await;

    // Down, and changed meanwhile.
    api.stop();
    put_pod(&api, "d", "node1");
    let error = Api::<Pod>::all(client(&api).await).list(&ListParams::default()).await;
    assert!(!matches!(error, Ok(_) | Err(kube::Error::Api(_))), "{error:?}");
    api.resume().unwrap();
    wait_for_names(&mut events, &mut names, &["b", "c", "d"]).await;

    // Down, changed, and the history lost as well.
    api.stop();
    api.delete(Resource::Pods, Some("shop"), "d");
    api.expire_history();
    api.resume().unwrap();
    let resets = wait_for_names(&mut events, &mut names, &["b", "c"]).await;
    assert!(resets > 0);
}

#[tokio::test]
async fn a_watcher_recovers_from_410_and_from_a_restart() {
    recovers(watcher::Config::default().page_size(1)).await;
}

#[tokio::test]
async fn a_streaming_watcher_recovers_as_well() {
    recovers(watcher::Config::default().streaming_lists()).await;
}

#[tokio::test]
async fn namespaces_come_as_metadata_alone() {
    let api = TestApi::start().unwrap();
    api.put_namespace("shop", &[("holdfast.dev/hold", "enabled")]);
    let namespaces: Api<PartialObjectMeta<Namespace>> = Api::all(client(&api).await);
    let mut events = pin!(watcher(namespaces, watcher::Config::default()).touched_objects());
    let mut next = async || -> PartialObjectMeta<Namespace> {
        timeout(SOON, events.next()).await.unwrap().unwrap().unwrap()
    };
    let seen = next().await;
    assert_eq!(seen.name_any(), "shop");
    assert_eq!(seen.labels()["holdfast.dev/hold"], "enabled");
    assert_eq!(seen.labels()["kubernetes.io/metadata.name"], "shop");
    api.label_namespace("shop", "holdfast.dev/hold", None);
    assert!(!next().await.labels().contains_key("holdfast.dev/hold"));
    api.label_namespace("shop", "holdfast.dev/hold", Some("disabled"));
    assert_eq!(next().await.labels()["holdfast.dev/hold"], "disabled");
}

#[tokio::test]
async fn events_are_taken_folded_and_kept() {
    let api = TestApi::start().unwrap();
    let client = client(&api).await;
    let recorder = Recorder::new(
        client.clone(),
        Reporter { controller: "holdfast".into(), instance: Some("node1".into()) },
    );
    let regarding = ObjectReference {
        kind: Some("Pod".into()),
        name: Some("cart".into()),
        namespace: Some("shop".into()),
        ..ObjectReference::default()
    };
    let event = Event {
        type_: EventType::Warning,
        reason: "InvalidAnnotation".into(),
        note: Some("holdfast.dev/timeout: not a duration".into()),
        action: "Ignored".into(),
        secondary: None,
    };
    recorder.publish(&event, &regarding).await.unwrap();
    recorder.publish(&event, &regarding).await.unwrap();
    let events = api.events();
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0]["reason"], "InvalidAnnotation");
    assert_eq!(events[0]["series"]["count"], 2);
    assert_eq!(api.requests("create", "events"), 1);
    assert_eq!(api.requests("patch", "events"), 1);
    let listed: Api<v1::Event> = Api::namespaced(client.clone(), "shop");
    assert_eq!(listed.list(&ListParams::default()).await.unwrap().items.len(), 1);
    let missing =
        listed.patch("bogus", &PatchParams::default(), &Patch::Merge(json!({"note": "x"}))).await;
    assert_eq!(status_code(missing.unwrap_err()), 404);
}

#[tokio::test]
async fn events_are_refused_and_stalled_as_told() {
    let api = TestApi::start().unwrap();
    let events: Api<v1::Event> = Api::namespaced(client(&api).await, "shop");
    let event: v1::Event = serde_json::from_value(json!({
        "metadata": {"generateName": "cart."},
        "eventTime": "2026-11-21T00:00:00.000000Z",
    }))
    .unwrap();
    let create = || async { events.create(&PostParams::default(), &event).await };
    for (choice, code) in [(Events::Forbid, 403), (Events::Fail, 500)] {
        api.take_events(choice);
        assert_eq!(status_code(create().await.unwrap_err()), code);
    }
    api.take_events(Events::Stall);
    let mut stalled = pin!(create());
    assert!(timeout(Duration::from_millis(200), &mut stalled).await.is_err());
    assert!(api.events().is_empty());
    api.take_events(Events::Keep);
    timeout(SOON, stalled).await.unwrap().unwrap();
    create().await.unwrap();
    assert_eq!(api.events().len(), 2, "each has a name of its own");
}

#[tokio::test]
async fn recordings_replay_as_a_real_cluster_sent_them() {
    let api = TestApi::start().unwrap();
    let pods: Api<Pod> = Api::all(client(&api).await);
    let mut events = pin!(watcher(pods, watcher::Config::default().fields("spec.nodeName=node1")));
    while !matches!(events.next().await.unwrap().unwrap(), watcher::Event::InitDone) {}
    for recording in Recording::ALL {
        let recorded = recording.events().unwrap();
        let name = recorded[0]["object"]["metadata"]["name"].clone();
        for event in &recorded {
            api.replay(event).unwrap();
        }
        let mut applied = 0;
        loop {
            match timeout(SOON, events.next()).await.unwrap().unwrap().unwrap() {
                watcher::Event::Apply(pod) => {
                    assert_eq!(pod.name_any(), name);
                    applied += 1;
                }
                watcher::Event::Delete(pod) => {
                    assert_eq!(pod.name_any(), name);
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        // The first event of a pod comes before it is bound to the node; the last deletes it.
        assert_eq!(applied, recorded.len() - 2, "{recording:?}");
    }
}

#[tokio::test]
async fn a_patch_for_a_version_is_refused_once_there_is_another() {
    let api = TestApi::start().unwrap();
    let read = api.put(Resource::Nodes, json!({"metadata": {"name": "node1"}, "spec": {}}));
    let nodes: Api<Node> = Api::all(client(&api).await);
    let version = &read["metadata"]["resourceVersion"];
    let patch = Patch::Merge(json!({
        "metadata": {"resourceVersion": version},
        "spec": {"unschedulable": true},
    }));
    let parameters = PatchParams::default();
    let patched = nodes.patch("node1", &parameters, &patch).await.unwrap();
    assert_eq!(patched.spec.unwrap().unschedulable, Some(true));
    assert_ne!(json!(patched.metadata.resource_version), *version);
    let error = nodes.patch("node1", &parameters, &patch).await.unwrap_err();
    assert_eq!(status_code(error), 409);
}

#[tokio::test]
async fn what_is_not_granted_is_refused_and_kept_on_record() {
    let api = TestApi::start().unwrap();
    put_pod(&api, "a", "node1");
    api.put(
        Resource::DaemonSets,
        json!({"metadata": {"name": "holdfast", "namespace": "holdfast"}}),
    );
    let rule = |group: &str, resource: &str, verb: &str, namespace: Option<&str>| Rule {
        api_groups: vec![group.to_owned()],
        resources: vec![resource.to_owned()],
        verbs: vec![verb.to_owned()],
        resource_names: Vec::new(),
        namespace: namespace.map(str::to_owned),
    };
    let client = client(&api).await;
    let pods: Api<Pod> = Api::all(client.clone());
    let own: Api<DaemonSet> = Api::namespaced(client.clone(), "holdfast");
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "shop");
    pods.list(&ListParams::default()).await.unwrap();
    api.grant(vec![
        rule("", "pods", "watch", None),
        rule("apps", "daemonsets", "get", Some("holdfast")),
    ]);
    let error = pods.list(&ListParams::default()).await.unwrap_err();
    assert!(error.to_string().contains("cannot list resource \"pods\""), "{error}");
    assert_eq!(status_code(error), 403);
    assert_eq!(own.get("holdfast").await.unwrap().name_any(), "holdfast");
    // Whether there is such a thing, who has no right does not learn.
    assert_eq!(status_code(secrets.get("key").await.unwrap_err()), 403);
    client.apiserver_version().await.unwrap();

    let asked: Vec<(String, String, Option<String>)> = api
        .accesses()
        .into_iter()
        .map(|Access { verb, resource, namespace, .. }| (verb, resource, namespace))
        .collect();
    let expected = [
        ("get", "secrets", Some("shop")),
        ("get", "daemonsets", Some("holdfast")),
        ("list", "pods", None),
    ];
    let expected = expected
        .map(|(verb, resource, space)| (verb.into(), resource.into(), space.map(String::from)));
    assert_eq!(asked, expected);
}

/// The body of what is asked for without kube, and so byte by byte.
fn body(api: &TestApi, path: &str, token: &str) -> String {
    let mut stream = TcpStream::connect(api.address()).unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: api\r\nAuthorization: Bearer {token}\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    // An answer that came in chunks would not be its own length.
    assert!(head.contains("content-length"), "{head}");
    body.to_owned()
}

#[tokio::test]
async fn requests_are_counted_with_their_bytes_until_their_answers_have_ended() {
    let api = TestApi::start().unwrap();
    put_pod(&api, "a", "node1");
    let start = Instant::now();
    let page = body(&api, "/api/v1/pods?limit=1", "one");
    body(&api, "/api/v1/bogus", "two");
    let listed = api.cost("list", "pods");
    assert_eq!((listed.requests, listed.sent, listed.open), (1, page.len() as u64, 0));
    let came = api.came(start);
    let told: Vec<_> =
        came.iter().map(|came| (came.token.as_deref(), came.verb.as_str(), came.code)).collect();
    assert_eq!(told, [(Some("one"), "list", 200), (Some("two"), "list", 404)]);
    assert!(came.iter().all(|came| came.at >= start) && api.came(Instant::now()).is_empty());

    let pods: Api<Pod> = Api::all(client(&api).await);
    let parameters = WatchParams::default().disable_bookmarks();
    let mut watch = Box::pin(pods.watch(&parameters, "0").await.unwrap());
    timeout(SOON, watch.next()).await.unwrap().unwrap().unwrap();
    let before = api.cost("watch", "pods");
    assert_eq!((before.requests, before.open), (1, 1));
    put_pod(&api, "b", "node1");
    timeout(SOON, watch.next()).await.unwrap().unwrap().unwrap();
    assert!(api.cost("watch", "pods").since(before).sent > 100);
    drop((watch, pods));
    timeout(SOON, async {
        while api.total_cost().open > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    let posted = r#"{"metadata":{"name":"c","namespace":"shop"}}"#;
    let pods: Api<Pod> = Api::namespaced(client(&api).await, "shop");
    pods.create(&PostParams::default(), &serde_json::from_str(posted).unwrap()).await.unwrap();
    assert!(api.cost("create", "pods").received >= posted.len() as u64);
}
