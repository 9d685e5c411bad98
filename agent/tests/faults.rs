//! The bounded part of the fault suite (`cargo xtask faults` runs all of it): a test for each fault,
//! by its name in the table.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use testbed::faults::{self, Fault};

fn run(name: &str) {
    let fault = faults::all().find(|fault| fault.name == name).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = u64::from(now.subsec_nanos());
    let row = Fault::run(fault, Path::new(env!("CARGO_BIN_EXE_holdfast")), false, seed);
    let row = row.unwrap_or_else(|error| panic!("{error:?}"));
    assert!(row.trials >= fault.trials.bounded, "{row:?}");
    assert!(row.is_good(), "seed {seed}: {row:#?}");
}

macro_rules! faults {
    ($($test:ident: $name:literal,)+) => {
        $(
            #[test]
            fn $test() {
                run($name);
            }
        )+

        #[test]
        fn every_fault_is_tried() {
            let tried = [$($name),+];
            let all: Vec<&str> = faults::all().map(|fault| fault.name).collect();
            assert_eq!(all, tried);
        }
    };
}

faults! {
    agent_killed_never_restarted: "agent killed while it holds, never restarted",
    churn: "50 pods a second come and go",
    more_sockets_than_records: "more held sockets than records",
    no_room_for_a_gate: "no room for another gate",
    ring_full: "event ring full",
    out_of_files: "out of file descriptors",
    out_of_threads: "out of threads",
    little_memory: "32 MiB of memory",
    little_cpu: "2 % of a CPU",
    out_of_inotify: "out of inotify instances at start",
    log_not_read: "nobody reads the log",
    disk_full: "disk full for a dump",
    no_bpffs: "no BPF file system",
    cgroup_removed: "cgroup removed under its links",
    netns_gone: "network namespace gone while it is probed",
}
