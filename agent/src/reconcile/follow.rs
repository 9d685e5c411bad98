//! Whose lines the log takes down to debug, the eBPF programs' among them.

use serde::{Deserialize, Serialize};

use super::{Reconciler, ask::LOADED_WITHIN};
use crate::{
    bpf::BpfError,
    core::{PodName, PodRef, PodUid},
    telemetry::LevelError,
};

/// A pod of which the log says more than of others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Followed {
    /// Which.
    #[serde(flatten)]
    pub pod: PodRef,
    /// The agent's own lines about it are taken down to debug.
    pub debug: bool,
    /// Its eBPF programs write lines.
    pub kernel: bool,
}

/// Why it is not.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// There is no such pod.
    #[error("there is no such pod on this node")]
    NoSuchPod,
    /// There can be no programs for it yet.
    #[error("nothing of the pod runs yet: it has no cgroup for which programs could write lines")]
    NoCgroup,
    /// The log says no.
    #[error(transparent)]
    Level(#[from] LevelError),
    /// The kernel says nothing.
    #[error(
        "the kernel has not taken the eBPF programs that write lines within {} s: the agent gets too \
         little processor time; ask again later",
        LOADED_WITHIN.as_secs()
    )]
    Slow,
    /// The kernel says no.
    #[error("its eBPF programs cannot be exchanged: {0}")]
    Kernel(#[from] BpfError),
}

// === impl Reconciler ===

impl Reconciler {
    /// The pods that are followed, by name.
    pub(super) fn followed(&self) -> Vec<Followed> {
        let debug = self.levels.followed();
        let mut followed: Vec<Followed> = self
            .machine
            .references()
            .filter_map(|pod| {
                let is_loud = |cgroup| self.gates.has_kernel_log(cgroup);
                let kernel = self.names.cgroup_of(&pod.uid).is_some_and(is_loud);
                let debug = debug.contains(&pod.uid);
                (debug || kernel).then_some(Followed { pod, debug, kernel })
            })
            .collect();
        followed.sort_by(|a, b| a.pod.name.cmp(&b.pod.name));
        followed
    }

    /// Has the log say more about a pod, or as much as about others; `kernel`: its programs, too.
    pub(super) fn follow(
        &mut self,
        pod: &PodName,
        on: bool,
        kernel: bool,
    ) -> Result<(), FollowError> {
        let uid = self.machine.find(pod).ok_or(FollowError::NoSuchPod)?;
        if !on {
            return self.unfollow(&uid);
        }
        let was_followed = self.levels.followed().contains(&uid);
        self.levels.follow(&uid)?;
        let followed = if kernel { self.follow_kernel(&uid) } else { Ok(()) };
        if followed.is_err() && !was_followed {
            self.levels.forget(&uid);
        }
        followed
    }

    fn follow_kernel(&mut self, uid: &PodUid) -> Result<(), FollowError> {
        let cgroup = self.names.cgroup_of(uid).ok_or(FollowError::NoCgroup)?;
        Ok(self.gates.set_kernel_log(cgroup, true)?)
    }

    /// Has the log say about all pods what it said when the agent started.
    pub(super) fn unfollow_all(&mut self) -> Result<(), FollowError> {
        self.levels.reset();
        // One that fails keeps none of the others; the first error is told.
        self.followed()
            .iter()
            .map(|followed| self.unfollow(&followed.pod.uid))
            .fold(Ok(()), Result::and)
    }

    fn unfollow(&mut self, uid: &PodUid) -> Result<(), FollowError> {
        self.levels.forget(uid);
        if let Some(cgroup) = self.names.cgroup_of(uid) {
            self.gates.reset_kernel_log(cgroup)?;
        }
        Ok(())
    }
}
