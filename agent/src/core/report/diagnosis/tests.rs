use std::{net::Ipv4Addr, time::Duration};

use super::*;
use crate::core::{
    KubeletWord, Origin, PodName, PodRef, PodState, PodUid, ProxyReport, ReadyCheck, SettingReport,
    Stamp, Workload,
};

fn setting(value: &str, origin: Origin) -> SettingReport {
    let (key, source) = ("hold".to_owned(), "the default".to_owned());
    SettingReport { key, value: value.to_owned(), origin, source }
}

/// A pod that nobody enabled, with Istio's proxy.
fn pod() -> PodReport {
    let uid = PodUid::new("0e2f3a44-9d5c-4a53-9b1e-7a1f0c3d2e11");
    let name = Some(PodName::new("shop", "cart-7d9f"));
    let workload = Some(Workload::new("Deployment", "cart"));
    let reference = PodRef { uid, name, workload };
    let mut pod = PodReport::new(reference, PodState::Exempt, Stamp::default());
    pod.exemption = Some(Exemption::NotEnabled);
    pod.settings = Some(vec![setting("disabled", Origin::Default)]);
    pod.proxy = Some(ProxyReport {
        profile: "istio".to_owned(),
        container: "istio-proxy".to_owned(),
        clues: Vec::new(),
        ready: vec![ReadyCheck::Kube],
        kube_ready: true,
        ports: vec![15001],
        dns_port: None,
        guessed: false,
        kubelet: KubeletWord::Counts,
        exclusion_hint: None,
    });
    pod.explained()
}

fn facts(tally: Tally) -> WorkloadFacts {
    WorkloadFacts {
        namespace: "shop".to_owned(),
        workload: Workload::new("Deployment", "cart"),
        enabled_by: None,
        tally,
        first: Some(FirstConnect {
            destination: (Ipv4Addr::new(10, 96, 0, 10), 8080).into(),
            container: Some("app".to_owned()),
            comm: "curl".to_owned(),
            at: Stamp::default(),
        }),
        ready_after: Some(Duration::from_millis(3_090)),
        ready_after_max: Some(Duration::from_millis(4_200)),
        last_seen: Stamp::default(),
    }
}

fn said(diagnosis: &Diagnosis, topic: Topic) -> String {
    let texts = diagnosis.says.iter().filter(|reason| reason.topic == topic);
    texts.map(|reason| reason.text.as_str()).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_pod_that_would_profit_is_told_so_with_what_was_seen_and_how_to_enable_it() {
    let tally = Tally { starts: 3, starts_with_failures: 2, failed: 5, ..Tally::default() };
    let finding = Finding::NobodyListens { ports: vec![15001] };
    let diagnosis = Diagnosis::new(pod(), Some(finding), Some(facts(tally)), true, None);
    assert_eq!(
        said(&diagnosis, Topic::State),
        "Not held, and it would have helped: connections that failed would have waited until \
         istio-proxy is ready."
    );
    assert_eq!(
        said(&diagnosis, Topic::Seen),
        "Just now nobody listens on port 15001: whatever this pod dials through istio-proxy fails \
         with \"connection refused\".\n\
         3 starts of Deployment/cart seen; in 2 of them 5 connections failed because nobody was there \
         to take it. The first was from app (curl) to 10.96.0.10:8080. The proxy was ready 3.09 s \
         after the first one (4.20 s at most)."
    );
    assert!(said(&diagnosis, Topic::Hold).starts_with("Nobody chose"), "{diagnosis:?}");
    assert!(said(&diagnosis, Topic::Proxy).contains("istio-proxy would be its proxy"));
    let next = serde_json::to_string(&diagnosis.says).unwrap();
    assert!(next.contains("kubectl label namespace shop holdfast.dev/hold=enabled"), "{next}");
}

#[test]
fn a_pod_that_comes_in_time_is_not_promised_anything() {
    let check = ReadyCheck::Http { port: 15021, path: "/healthz/ready".to_owned() };
    let mut in_time = facts(Tally { starts: 1, ..Tally::default() });
    (in_time.first, in_time.ready_after) = (None, None);
    let ready = Some(Finding::Ready { check });
    let diagnosis = Diagnosis::new(pod(), ready, Some(in_time), true, None);
    assert!(said(&diagnosis, Topic::State).starts_with("Not held: nobody enabled it."));
    let seen = said(&diagnosis, Topic::Seen);
    assert!(seen.contains("Just now istio-proxy is ready"), "{seen}");
    assert!(
        seen.ends_with(
            "1 start of Deployment/cart seen, and no connection failed for want of a proxy."
        ),
        "{seen}"
    );
}

#[test]
fn every_refusal_has_its_answer() {
    for (refusal, begins) in [
        (WatchRefusal::Enabled, "This pod is enabled: holdfast explain"),
        (WatchRefusal::Unknown, "The API server has not told enough"),
        (WatchRefusal::NoProxy, "holdfast would have nothing to do here"),
        (WatchRefusal::Disabled, "Not held, because somebody said so."),
        (WatchRefusal::Exempt(Exemption::Finished), "This pod has had its time"),
        (WatchRefusal::Exempt(Exemption::HostNetwork), "holdfast would leave this pod alone"),
    ] {
        let diagnosis = Diagnosis::new(pod(), None, None, true, Some(refusal));
        let verdict = said(&diagnosis, Topic::State);
        assert!(verdict.starts_with(begins), "{refusal:?}: {verdict}");
        assert_eq!(diagnosis.is_enabled(), refusal == WatchRefusal::Enabled);
        let json = serde_json::to_value(&diagnosis).unwrap();
        let again: Diagnosis = serde_json::from_value(json).unwrap();
        assert_eq!(again.refusal, Some(refusal));
    }
}

#[test]
fn what_was_not_looked_at_is_said_to_be_so() {
    let so_far = |observed, observe, refusal| {
        let pod = PodReport { observed, ..pod() };
        said(&Diagnosis::new(pod, None, None, observe, refusal), Topic::Seen)
    };
    assert!(so_far(false, false, None).contains("observe is disabled on this node"));
    assert!(so_far(true, true, None).starts_with("No start of it has been seen"));
    let no = so_far(false, true, Some(WatchRefusal::Disabled));
    assert_eq!(no, "Nothing has been observed of it.");
}

#[test]
fn a_proxy_that_listens_and_is_not_ready_is_neither() {
    let check = ReadyCheck::Http { port: 15021, path: "/healthz/ready".to_owned() };
    let finding = Finding::Answered { check, status: 503 };
    let diagnosis = Diagnosis::new(pod(), Some(finding), None, true, None);
    let seen = said(&diagnosis, Topic::Seen);
    assert!(
        seen.contains(
            "takes connections and is not ready (http://:15021/healthz/ready answered 503)"
        ),
        "{seen}"
    );
}
