//! The ways in which the programs are loaded.

use holdfast::bpf::LoadOptions;

use crate::pod::Pod;

#[test]
fn debug_lines_cost_the_verifier_nothing_it_cannot_bear() {
    drop(Pod::with(&LoadOptions { kernel_log: true, ..LoadOptions::default() }));
}
