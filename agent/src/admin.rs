//! What the commands on the node ask the agent, and what an operator has it do: HTTP and JSON over
//! a unix socket that is root's alone.

mod client;
mod entries;
mod log;
mod protocol;
mod routes;
mod server;
mod socket;

pub use self::{
    client::{Client, ClientError, End},
    protocol::{
        FilterBody, Follow, FollowBody, Line, LogReport, OrderBody, OrderWish, PodDetail, WatchBody,
    },
    routes::Admin,
    server::serve,
    socket::{Socket, SocketError},
};

/// Where the agent answers, and the commands ask, unless they are told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/holdfast/admin.sock";

/// What is answered to root, without a socket.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn answers_to_root(admin: &Admin) -> axum::Router {
    let root = socket::Peer { uid: Some(0), pid: None };
    let lasting = crate::http::Lasting::default();
    admin.router().layer(axum::Extension(root)).layer(axum::Extension(lasting))
}

#[cfg(test)]
mod tests;
