//! The decisions. Pure: no tokio, no kube, no aya, no clock of its own; time comes in as an
//! argument and what is to be done goes out as [`Action`]s.

mod action;
mod cgroup_path;
mod classify;
mod enablement;
mod event;
mod ids;
mod machine;
mod pod;
mod profile;
mod syn;

pub use self::{
    action::{Action, CloseGate, Exemption, HeldConnect, Line, OpenReason, Outcome, Pace},
    cgroup_path::{CgroupKind, kind_of},
    classify::{ContainerIdentity, ContainerKind, Verdict},
    enablement::{HOLD_LABEL, Hold, is_enabled},
    event::{Event, KernelEvent, KernelEventKind},
    ids::{CgroupId, ContainerId, Monotonic, NetnsCookie, PodName, PodUid, SocketCookie},
    machine::{Machine, MachineOptions},
    pod::{ContainerRole, ContainerView, NamespaceView, PodView},
    profile::{ISTIO, Profile, ReadyEndpoint},
    syn::{ReplayPacket, SynError, replay_packet},
};
