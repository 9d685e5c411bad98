//! What an agent before this one has left standing: its links get this agent's programs, its gates
//! keep their state and their deadlines.

use std::{
    collections::HashMap as StdHashMap,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use agent_ebpf::{Gate, GateCounts, GateState, gate::SOMEBODY_WAITS};
use aya::maps::{MapInfo, MapType};

use super::{
    BpfError,
    gate::{Attached, GateMaps, Gates},
    link::Link,
    pin::{self, Claim, failed},
    program::Hook,
    sys,
    voice::Voices,
};
use crate::core::{CgroupId, CloseReason, InheritedGate, InheritedState, Monotonic};

/// What was left on one pod's cgroup.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) attached: Attached,
    pub(super) gate: InheritedGate,
    /// What the kernel had counted when that was read.
    pub(super) counts: GateCounts,
}

/// Takes over what stands in the agent's directory.
///
/// # Errors
///
/// [`BpfError`] if it cannot be known what stands, or not be worked for want of something: then all
/// of it stays as it is.
pub(super) fn take_over(
    claim: &Claim,
    voices: &Voices,
    maps: &GateMaps,
) -> Result<StdHashMap<CgroupId, Left>, BpfError> {
    let mut left = StdHashMap::new();
    let taken = take_over_own(claim, voices, maps, &mut left)
        .and_then(|()| take_over_foreign(claim, &mut left));
    match taken {
        Ok(()) => Ok(left),
        Err(error) => {
            // Dropped, the links would come off.
            left.values_mut().for_each(|left| left.attached.leave());
            Err(error)
        }
    }
}

fn take_over_own(
    claim: &Claim,
    voices: &Voices,
    maps: &GateMaps,
    left: &mut StdHashMap<CgroupId, Left>,
) -> Result<(), BpfError> {
    let mut waiting = None;
    for (cgroup, directory) in by_cgroup(&claim.links())? {
        let attached = swap(voices, cgroup, directory)?;
        // All of its links are dead: its cgroup has gone, or their agent was killed before it had
        // attached the first.
        if attached.links.is_empty() {
            continue;
        }
        let counts = maps.counts.get(&cgroup.0, 0).unwrap_or_default();
        // Its agent was killed before the gate was closed for the first time: dropped, the links come
        // off, and the pod is one that nobody has found yet.
        let Ok(gate) = maps.gates.get(&cgroup.0, 0) else {
            continue;
        };
        let state = state_of(&gate);
        let waiting = waiting.get_or_insert_with(|| maps.table.waiting());
        let waiting = waiting.remove(&cgroup).unwrap_or_default();
        let gate = InheritedGate { state, waiting, reached: counts.reached() };
        left.insert(cgroup, Left { attached, gate, counts });
    }
    Ok(())
}

fn take_over_foreign(claim: &Claim, left: &mut StdHashMap<CgroupId, Left>) -> Result<(), BpfError> {
    let others = claim.others().map_err(|error| failed(claim.root(), error))?;
    for version in others {
        for (cgroup, directory) in by_cgroup(&pin::links_in(&version))? {
            let state = foreign_state(&version.join("maps"), cgroup)?;
            let pins = pin::pins(&directory).map_err(|error| failed(&directory, error))?;
            let entry = left.entry(cgroup).or_insert_with(|| Left {
                attached: Attached::default(),
                gate: InheritedGate { state, waiting: Vec::new(), reached: 0 },
                counts: GateCounts::default(),
            });
            if let InheritedState::Closed { deadline, .. } = state {
                entry.attached.foreign_deadline = Some(deadline);
            }
            for pin in pins {
                entry.attached.foreign.extend(inherit(&pin)?);
            }
            entry.attached.directories.push(directory);
        }
    }
    Ok(())
}

/// Puts this agent's programs into the links of one pod.
fn swap(voices: &Voices, cgroup: CgroupId, directory: PathBuf) -> Result<Attached, BpfError> {
    let mut attached = Attached::default();
    let swapped = Hook::ALL.into_iter().try_for_each(|hook| {
        let Some(link) = inherit(&directory.join(hook.name()))? else {
            return Ok(());
        };
        match voices.replace(hook, cgroup, &link) {
            Ok(()) => attached.links.push((hook, link)),
            // The cgroup has gone, and the link is one in name only (`cgroup_bpf_replace` in
            // kernel/bpf/cgroup.c).
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
            Err(source) => {
                let operation = "replace";
                let error = BpfError::Link { operation, program: hook.name(), source };
                if error.may_pass() {
                    link.leave();
                    return Err(error);
                }
                tracing::warn!(
                    directory = %directory.display(), %error,
                    "program that an earlier agent has left is detached"
                );
            }
        }
        Ok(())
    });
    if let Err(error) = swapped {
        attached.leave();
        return Err(error);
    }
    attached.directories.push(directory);
    Ok(attached)
}

/// Opens a link; `None`: there is none of this name.
fn inherit(pin: &Path) -> Result<Option<Link>, BpfError> {
    match Link::inherit(pin.to_owned()).map_err(|error| failed(pin, error)) {
        Ok(link) => Ok(Some(link)),
        Err(error) if error.may_pass() => Err(error),
        Err(_) => Ok(None),
    }
}

fn state_of(gate: &Gate) -> InheritedState {
    if gate.state == GateState::Guarded as u32 {
        return InheritedState::Guarded;
    }
    if gate.state != GateState::Closed as u32 {
        return InheritedState::Open;
    }
    closed(
        reason_of(gate.closed_for),
        Monotonic(gate.since_ns),
        (gate.reached_before != SOMEBODY_WAITS).then_some(gate.reached_before),
        Monotonic(gate.deadline_ns),
    )
}

fn closed(
    reason: CloseReason,
    since: Monotonic,
    reached_before: Option<u64>,
    deadline: Monotonic,
) -> InheritedState {
    // A gate that refuses is closed with its time up from the first.
    if deadline <= since {
        InheritedState::Refusing { reason }
    } else {
        InheritedState::Closed { reason, since, reached_before, deadline }
    }
}

/// Of another version's gate only the first two fields are known ([`Gate::since_ns`]). What cannot be
/// read is open.
fn foreign_state(maps: &Path, cgroup: CgroupId) -> Result<InheritedState, BpfError> {
    let path = maps.join(Gates::MAP);
    let looked = MapInfo::from_pin(&path).map_err(|source| {
        let source = Box::new(source);
        BpfError::Map { operation: "look at", map: Gates::MAP, source }
    });
    let opened = looked.and_then(|info| {
        let map = sys::open_pinned(&path).map_err(|error| failed(&path, error))?;
        Ok((info, map))
    });
    let value = match opened {
        Ok((info, map)) if is_gate_table(&info) => {
            sys::map_lookup(map.as_fd(), cgroup.0, info.value_size() as usize).unwrap_or_default()
        }
        Err(error) if error.may_pass() => return Err(error),
        Ok(_) | Err(_) => Vec::new(),
    };
    let field = |n: usize| {
        let bytes = value.get(n * 8..(n + 1) * 8)?;
        Some(Monotonic(u64::from_ne_bytes(bytes.try_into().ok()?)))
    };
    Ok(match (field(0), field(1)) {
        // Whether anybody waits is not to be known, so somebody does.
        (Some(deadline), Some(since)) if deadline.0 > 0 => {
            closed(CloseReason::Start, since, None, deadline)
        }
        _ => InheritedState::Open,
    })
}

/// A lookup writes as many bytes as the map says, and into others than a hash one for each CPU.
fn is_gate_table(info: &MapInfo) -> bool {
    info.map_type().is_ok_and(|kind| kind == MapType::Hash) && info.key_size() == 8
}

/// The directories of single pods below a directory of links.
fn by_cgroup(links: &Path) -> Result<Vec<(CgroupId, PathBuf)>, BpfError> {
    let pods = pin::directories(links).map_err(|error| failed(links, error))?.into_iter();
    let with_cgroup = pods.filter_map(|path| {
        let cgroup = path.file_name()?.to_str()?.parse().ok()?;
        Some((CgroupId(cgroup), path))
    });
    Ok(with_cgroup.collect())
}

/// [`Gate::closed_for`].
pub(super) const fn reason_code(reason: CloseReason) -> u8 {
    match reason {
        CloseReason::Start => 0,
        CloseReason::NotReady => 1,
        CloseReason::ProxyDied => 2,
        CloseReason::NobodyListens => 3,
        CloseReason::Operator => 4,
    }
}

const fn reason_of(code: u8) -> CloseReason {
    match code {
        1 => CloseReason::NotReady,
        2 => CloseReason::ProxyDied,
        3 => CloseReason::NobodyListens,
        4 => CloseReason::Operator,
        _ => CloseReason::Start,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_agent_reads_why_a_gate_was_closed() {
        for reason in CloseReason::ALL {
            assert_eq!(reason_of(reason_code(reason)), reason);
        }
    }
}
