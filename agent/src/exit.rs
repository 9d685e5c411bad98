//! How the agent ends: sysexits(3), as other node agents do.

use std::{io::ErrorKind, process::ExitCode};

use axum::http::StatusCode;

use crate::{
    admin::{ClientError, SocketError},
    bpf::BpfError,
    cleanup::AgentRuns,
    cluster::{self, ClusterError},
    command::log_level::PodLevelError,
    config::ConfigError,
    http::ListenError,
    node::{MountError, WatchError},
    preflight::PreflightError,
    wait::WaitError,
};

/// Wrong usage or configuration (`EX_USAGE`).
pub const USAGE: u8 = 64;
/// There is no such pod (`EX_NOINPUT`).
pub const NO_INPUT: u8 = 66;
/// Something the agent needs is not there (`EX_UNAVAILABLE`).
pub const UNAVAILABLE: u8 = 69;
/// Not now; later it may be possible (`EX_TEMPFAIL`).
pub const TRY_LATER: u8 = 75;
/// Not enough privilege (`EX_NOPERM`).
pub const NO_PERMISSION: u8 = 77;

/// The exit code for an error: by the first of its causes that has one of its own, else 1.
#[must_use]
pub fn code(error: &anyhow::Error) -> ExitCode {
    error.chain().find_map(of_cause).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// An error in one line: each of its causes that the ones before have not told already, be it in
/// the words of what it comes from in the end.
#[must_use]
pub fn line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        // Further lines are details, such as the verifier's log.
        let text = text.lines().next().unwrap_or_default();
        if line.is_empty() {
            text.clone_into(&mut line);
        } else if !line.contains(text) && !line.contains(&cluster::innermost(cause)) {
            line.push_str(": ");
            line.push_str(text);
        }
    }
    line
}

fn of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if let Some(error) = cause.downcast_ref::<PreflightError>() {
        return Some(match error {
            PreflightError::Missing(_) | PreflightError::Capabilities(_) => NO_PERMISSION,
            PreflightError::Kernel { .. }
            | PreflightError::Proc { .. }
            | PreflightError::Btf { .. } => UNAVAILABLE,
        });
    }
    if let Some(error) = cause.downcast_ref::<ClusterError>() {
        return Some(match error {
            ClusterError::Kubeconfig { .. }
            | ClusterError::NotInCluster(_)
            | ClusterError::Client(_) => USAGE,
            ClusterError::Forbidden { .. } => NO_PERMISSION,
            ClusterError::Unreachable { .. } | ClusterError::DaemonSet { .. } => UNAVAILABLE,
        });
    }
    if cause.is::<ConfigError>() || cause.is::<PodLevelError>() {
        return Some(USAGE);
    }
    if cause.is::<AgentRuns>() {
        return Some(TRY_LATER);
    }
    if let Some(error) = cause.downcast_ref::<WaitError>() {
        return Some(error.exit_code());
    }
    if let Some(error) = cause.downcast_ref::<ClientError>() {
        return of_client(error);
    }
    if let Some(error) = cause.downcast_ref::<SocketError>() {
        return Some(match error {
            SocketError::Io { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
                NO_PERMISSION
            }
            SocketError::Taken { .. } | SocketError::NoSocket { .. } | SocketError::Io { .. } => {
                UNAVAILABLE
            }
        });
    }
    if let Some(ListenError { source, .. }) = cause.downcast_ref() {
        return Some(match source.kind() {
            // A port below 1024 without CAP_NET_BIND_SERVICE.
            ErrorKind::PermissionDenied => NO_PERMISSION,
            // Not one of this machine's addresses.
            ErrorKind::AddrNotAvailable => USAGE,
            _ => UNAVAILABLE,
        });
    }
    let unavailable =
        cause.is::<MountError>() || cause.is::<WatchError>() || cause.is::<BpfError>();
    unavailable.then_some(UNAVAILABLE)
}

fn of_client(error: &ClientError) -> Option<u8> {
    Some(match error {
        ClientError::NoAgent { .. } | ClientError::Gone { .. } => UNAVAILABLE,
        ClientError::Denied { .. } => NO_PERMISSION,
        ClientError::Refused { status, .. } => match *status {
            StatusCode::NOT_FOUND => NO_INPUT,
            StatusCode::BAD_REQUEST => USAGE,
            StatusCode::FORBIDDEN => NO_PERMISSION,
            StatusCode::SERVICE_UNAVAILABLE => UNAVAILABLE,
            StatusCode::TOO_MANY_REQUESTS => TRY_LATER,
            _ => return None,
        },
        ClientError::Answer { .. } | ClientError::Runtime(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::Context as _;

    use super::*;
    use crate::http::Purpose;

    #[test]
    fn an_address_that_cannot_be_served_on_is_missing_wrong_or_forbidden() {
        for (kind, expected) in [
            (ErrorKind::AddrInUse, UNAVAILABLE),
            (ErrorKind::AddrNotAvailable, USAGE),
            (ErrorKind::PermissionDenied, NO_PERMISSION),
        ] {
            let purpose = Purpose { what: "health", option: "--health-address" };
            let address = ([0, 0, 0, 0], 80).into();
            let error = ListenError { purpose, address, source: kind.into() };
            let error = anyhow::Error::from(error).context("failed to start");
            assert_eq!(code(&error), ExitCode::from(expected), "{kind:?}");
        }
    }

    #[test]
    fn a_line_tells_each_cause_once() {
        let refused = || io::Error::other("refused\nat instruction 7");
        let error = Err::<(), _>(refused()).context("failed to load").unwrap_err();
        assert_eq!(line(&error), "failed to load: refused");
        let error = Err::<(), _>(refused()).context("failed (refused); try again").unwrap_err();
        assert_eq!(line(&error), "failed (refused); try again");
        let error = Err::<(), _>(refused()).context("failed to read a file").unwrap_err();
        let error = error.context("no such thing (refused); name another");
        assert_eq!(line(&error), "no such thing (refused); name another");
        let error = Err::<(), _>(refused()).context("failed to read a file").context("failed");
        assert_eq!(line(&error.unwrap_err()), "failed: failed to read a file: refused");
    }
}
