//! Which states, transitions and reasons a run has come through.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{super::gate::GatePhase, *};

#[derive(Clone, Debug, Default)]
pub(super) struct Coverage {
    transitions: BTreeMap<(&'static str, &'static str), u64>,
    words: BTreeMap<&'static str, u64>,
}

/// The transitions of docs/architecture.md's picture. Where a state is passed within one event, that is
/// the next one; `Gone`: the pod's cgroup is not there.
const NAMED: [(&str, &str); 45] = [
    ("Gone", "Absent"),
    ("Gone", "Checking"),
    ("Gone", "Closed"),
    ("Gone", "Refusing"),
    ("Gone", "Opening"),
    ("Gone", "Guarded"),
    ("Absent", "Checking"),
    ("Absent", "Closed"),
    ("Absent", "Open"),
    ("Absent", "Guarded"),
    ("Checking", "Absent"),
    ("Checking", "Closed"),
    ("Checking", "Open"),
    ("Checking", "Guarded"),
    ("Closed", "Opening"),
    ("Closed", "Refusing"),
    ("Refusing", "Opening"),
    ("Refusing", "Closed"),
    ("Opening", "Guarded"),
    ("Opening", "Open"),
    ("Opening", "GivenUp"),
    ("Opening", "Absent"),
    ("Opening", "Checking"),
    ("Opening", "Closed"),
    ("Guarded", "Closed"),
    ("Guarded", "Absent"),
    ("Open", "Closed"),
    ("Open", "Absent"),
    ("GivenUp", "Open"),
    ("GivenUp", "Guarded"),
    ("GivenUp", "Closed"),
    ("GivenUp", "Absent"),
    ("Closed", "Failed"),
    ("Guarded", "Failed"),
    ("Opening", "Failed"),
    ("Failed", "Absent"),
    ("Failed", "Checking"),
    ("Absent", "Gone"),
    ("Checking", "Gone"),
    ("Closed", "Gone"),
    ("Refusing", "Gone"),
    ("Opening", "Gone"),
    ("Guarded", "Gone"),
    ("Open", "Gone"),
    ("Failed", "Gone"),
];

const fn name(gate: GatePhase) -> &'static str {
    match gate {
        GatePhase::Absent => "Absent",
        GatePhase::Checking => "Checking",
        GatePhase::Closed { .. } => "Closed",
        GatePhase::Refusing { .. } => "Refusing",
        GatePhase::Opening { .. } => "Opening",
        GatePhase::Guarded { .. } => "Guarded",
        GatePhase::Open => "Open",
        GatePhase::GivenUp { .. } => "GivenUp",
        GatePhase::Failed { retry_at: _ } => "Failed",
    }
}

fn state(machine: &Machine, uid: &PodUid) -> &'static str {
    match machine.pods.get(uid) {
        Some(pod) if pod.cgroup.is_some() => name(pod.gate),
        _ => "Gone",
    }
}

impl Coverage {
    /// Where the gates stand.
    #[expect(clippy::unused_self, reason = "it is what the states are noted in")]
    pub(super) fn phases(&self, machine: &Machine) -> Vec<(PodUid, &'static str)> {
        machine.pods.keys().map(|uid| (uid.clone(), state(machine, uid))).collect()
    }

    /// Notes what has changed since.
    pub(super) fn note(&mut self, before: &[(PodUid, &'static str)], machine: &Machine) {
        for (uid, from) in before {
            let to = state(machine, uid);
            if *from != to {
                *self.transitions.entry((from, to)).or_default() += 1;
            }
        }
        for uid in machine.pods.keys().filter(|uid| before.iter().all(|(known, _)| known != *uid)) {
            *self.transitions.entry(("Gone", state(machine, uid))).or_default() += 1;
        }
    }

    pub(super) fn word(&mut self, word: &'static str) {
        *self.words.entry(word).or_default() += 1;
    }

    pub(super) fn event(&mut self, event: &Event) {
        match event {
            Event::GateFailed { may_pass: true, .. } => self.word("failed"),
            Event::GateFailed { may_pass: false, .. } => self.word("failed for good"),
            Event::GateNotRenewed { .. } => self.word("not renewed"),
            _ => {}
        }
    }

    pub(super) fn line(&mut self, line: &Line) {
        let word = match line {
            Line::GateClosed { reason, .. } => reason.as_str(),
            Line::GateOpened { reason, .. } => reason.as_str(),
            Line::Released { outcome, .. } => outcome.as_str(),
            Line::NotHeld { exemption, .. } => exemption.as_str(),
            Line::DeadlineRefuses { .. } => "refuses",
            Line::InitPassed { .. } => "init passed",
            Line::GateInherited { .. } => "inherited",
            _ => return,
        };
        self.word(word);
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (transition, count) in &other.transitions {
            *self.transitions.entry(*transition).or_default() += count;
        }
        for (word, count) in &other.words {
            *self.words.entry(word).or_default() += count;
        }
    }

    /// What of all that is named has not been seen.
    pub(super) fn missing(&self) -> Vec<String> {
        let transitions = NAMED.iter().filter(|named| !self.transitions.contains_key(named));
        let closes = CloseReason::ALL.iter().map(|reason| reason.as_str());
        let outcomes = Outcome::ALL.iter().map(|outcome| outcome.as_str());
        let opens = [OpenReason::ProbeReady, OpenReason::KubeReady, OpenReason::Deadline];
        let exempt = [
            Exemption::NotEnabled,
            Exemption::NoProxy,
            Exemption::HostNetwork,
            Exemption::Terminating,
            Exemption::Finished,
            Exemption::ControlPlane,
            Exemption::Operator,
            Exemption::Deleted,
        ];
        let others = [
            "refuses",
            "init passed",
            "inherited",
            "failed",
            "failed for good",
            "not renewed",
            "not proven",
            "proven",
        ];
        let words: BTreeSet<&str> = closes
            .chain(outcomes)
            .chain(opens.iter().map(|reason| reason.as_str()))
            .chain(exempt.iter().map(|exemption| exemption.as_str()))
            .chain(others)
            .collect();
        let unseen = words.into_iter().filter(|word| !self.words.contains_key(word));
        transitions
            .map(|(from, to)| format!("{from} -> {to}"))
            .chain(unseen.map(str::to_owned))
            .collect()
    }

    /// All of it, for whoever asks (`--nocapture`).
    pub(super) fn table(&self) -> String {
        let transitions =
            self.transitions.iter().map(|((from, to), n)| format!("{from} -> {to}: {n}"));
        let words = self.words.iter().map(|(word, n)| format!("{word}: {n}"));
        transitions.chain(words).collect::<Vec<_>>().join("\n")
    }
}
