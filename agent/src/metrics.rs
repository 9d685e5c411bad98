//! What Prometheus is told: counters and histograms, which the journal keeps up, and what is true at
//! the moment of a scrape.
//!
//! Nothing here costs a packet anything: the kernel counts for itself, and is asked at the scrape.

mod counts;
mod expose;
#[cfg(test)]
mod fixtures;
mod labels;
mod namespaces;
mod pods;
mod process;
mod reading;
mod registry;

pub use self::{
    counts::{Counts, PodMetrics},
    expose::Format,
    process::ProcessReading,
    reading::{EventReading, Filled, MapReading, Reading, ReplayReading},
    registry::{Description, descriptions, render},
};
