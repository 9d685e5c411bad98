//! HTTP for whoever may reach the node: one small server for health, metrics and the node page.

mod address;
mod server;

#[cfg(test)]
pub(crate) use self::server::{HEADERS_WITHIN, MAX_CONNECTIONS};
pub use self::{
    address::ListenAddress,
    server::{ListenError, Purpose, Server},
};
