//! Requests on the admin socket: a line with method and target, then the body.

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode, header},
};
use serde_json::Value;
use tower::ServiceExt as _;

use crate::{
    admin::{Admin, answers_to_root},
    cluster::Watches,
    health::Readiness,
    reconcile::{Asker, EntryStream},
    status::Status,
    telemetry::Levels,
};

/// More than any answer of an agent without pods takes.
const MAX_ANSWER: usize = 64 * 1024;

pub(super) fn run(data: &[u8]) {
    let (line, body) = data
        .iter()
        .position(|byte| *byte == b'\n')
        .map_or((data, &[][..]), |end| (&data[..end], &data[end + 1..]));
    let line = String::from_utf8_lossy(line);
    let (method, target) = line.split_once(' ').unwrap_or(("GET", &line));
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(body.to_vec()));
    let Ok(request) = request else { return };
    let follows = target.contains("follow=true");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime without threads");
    runtime.block_on(async {
        let Ok(response) = agent().oneshot(request).await;
        let status = response.status();
        // What an agent without pods cannot do it refuses; nothing makes it fail.
        let may_be = status != StatusCode::INTERNAL_SERVER_ERROR && !status.is_redirection();
        assert!(may_be, "{status} to {line:?}");
        if follows && status.is_success() {
            return;
        }
        let answer = axum::body::to_bytes(response.into_body(), MAX_ANSWER).await;
        let answer = answer.expect("an answer ends");
        if status.is_client_error() && answer.starts_with(b"{") {
            let problem: Value = serde_json::from_slice(&answer).expect("a problem is JSON");
            assert!(problem["error"].is_string(), "{problem}");
        }
    });
}

/// One that stands by: nobody answers for the gates.
fn agent() -> Router {
    let (asker, _) = Asker::new();
    let readiness = Readiness::default();
    readiness.stand_by();
    let status = Status::new("node-a", readiness, asker, Watches::default());
    answers_to_root(&Admin::new(status, EntryStream::default(), Levels::of_no_log()))
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    [
        "GET /v1/status",
        "GET /v1/pods/shop/cart",
        "GET /v1/entries?pod=shop/cart&kind=gate-guards,gate-closed&namespace=shop",
        "GET /v1/entries?follow=true",
        "GET /v1/diagnose/shop/cart",
        "POST /v1/gate\n{\"namespace\":\"shop\",\"name\":\"cart\",\"order\":\"close\",\"limit_ms\":30000}",
        "POST /v1/watch\n{\"namespace\":\"shop\",\"name\":\"cart\",\"for_ms\":60000}",
        "PUT /v1/log\n{\"filter\":\"warn,holdfast::core=trace,[span{field=1}]=debug\"}",
        "DELETE /v1/log",
        "PUT /v1/log/pods\n{\"namespace\":\"shop\",\"name\":\"cart\",\"on\":true,\"kernel\":true}",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}
