//! The targets without a fuzzer: on their seeds, on what is made of those at random, and on what has
//! broken a target once.

use std::collections::BTreeSet;

use proptest::{
    prelude::*,
    sample::Index,
    test_runner::{RngAlgorithm, TestRng, TestRunner},
};

use super::*;

/// A seed with some bytes changed, some taken out or put in, or cut off.
fn any_input(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<Index>(), any::<u8>(), 0_u8..5);
    let changes = proptest::collection::vec(change, 0..8);
    (proptest::sample::select(seeds), changes).prop_map(|(mut bytes, changes)| {
        for (place, byte, how) in changes {
            let place = place.index(bytes.len() + 1);
            match bytes.get_mut(place) {
                Some(old) if how == 0 => *old = byte,
                Some(old) if how == 1 => *old ^= 1 << (byte & 7),
                Some(_) if how == 2 => drop(bytes.remove(place)),
                _ if how == 3 => bytes.truncate(place),
                _ => bytes.insert(place, byte),
            }
        }
        bytes
    })
}

fn explore(name: &str) {
    let target = target(name).unwrap();
    let seeds = (target.seeds)();
    assert!(!seeds.is_empty());
    seeds.iter().for_each(|seed| (target.run)(seed));
    (target.run)(&[]);
    let cases = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    // The same in each run, so that a change is judged by itself: the fuzzers go on to what is new.
    let random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let explored = TestRunner::new_with_rng(cases, random).run(&any_input(seeds), |bytes| {
        (target.run)(&bytes);
        Ok(())
    });
    explored.unwrap();
}

macro_rules! explored {
    ($($name:ident),+ $(,)?) => {
        $(
            #[test]
            fn $name() {
                explore(stringify!($name));
            }
        )+

        #[test]
        fn every_target_is_explored() {
            let explored = BTreeSet::from([$(stringify!($name)),+]);
            assert_eq!(explored, TARGETS.iter().map(|target| target.name).collect());
        }
    };
}

explored!(admin, bundle, cgroup, config, note, pod, probe, query, ring, settings, syn, terminal,);

/// A key that nobody knows is quoted in the fault, and before it as a part of its path.
#[test]
fn a_key_with_a_control_character() {
    (target("config").unwrap().run)(b"profiles:\n- name: a\n  s\tetup-containers: [b]\n");
}

/// An option's data may look like the beginning of a timestamp: what stands behind it is not one.
#[test]
fn a_timestamp_behind_bytes_that_look_like_one() {
    // An MSS of 0x080a, a timestamp whose value begins right behind it, and a window scale.
    const OPTIONS: [u8; 20] =
        [2, 4, 8, 10, 8, 10, 4, 2, 20, 2, 8, 10, 0xff, 0xff, 1, 3, 3, 7, 0, 0];
    let mut seed = (target("syn").unwrap().seeds)().remove(0);
    let header = std::mem::offset_of!(agent_ebpf::SocketRecord, syn)
        + std::mem::offset_of!(agent_ebpf::StoredSyn, header);
    seed[header + agent_ebpf::socket::MIN_TCP_HEADER..][..OPTIONS.len()].copy_from_slice(&OPTIONS);
    replay::run_syn(&seed);
    let (record, now) = seed.split_at(size_of::<agent_ebpf::SocketRecord>());
    let record = bytemuck::pod_read_unaligned(record);
    let now = crate::core::Monotonic(u64::from_le_bytes(now.try_into().unwrap()));
    let sent = crate::core::syn_packet(&record, now).unwrap().bytes;
    // 2,500 ms after it was dropped.
    let value = 0x0402_1402_u32 + 2_500;
    assert!(
        sent.ends_with(&[&[2, 4, 8, 10, 8, 10], &value.to_be_bytes()[..], &OPTIONS[10..]].concat())
    );
}

/// Of no address may that character be a part, so nothing could be asked there.
#[test]
fn a_readiness_path_that_cannot_be_asked_for() {
    let pod = b"namespace holdfast.dev/ready=http://:15021/healthz/read>y\n";
    (target("settings").unwrap().run)(pod);
}
