//! A node to look around in by hand, and one whose owner a test can kill.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::json;
use testbed::{Node, PodSpec};

use crate::{report, serve};

const READY_WITHIN: Duration = Duration::from_secs(30);

pub(crate) fn run() -> Result<bool> {
    let node = Node::new()?;
    node.api().put_namespace("shop", &[("holdfast.dev/hold", "enabled")]);
    let pod = node.create_pod(PodSpec::new("shop", "cart"))?;
    let proxy = pod.start_proxy()?;
    proxy.wait_ready(READY_WITHIN)?;
    let Some(folder) = node.kubeconfig().parent().map(ToOwned::to_owned) else {
        bail!("the kubeconfig is in no folder");
    };
    report::event(
        "node",
        0,
        json!({
            "name": node.name(),
            "cgroup_root": node.cgroup_root(),
            "runtime_root": node.runtime_root(),
            "kubeconfig": node.kubeconfig(),
            "folder": folder,
            "pod_cgroup": pod.cgroup().path(),
            "proxy_pid": proxy.process().pid(),
        }),
    );
    serve::pause()
}
