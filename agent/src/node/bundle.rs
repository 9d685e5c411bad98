//! Which container a cgroup belongs to, from the runtime's OCI bundle.
//!
//! The bundle is written before the container's first process runs, long before the API tells the
//! container's id (while a postStart hook runs it tells nothing at all: kubernetes#85966).

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::core::{ContainerId, ContainerIdentity, ContainerKind, PodName, PodUid};

/// A bundle holds the container's arguments and environment, which the kernel limits to 2 MiB in
/// all (`ARG_MAX` with the default stack limit); larger files are not bundles.
const MAX_BYTES: u64 = 8 * 1024 * 1024;

/// The longest name of a Kubernetes object, in bytes (`DNS1123SubdomainMaxLength`,
/// apimachinery/pkg/util/validation/validation.go).
pub(crate) const MAX_NAME: usize = 253;

/// Where the runtimes keep their bundles, below a runtime's state directory.
const LAYOUTS: [(&str, &str); 2] = [
    // containerd, also as embedded in k3s.
    ("io.containerd.runtime.v2.task/k8s.io", "config.json"),
    // CRI-O.
    ("storage/overlay-containers", "userdata/config.json"),
];

/// The annotation names of the runtimes: containerd's CRI plugin (`pkg/cri/annotations`), CRI-O's
/// `pkg/annotations`.
const NAME: [&str; 2] = ["io.kubernetes.cri.container-name", "io.kubernetes.container.name"];
const KIND: [&str; 2] = ["io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"];
const UID: [&str; 2] = ["io.kubernetes.cri.sandbox-uid", "io.kubernetes.pod.uid"];
const POD: [&str; 2] = ["io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"];
const NAMESPACE: [&str; 2] = ["io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace"];

/// What a bundle says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// Which container it is.
    pub identity: ContainerIdentity,
    /// Of which pod.
    pub pod_uid: Option<PodUid>,
    /// The pod's name.
    pub pod: Option<PodName>,
}

/// Finds bundles below the runtimes' state directories.
#[derive(Clone, Debug)]
pub struct Bundles {
    roots: Vec<PathBuf>,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    annotations: HashMap<String, String>,
}

// === impl Bundles ===

impl Bundles {
    /// Looks below `roots`, such as `/run/containerd`.
    #[must_use]
    pub fn new(roots: Vec<PathBuf>) -> Self {
        if !roots.iter().any(|root| root.is_dir()) {
            tracing::warn!(
                ?roots,
                "no state directory of a container runtime is there: which container is which \
                 will be known from the API alone, later; name it with --runtime-root"
            );
        }
        Self { roots }
    }

    /// The bundle of the container `id`, or `None` if no runtime has one.
    ///
    /// # Errors
    ///
    /// If there is one that cannot be read.
    pub fn find(&self, id: &ContainerId) -> io::Result<Option<Bundle>> {
        for root in &self.roots {
            for (parent, file) in LAYOUTS {
                match read(&root.join(parent).join(id.as_str()).join(file)) {
                    Ok(bundle) => return Ok(bundle),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(None)
    }
}

// === impl Bundle ===

impl Bundle {
    /// What `config.json` says; `None` if it is not the bundle of a pod's container.
    ///
    /// # Errors
    ///
    /// If it is no JSON object.
    pub fn parse(json: &[u8]) -> serde_json::Result<Option<Self>> {
        let Config { annotations } = serde_json::from_slice(json)?;
        Ok(Self::of(&annotations))
    }

    fn of(annotations: &HashMap<String, String>) -> Option<Self> {
        let get = |keys: [&str; 2]| {
            let value = keys.iter().find_map(|key| annotations.get(*key))?;
            is_name(value).then_some(value)
        };
        let identity = match get(KIND)?.as_str() {
            "sandbox" => ContainerIdentity { kind: ContainerKind::Sandbox, name: String::new() },
            "container" => {
                ContainerIdentity { kind: ContainerKind::Container, name: get(NAME)?.clone() }
            }
            _ => return None,
        };
        let pod =
            get(NAMESPACE).zip(get(POD)).map(|(namespace, name)| PodName::new(namespace, name));
        Some(Self { identity, pod_uid: get(UID).map(|uid| PodUid::new(uid)), pod })
    }
}

/// Whether Kubernetes can have given this name: it is kept for each container and goes into the log.
fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn read(path: &Path) -> io::Result<Option<Bundle>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(Bundle::parse(&bytes)?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const ID: &str = "3f0a9c7b5d1e2f4a6b8c0d9e7f5a3b1c2d4e6f8a0b9c7d5e3f1a2b4c6d8e0f91";

    fn write(root: &Path, parent: &str, file: &str, text: &str) {
        let path = root.join(parent).join(ID).join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn find(text: &str, layout: usize) -> io::Result<Option<Bundle>> {
        let root = tempfile::tempdir().unwrap();
        let (parent, file) = LAYOUTS[layout];
        write(root.path(), parent, file, text);
        let elsewhere = PathBuf::from("/nonexistent");
        Bundles::new(vec![elsewhere, root.path().to_owned()]).find(&ContainerId::new(ID))
    }

    #[test]
    fn containerds_and_crios_bundles_name_the_container() {
        let containerd = r#"{"ociVersion":"1.2.0","annotations":{
            "io.kubernetes.cri.container-name":"istio-proxy",
            "io.kubernetes.cri.container-type":"container",
            "io.kubernetes.cri.sandbox-name":"cart","io.kubernetes.cri.sandbox-namespace":"shop",
            "io.kubernetes.cri.sandbox-uid":"0e2f3a44-9d5c-4a53-9b1e-7a1f0c3d2e11"}}"#;
        let crio = r#"{"annotations":{
            "io.kubernetes.container.name":"istio-proxy",
            "io.kubernetes.cri-o.ContainerType":"container",
            "io.kubernetes.pod.name":"cart","io.kubernetes.pod.namespace":"shop",
            "io.kubernetes.pod.uid":"0e2f3a44-9d5c-4a53-9b1e-7a1f0c3d2e11"}}"#;
        let name = "istio-proxy".to_owned();
        for (layout, text) in [containerd, crio].into_iter().enumerate() {
            assert_eq!(
                find(text, layout).unwrap(),
                Some(Bundle {
                    identity: ContainerIdentity {
                        kind: ContainerKind::Container,
                        name: name.clone()
                    },
                    pod_uid: Some(PodUid::new("0e2f3a44-9d5c-4a53-9b1e-7a1f0c3d2e11")),
                    pod: Some(PodName::new("shop", "cart")),
                })
            );
        }
    }

    #[test]
    fn a_sandbox_is_told_from_a_container() {
        let text = r#"{"annotations":{"io.kubernetes.cri.container-type":"sandbox"}}"#;
        let bundle = find(text, 0).unwrap().unwrap();
        assert_eq!(bundle.identity.kind, ContainerKind::Sandbox);
    }

    #[test]
    fn a_name_that_kubernetes_cannot_have_given_is_none() {
        let container = |name: &str, pod: &str| {
            let annotations = [
                (NAME[0], name),
                (KIND[0], "container"),
                (NAMESPACE[0], "shop"),
                (POD[0], pod),
                (UID[0], "0e2f3a44\nWARN"),
            ];
            let annotations: HashMap<_, _> = annotations.into();
            let config = serde_json::json!({ "annotations": annotations });
            Bundle::parse(config.to_string().as_bytes()).unwrap()
        };
        let name = PodName::new("shop", "cart");
        let bundle = container("app", "cart").unwrap();
        assert_eq!((bundle.pod, bundle.pod_uid), (Some(name), None));
        assert_eq!(container("app", &"c".repeat(MAX_NAME + 1)).unwrap().pod, None);
        for name in ["a\u{1b}[2J", "a\nb", "a b", &"a".repeat(MAX_NAME + 1)] {
            assert_eq!(container(name, "cart"), None, "{name:?}");
        }
    }

    #[test]
    fn what_is_not_kubernetes_is_nothing_and_what_is_broken_an_error() {
        assert_eq!(find("{}", 0).unwrap(), None);
        assert_eq!(find(r#"{"annotations":{"x":"y"}}"#, 0).unwrap(), None);
        assert!(find("{\"annotations\":", 0).is_err());
        assert!(find("", 0).is_err());
        assert_eq!(Bundles::new(vec![]).find(&ContainerId::new(ID)).unwrap(), None);
    }
}
