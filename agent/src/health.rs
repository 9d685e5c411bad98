//! What kubelet asks the agent over HTTP: is it alive, is it ready?
//!
//! Nothing polls and nothing beats: `/readyz` reads what the parts have told, `/livez` sends the
//! reconcile task a question by the way that all facts take and waits for the answer.

mod liveness;
mod readiness;
mod routes;

pub use self::{
    liveness::{Liveness, Ping},
    readiness::{Readiness, Reason},
    routes::{readiness_server, server},
};
