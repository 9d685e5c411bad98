//! The table of `cargo xtask e2e`, as far as a node without kubelet can have it.

use testbed::e2e::node;

use crate::common::binary;

#[test]
fn every_case_of_the_cluster_test_holds_on_the_testbed() {
    let report = node::run(&binary()).unwrap();
    let mut table = Vec::new();
    report.write_table(&mut table).unwrap();
    assert!(report.ok, "{}", String::from_utf8_lossy(&table));
}
