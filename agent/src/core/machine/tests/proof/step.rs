//! What can happen on a node, in one agent's life and from one to the next: the steps of which random
//! sequences are made. Any part of a sequence is one, too, so that a long one that shows a fault can
//! be cut down to the few steps that matter.

use super::random::Random;
use crate::core::{Mode, OnTimeout};

/// The agent's settings, for one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Setup {
    pub(super) guard: bool,
    pub(super) observe: bool,
    pub(super) mode: Mode,
    pub(super) on_timeout: OnTimeout,
    pub(super) timeout_ms: u64,
    /// Both pods have one name, as those of a StatefulSet have one after the other.
    pub(super) same_name: bool,
}

/// A step and how long after the one before it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) after_ms: u64,
    /// The agent's timers fire meanwhile; otherwise it was kept from running.
    pub(super) on_time: bool,
    pub(super) step: Step,
}

/// One of two pods that there may be at a time.
pub(super) type Slot = usize;
pub(super) const SLOTS: usize = 2;

/// What kind of pod it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// The proxy is an ordinary container.
    Classic,
    /// It is a native sidecar.
    Native,
    /// There is none.
    Bare,
    HostNetwork,
    /// It is in kube-system.
    System,
}

/// One of a pod's containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Sandbox,
    /// An init container that is after the proxy if that is a native sidecar.
    Init,
    App,
    Proxy,
}

/// The label of a pod or a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    Unset,
    Enabled,
    Disabled,
}

/// Where news comes from, each in its own order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Pods,
    Namespaces,
    Cgroups,
    Kernel,
}

/// What the operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Nothing,
    Open,
    OpenFor(u64),
    CloseFor(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    // The API server.
    MakeObject(Slot, Shape, Hold),
    Label(Slot, Hold),
    /// Milliseconds; `None`: the annotation is taken away.
    Timeout(Slot, Option<u64>),
    Terminate(Slot),
    Finish(Slot),
    DeleteObject(Slot),
    LabelNamespace(Hold),
    DeleteNamespace,
    /// Kubelet tells the ids of the containers, and whether it calls the proxy ready.
    Status(Slot, bool),
    // The node. `reuses`: a cgroup gets the number of one that is gone.
    MakeCgroup {
        slot: Slot,
        reuses: bool,
    },
    RemoveCgroup(Slot),
    Start {
        slot: Slot,
        who: Who,
        has_bundle: bool,
        reuses: bool,
    },
    End(Slot, Who),
    Remove(Slot, Who),
    Listen(Slot, bool),
    // The applications. `recorded`: there was room for it in the table of sockets.
    Connect {
        slot: Slot,
        who: Who,
        recorded: bool,
    },
    Query(Slot),
    /// The first socket that waits is closed.
    CloseSocket,
    // How the agent gets to know.
    News(Source, u8),
    /// The last of it comes again.
    Again(Source),
    /// What the API said of a pod some versions ago comes again.
    Stale(Slot, u8),
    Relist,
    /// The first report of the kernel is lost.
    LoseReport,
    /// The first of the news of cgroups is lost.
    LoseCgroupNews,
    Probe(Slot),
    /// The probe's answer is what it is, whoever listens.
    ProbeSays(Slot, bool),
    SeeHostNetwork(Slot),
    // The operator.
    Order(Slot, Wish),
    Watch(Slot, u64),
    // The agent.
    /// The next gates that are to be set, opened or proven cannot be.
    FailGates {
        count: u8,
        /// What is lacking may be there again.
        may_pass: bool,
    },
    /// Whether the kernel's counts can be read.
    Counts(bool),
    Die,
    /// After a death, or in place of an agent that ends.
    StartAgent,
    Wait,
}

// === impl Setup ===

impl Setup {
    pub(super) const PLAIN: Self = Self {
        guard: false,
        observe: false,
        mode: Mode::Hold,
        on_timeout: OnTimeout::Open,
        timeout_ms: 60_000,
        same_name: false,
    };

    /// A hundred years: as good as for ever, and still a time that can be added to another.
    pub(super) const CENTURY_MS: u64 = 100 * 365 * 24 * 3600 * 1000;

    pub(super) fn random(random: &mut Random) -> Self {
        let modes = [Mode::Hold, Mode::Hold, Mode::Hold, Mode::Retry, Mode::Refuse, Mode::Observe];
        let timeouts =
            [60_000, 60_000, 60_000, 60_000, 5_000, 1, 0, Self::CENTURY_MS, u64::MAX / 1_000_000];
        Self {
            guard: random.once_in(2),
            observe: random.once_in(4),
            mode: random.pick(&modes),
            on_timeout: random.pick(&[OnTimeout::Open, OnTimeout::Open, OnTimeout::Refuse]),
            timeout_ms: random.pick(&timeouts),
            same_name: random.once_in(2),
        }
    }

    /// Whether what waits goes on within minutes.
    pub(super) const fn is_short(self) -> bool {
        self.timeout_ms <= 60_000
    }
}

// === impl Moment ===

impl Moment {
    pub(super) const fn new(after_ms: u64, step: Step) -> Self {
        Self { after_ms, on_time: true, step }
    }

    fn random(random: &mut Random) -> Self {
        let after_ms = match random.below(16) {
            0..=5 => 0,
            6..=9 => random.below(40),
            10..=12 => random.below(2_000),
            13 | 14 => random.below(40_000),
            _ if random.once_in(8) => 3_600_000 * (1 + random.below(48)),
            _ => random.below(200_000),
        };
        // Hours are those of a node that was suspended.
        let on_time = after_ms < 3_600_000 && !random.once_in(8);
        Self { after_ms, on_time, step: Step::random(random) }
    }
}

/// A sequence. Half of them begin as pods do, so that they do not end before anything has begun; the
/// news may still be late.
pub(super) fn sequence(random: &mut Random) -> Vec<Moment> {
    // Most faults need few steps, some need many.
    let most = if random.once_in(50) { 200 } else { 24 };
    let count = 5 + random.below(most);
    let mut moments = Vec::new();
    if random.once_in(2) {
        let shape = random.pick(&[Shape::Classic, Shape::Classic, Shape::Native]);
        let begins = [
            Step::LabelNamespace(Hold::Enabled),
            Step::News(Source::Namespaces, 2),
            Step::MakeObject(0, shape, Hold::Unset),
            Step::News(Source::Pods, 2),
            Step::MakeCgroup { slot: 0, reuses: false },
            Step::Start { slot: 0, who: Who::Proxy, has_bundle: true, reuses: false },
            Step::Start { slot: 0, who: Who::App, has_bundle: true, reuses: false },
            Step::News(Source::Cgroups, 8),
        ];
        let likely = begins.into_iter().filter(|_| !random.once_in(8)).collect::<Vec<_>>();
        moments.extend(likely.into_iter().map(|step| Moment::new(random.below(20), step)));
    }
    moments.extend((0..count).map(|_| Moment::random(random)));
    moments
}

// === impl Step ===

impl Step {
    fn random(random: &mut Random) -> Self {
        let slot = usize::from(random.once_in(4));
        let who =
            random.pick(&[Who::App, Who::App, Who::Proxy, Who::Proxy, Who::Init, Who::Sandbox]);
        let holds = [Hold::Unset, Hold::Enabled, Hold::Enabled, Hold::Disabled];
        let yes = random.once_in(2);
        match random.below(100) {
            0..=3 => {
                use Shape::{Bare, Classic, HostNetwork, Native, System};
                let shapes = [Classic, Classic, Classic, Native, Native, Bare, HostNetwork, System];
                Self::MakeObject(slot, random.pick(&shapes), random.pick(&holds))
            }
            4 | 5 => Self::Label(slot, random.pick(&holds)),
            6 => Self::Timeout(slot, random.pick(&[None, Some(5_000), Some(20_000), Some(90_000)])),
            7 => Self::Terminate(slot),
            8 if random.once_in(3) => Self::Finish(slot),
            8 | 9 => Self::DeleteObject(slot),
            10..=12 => Self::LabelNamespace(random.pick(&holds)),
            13 if random.once_in(3) => Self::DeleteNamespace,
            13..=17 => Self::Status(slot, yes),
            18..=22 => Self::MakeCgroup { slot, reuses: random.once_in(4) },
            23 | 97 => Self::RemoveCgroup(slot),
            24..=32 => {
                let (has_bundle, reuses) = (!random.once_in(4), random.once_in(4));
                Self::Start { slot, who, has_bundle, reuses }
            }
            33..=35 => Self::End(slot, who),
            36 | 37 => Self::Remove(slot, who),
            38..=41 => Self::Listen(slot, yes),
            42..=51 => Self::Connect { slot, who, recorded: !random.once_in(8) },
            52 | 53 => Self::Query(slot),
            54 => Self::CloseSocket,
            55..=59 => Self::News(Source::Pods, 3),
            60..=62 => Self::News(Source::Namespaces, 3),
            63..=69 => Self::News(Source::Cgroups, 6),
            70..=75 => Self::News(Source::Kernel, 4),
            76 => Self::Again(random.pick(&[Source::Pods, Source::Namespaces, Source::Cgroups])),
            77 => Self::Stale(slot, u8::try_from(random.below(4)).expect("below 4")),
            78 => Self::Relist,
            79 => Self::LoseReport,
            80 if random.once_in(4) => Self::LoseCgroupNews,
            80..=84 => Self::Probe(slot),
            85..=87 => Self::ProbeSays(slot, yes),
            88 if random.once_in(2) => Self::SeeHostNetwork(slot),
            88..=90 => {
                use Wish::{CloseFor, Nothing, Open, OpenFor};
                Self::Order(slot, random.pick(&[Nothing, Open, OpenFor(20_000), CloseFor(30_000)]))
            }
            91 => Self::Watch(slot, random.pick(&[0, 20_000, 400_000])),
            92 if yes => {
                let (count, may_pass) = (random.pick(&[1, 1, 2, 3]), !random.once_in(3));
                Self::FailGates { count, may_pass }
            }
            92 => Self::Counts(random.once_in(2)),
            93 => Self::Die,
            94..=96 => Self::StartAgent,
            _ => Self::Wait,
        }
    }
}
