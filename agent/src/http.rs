//! HTTP for whoever may reach the node: one small server for health, metrics and the node page.

mod address;
mod connections;
mod server;

#[cfg(test)]
pub(crate) use self::connections::{HEADERS_WITHIN, MAX_CONNECTIONS};
pub(crate) use self::connections::{Lasting, Listener, answer};
pub use self::{
    address::ListenAddress,
    server::{ListenError, Purpose, Server},
};
