//! The Kubernetes API: pods of this node, and namespaces. The only module that knows kube.

mod client;
mod convert;
mod watch;

pub use self::{
    client::{ClusterError, connect},
    watch::{watch_namespaces, watch_pods},
};
