//! What goes back over the wire: objects, lists, events, and `Status` for everything that failed.

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{
    resource::Resource,
    store::{Page, Seen},
};

/// What the client wants of each object: everything, or `PartialObjectMetadata`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Full,
    Metadata,
}

impl Shape {
    pub(super) fn from_accept(accept: &str) -> Self {
        if accept.contains("as=PartialObjectMetadata") { Self::Metadata } else { Self::Full }
    }

    pub(super) fn of(self, object: Value) -> Value {
        match self {
            Self::Full => object,
            Self::Metadata => json!({
                "apiVersion": "meta.k8s.io/v1",
                "kind": "PartialObjectMetadata",
                "metadata": object["metadata"],
            }),
        }
    }

    /// Items of a typed list carry neither `kind` nor `apiVersion`, as a real server's do not.
    fn item(self, object: Value) -> Value {
        let mut item = self.of(object);
        if let (Self::Full, Some(fields)) = (self, item.as_object_mut()) {
            fields.remove("kind");
            fields.remove("apiVersion");
        }
        item
    }

    pub(super) fn list(self, resource: Resource, page: Page) -> Value {
        let Page { items, version, next, remaining } = page;
        let (api_version, kind) = match self {
            Self::Full => (resource.api_version(), format!("{}List", resource.kind())),
            Self::Metadata => ("meta.k8s.io/v1", "PartialObjectMetadataList".to_owned()),
        };
        let mut metadata = json!({"resourceVersion": version.to_string()});
        if let Some(next) = next {
            metadata["continue"] = json!(next);
            metadata["remainingItemCount"] = json!(remaining);
        }
        let items: Vec<Value> = items.into_iter().map(|item| self.item(item)).collect();
        json!({"apiVersion": api_version, "kind": kind, "metadata": metadata, "items": items})
    }

    /// One line of a watch.
    pub(super) fn event(self, seen: Seen) -> Vec<u8> {
        let (kind, object) = match seen {
            Seen::Added(object) => ("ADDED", object),
            Seen::Modified(object) => ("MODIFIED", object),
            Seen::Deleted(object) => ("DELETED", object),
        };
        line(kind, &self.of(object))
    }

    /// Tells a watcher how far it has come without a change that concerns it.
    pub(super) fn bookmark(self, resource: Resource, version: u64, initial_end: bool) -> Vec<u8> {
        let mut metadata = json!({"resourceVersion": version.to_string()});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = json!({
            "apiVersion": resource.api_version(),
            "kind": resource.kind(),
            "metadata": metadata,
        });
        line("BOOKMARK", &self.of(object))
    }
}

/// The last line of a watch that has become too old.
pub(super) fn expired_event() -> Vec<u8> {
    line("ERROR", &Failure::expired().status())
}

fn line(kind: &str, object: &Value) -> Vec<u8> {
    // In the order of a real server (`metav1.WatchEvent`): a client that reads the type first need not
    // remember an object of which it does not know the type.
    format!("{{\"type\":{},\"object\":{object}}}\n", json!(kind)).into_bytes()
}

/// An answer other than success.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    code: StatusCode,
    reason: &'static str,
    message: String,
}

impl Failure {
    pub(super) fn expired() -> Self {
        Self {
            code: StatusCode::GONE,
            reason: "Expired",
            message: "The resourceVersion for the provided watch or list is too old.".into(),
        }
    }

    /// With this status, and words that fit any.
    pub(super) fn of(code: u16) -> Self {
        let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let reason = match code {
            StatusCode::UNAUTHORIZED => "Unauthorized",
            StatusCode::FORBIDDEN => "Forbidden",
            StatusCode::TOO_MANY_REQUESTS => "TooManyRequests",
            StatusCode::SERVICE_UNAVAILABLE => "ServiceUnavailable",
            StatusCode::GONE => "Expired",
            _ => "InternalError",
        };
        Self { code, reason, message: format!("the server is in trouble ({code})") }
    }

    pub(super) fn not_found(resource: Resource, name: &str) -> Self {
        Self {
            code: StatusCode::NOT_FOUND,
            reason: "NotFound",
            message: format!("{} \"{name}\" not found", resource.plural()),
        }
    }

    pub(super) fn already_exists(resource: Resource, name: &str) -> Self {
        Self {
            code: StatusCode::CONFLICT,
            reason: "AlreadyExists",
            message: format!("{} \"{name}\" already exists", resource.plural()),
        }
    }

    pub(super) fn conflict(resource: Resource, name: &str) -> Self {
        Self {
            code: StatusCode::CONFLICT,
            reason: "Conflict",
            message: format!(
                "Operation cannot be fulfilled on {} \"{name}\": the object has been modified",
                resource.plural()
            ),
        }
    }

    pub(super) fn unknown_path() -> Self {
        Self {
            code: StatusCode::NOT_FOUND,
            reason: "NotFound",
            message: "the server could not find the requested resource".into(),
        }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self { code: StatusCode::BAD_REQUEST, reason: "BadRequest", message: message.into() }
    }

    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self { code: StatusCode::FORBIDDEN, reason: "Forbidden", message: message.into() }
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        let code = StatusCode::INTERNAL_SERVER_ERROR;
        Self { code, reason: "InternalError", message: message.into() }
    }

    pub(super) fn not_allowed() -> Self {
        Self {
            code: StatusCode::METHOD_NOT_ALLOWED,
            reason: "MethodNotAllowed",
            message: "the server does not allow this method on the requested resource".into(),
        }
    }

    fn status(&self) -> Value {
        let Self { code, reason, message } = self;
        json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code.as_u16(),
        })
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        json_response(self.code, &self.status())
    }
}

pub(super) fn json_response(code: StatusCode, value: &Value) -> Response {
    (code, [(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}
