//! `/livez` and `/readyz`.

use axum::{
    Router,
    extract::State,
    http::{StatusCode, Uri},
    routing::get,
};
use tokio::sync::watch;

use super::{Liveness, Readiness, liveness::Stuck, readiness::Report};
use crate::http::{ListenAddress, ListenError, Purpose, Server};

/// What the server is for.
const PURPOSE: Purpose = Purpose { what: "health", option: "--health-address" };

#[derive(Clone, Debug)]
struct Health {
    readiness: Readiness,
    liveness: Liveness,
}

/// Listens on `address` for whoever asks after the agent's health.
///
/// # Errors
///
/// If the address is somebody else's or may not be taken.
pub fn server(
    address: ListenAddress,
    readiness: Readiness,
    liveness: Liveness,
) -> Result<Server, ListenError> {
    let router = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .with_state(Health { readiness, liveness });
    Server::bind(address, PURPOSE, router)
}

/// `/readyz` alone, for who is ready or not for one reason, and may be so by turns.
///
/// # Errors
///
/// As [`server`].
pub fn readiness_server(
    address: ListenAddress,
    why_not: watch::Receiver<Option<String>>,
) -> Result<Server, ListenError> {
    let router = Router::new().route("/readyz", get(readyz_for_one_reason)).with_state(why_not);
    Server::bind(address, PURPOSE, router)
}

async fn readyz_for_one_reason(
    State(why_not): State<watch::Receiver<Option<String>>>,
) -> (StatusCode, String) {
    match why_not.borrow().as_ref() {
        None => (StatusCode::OK, "ok".to_owned()),
        Some(why_not) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why_not}\n")),
    }
}

async fn livez(State(health): State<Health>) -> (StatusCode, String) {
    match health.liveness.check().await {
        Ok(()) => (StatusCode::OK, "ok".to_owned()),
        Err(stuck) => {
            if stuck == Stuck::Silent {
                // kubelet's Event may be gone when somebody asks why the agent was restarted.
                tracing::error!(reason = %stuck, "the agent is stuck");
            }
            (StatusCode::SERVICE_UNAVAILABLE, format!("{stuck}\n"))
        }
    }
}

async fn readyz(State(health): State<Health>, uri: Uri) -> (StatusCode, String) {
    let Report { is_ready, text } = health.readiness.report(is_verbose(&uri));
    (if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, text)
}

/// `?verbose`, whatever its value, as the API server takes it.
fn is_verbose(uri: &Uri) -> bool {
    let mut parameters = uri.query().unwrap_or_default().split('&');
    parameters.any(|parameter| parameter.split('=').next() == Some("verbose"))
}

#[cfg(test)]
mod tests;
