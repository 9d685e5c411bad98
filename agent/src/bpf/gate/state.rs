//! What the programs are to read of a gate, and which of them it needs.

use agent_ebpf::{
    Gate, GateMode, GateState,
    gate::{MAX_PORTS, NO_UID, SOMEBODY_WAITS},
};

use crate::{
    bpf::{inherit::reason_code, program::Hook},
    core::{GateSetting, Mode, RefuseErrno, SetGate},
};

/// What the programs are to read of a gate; `open` is the one that lets everything pass.
pub(super) fn gate_of(set: &SetGate, open: Gate) -> Gate {
    let SetGate { uid: _, cgroup: _, state, renews: _, mode, errno, proxy_uid, ports, dns_port } =
        set;
    let mut named = [0; MAX_PORTS];
    for (slot, port) in named.iter_mut().zip(ports) {
        *slot = *port;
    }
    let mode = match mode {
        // Who sends the SYN again makes no difference to its being dropped.
        Mode::Hold | Mode::Retry => GateMode::Hold,
        Mode::Refuse => GateMode::Refuse,
        Mode::Observe => GateMode::Observe,
    };
    let errno = match errno {
        RefuseErrno::ConnRefused => libc::ECONNREFUSED,
        RefuseErrno::Again => libc::EAGAIN,
        RefuseErrno::TimedOut => libc::ETIMEDOUT,
    };
    let gate = Gate {
        mode: mode as u32,
        proxy_uid: proxy_uid.unwrap_or(NO_UID),
        errno: errno.unsigned_abs(),
        dns_port: dns_port.unwrap_or(0),
        ports: named,
        ..open
    };
    match state {
        GateSetting::Closed { reason, since, reached_before, deadline, refuse_until } => Gate {
            state: GateState::Closed as u32,
            deadline_ns: deadline.0,
            since_ns: since.0,
            reached_before: reached_before.unwrap_or(SOMEBODY_WAITS),
            refuse_until_ns: refuse_until.map_or(0, |until| until.0),
            closed_for: reason_code(*reason),
            ..gate
        },
        GateSetting::Guarded { budget } => Gate {
            state: GateState::Guarded as u32,
            guard_ns: u64::try_from(budget.as_nanos()).unwrap_or(u64::MAX),
            ..gate
        },
    }
}

/// The hooks that a gate needs for DNS queries.
pub(super) fn dns_hooks(set: &SetGate) -> &'static [Hook] {
    if set.dns_port.is_none() || !matches!(set.state, GateSetting::Closed { .. }) {
        return &[];
    }
    match set.mode {
        Mode::Hold | Mode::Retry => &Hook::DNS,
        // To know who asks, and whom; none is dropped.
        Mode::Observe => &Hook::SEND,
        // Queries pass.
        Mode::Refuse => &[],
    }
}
