//! Reading kubelet's and the runtimes' cgroup names.
//!
//! Two drivers, two spellings:
//! - systemd: `kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid, _ for ->.slice/cri-containerd-<id>.scope`
//! - cgroupfs: `kubepods/burstable/pod<uid>/<id>`
//!
//! Guaranteed pods have no QoS level. Nested clusters put a prefix in front (kind:
//! `kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/...`).

use super::{ContainerId, PodUid};

/// What a directory of the cgroup tree is, judged by its name alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CgroupKind {
    /// Holds pods, or other directories that do: watched, not a pod itself.
    Branch,
    /// A pod.
    Pod(PodUid),
    /// A container (or a sandbox) of a pod.
    Container(ContainerId),
    /// Nothing of kubelet's.
    Other,
}

/// Names that lead to pods without containing "kubepods".
const BRANCHES: [&str; 4] = ["burstable", "besteffort", "kubelet", "kubelet.slice"];

/// Length of a container id, in hexadecimal digits, with containerd, CRI-O and cri-dockerd.
const CONTAINER_ID_LEN: usize = 64;

/// Prefixes that the runtimes put in front of a container's id.
const RUNTIME_PREFIXES: [&str; 3] = ["cri-containerd-", "crio-", "docker-"];

/// What the directory `name` is.
#[must_use]
pub fn kind_of(name: &str) -> CgroupKind {
    if let Some(id) = container_id(name) {
        return CgroupKind::Container(id);
    }
    if let Some(uid) = pod_uid(name) {
        return CgroupKind::Pod(uid);
    }
    if name.contains("kubepods") || BRANCHES.contains(&name) {
        return CgroupKind::Branch;
    }
    CgroupKind::Other
}

fn pod_uid(name: &str) -> Option<PodUid> {
    let raw = match name.strip_suffix(".slice") {
        Some(unit) if unit.contains("kubepods") => unit.rsplit_once("-pod")?.1,
        Some(_) => return None,
        None => name.strip_prefix("pod")?,
    };
    let uid = raw.replace('_', "-");
    // A uid, or the hash of a static pod's manifest; neither is anything but hexadecimal.
    let plausible = uid.len() >= 32
        && uid.len() <= 36
        && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    plausible.then(|| PodUid::new(&uid))
}

fn container_id(name: &str) -> Option<ContainerId> {
    let unit = name.strip_suffix(".scope").unwrap_or(name);
    let id = RUNTIME_PREFIXES.iter().find_map(|prefix| unit.strip_prefix(prefix)).unwrap_or(unit);
    let plausible = id.len() == CONTAINER_ID_LEN && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    plausible.then(|| ContainerId::new(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0e2f3a44-9d5c-4a53-9b1e-7a1f0c3d2e11";
    const ID: &str = "3f0a9c7b5d1e2f4a6b8c0d9e7f5a3b1c2d4e6f8a0b9c7d5e3f1a2b4c6d8e0f91";

    #[test]
    fn pods_are_found_in_every_layout() {
        let underscored = UID.replace('-', "_");
        for name in [
            format!("pod{UID}"),
            format!("kubepods-pod{underscored}.slice"),
            format!("kubepods-burstable-pod{underscored}.slice"),
            format!("kubepods-besteffort-pod{underscored}.slice"),
            format!("kubelet-kubepods-burstable-pod{underscored}.slice"),
        ] {
            assert_eq!(kind_of(&name), CgroupKind::Pod(PodUid::new(UID)), "{name}");
        }
    }

    #[test]
    fn a_static_pods_manifest_hash_is_a_uid() {
        let hash = "b2ca0a2e7c6a4d8f9e1c3b5a7d9f0e12";
        assert_eq!(kind_of(&format!("pod{hash}")), CgroupKind::Pod(PodUid::new(hash)));
    }

    #[test]
    fn containers_are_found_with_every_runtime() {
        for name in [
            ID.to_owned(),
            format!("cri-containerd-{ID}.scope"),
            format!("crio-{ID}.scope"),
            format!("crio-{ID}"),
            format!("docker-{ID}.scope"),
        ] {
            assert_eq!(kind_of(&name), CgroupKind::Container(ContainerId::new(ID)), "{name}");
        }
    }

    #[test]
    fn branches_lead_to_pods() {
        for name in [
            "kubepods",
            "kubepods.slice",
            "kubepods-burstable.slice",
            "kubepods-besteffort.slice",
            "burstable",
            "besteffort",
            "kubelet.slice",
            "kubelet-kubepods.slice",
        ] {
            assert_eq!(kind_of(name), CgroupKind::Branch, "{name}");
        }
    }

    #[test]
    fn anything_else_is_nothing_of_ours() {
        for name in [
            "",
            "pod",
            "podman",
            "system.slice",
            "user-1000.slice",
            "init.scope",
            "my-pod0e2f3a44.slice",
            "podzzzzzzzz-9d5c-4a53-9b1e-7a1f0c3d2e11",
            &format!("crio-conmon-{ID}.scope"),
            &format!("pod{}", "a".repeat(10_000)),
        ] {
            assert_eq!(kind_of(name), CgroupKind::Other, "{name}");
        }
    }
}
