//! OCI bundles: their annotations hold what a pod's manifest says.

use crate::{
    core::ContainerKind,
    node::{Bundle, MAX_NAME},
};

pub(super) fn run(data: &[u8]) {
    let Ok(Some(Bundle { identity, pod_uid, pod })) = Bundle::parse(data) else { return };
    match identity.kind {
        ContainerKind::Sandbox => assert!(identity.name.is_empty()),
        ContainerKind::Container => assert_name(&identity.name),
    }
    if let Some(uid) = pod_uid {
        assert_name(uid.as_str());
    }
    if let Some(pod) = pod {
        assert_name(&pod.namespace);
        assert_name(&pod.name);
    }
}

fn assert_name(name: &str) {
    assert!(name.len() <= MAX_NAME, "{} bytes", name.len());
    super::assert_one_line(name);
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    [
        r#"{"ociVersion":"1.2.0","annotations":{
            "io.kubernetes.cri.container-name":"istio-proxy",
            "io.kubernetes.cri.container-type":"container",
            "io.kubernetes.cri.sandbox-name":"cart","io.kubernetes.cri.sandbox-namespace":"shop",
            "io.kubernetes.cri.sandbox-uid":"0e2f3a44-9d5c-4a53-9b1e-7a1f0c3d2e11"}}"#,
        r#"{"process":{"args":["/pause"]},"annotations":{
            "io.kubernetes.container.name":"POD","io.kubernetes.cri-o.ContainerType":"sandbox",
            "io.kubernetes.pod.name":"cart","io.kubernetes.pod.namespace":"shop",
            "io.kubernetes.pod.uid":"0e2f3a44-9d5c-4a53-9b1e-7a1f0c3d2e11"}}"#,
        "{}",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}
