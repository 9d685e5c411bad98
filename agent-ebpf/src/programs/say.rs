//! The debug lines of the loud programs.
//!
//! Each program is in the object twice, silent and loud: `LOUD` is a constant of its functions. The
//! silent ones have no instruction more for it. The agent puts the loud ones in their place on the
//! pods it is asked to, one by one.

use agent_ebpf::note::NoteLine;
use aya_log_ebpf::debug;

use super::{maps::LINES, report};

/// Writes a line about a socket, if the program is a loud one: what is said, the pod, the container
/// (0: not known), the cookie, and the two numbers that the note says more with. None of them is
/// evaluated in a silent one.
macro_rules! say {
    ($loud:ident, $note:ident, $pod:expr, $container:expr, $cookie:expr, $first:expr, $second:expr) => {
        if $loud {
            $crate::programs::say::write(&agent_ebpf::note::NoteLine {
                note: agent_ebpf::note::Note::$note as u64,
                pod: $pod,
                container: $container,
                cookie: $cookie,
                values: [u64::from($first), u64::from($second)],
            });
        }
    };
}
pub(crate) use say;

/// A function that is called: aya-log's code for one line is longer than most programs, and the
/// verifier of Linux 5.10 would have to follow each copy.
#[inline(never)]
pub(crate) fn write(line: &NoteLine) {
    // The agent compares it with what arrives, and so knows how many lines found the buffer full.
    if let Some(lines) = LINES.get_ptr_mut(0) {
        // SAFETY: a live element of a per-CPU array. Atomic, because a packet's program may
        // interrupt a call's.
        unsafe { report::add(lines, 1) };
    }
    let NoteLine { note, pod, container, cookie, values: [first, second] } = *line;
    debug!((), "{} {} {} {} {} {}", note, pod, container, cookie, first, second);
}
