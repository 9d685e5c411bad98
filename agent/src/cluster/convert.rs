//! From the API's objects to the core's views.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::Namespace, apimachinery::pkg::util::intstr::IntOrString};
use kube::{ResourceExt as _, core::PartialObjectMeta};

use super::{
    kept::{Kept, OF_CONTAINERS, Room, level},
    object::{Container, ContainerStatus, PodObject, PodSpec, Probe},
};
use crate::core::{
    ContainerId, ContainerRole, ContainerSpec, ContainerView, NamespaceView, PodName, PodUid,
    PodView, ReadyCheck, Workload,
};

/// On a static pod's mirror object: the hash of its manifest, after which kubelet names the cgroup
/// (`kubetypes.ConfigHashAnnotationKey`, pkg/kubelet/types/pod_update.go). kubelet writes the same
/// into both (`basicMirrorClient.CreateMirrorPod`, pkg/kubelet/pod/mirror_client.go).
const CONFIG_HASH: &str = "kubernetes.io/config.hash";
const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";

/// `apps.DefaultDeploymentUniqueLabelKey` (pkg/apis/apps/types.go).
const POD_TEMPLATE_HASH: &str = "pod-template-hash";

/// Length of that hash, an MD5 in hexadecimal digits (`applyDefaults`, pkg/kubelet/config/common.go).
const CONFIG_HASH_LEN: usize = 32;

/// `None` for an object without a uid, which no API server sends.
pub fn pod(pod: &PodObject, kept: &Kept) -> Option<PodView> {
    let uid = static_hash(pod).or(pod.metadata.uid.as_deref())?;
    let spec = pod.spec.as_ref()?;
    let status = pod.status.as_ref();
    let init_statuses = status.map_or(&[][..], |status| &status.init_container_statuses);
    let app_statuses = status.map_or(&[][..], |status| &status.container_statuses);
    let ephemeral_statuses = status.map_or(&[][..], |status| &status.ephemeral_container_statuses);

    let mut specs = container_specs(spec, kept).into_iter();
    let init = spec.init_containers.iter().zip(specs.by_ref()).map(|(container, spec)| {
        let native = container.restart_policy.as_deref() == Some("Always");
        let role = if native { ContainerRole::Sidecar } else { ContainerRole::Init };
        view(&container.name, role, spec, init_statuses)
    });
    let mut containers: Vec<ContainerView> = init.collect();
    containers.extend(
        spec.containers
            .iter()
            .zip(specs)
            .map(|(container, spec)| view(&container.name, ContainerRole::App, spec, app_statuses)),
    );
    containers.extend(spec.ephemeral_containers.iter().map(|container| {
        // It comes long after the start: nobody's proxy.
        let spec = ContainerSpec::default();
        view(&container.name, ContainerRole::Ephemeral, spec, ephemeral_statuses)
    }));
    Some(PodView {
        uid: PodUid::new(uid),
        name: PodName::new(&pod.namespace().unwrap_or_default(), &pod.name_any()),
        workload: workload(pod),
        labels: kept.texts(pod.labels()),
        annotations: kept.texts(pod.annotations()),
        host_network: spec.host_network.unwrap_or_default(),
        terminating: pod.metadata.deletion_timestamp.is_some(),
        finished: status
            .and_then(|status| status.phase.as_deref())
            .is_some_and(|phase| matches!(phase, "Succeeded" | "Failed")),
        containers,
    })
}

/// A pod's controller. A Deployment is found behind its ReplicaSet, whose name is the Deployment's and
/// the hash of the template (`getNewReplicaSet`, pkg/controller/deployment/sync.go), which is a label
/// of the pod as well.
fn workload(pod: &PodObject) -> Option<Workload> {
    let owners = pod.owner_references().iter();
    let owner = owners.into_iter().find(|owner| owner.controller == Some(true))?;
    let hash = pod.labels().get(POD_TEMPLATE_HASH);
    let deployment = hash
        .filter(|_| owner.kind == "ReplicaSet")
        .and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-'));
    Some(match deployment {
        Some(name) => Workload::new("Deployment", name),
        None => Workload::new(&owner.kind, &owner.name),
    })
}

/// The hash of the manifest that a pod is the mirror object of.
///
/// Anybody may write the annotations, so a pod is not taken for another one by them alone: kubelet
/// makes its node the owner, and the hash, without dashes, is no uid that the API server gives.
fn static_hash(pod: &PodObject) -> Option<&str> {
    let annotations = pod.annotations();
    let hash = annotations.get(CONFIG_HASH)?;
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let is_hash = hash.len() == CONFIG_HASH_LEN && hash.bytes().all(is_digit);
    let of_node = pod.owner_references().iter().any(|owner| {
        owner.api_version == "v1" && owner.kind == "Node" && owner.controller == Some(true)
    });
    (is_hash && of_node && annotations.get(CONFIG_MIRROR) == Some(hash)).then_some(hash)
}

pub(super) fn namespace(namespace: &PartialObjectMeta<Namespace>, kept: &Kept) -> NamespaceView {
    NamespaceView {
        name: namespace.name_any(),
        labels: kept.texts(namespace.labels()),
        annotations: kept.texts(namespace.annotations()),
    }
}

/// Those of the init containers, then those of the others.
fn container_specs(pod: &PodSpec, kept: &Kept) -> Vec<ContainerSpec> {
    let containers = || pod.init_containers.iter().chain(&pod.containers);
    let wanted = containers().map(|container| {
        let room = Room::default();
        container_spec(container, pod, kept, &room);
        room.taken()
    });
    let level = level(wanted.collect(), OF_CONTAINERS);
    containers().map(|one| container_spec(one, pod, kept, &Room::new(level))).collect()
}

fn container_spec(container: &Container, pod: &PodSpec, kept: &Kept, room: &Room) -> ContainerSpec {
    let ports: BTreeMap<String, u16> = container
        .ports
        .iter()
        .filter_map(|port| {
            let number = u16::try_from(port.container_port).ok()?;
            Some((room.keep(port.name.as_deref()?)?, number))
        })
        .collect();
    // As kubelet does it: of two with the same name the later one holds.
    let env = container.env.iter();
    let env = kept.texts(env.filter_map(|var| Some((&var.name, var.value.as_ref()?))));
    let env = env.into_iter().filter_map(|(name, value)| {
        let name = room.keep(&name)?;
        Some((name, room.keep(&value)?))
    });
    let env = env.collect();
    let words = container.command.iter().chain(&container.args);
    let args = words.map_while(|word| room.keep(word)).collect();
    let own_user = container.security_context.as_ref().and_then(|context| context.run_as_user);
    let user = own_user.or(pod.security_context.as_ref().and_then(|context| context.run_as_user));
    let probes = [&container.startup_probe, &container.readiness_probe];
    let is_probed = probes.iter().any(|probe| probe.is_some());
    let probes = probes.into_iter().flatten().filter_map(|probe| ready_check(probe, &ports, room));
    let probes = probes.collect();
    let run_as_user = user.and_then(|user| u32::try_from(user).ok());
    let hook = container.lifecycle.as_ref().and_then(|hooks| hooks.post_start.as_ref());
    let blocks_next = container.startup_probe.is_some() || hook.is_some();
    ContainerSpec { args, env, ports, run_as_user, probes, is_probed, blocks_next }
}

/// A probe as a check on the pod's own loopback; `None` for one that cannot be asked there.
fn ready_check(probe: &Probe, ports: &BTreeMap<String, u16>, room: &Room) -> Option<ReadyCheck> {
    let number = |port: &IntOrString| match port {
        IntOrString::Int(number) => u16::try_from(*number).ok().filter(|port| *port != 0),
        IntOrString::String(name) => ports.get(name).copied(),
    };
    if let Some(get) = &probe.http_get {
        let elsewhere = get.host.as_deref().is_some_and(|host| !host.is_empty());
        if elsewhere || get.scheme.as_deref() == Some("HTTPS") {
            return None;
        }
        let path = get.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
        return Some(ReadyCheck::Http { port: number(&get.port)?, path: room.keep(path)? });
    }
    let connect = probe.tcp_socket.as_ref()?;
    let elsewhere = connect.host.as_deref().is_some_and(|host| !host.is_empty());
    number(&connect.port).filter(|_| !elsewhere).map(|port| ReadyCheck::Tcp { port })
}

fn view(
    name: &str,
    role: ContainerRole,
    spec: ContainerSpec,
    statuses: &[ContainerStatus],
) -> ContainerView {
    let status = statuses.iter().find(|status| status.name == name);
    ContainerView {
        name: name.to_owned(),
        role,
        spec,
        id: status
            .and_then(|status| status.container_id.as_deref())
            // "containerd://<id>"
            .and_then(|id| id.split_once("://"))
            .map(|(_, id)| ContainerId::new(id)),
        ready: status.is_some_and(|status| {
            // A native sidecar without a readiness probe is ready as soon as it has started.
            status.ready && status.state.as_ref().is_some_and(|state| state.running.is_some())
        }),
    }
}

#[cfg(test)]
mod tests;
