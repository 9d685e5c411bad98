//! The Kubernetes API: pods of this node, namespaces, and Events. The only module that knows kube.

mod client;
mod convert;
mod event;
#[cfg(test)]
pub(crate) mod fixtures;
mod watch;

pub(crate) use self::client::innermost;
pub use self::{
    client::{ClusterError, connect},
    convert::pod as pod_view,
    event::{EventKind, EventPublisher, EventSink, PodRef, events},
    watch::{watch_namespaces, watch_pods},
};
