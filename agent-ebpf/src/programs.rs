//! The programs, one file for each hook family, and the maps they share.

pub(crate) mod awaited;
pub(crate) mod connect;
pub(crate) mod gate;
pub(crate) mod listener;
pub(crate) mod maps;
pub(crate) mod packet;
pub(crate) mod pod;
pub(crate) mod record;
pub(crate) mod release;
pub(crate) mod report;
pub(crate) mod retransmit;
pub(crate) mod say;
pub(crate) mod sentry;
pub(crate) mod sock;
pub(crate) mod sockopt;
