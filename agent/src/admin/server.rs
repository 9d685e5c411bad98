//! Answers at the socket as long as the agent runs.

use std::{path::Path, time::Duration};

use tokio::time::sleep;

use super::{Admin, DEFAULT_SOCKET, Socket, SocketError};
use crate::http;

/// How often the usual place is tried again: it is free when the agent that this one stands by for
/// has ended.
const TRY_EVERY: Duration = Duration::from_secs(2);

/// Answers at `path`; `None`: at the usual place, when it is free. An agent works without commands,
/// too; but who names a place wants it.
///
/// # Errors
///
/// If the place that is named cannot be had.
pub fn serve(path: Option<&Path>, admin: Admin) -> Result<(), SocketError> {
    match path.map(Socket::bind).transpose()? {
        Some(socket) => drop(tokio::spawn(answer(socket, admin))),
        None => drop(tokio::spawn(answer_when_free(Path::new(DEFAULT_SOCKET), admin))),
    }
    Ok(())
}

async fn answer_when_free(path: &Path, admin: Admin) {
    let mut told = false;
    loop {
        match Socket::bind(path) {
            Ok(socket) => return answer(socket, admin).await,
            Err(error) if !told => {
                told = true;
                tracing::warn!(%error, "commands are not answered; trying again");
            }
            Err(_) => {}
        }
        sleep(TRY_EVERY).await;
    }
}

async fn answer(socket: Socket, admin: Admin) {
    tracing::info!(path = %socket.path().display(), "commands are answered");
    http::answer(&socket, "commands", &admin.router()).await;
}
