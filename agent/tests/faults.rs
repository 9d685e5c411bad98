//! The bounded part of the fault suite (`cargo xtask faults` runs all of it): a test for each fault,
//! by its name in the table.

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
    tenant_opens_many_connects: "tenant opens 10,000 connects",
    tenant_forks: "tenant forks without end",
    tenant_makes_cgroups: "tenant makes cgroups",
    tenant_passes_for_its_proxy: "tenant passes for its proxy",
    tenant_forges_packets: "tenant forges packets",
    tenant_answers_for_its_proxy: "tenant answers for its proxy",
    tenant_s_proxy_dies: "tenant's proxy dies again and again",
    tenant_passes_its_sockets_on: "tenant passes its sockets on",
    tenant_writes_every_annotation: "tenant writes every annotation",
}
