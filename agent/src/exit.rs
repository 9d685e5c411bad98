//! How the agent ends: sysexits(3), as other node agents do.

use std::process::ExitCode;

use crate::{
    bpf::BpfError,
    cluster::{self, ClusterError},
    config::ConfigError,
    node::{MountError, WatchError},
    preflight::PreflightError,
    wait::WaitError,
};

/// Wrong usage or configuration (`EX_USAGE`).
pub const USAGE: u8 = 64;
/// Something the agent needs is not there (`EX_UNAVAILABLE`).
pub const UNAVAILABLE: u8 = 69;
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
            ClusterError::Unreachable { .. } => UNAVAILABLE,
        });
    }
    if cause.is::<ConfigError>() {
        return Some(USAGE);
    }
    if let Some(error) = cause.downcast_ref::<WaitError>() {
        return Some(error.exit_code());
    }
    let unavailable =
        cause.is::<MountError>() || cause.is::<WatchError>() || cause.is::<BpfError>();
    unavailable.then_some(UNAVAILABLE)
}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::Context as _;

    use super::*;

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
