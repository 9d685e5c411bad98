//! The page over HTTP.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header, uri::Authority},
    middleware::{self, Next},
    response::{Html, IntoResponse as _, Response},
    routing::get,
};
use tokio::{task::spawn_blocking, time::sleep};

use super::{CONTENT_SECURITY_POLICY, Facts, Form};
use crate::{
    core::NodeReport,
    http::{ListenAddress, ListenError, Purpose, Server},
    reconcile::Snapshot,
    status::{Known, Status},
};

/// What the server is for.
const PURPOSE: Purpose = Purpose { what: "the node page", option: "--page-address" };

/// Where the page is if nobody says otherwise: only this machine (in a pod, only this pod) reaches
/// it, which includes `kubectl port-forward`.
const USUAL: ListenAddress =
    ListenAddress::One(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8687));

/// Between two attempts to listen there, if it is somebody else's: as long as another agent of this
/// node takes to end.
const RETRY: Duration = Duration::from_secs(10);

/// `--page-address`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageAddress {
    /// The page is served there, or the agent does not start.
    At(ListenAddress),
    /// It is not served.
    None,
}

/// The text is no address for the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it must be a port, such as 8687, or an address and a port, such as 127.0.0.1:8687 or \
     [::1]:8687, or none"
)]
pub struct PageAddressError;

/// Serves the page as long as the agent runs.
///
/// # Errors
///
/// If an address is named that is somebody else's or may not be taken. The usual one is tried again
/// from time to time.
pub fn serve(address: Option<PageAddress>, status: Status) -> Result<(), ListenError> {
    match address {
        Some(PageAddress::None) => {}
        Some(PageAddress::At(address)) => {
            tokio::spawn(bind(address, &status)?.run());
        }
        None => {
            tokio::spawn(serve_patiently(USUAL, RETRY, status));
        }
    }
    Ok(())
}

/// Serves, for ever; if the address is somebody else's, from when it is free.
async fn serve_patiently(address: ListenAddress, retry: Duration, status: Status) {
    let mut warned = false;
    loop {
        match bind(address, &status) {
            Ok(server) => return server.run().await,
            Err(error) if warned => tracing::debug!(%error, "the node page is not served yet"),
            Err(error) => {
                tracing::warn!(%error, "the node page is not served; trying again");
                warned = true;
            }
        }
        sleep(retry).await;
    }
}

fn bind(address: ListenAddress, status: &Status) -> Result<Server, ListenError> {
    let server = Server::bind(address, PURPOSE, router(status.clone()))?;
    tracing::info!(address = %server.address(), "the node page is served");
    Ok(server)
}

/// All that the page answers.
fn router(status: Status) -> Router {
    Router::new()
        .route("/", get(node))
        .route("/pods/{namespace}/{name}", get(pod))
        .fallback(async || (StatusCode::NOT_FOUND, "there is no such page; see /\n"))
        .layer(middleware::from_fn(guard))
        .with_state(status)
}

/// Answers nobody who comes by a name that is not this machine's (a web site whose name leads here),
/// and tells browsers to keep what they get to themselves.
async fn guard(request: Request, next: Next) -> Response {
    let mut response = if is_for_this_machine(request.headers(), request.uri()) {
        next.run(request).await
    } else {
        let why = "the page is served to those who ask for localhost or an IP address\n";
        (StatusCode::MISDIRECTED_REQUEST, why).into_response()
    };
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Whether the request names localhost or an address, and nothing else.
fn is_for_this_machine(headers: &HeaderMap, uri: &Uri) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let absolute = uri.authority().map(Authority::as_str);
    host.to_str().is_ok_and(is_own) && absolute.is_none_or(is_own)
}

fn is_own(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        // An IPv6 address has colons of its own, and ends in a bracket.
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<Ipv4Addr>().is_ok()
        || address.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok())
}

async fn node(State(status): State<Status>, uri: Uri) -> Response {
    let saved = asks(&uri, "save");
    let form = if saved { Form::File } else { served(&uri) };
    let known = status.recent().await;
    // The name of a node, and so of the file, has none but these.
    let file =
        known.0.node.replace(|c: char| !(c.is_ascii_alphanumeric() || "-.".contains(c)), "_");
    let mut response = rendered(known, move |known| {
        let (report, snapshot) = known;
        Some(match snapshot {
            Some(snapshot) => super::node(&facts(report, snapshot), form),
            None => super::without_pods(report, form),
        })
    })
    .await;
    let disposition = format!("attachment; filename=\"holdfast-{file}.html\"");
    if let (true, Ok(disposition)) = (saved, HeaderValue::try_from(disposition)) {
        response.headers_mut().insert(header::CONTENT_DISPOSITION, disposition);
    }
    response
}

async fn pod(
    State(status): State<Status>,
    Path((namespace, name)): Path<(String, String)>,
    uri: Uri,
) -> Response {
    let form = served(&uri);
    let known = status.recent().await;
    rendered(known, move |known| {
        let (report, snapshot) = known;
        match snapshot {
            Some(snapshot) => super::pod(&facts(report, snapshot), &namespace, &name, form),
            None => Some(super::without_pods(report, form)),
        }
    })
    .await
}

/// Writes a page apart from the threads that work gates.
async fn rendered(
    known: Arc<Known>,
    render: impl FnOnce(&Known) -> Option<String> + Send + 'static,
) -> Response {
    match spawn_blocking(move || render(&known)).await {
        Ok(Some(page)) => Html(page).into_response(),
        Ok(None) => (StatusCode::NOT_FOUND, "nothing is known of such a pod on this node; see /\n")
            .into_response(),
        Err(error) => {
            tracing::error!(%error, "the node page cannot be made");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn facts<'a>(node: &'a NodeReport, snapshot: &'a Snapshot) -> Facts<'a> {
    Facts { node, pods: &snapshot.pods, episodes: &snapshot.episodes }
}

fn served(uri: &Uri) -> Form {
    Form::Served { refresh: !asks(uri, "refresh=off") }
}

/// Whether the query has this.
fn asks(uri: &Uri, what: &str) -> bool {
    uri.query().unwrap_or_default().split('&').any(|parameter| parameter == what)
}

// === impl PageAddress ===

impl FromStr for PageAddress {
    type Err = PageAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self::None),
            _ => text.parse().map(Self::At).map_err(|_| PageAddressError),
        }
    }
}

#[cfg(test)]
mod tests;
