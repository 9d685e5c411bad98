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
    agent_killed_before_discovery: "agent killed before it finds the pod",
    agent_killed_before_the_first_syn: "agent killed before the first SYN",
    agent_killed_while_it_holds: "agent killed while it holds",
    agent_killed_as_the_proxy_becomes_ready: "agent killed as the proxy becomes ready",
    agent_killed_while_it_detaches: "agent killed while it detaches",
    pods_start_while_no_agent_lives: "pods start while no agent lives",
    agent_and_sentry_killed: "agent and sentry killed while they hold",
    agent_killed_again_and_again: "agent killed again and again during one hold",
    proxy_dies_while_no_agent_lives: "proxy dies while no agent lives",
    agent_hangs: "agent hangs while it holds",
    agents_exchanged_under_load: "agents exchanged under load",
    api_down_at_start: "API server down at start",
    api_never_there: "API server never there",
    api_down: "API server down while pods come and go",
    api_hangs_at_start: "API server hangs at start",
    tls_handshake_hangs: "TLS handshake that hangs",
    watches_answered_410: "watches answered 410",
    watches_hang: "watches that hang silently",
    slow_bytes: "slow bytes",
    truncated_json: "truncated JSON",
    watches_end_at_once: "watches that end at once",
    server_errors: "500, 503 and 429 with Retry-After: 3600",
    rights_taken_away: "rights taken away (403)",
    token_expired: "token expired (401), agent replaced",
    events_refused: "Events refused",
    large_pod_objects: "pod objects of 1 MiB",
    api_clock_away: "API server's clock hours away",
    odd_events: "events out of order, twice, and of no sense",
    pod_recreated: "pod recreated with the same name",
    namespace_deleted: "namespace deleted while its pods wait",
    pods_of_other_nodes: "5,000 pods of other nodes",
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
    no_files_while_taking_over: "out of file descriptors while taking over",
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
