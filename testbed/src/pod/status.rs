//! What kubelet reports of a pod: `status`, built afresh from what is known of its containers.

use std::{os::unix::process::ExitStatusExt as _, process::ExitStatus};

use jiff::{Timestamp, Unit};
use serde_json::{Value, json};

use super::{
    manifest,
    spec::{PodSpec, RestartPolicy, Role},
};
use crate::container::ContainerId;

/// The image of every container; nothing is pulled or unpacked.
pub(crate) const IMAGE: &str = "localhost/testbed:1";
const IMAGE_ID: &str = "sha256:818cd7573b0d5cea793d8c9c13a65598206c90d52e8ebacd57773256527a841d";
/// The node's own address, which the testbed has no need to configure anywhere.
pub(crate) const HOST_IP: &str = "10.128.255.254";

/// Now, as the API writes times: whole seconds.
pub(crate) fn now() -> String {
    let now = Timestamp::now();
    now.round(Unit::Second).unwrap_or(now).to_string()
}

/// One container's life so far, as kubelet sees it.
#[derive(Clone, Debug)]
pub(crate) struct ContainerStatus {
    pub(crate) name: String,
    role: Role,
    /// Kubelet calls any other container ready as soon as it runs.
    has_probes: bool,
    /// Started without kubelet having reported it yet.
    pub(crate) hidden: bool,
    pub(crate) ready: bool,
    run: Run,
    restarts: u32,
    last: Option<Value>,
}

#[derive(Clone, Debug)]
enum Run {
    Waiting,
    Running { id: ContainerId, since: String },
    Terminated { id: Option<ContainerId>, state: Value, succeeded: bool },
}

impl ContainerStatus {
    pub(crate) fn new(spec: &PodSpec, name: &str, role: Role) -> Self {
        Self {
            name: name.to_owned(),
            role,
            has_probes: manifest::has_probes(spec, name),
            hidden: false,
            ready: false,
            run: Run::Waiting,
            restarts: 0,
            last: None,
        }
    }

    /// The container's current or last id.
    pub(crate) fn id(&self) -> Option<&ContainerId> {
        match &self.run {
            Run::Waiting => None,
            Run::Running { id, .. } => Some(id),
            Run::Terminated { id, .. } => id.as_ref(),
        }
    }

    fn is_running(&self) -> bool {
        !self.hidden && matches!(self.run, Run::Running { .. })
    }

    fn has_succeeded(&self) -> bool {
        matches!(self.run, Run::Terminated { succeeded: true, .. })
    }

    fn has_ended(&self) -> bool {
        matches!(self.run, Run::Terminated { .. })
    }

    /// Whether it has got as far as the next init container needs.
    fn is_started(&self) -> bool {
        self.is_running() && (self.ready || !self.has_probes)
    }

    pub(crate) fn started(&mut self, id: ContainerId, hidden: bool) {
        if let Run::Terminated { state, .. } = &self.run {
            self.last = Some(json!({"terminated": state}));
            self.restarts += 1;
        }
        self.hidden = hidden;
        self.ready = self.role != Role::Init && !self.has_probes;
        self.run = Run::Running { id, since: now() };
    }

    /// Does nothing when `id` is no longer the container's current one.
    pub(crate) fn ended(&mut self, id: &ContainerId, status: ExitStatus) {
        let Run::Running { id: current, since } = &self.run else {
            return;
        };
        if current != id {
            return;
        }
        // As a shell and every container runtime count: 128 + the signal's number.
        let code =
            status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(255);
        self.finish(Some(id.clone()), &since.clone(), code);
    }

    /// For the mesh's own init container, whose work the testbed does itself.
    pub(crate) fn completed(&mut self) {
        self.finish(None, &now(), 0);
    }

    fn finish(&mut self, id: Option<ContainerId>, since: &str, code: i32) {
        let mut state = json!({
            "exitCode": code,
            "reason": if code == 0 { "Completed" } else { "Error" },
            "startedAt": since,
            "finishedAt": now(),
        });
        if let Some(id) = &id {
            state["containerID"] = json!(format!("containerd://{id}"));
        }
        // The API calls an init container that has completed "ready".
        self.ready = self.role == Role::Init && code == 0;
        self.run = Run::Terminated { id, state, succeeded: code == 0 };
    }

    fn to_json(&self, pod_is_initializing: bool) -> Value {
        let visible = if self.hidden { &Run::Waiting } else { &self.run };
        let (state, id, running) = match visible {
            Run::Waiting => {
                let reason =
                    if pod_is_initializing { "PodInitializing" } else { "ContainerCreating" };
                (json!({"waiting": {"reason": reason}}), None, false)
            }
            Run::Running { id, since } => {
                (json!({"running": {"startedAt": since}}), Some(id), true)
            }
            Run::Terminated { id, state, .. } => (json!({"terminated": state}), id.as_ref(), false),
        };
        let ready = self.ready && !self.hidden;
        let mut status = json!({
            "name": self.name,
            "image": IMAGE,
            "imageID": if id.is_some() { IMAGE_ID } else { "" },
            "state": state,
            "lastState": self.last.clone().unwrap_or_else(|| json!({})),
            "ready": ready,
            "started": running && (ready || !self.has_probes),
            "restartCount": self.restarts,
        });
        if let Some(id) = id {
            status["containerID"] = json!(format!("containerd://{id}"));
        }
        status
    }
}

/// The containers of `spec`, none of them started.
pub(crate) fn initial(spec: &PodSpec) -> Vec<ContainerStatus> {
    let init = spec.all_init_containers();
    let main = spec.all_containers().into_iter().map(|name| (name, Role::Main));
    init.into_iter()
        .chain(main)
        .map(|(name, role)| ContainerStatus::new(spec, name, role))
        .collect()
}

/// What else goes into a pod's `status`.
pub(crate) struct Facts<'a> {
    pub(crate) spec: &'a PodSpec,
    pub(crate) start_time: &'a str,
    /// Empty as long as the sandbox has no network.
    pub(crate) ips: Vec<String>,
    pub(crate) has_sandbox: bool,
}

impl Facts<'_> {
    pub(crate) fn to_json(&self, containers: &[ContainerStatus]) -> Value {
        let of = |wanted: fn(Role) -> bool| -> Vec<&ContainerStatus> {
            containers.iter().filter(|one| wanted(one.role)).collect()
        };
        let init = of(Role::is_init);
        let main = of(|role| role == Role::Main);
        let ephemeral = of(|role| role == Role::Ephemeral);
        let initialized = init.iter().all(|one| match one.role {
            Role::Sidecar => one.is_started(),
            _ => one.has_succeeded(),
        });
        let is_ready = |one: &&ContainerStatus| one.ready && !one.hidden;
        let ready = main.iter().all(is_ready)
            && init.iter().filter(|one| one.role == Role::Sidecar).all(is_ready);
        let phase = self.phase(&main);
        let condition = |kind: &str, holds: bool| {
            json!({
                "type": kind,
                "status": if holds { "True" } else { "False" },
                "lastProbeTime": null,
                "lastTransitionTime": self.start_time,
            })
        };
        let list = |of: &[&ContainerStatus]| -> Vec<Value> {
            of.iter().map(|one| one.to_json(!initialized)).collect()
        };
        let mut status = json!({
            "phase": phase,
            "qosClass": self.spec.qos.as_api(),
            "startTime": self.start_time,
            "hostIP": HOST_IP,
            "hostIPs": [{"ip": HOST_IP}],
            "conditions": [
                condition("PodReadyToStartContainers", self.has_sandbox),
                condition("Initialized", initialized),
                condition("Ready", initialized && ready),
                condition("ContainersReady", initialized && ready),
                condition("PodScheduled", true),
            ],
            "containerStatuses": list(&main),
        });
        if !init.is_empty() {
            status["initContainerStatuses"] = json!(list(&init));
        }
        if !ephemeral.is_empty() {
            status["ephemeralContainerStatuses"] = json!(list(&ephemeral));
        }
        if let Some(first) = self.ips.first() {
            status["podIP"] = json!(first);
            let all: Vec<Value> = self.ips.iter().map(|ip| json!({"ip": ip})).collect();
            status["podIPs"] = json!(all);
        }
        status
    }

    /// A pod that restarts nothing is over when its last main container is.
    fn phase(&self, main: &[&ContainerStatus]) -> &'static str {
        let succeeded = main.iter().all(|one| one.has_succeeded());
        if main.iter().all(|one| one.has_ended()) {
            match self.spec.restart_policy {
                RestartPolicy::Never | RestartPolicy::OnFailure if succeeded => return "Succeeded",
                RestartPolicy::Never => return "Failed",
                RestartPolicy::OnFailure | RestartPolicy::Always => {}
            }
        }
        if main.iter().any(|one| one.is_running() || one.has_ended()) {
            "Running"
        } else {
            "Pending"
        }
    }
}
