//! Answers at the socket as long as the agent runs.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::sleep;

use super::{Admin, DEFAULT_SOCKET, Socket, SocketError, socket::lax_directory};
use crate::http;

/// How often a taken place is tried again: it is free when the agent that this one stands by for has
/// ended.
const TRY_EVERY: Duration = Duration::from_secs(2);

/// Answers at `path`; `None`: at the usual place. Where a living agent answers, this one does as soon
/// as that one has ended: in a rolling upgrade both are of one pod template, and so of one place. An
/// agent works without commands, too, wherever nobody has named a place; but who names one wants it.
///
/// # Errors
///
/// If the place that is named can never be had.
pub fn serve(path: Option<&Path>, admin: Admin) -> Result<(), SocketError> {
    // The usual one is below a directory of root's, or a volume that nobody else sees.
    if let Some(directory) = path.and_then(lax_directory) {
        tracing::warn!(
            directory = %directory.display(),
            "others may write to the directory of the commands' socket"
        );
    }
    let place = path.unwrap_or(Path::new(DEFAULT_SOCKET));
    match Socket::bind(place) {
        Ok(socket) => drop(tokio::spawn(answer(socket, admin))),
        Err(error) if path.is_none() || matches!(error, SocketError::Taken { .. }) => {
            tracing::warn!(%error, "commands are not answered; trying again");
            drop(tokio::spawn(answer_when_free(place.to_owned(), admin)));
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

async fn answer_when_free(place: PathBuf, admin: Admin) {
    loop {
        sleep(TRY_EVERY).await;
        if let Ok(socket) = Socket::bind(&place) {
            return answer(socket, admin).await;
        }
    }
}

async fn answer(socket: Socket, admin: Admin) {
    tracing::info!(path = %socket.path().display(), "commands are answered");
    http::answer(&socket, "commands", &admin.router()).await;
}
