//! Pods whose objects are as large as real ones.

use std::iter;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{Node, Pod, PodSpec, Resource, bench::recorded, light::NAMESPACE};

/// Makes pods of the enabled namespace.
pub(super) struct Pods<'a> {
    node: &'a Node,
    managed_fields: Value,
}

impl<'a> Pods<'a> {
    /// The testbed's pods have what holdfast reads, and lack two thirds of what a real one is besides. It is
    /// made up for by `managedFields`, as often as it takes.
    pub(super) fn new(node: &'a Node) -> Result<Self> {
        let like = recorded::pod()?;
        let fields = like["metadata"]["managedFields"].as_array();
        let fields = fields.context("no managedFields in a recorded pod")?;
        let of_once = like["metadata"]["managedFields"].to_string().len();
        let mut pods = Self { node, managed_fields: Value::Null };
        let lacks = like.to_string().len().saturating_sub(pods.measure("small")?);
        let times = (lacks + of_once / 2) / of_once;
        pods.managed_fields = iter::repeat_n(fields, times).flatten().cloned().collect();
        Ok(pods)
    }

    pub(super) fn node(&self) -> &'a Node {
        self.node
    }

    /// One that the API server, the scheduler and kubelet know of, and that is nowhere yet.
    pub(super) fn publish(&self, name: impl Into<String>) -> Result<Pod> {
        let spec = PodSpec::new(NAMESPACE, name).managed_fields(self.managed_fields.clone());
        let pod = self.node.pod(spec)?;
        pod.publish()?;
        Ok(pod)
    }

    /// Bytes of one, as the API server writes it.
    pub(super) fn bytes(&self) -> Result<usize> {
        self.measure("large")
    }

    fn measure(&self, name: &str) -> Result<usize> {
        let pod = self.publish(name)?;
        let is_it = |object: &Value| object["metadata"]["name"] == name;
        let objects = self.node.api().list(Resource::Pods);
        let bytes =
            objects.iter().find(|object| is_it(object)).map(|object| object.to_string().len());
        pod.delete()?;
        bytes.context("a pod that was published is not there")
    }
}
