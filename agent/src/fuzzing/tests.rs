//! The targets without a fuzzer: on their seeds, on what is made of those at random, and on what has
//! broken a target once.

use std::collections::BTreeSet;

use proptest::{prelude::*, sample::Index, test_runner::TestRunner};

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
    let explored = TestRunner::new(cases).run(&any_input(seeds), |bytes| {
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
