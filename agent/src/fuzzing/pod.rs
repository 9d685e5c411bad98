//! Pods as the API tells of them, through the state machine: a byte with the length of a script, the
//! script, the pod's JSON. Each byte of the script is one fact from one of the sources.

use std::{sync::LazyLock, time::Duration};

use agent_ebpf::gate::MAX_PORTS;

use super::{PROFILES, settings::assert_problem};
use crate::{
    cluster::{self, Kept, PodObject},
    command::{
        explain,
        terminal::{Style, safe},
    },
    core::{
        Action, Caller, CgroupId, Choices, ContainerId, ContainerIdentity, ContainerKind, Defaults,
        Entry, Epoch, Event, GateSetting, KernelEvent, KernelEventKind, Line, Machine, Monotonic,
        NamespaceView, PodView, ReadyCheck, Rules, SetGate, SocketCookie, Stamp,
    },
};

/// The longest time that one connect can be held.
const LONGEST: Duration = Duration::from_secs(3600);

/// For how long connects are refused after the last word of an agent that refuses at the deadline.
const REFUSED_ON: Duration = Duration::from_secs(10);

/// What half of a byte of the script lets pass: sixteen times that is longer than the shortest timeouts.
const STEP: Duration = Duration::from_millis(700);

static KEPT: LazyLock<Kept> = LazyLock::new(|| Kept::of(&PROFILES));

const POD: CgroupId = CgroupId(100);

pub(super) fn run(data: &[u8]) {
    let Some((length, rest)) = data.split_first() else { return };
    let (script, json) = rest.split_at(usize::from(*length).min(rest.len()));
    let Ok(pod) = serde_json::from_slice::<PodObject>(json) else { return };
    let Some(view) = cluster::pod_view(&pod, &KEPT) else { return };
    let mut play = Play::new(view);
    for byte in script {
        play.step(*byte);
    }
    play.end();
}

/// A machine, and what it has said of the pod's gate.
struct Play {
    machine: Machine,
    now: Monotonic,
    view: PodView,
    /// What the API has told last, if the pod is there.
    told: Option<PodView>,
    /// The deadline of its gate, if that is closed.
    closed: Option<Monotonic>,
    attached: bool,
    next: u64,
}

// === impl Play ===

impl Play {
    fn new(view: PodView) -> Self {
        let hold = Choices { hold: Some(true), ..Choices::default() };
        let defaults = Defaults::default().with(hold);
        let rules = Rules { defaults, profiles: PROFILES.clone(), own_pod: None };
        Self {
            machine: Machine::new(rules),
            now: Monotonic(1_000_000_000),
            view,
            told: None,
            closed: None,
            attached: false,
            next: 0,
        }
    }

    fn step(&mut self, byte: u8) {
        self.now = self.now + STEP * u32::from(byte >> 4);
        self.next += 1;
        let uid = self.view.uid.clone();
        let (id, cgroup, identity) = self.container();
        match byte & 0xf {
            0 => self.apply_view(self.view.clone()),
            1 => {
                self.told = Some(self.view.clone());
                self.apply(Event::PodsListed(vec![self.view.clone()]));
            }
            2 => {
                self.told = None;
                self.apply(Event::PodDeleted(uid));
            }
            3 => {
                let name = self.view.name.namespace.to_string();
                let (labels, annotations) = (self.view.labels.clone(), [].into());
                let namespace = NamespaceView { name, labels, annotations };
                self.apply(Event::NamespacesListed(vec![namespace]));
            }
            kind @ (4 | 5) => {
                let at_start = kind == 5;
                self.apply(Event::PodCgroupFound { uid, cgroup: POD, at_start, inherited: None });
            }
            6 => self.apply(Event::PodCgroupGone(uid)),
            7 => {
                let pod = Some(self.view.name.clone());
                self.apply(Event::ContainerFound { uid, cgroup, id, identity, pod });
            }
            kind @ (8 | 9) => {
                self.apply(Event::ContainerPopulated { uid, id, populated: kind == 8 });
            }
            10 => self.apply(Event::ProxyReady(uid)),
            11 => self.apply(Event::ProxyNotReady(uid)),
            12 => self.kernel(KernelEventKind::Held(self.caller(Some(cgroup)))),
            13 => self.kernel(KernelEventKind::Connected),
            14 => self.apply_view(PodView { terminating: true, ..self.view.clone() }),
            _ => {
                self.now = self.machine.next_wakeup().map_or(self.now, |due| due.max(self.now));
                self.apply(Event::Tick);
            }
        }
    }

    /// Once somebody waits, nobody waits for longer than the longest timeout.
    fn end(&mut self) {
        self.kernel(KernelEventKind::Held(self.caller(None)));
        self.now = self.now + LONGEST;
        self.apply(Event::Tick);
        assert!(self.closed.is_none_or(|deadline| deadline <= self.now), "it is closed still");

        let epoch = Epoch::new(Monotonic(0), Duration::ZERO);
        for report in self.machine.report(epoch) {
            let json = serde_json::to_string(&report).expect("a report is JSON");
            serde_json::from_str::<crate::core::PodReport>(&json).expect("and is read again");
            let text = explain::text(&report.explained(), &[], epoch.stamp(self.now), Style::PLAIN);
            for line in text.lines() {
                assert_eq!(safe(line), line, "it acts on a terminal");
            }
        }
    }

    fn apply_view(&mut self, view: PodView) {
        self.told = Some(view.clone());
        self.apply(Event::PodApplied(view));
    }

    fn kernel(&mut self, kind: KernelEventKind) {
        let cookie = SocketCookie(self.next / 4);
        self.apply(Event::Kernel(KernelEvent { at: self.now, cookie, pod: POD, kind }));
    }

    fn caller(&self, container: Option<CgroupId>) -> Caller {
        Caller {
            container,
            pid: Some(1),
            uid: 1000,
            comm: "app".to_owned(),
            destination: ([10, 96, 0, 10], 8080).into(),
            connect_at: self.now,
            query: None,
        }
    }

    /// One of the pod's containers, in turn: its id, its cgroup, and what its bundle says.
    fn container(&self) -> (ContainerId, CgroupId, Option<ContainerIdentity>) {
        let containers = &self.view.containers;
        let place = self.next.checked_rem(containers.len() as u64).unwrap_or_default();
        let container = usize::try_from(place).ok().and_then(|place| containers.get(place));
        let id = container.and_then(|container| container.id.clone());
        let id = id.unwrap_or_else(|| ContainerId::new(&format!("{place:064x}")));
        let identity = container.map(|container| ContainerIdentity {
            kind: ContainerKind::Container,
            name: container.name.clone(),
        });
        (id, CgroupId(POD.0 + 1 + place), identity)
    }

    fn apply(&mut self, event: Event) {
        let is_tick = matches!(event, Event::Tick);
        for action in self.machine.apply(event, self.now) {
            self.take(action);
        }
        assert_eq!(self.machine.attached() > 0, self.attached);
        if let Some(deadline) = self.closed {
            assert!(!is_tick || deadline > self.now || self.machine.next_wakeup().is_some());
            let due = self.machine.next_wakeup().expect("a closed gate has a time to be looked at");
            assert!(due <= deadline.max(self.now + REFUSED_ON), "{due:?} is after {deadline:?}");
        }
    }

    fn take(&mut self, action: Action) {
        match action {
            Action::SetGate(set) => self.set(&set),
            Action::OpenGate { uid, cgroup, replay: _ } => {
                assert_eq!((&uid, cgroup), (&self.view.uid, POD));
                assert!(self.attached, "no gate is there to open");
                self.closed = None;
            }
            Action::DetachGate { .. } => (self.attached, self.closed) = (false, None),
            Action::StartProbe { checks, ports, .. } => {
                assert_checks(&checks);
                assert!(!ports.contains(&0), "{ports:?}");
            }
            Action::Log(pod, line) => {
                if let Line::InvalidSetting(problem) = &line {
                    assert_problem(problem);
                }
                let entry = Entry::new(1, Stamp::new(Duration::ZERO), pod, &line);
                let json = serde_json::to_string(&entry).expect("an entry is JSON");
                assert_eq!(serde_json::from_str::<Entry>(&json).ok(), Some(entry));
            }
            Action::LogNamespace(_, problem) => assert_problem(&problem),
            _ => {}
        }
    }

    fn set(&mut self, set: &SetGate) {
        let SetGate { uid, cgroup, state, ports, .. } = set;
        assert_eq!((uid, *cgroup), (&self.view.uid, POD));
        assert!(!ports.contains(&0), "{ports:?}");
        if let Some(PodView { host_network, terminating, finished, .. }) = &self.told {
            assert!(!host_network && !terminating && !finished, "never held: {set:?}");
            assert!(ports.len() <= MAX_PORTS, "{ports:?}");
        }
        self.closed = match *state {
            GateSetting::Closed { since, deadline, refuse_until, .. } => {
                assert!(since <= deadline && deadline <= self.now + LONGEST, "{set:?}");
                assert!(refuse_until.is_none_or(|until| until <= deadline + REFUSED_ON + LONGEST));
                Some(deadline)
            }
            GateSetting::Guarded { budget } => {
                assert!(budget <= LONGEST, "{set:?}");
                None
            }
        };
        self.attached = true;
    }
}

/// A proxy can be asked in one way at least, and each request is a short one.
pub(super) fn assert_checks(checks: &[ReadyCheck]) {
    assert!(!checks.is_empty());
    for check in checks {
        match check {
            ReadyCheck::Http { port, path } => {
                let is_plain = path.bytes().all(|byte| byte.is_ascii_graphic());
                assert!(*port != 0 && path.len() <= 256 && is_plain, "{check:?}");
                assert!(hyper::Request::get(path).body(()).is_ok(), "{check:?}");
            }
            ReadyCheck::Tcp { port } => assert_ne!(*port, 0),
            ReadyCheck::Kube => {}
        }
    }
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    // The kinds of facts are those of `Play::step`.
    let scripts: [&[u8]; 3] = [
        &[0x03, 0x04, 0x01, 0x17, 0x18, 0x17, 0x18, 0x1c, 0x1a, 0x0d, 0xff, 0x09, 0x19, 0x1c, 0x0a],
        &[0x04, 0x07, 0x0c, 0xff, 0xff, 0x03, 0x00, 0x0f, 0x0e, 0x06, 0x02],
        &[0x03, 0x00, 0x05, 0x0b, 0x0c, 0xff, 0xff, 0xff, 0x0a],
    ];
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/pods");
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .expect("the pods stand beside the sources")
        .map(|file| file.expect("the directory is readable").path())
        .collect();
    files.sort();
    let pods = files.into_iter().map(|file| {
        let text = std::fs::read(&file).expect("a fixture is readable");
        let json: serde_json::Value = serde_json::from_slice(&text).expect("a fixture is JSON");
        // Without white space a fuzzer spends its time on what matters.
        json.to_string().into_bytes()
    });
    let scripted = pods.zip(scripts.into_iter().cycle());
    scripted
        .map(|(json, script)| {
            let length = u8::try_from(script.len()).expect("scripts are short");
            [&[length], script, &json].concat()
        })
        .collect()
}
