//! Names of cgroups: anybody who may make a cgroup below a pod's chooses some.

use crate::core::{CgroupKind, kind_of};

pub(super) fn run(data: &[u8]) {
    let name = String::from_utf8_lossy(data);
    let is_hex = |id: &str| id.bytes().all(|byte| byte.is_ascii_hexdigit());
    match kind_of(&name) {
        CgroupKind::Container(id) => {
            let id = id.as_str();
            assert!(id.len() == 64 && is_hex(id), "{id:?}");
            assert!(name.strip_suffix(".scope").unwrap_or(&name).ends_with(id), "{name:?}");
        }
        CgroupKind::Pod(uid) => {
            let uid = uid.as_str();
            assert!((32..=36).contains(&uid.len()) && is_hex(&uid.replace('-', "")), "{uid:?}");
            let (dashes, underscores) = (format!("pod{uid}"), uid.replace('-', "_"));
            let is_cgroupfs = name.replace('_', "-") == dashes;
            assert!(is_cgroupfs || name.replace('-', "_").contains(&underscores), "{name:?}");
        }
        CgroupKind::Branch | CgroupKind::Other => {}
    }
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let id = "3f0a9c7b5d1e2f4a6b8c0d9e7f5a3b1c2d4e6f8a0b9c7d5e3f1a2b4c6d8e0f91";
    let uid = "0e2f3a44_9d5c_4a53_9b1e_7a1f0c3d2e11";
    [
        format!("kubelet-kubepods-burstable-pod{uid}.slice"),
        format!("pod{}", uid.replace('_', "-")),
        "podb2ca0a2e7c6a4d8f9e1c3b5a7d9f0e12".to_owned(),
        format!("cri-containerd-{id}.scope"),
        format!("crio-{id}"),
        format!("docker-{id}.scope"),
        "kubepods-besteffort.slice".to_owned(),
        "burstable".to_owned(),
    ]
    .map(String::into_bytes)
    .into()
}
