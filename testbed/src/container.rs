//! Containers as a container runtime leaves them on disk: an OCI bundle, then a cgroup.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::json;

/// The annotations with which containerd's CRI plugin says what a container is.
mod annotation {
    pub(super) const CONTAINER_NAME: &str = "io.kubernetes.cri.container-name";
    pub(super) const CONTAINER_TYPE: &str = "io.kubernetes.cri.container-type";
    pub(super) const IMAGE_NAME: &str = "io.kubernetes.cri.image-name";
    pub(super) const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";
    pub(super) const SANDBOX_NAME: &str = "io.kubernetes.cri.sandbox-name";
    pub(super) const SANDBOX_NAMESPACE: &str = "io.kubernetes.cri.sandbox-namespace";
    pub(super) const SANDBOX_UID: &str = "io.kubernetes.cri.sandbox-uid";
}

/// A container's id: 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId(String);

impl ContainerId {
    pub(crate) fn random() -> Result<Self> {
        Ok(Self(random_hex::<32>()?))
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A random (version 4) UUID, as the API server gives to every object.
pub(crate) fn random_uid() -> Result<String> {
    let hex = random_hex::<16>()?;
    Ok(format!("{}-{}-4{}-a{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..]))
}

/// A hash as kubelet makes of a static pod's manifest, which is that pod's uid on the node.
pub(crate) fn random_hash() -> Result<String> {
    random_hex::<16>()
}

/// A few characters for a name that nobody else has, as the API server appends to `generateName`.
pub(crate) fn random_suffix() -> Result<String> {
    random_hex::<3>()
}

fn random_hex<const N: usize>() -> Result<String> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .context("read /dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What the runtime knows of a container.
pub(crate) struct Bundle<'a> {
    pub(crate) id: &'a ContainerId,
    pub(crate) sandbox: &'a ContainerId,
    /// `None` for the sandbox itself.
    pub(crate) container: Option<&'a str>,
    pub(crate) pod_namespace: &'a str,
    pub(crate) pod_name: &'a str,
    pub(crate) pod_uid: &'a str,
    pub(crate) cgroups_path: String,
    /// The process that holds the pod's namespaces; the sandbox's own bundle has none yet.
    pub(crate) sandbox_pid: Option<u32>,
}

impl Bundle<'_> {
    /// Writes `config.json`; containerd does so before the container's cgroup exists.
    pub(crate) fn write(&self, bundles: &Path) -> Result<PathBuf> {
        let dir = bundles.join(self.id.as_str());
        fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
        let config = dir.join("config.json");
        fs::write(&config, self.config().to_string())
            .with_context(|| format!("write {}", config.display()))?;
        Ok(dir)
    }

    fn config(&self) -> serde_json::Value {
        let network = match self.sandbox_pid {
            Some(pid) => json!({"type": "network", "path": format!("/proc/{pid}/ns/net")}),
            None => json!({"type": "network"}),
        };
        json!({
            "ociVersion": "1.2.0",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": [self.container.map_or("/pause", |_| "/entrypoint")],
                "cwd": "/",
            },
            "root": {"path": "rootfs"},
            "hostname": self.pod_name,
            "annotations": self.annotations(),
            "linux": {
                "cgroupsPath": self.cgroups_path,
                "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, network],
            },
        })
    }

    fn annotations(&self) -> BTreeMap<&'static str, &str> {
        let mut all = BTreeMap::from([
            (annotation::SANDBOX_ID, self.sandbox.as_str()),
            (annotation::SANDBOX_NAME, self.pod_name),
            (annotation::SANDBOX_NAMESPACE, self.pod_namespace),
            (annotation::SANDBOX_UID, self.pod_uid),
        ]);
        if let Some(name) = self.container {
            all.insert(annotation::CONTAINER_TYPE, "container");
            all.insert(annotation::CONTAINER_NAME, name);
            all.insert(annotation::IMAGE_NAME, super::pod::IMAGE);
        } else {
            all.insert(annotation::CONTAINER_TYPE, "sandbox");
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_look_like_containerd_s_and_the_api_server_s() {
        let id = ContainerId::random().unwrap();
        assert_eq!(id.as_str().len(), 64);
        assert!(id.as_str().bytes().all(|b| b.is_ascii_hexdigit()));
        let uid = random_uid().unwrap();
        let lengths: Vec<usize> = uid.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert_eq!(&uid[14..15], "4");
        assert_ne!(uid, random_uid().unwrap());
    }
}
