//! A tenant's pod does its worst. The trials are the connects of its neighbours, unless a fault says
//! otherwise.

mod connects;
mod objects;
mod processes;
mod scene;

use super::{Fault, Trials};

/// The neighbours of one attack.
const NEIGHBOURS: Trials = Trials { bounded: 3, full: 20 };

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "tenant opens 10,000 connects",
        what: "10,000 sockets of one pod wait; trials: its neighbours' connects",
        trials: NEIGHBOURS,
        run: connects::many,
    },
    Fault {
        name: "tenant forks without end",
        what: "processes of 1 ms that connect under names made for terminals; trials: its \
               neighbours' connects",
        trials: NEIGHBOURS,
        run: processes::forks,
    },
    Fault {
        name: "tenant makes cgroups",
        what: "100 levels and 1,000 side by side below its container's, its processes on the move; \
               trials: its neighbours' connects, and its own from the deepest",
        trials: NEIGHBOURS,
        run: processes::cgroups,
    },
    Fault {
        name: "tenant passes for its proxy",
        what: "runs as the proxy's user, takes its port, moves to its cgroup; trials: its \
               neighbours' connects",
        trials: NEIGHBOURS,
        run: processes::disguises,
    },
    Fault {
        name: "tenant forges packets",
        what: "raw and packet sockets: SYNs, RSTs, fragments, options, 64 KiB, in the name of its \
               held sockets, and UDP to the DNS port; trials: its neighbours' connects, and its own",
        trials: NEIGHBOURS,
        run: connects::forged,
    },
    Fault {
        name: "tenant answers for its proxy",
        what: "the readiness port answers slowly, endlessly, with redirects, not at all; trials: its \
               neighbours' connects, and its own, which waits for its deadline",
        trials: NEIGHBOURS,
        run: processes::answers,
    },
    Fault {
        name: "tenant's proxy dies again and again",
        what: "20 proxies, each killed as soon as it is ready; trials: its neighbours' connects",
        trials: NEIGHBOURS,
        run: processes::flaps,
    },
    Fault {
        name: "tenant passes its sockets on",
        what: "sockets dialled by another pod's process, in another network namespace, by a \
               stopped process; trials: its neighbours' connects, and the one with a lent socket",
        trials: NEIGHBOURS,
        run: connects::lent,
    },
    Fault {
        name: "tenant writes every annotation",
        what: "every key with nonsense and extremes, values of 64 KiB, 10,000 annotations; trials: \
               its neighbours' connects",
        trials: NEIGHBOURS,
        run: objects::annotations,
    },
];
