//! `cargo xtask e2e`: the same table of cases on a real cluster, or on a node of the testbed.
//!
//! A [`Case`] says what a pod is made of and what has to come of it. [`cluster`] makes real pods of it
//! and lets kubelet play; [`node`] plays kubelet itself. Both end in an [`Observation`], of which
//! [`verdict`] makes the table's [`Row`].

pub mod case;
pub mod cluster;
pub mod node;
pub mod observation;
pub mod report;
pub mod verdict;

pub use self::{
    case::{Case, Expected, Order, Place, cases},
    observation::{LabelTimes, Observation},
    report::{AgentPod, Report, Row},
    verdict::judge,
};

/// The label that enables a namespace or a pod.
pub(crate) const HOLD: &str = "holdfast.dev/hold";
/// The application's container.
pub(crate) const APP: &str = "app";
/// The application's own init container.
pub(crate) const SETUP: &str = "setup";
