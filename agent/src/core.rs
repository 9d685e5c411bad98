//! The decisions. Pure: no tokio, no kube, no aya, no clock of its own; time comes in as an
//! argument and what is to be done goes out as [`Action`]s.

mod action;
mod cgroup_path;
mod classify;
mod datagram;
mod event;
mod finding;
mod history;
mod ids;
mod line;
mod machine;
mod observed;
mod order;
mod packet;
mod pod;
mod profile;
mod report;
mod rules;
mod settings;
mod stamp;
mod syn;
mod words;

pub use self::{
    action::{Action, GateSetting, Pace, SetGate},
    cgroup_path::{CgroupKind, kind_of},
    classify::{ContainerIdentity, ContainerKind, Ground, Verdict},
    datagram::query_packet,
    event::{Caller, Event, InheritedGate, InheritedState, KernelEvent, KernelEventKind},
    finding::Finding,
    history::{ConnectSpan, ContainerSpan, Entry, Episode, Fate, History, Noted, Saying},
    ids::{CgroupId, ContainerId, Monotonic, NetnsCookie, PodName, PodUid, QueryId, SocketCookie},
    line::{CloseReason, Exemption, HeldConnect, Line, OpenReason, Outcome, PodRef},
    machine::Machine,
    observed::{FirstConnect, Observed, ObservedReport, Tally, WorkloadFacts},
    order::{Order, OrderRefusal, Orderer, WatchRefusal},
    packet::{ReplayError, ReplayPacket},
    pod::{ContainerRole, ContainerSpec, ContainerView, NamespaceView, PodView, Workload},
    profile::{
        CheckKind, CheckSpec, Clue, Condition, Detection, Dns, Expected, Mark, Number, PortSpec,
        Profile, Profiles, ProfilesError, Reference, Source, Unused, Wish,
    },
    report::{
        AgentState, ConnectReport, ContainerReport, Diagnosis, KubeletWord, NodeReport,
        OpenedReport, OrderReport, PodReport, PodState, ProbeReport, ProxyReport, Reason,
        SettingReport, Topic, Totals, TreatmentReport, WatchReport, Watched,
    },
    rules::{Judgement, Plan, Rules},
    settings::{
        Choices, Chosen, Defaults, Key, Mode, OnTimeout, Origin, PREFIX, Problem, Proxy,
        ReadyCheck, RefuseErrno, Settings, ValueError, hold_timeout, namespace_problems, resolve,
        switch,
    },
    stamp::{Epoch, Stamp, age, in_words},
    syn::{syn_arrival, syn_packet},
    words::connections,
};
