//! The log as a whole: what is written, while levels change.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use agent_ebpf::note::Note;
use log::{Log as _, Record};
use serde_json::Value;
use tracing_subscriber::{Layer as _, fmt, layer::SubscriberExt as _};

use super::{KernelLines, LevelError, Levels, Named, Names};
use crate::core::{
    CgroupId, ContainerId, ContainerIdentity, ContainerKind, ContainerRole, ContainerSpec,
    ContainerView, Event, PodName, PodUid, PodView,
};

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Written {
    /// The lines since the last call.
    fn take(&self) -> Vec<Value> {
        let text = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let text = String::from_utf8(text).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn messages(&self) -> Vec<String> {
        self.take().iter().map(|line| line["message"].as_str().unwrap().to_owned()).collect()
    }
}

/// Runs with a log of its own.
fn logged(filter: &str, work: impl FnOnce(&Levels, &Written)) {
    let (levels, filter) = Levels::new(filter).unwrap();
    let written = Written::default();
    let writer = written.clone();
    let layer = fmt::layer().json().flatten_event(true).with_writer(move || writer.clone());
    let subscriber = tracing_subscriber::registry().with(layer.with_filter(filter));
    crate::captured_log::never_alone();
    tracing::subscriber::with_default(subscriber, || work(&levels, &written));
}

fn uid(name: &str) -> PodUid {
    PodUid::new(name)
}

/// Says one line at each level about two pods, and some that are about none.
fn say() {
    for pod in ["a", "b"] {
        let pod = uid(pod);
        tracing::trace!(pod_uid = %pod, "{pod} trace");
        tracing::debug!(pod_uid = %pod, "{pod} debug");
        tracing::info!(pod_uid = pod.as_str(), "{pod} info");
    }
    tracing::debug!("none debug");
    tracing::debug!(pod = "a", "no uid debug");
    tracing::debug!(target: "rustls::client", pod_uid = "a", "library debug");
    tracing::debug!(target: "holdfast_ebpf", pod_uid = "a", "kernel debug");
}

#[test]
fn the_level_changes_while_the_agent_runs() {
    logged("info", |levels, written| {
        say();
        assert_eq!(written.messages(), ["a info", "b info"]);
        levels.set("debug").unwrap();
        assert_eq!((levels.current(), levels.initial()), ("debug".to_owned(), "info".to_owned()));
        say();
        let debug = ["a debug", "a info", "b debug", "b info", "none debug", "no uid debug"];
        assert_eq!(written.messages(), [&debug[..], &["kernel debug"]].concat());
        levels.set("off").unwrap();
        say();
        assert!(written.messages().is_empty());
        levels.reset();
        say();
        assert_eq!(written.messages(), ["a info", "b info"]);
        assert_eq!(levels.current(), "info");
    });
}

#[test]
fn a_filter_that_means_nothing_changes_nothing() {
    logged("info", |levels, written| {
        let error = levels.set("a=b=c").unwrap_err();
        assert!(matches!(error, LevelError::Filter { .. }));
        assert!(error.to_string().starts_with("bad log filter \"a=b=c\": "), "{error}");
        assert_eq!(levels.current(), "info");
        say();
        assert_eq!(written.messages(), ["a info", "b info"]);
    });
}

#[test]
fn lines_about_a_followed_pod_are_taken_down_to_debug() {
    for (filter, usual) in [("info", &["a info", "b info"][..]), ("off", &[])] {
        logged(filter, |levels, written| {
            say();
            assert_eq!(written.messages(), usual, "{filter}");
            levels.follow(&uid("a")).unwrap();
            levels.follow(&uid("a")).unwrap();
            assert_eq!(levels.followed(), [uid("a")]);
            say();
            let others = usual.iter().copied().filter(|message| message.starts_with('b'));
            let mut expected = vec!["a debug", "a info"];
            expected.extend(others);
            expected.push("kernel debug");
            assert_eq!(written.messages(), expected, "{filter}");
            levels.forget(&uid("a"));
            say();
            assert_eq!(written.messages(), usual, "{filter}");
        });
    }
}

#[test]
fn whoever_is_gone_is_not_followed_and_a_reset_forgets_all() {
    logged("info", |levels, written| {
        for pod in ["a", "b", "c"] {
            levels.follow(&uid(pod)).unwrap();
        }
        levels.retain(|pod| *pod != uid("b"));
        assert_eq!(levels.followed(), [uid("a"), uid("c")]);
        say();
        assert!(!written.messages().contains(&"b debug".to_owned()));
        levels.reset();
        assert!(levels.followed().is_empty());
        for nth in 0..16 {
            levels.follow(&uid(&nth.to_string())).unwrap();
        }
        assert!(matches!(levels.follow(&uid("one more")), Err(LevelError::TooMany)));
        levels.follow(&uid("3")).unwrap();
    });
}

#[test]
fn while_nobody_is_followed_a_line_that_is_left_out_costs_nothing() {
    fn is_asked_for() -> bool {
        let mut asked = false;
        tracing::debug!(
            pod_uid = {
                asked = true;
                "b"
            },
            "line"
        );
        asked
    }
    logged("info", |levels, written| {
        assert!(!is_asked_for());
        levels.follow(&uid("a")).unwrap();
        assert!(is_asked_for(), "whom it is about has to be looked at");
        levels.forget(&uid("a"));
        assert!(!is_asked_for());
        assert!(written.messages().is_empty());
    });
}

fn view(uid: &PodUid, name: &str, containers: &[(&str, Option<&str>)]) -> PodView {
    let containers = containers.iter().map(|(name, id)| ContainerView {
        name: (*name).to_owned(),
        role: ContainerRole::App,
        spec: ContainerSpec::default(),
        id: id.map(ContainerId::new),
        ready: false,
    });
    PodView {
        uid: uid.clone(),
        name: PodName::new("shop", name),
        workload: None,
        labels: [].into(),
        annotations: [].into(),
        host_network: false,
        terminating: false,
        finished: false,
        containers: containers.collect(),
    }
}

fn found(uid: &PodUid, cgroup: u64) -> Event {
    let cgroup = CgroupId(cgroup);
    Event::PodCgroupFound { uid: uid.clone(), cgroup, at_start: false, inherited: None }
}

fn container(uid: &PodUid, cgroup: u64, id: &str, name: Option<&str>) -> Event {
    let identity = name
        .map(|name| ContainerIdentity { kind: ContainerKind::Container, name: name.to_owned() });
    Event::ContainerFound {
        uid: uid.clone(),
        cgroup: CgroupId(cgroup),
        id: ContainerId::new(id),
        identity,
        pod: Some(PodName::new("shop", "by-bundle")),
    }
}

fn named(names: &Names, pod: u64, container: u64) -> Option<(String, Option<String>)> {
    let found = names.find(CgroupId(pod), (container != 0).then_some(CgroupId(container)));
    let Named { uid: _, pod, container } = found?;
    Some((pod.map_or_else(String::new, |pod| pod.name.to_string()), container))
}

#[test]
fn names_are_known_from_whoever_tells_them_first() {
    let names = Names::default();
    let pod = uid("a");
    assert!(!names.learn(&found(&pod, 1)));
    assert_eq!(named(&names, 1, 2), Some((String::new(), None)));
    names.learn(&container(&pod, 2, "id-of-app", None));
    assert_eq!(named(&names, 1, 2), Some(("by-bundle".into(), Some("id-of-app".into()))));
    names.learn(&container(&pod, 3, "id-of-proxy", Some("istio-proxy")));
    assert_eq!(named(&names, 1, 3), Some(("by-bundle".into(), Some("istio-proxy".into()))));
    let containers = [("app", Some("id-of-app")), ("istio-proxy", None)];
    names.learn(&Event::PodApplied(view(&pod, "cart", &containers)));
    assert_eq!(named(&names, 1, 2), Some(("cart".into(), Some("app".into()))));
    assert_eq!(named(&names, 1, 0), Some(("cart".into(), None)));
    assert_eq!(names.pod_of(CgroupId(3)), Some(pod.clone()));
    assert_eq!(names.cgroup_of(&pod), Some(CgroupId(1)));
    // A container that starts anew is another one.
    names.learn(&Event::ContainerGone { uid: pod.clone(), id: ContainerId::new("id-of-app") });
    assert_eq!(named(&names, 1, 2), Some(("cart".into(), None)));
    assert_eq!(names.pod_of(CgroupId(2)), None);
}

#[test]
fn a_pod_is_forgotten_when_neither_api_nor_node_have_it() {
    let names = Names::default();
    let (first, second) = (uid("a"), uid("b"));
    let list = |uids: &[&PodUid]| {
        Event::PodsListed(uids.iter().map(|uid| view(uid, "cart", &[])).collect())
    };
    names.learn(&list(&[&first, &second]));
    names.learn(&found(&first, 1));
    names.learn(&container(&first, 2, "id", Some("app")));
    assert!(!names.learn(&Event::PodDeleted(first.clone())), "its cgroup is still there");
    assert!(names.knows(&first));
    assert!(names.learn(&Event::PodCgroupGone(first.clone())));
    assert!(!names.knows(&first));
    assert_eq!((named(&names, 1, 2), names.pod_of(CgroupId(2))), (None, None));
    // Deleted while the watch was interrupted.
    assert!(names.learn(&list(&[])));
    assert!(!names.knows(&second));
    assert!(!names.learn(&list(&[])));
}

#[test]
fn a_line_of_the_programs_gets_words_and_names() {
    let names = Names::default();
    let pod = uid("a");
    names.learn(&found(&pod, 11));
    names.learn(&container(&pod, 12, "id", Some("app")));
    let lines = KernelLines::new(names);
    let line = |text: &str| {
        lines.log(&Record::builder().args(format_args!("{text}")).build());
    };
    logged("info", |levels, written| {
        let dropped = format!("{} 11 12 13 15001 2", Note::SynDropped as u32);
        line(&dropped);
        assert!(written.take().is_empty(), "nobody asked");
        levels.follow(&pod).unwrap();
        line(&dropped);
        let [dropped] = &written.take()[..] else { panic!() };
        assert_eq!(dropped["message"], "SYN dropped");
        assert_eq!(dropped["level"], "DEBUG");
        for (field, value) in [("namespace", "shop"), ("pod", "by-bundle"), ("pod_uid", "a")] {
            assert_eq!(dropped[field], value);
        }
        assert_eq!(dropped["container"], "app");
        assert_eq!((&dropped["port"], &dropped["drops"]), (&15001.into(), &2.into()));
        assert_eq!(dropped["cookie"], 13);
        assert!(dropped.get("query").is_none() && dropped.get("pod_cgroup").is_none());
        line(&format!("{} 11 99 13 15001 1", Note::SynPassesOpen as u32));
        let [passed] = &written.take()[..] else { panic!() };
        assert_eq!(
            (&passed["container_cgroup"], &passed["deadline_over"]),
            (&99.into(), &true.into())
        );
        // What is not the followed pod's is left out, whoever it is.
        line(&format!("{} 77 78 13 15001 1", Note::SynDropped as u32));
        line("no numbers");
        line("99 11 12 13 14 15");
        assert!(written.take().is_empty());
        levels.set("debug").unwrap();
        line(&format!("{} 77 78 13 15001 1", Note::SynDropped as u32));
        line("no numbers");
        line("99 11 12 13 14 15");
        let [unknown, no_form, no_meaning] = &written.take()[..] else { panic!() };
        assert_eq!((&unknown["pod_cgroup"], &unknown["pod_uid"]), (&77.into(), &"".into()));
        assert_eq!(no_form["text"], "no numbers");
        assert_eq!(no_meaning["message"], "line of unknown meaning");
    });
}
