//! Whether anyone listens on the ports to which the mesh redirects.
//!
//! A proxy opens its listeners one after the other. A replayed SYN that came between the readiness
//! endpoint's and the outbound listener's would be refused.

use std::path::Path;

use procfs::{ProcResult, net::TcpState, process::Process};

/// Whether every port has a listener in the network namespace of process `pid`.
///
/// # Errors
///
/// If the process's socket tables cannot be read.
pub(super) fn all_listen(proc_root: &Path, pid: u32, ports: &[u16]) -> ProcResult<bool> {
    let process = Process::new_with_root(proc_root.join(pid.to_string()))?;
    let mut sockets = process.tcp()?;
    // A kernel without IPv6 has no such table.
    sockets.extend(process.tcp6().unwrap_or_default());
    Ok(ports.iter().all(|port| {
        sockets
            .iter()
            .any(|socket| socket.state == TcpState::Listen && socket.local_address.port() == *port)
    }))
}
