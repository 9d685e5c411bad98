//! holdfast
pub mod core;
