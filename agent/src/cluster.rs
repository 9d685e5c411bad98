//! The Kubernetes API: pods of this node, namespaces, Events, the agent's own DaemonSet and the
//! node's start-up taint. The only module that knows kube.

mod client;
mod convert;
mod event;
#[cfg(test)]
pub(crate) mod fixtures;
mod kept;
mod object;
mod owner;
mod review;
mod taint;
mod token;
mod watch;

pub(crate) use self::client::innermost;
pub use self::{
    client::{ClusterError, Server},
    convert::pod as pod_view,
    event::{EventKind, EventPublisher, EventSink, PodRef, events},
    kept::Kept,
    object::PodObject,
    owner::{DaemonSetName, Fate, Rollout, fate, rollout},
    review::Right,
    taint::remove_startup_taint,
    watch::{Watches, watch_namespaces, watch_pods},
};
