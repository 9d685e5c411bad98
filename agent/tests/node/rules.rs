//! The rules of the gate and of the replay: each of them broke something when it was not kept.

mod options;
mod replay;
mod table;
