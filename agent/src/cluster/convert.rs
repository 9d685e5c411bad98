//! From the API's objects to the core's views.

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Namespace, Pod};
use kube::{ResourceExt as _, core::PartialObjectMeta};

use crate::core::{
    ContainerId, ContainerRole, ContainerView, NamespaceView, PodName, PodUid, PodView,
};

/// On a static pod's mirror object: the hash of its manifest, after which kubelet names the cgroup
/// (`kubetypes.ConfigHashAnnotationKey`, pkg/kubelet/types/pod_update.go).
const CONFIG_HASH: &str = "kubernetes.io/config.hash";
const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";

/// `None` for an object without a uid, which no API server sends.
pub(super) fn pod(pod: &Pod) -> Option<PodView> {
    let annotations = pod.annotations();
    let mirrored = annotations.get(CONFIG_MIRROR).and(annotations.get(CONFIG_HASH));
    let uid = mirrored.or(pod.metadata.uid.as_ref())?;
    let spec = pod.spec.as_ref()?;
    let status = pod.status.as_ref();
    let statuses =
        |of: fn(&k8s_openapi::api::core::v1::PodStatus) -> Option<&Vec<ContainerStatus>>| {
            status.and_then(of).map_or(&[][..], Vec::as_slice)
        };
    let init_statuses = statuses(|status| status.init_container_statuses.as_ref());
    let app_statuses = statuses(|status| status.container_statuses.as_ref());
    let ephemeral_statuses = statuses(|status| status.ephemeral_container_statuses.as_ref());

    let init = spec.init_containers.iter().flatten().map(|container| {
        let native = container.restart_policy.as_deref() == Some("Always");
        let role = if native { ContainerRole::Sidecar } else { ContainerRole::Init };
        container_view(container, role, init_statuses)
    });
    let apps = spec
        .containers
        .iter()
        .map(|container| container_view(container, ContainerRole::App, app_statuses));
    let ephemeral = spec
        .ephemeral_containers
        .iter()
        .flatten()
        .map(|container| view(&container.name, ContainerRole::Ephemeral, ephemeral_statuses));
    Some(PodView {
        uid: PodUid::new(uid),
        name: PodName::new(&pod.namespace().unwrap_or_default(), &pod.name_any()),
        labels: pod.labels().clone(),
        host_network: spec.host_network.unwrap_or_default(),
        terminating: pod.metadata.deletion_timestamp.is_some(),
        finished: status
            .and_then(|status| status.phase.as_deref())
            .is_some_and(|phase| matches!(phase, "Succeeded" | "Failed")),
        containers: init.chain(apps).chain(ephemeral).collect(),
    })
}

pub(super) fn namespace(namespace: &PartialObjectMeta<Namespace>) -> NamespaceView {
    NamespaceView { name: namespace.name_any(), labels: namespace.labels().clone() }
}

fn container_view(
    container: &Container,
    role: ContainerRole,
    statuses: &[ContainerStatus],
) -> ContainerView {
    view(&container.name, role, statuses)
}

fn view(name: &str, role: ContainerRole, statuses: &[ContainerStatus]) -> ContainerView {
    let status = statuses.iter().find(|status| status.name == name);
    ContainerView {
        name: name.to_owned(),
        role,
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
