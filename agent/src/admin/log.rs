//! What the log says, and changing that.

use axum::{
    Extension, Json,
    extract::{State, rejection::JsonRejection},
    http::StatusCode,
};

use super::{
    Admin,
    protocol::{FilterBody, FollowBody, LogReport},
    routes::{Answer, Failure},
    socket::Peer,
};
use crate::{
    core::PodName,
    reconcile::FollowError,
    telemetry::{LevelError, check_filter},
};

/// `GET /v1/log`.
pub(super) async fn tell(State(admin): State<Admin>) -> Json<LogReport> {
    Json(report(&admin).await)
}

/// `PUT /v1/log`.
pub(super) async fn set(
    State(admin): State<Admin>,
    Extension(peer): Extension<Peer>,
    body: Result<Json<FilterBody>, JsonRejection>,
) -> Answer<LogReport> {
    let Json(FilterBody { filter }) = body?;
    let wrong = |error: LevelError| Failure::wrong(error.to_string());
    check_filter(&filter).map_err(wrong)?;
    telling(peer, "filter", &filter, || admin.levels.set(&filter)).map_err(wrong)?;
    Ok(Json(report(&admin).await))
}

/// `DELETE /v1/log`.
pub(super) async fn reset(
    State(admin): State<Admin>,
    Extension(peer): Extension<Peer>,
) -> Answer<LogReport> {
    // Without pods there is nothing but the filter.
    telling(peer, "reset", &admin.levels.initial(), || admin.levels.reset());
    if admin.status.report().await.1.is_some() {
        admin.status.asker().unfollow_all().await??;
    }
    Ok(Json(report(&admin).await))
}

/// `PUT /v1/log/pods`.
pub(super) async fn follow(
    State(admin): State<Admin>,
    Extension(peer): Extension<Peer>,
    body: Result<Json<FollowBody>, JsonRejection>,
) -> Answer<LogReport> {
    let Json(FollowBody { namespace, name, on, kernel }) = body?;
    admin.snapshot().await?;
    let pod = PodName::new(&namespace, &name);
    told(peer, if on { "follow" } else { "unfollow" }, &pod.to_string());
    match admin.status.asker().follow(pod, on, kernel).await? {
        Err(FollowError::NoSuchPod) => Err(admin.no_such_pod(&namespace, &name)),
        followed => {
            followed?;
            Ok(Json(report(&admin).await))
        }
    }
}

async fn report(admin: &Admin) -> LogReport {
    // An agent that works no gates yet follows nobody.
    let pods = match admin.status.report().await.1 {
        Some(_) => admin.status.asker().followed().await.unwrap_or_default(),
        None => Vec::new(),
    };
    let (filter, initial) = (admin.levels.current(), admin.levels.initial());
    LogReport { filter, initial, pods }
}

/// Changes the filter, and tells of it under the one, before or after, under which it can be seen.
fn telling<T>(peer: Peer, change: &'static str, to: &str, work: impl FnOnce() -> T) -> T {
    let is_seen = tracing::enabled!(tracing::Level::INFO);
    if is_seen {
        told(peer, change, to);
    }
    let done = work();
    if !is_seen {
        told(peer, change, to);
    }
    done
}

fn told(peer: Peer, change: &'static str, to: &str) {
    tracing::info!(change, to, by_uid = peer.uid, by_pid = peer.pid, "log level changed");
}

impl From<FollowError> for Failure {
    fn from(error: FollowError) -> Self {
        let status = match error {
            FollowError::NoSuchPod => StatusCode::NOT_FOUND,
            FollowError::Level(LevelError::Filter { .. }) => StatusCode::BAD_REQUEST,
            FollowError::Slow => StatusCode::SERVICE_UNAVAILABLE,
            FollowError::NoCgroup | FollowError::Level(_) | FollowError::Kernel(_) => {
                StatusCode::CONFLICT
            }
        };
        Self::new(status, error.to_string())
    }
}
