//! The agent is killed, hangs, or is not there, while pods start.

mod absent;
mod hung;
mod moments;

use std::{thread, time::Duration};

use anyhow::Result;

use self::moments::Moment;
use super::{Due, Fault, Run, SOON, Tally, Trials, node, start::Start};
use crate::{Agent, Node};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "agent killed while it holds, never restarted",
        what: "kill -9 while a connect waits; the kernel opens the gate at its deadline",
        trials: Trials { bounded: 4, full: 20 },
        run: never_restarted,
    },
    Fault {
        name: "agent killed before it finds the pod",
        what: "kill -9 within 20 ms of the making of the pod's cgroup; restarted after 0 to 5 s",
        trials: MOMENTS,
        run: |run, tally| moments::run(run, tally, Moment::BeforeDiscovery),
    },
    Fault {
        name: "agent killed before the first SYN",
        what: "kill -9 when the gate is closed and nobody waits yet; restarted after 0 to 5 s",
        trials: MOMENTS,
        run: |run, tally| moments::run(run, tally, Moment::BeforeFirstSyn),
    },
    Fault {
        name: "agent killed while it holds",
        what: "kill -9 within 500 ms of the first connect that waits; restarted after 0 to 5 s",
        trials: MOMENTS,
        run: |run, tally| moments::run(run, tally, Moment::Holding),
    },
    Fault {
        name: "agent killed as the proxy becomes ready",
        what: "kill -9 within 3 ms of readiness, before, amid or after the replay; restarted after \
               0 to 5 s",
        trials: MOMENTS,
        run: |run, tally| moments::run(run, tally, Moment::Ready),
    },
    Fault {
        name: "agent killed while it detaches",
        what: "kill -9 within 150 ms of the release; restarted after 0 to 5 s. A trial is a connect \
               that waited, or one that begins after the kill and has nothing to wait for. The next \
               agent leaves no program on the pod",
        trials: MOMENTS,
        run: |run, tally| moments::run(run, tally, Moment::Detaching),
    },
    Fault {
        name: "pods start while no agent lives",
        what: "kill -9 before the pod's cgroup is made; restarted 0 to 5 s after the sentry has begun \
               to hold its connect",
        trials: MOMENTS,
        run: |run, tally| moments::run(run, tally, Moment::Absent),
    },
    Fault {
        name: "agent and sentry killed while they hold",
        what: "kill -9 of both: first while pods wait at their own gates, then while others wait for \
               the sentry. All end at their deadlines",
        trials: Trials { bounded: 4, full: 20 },
        run: absent::killed_with_the_sentry,
    },
    Fault {
        name: "agent killed again and again during one hold",
        what: "kill -9 every 0 to 2 s, whatever the new agent has come to; the deadline stays",
        trials: Trials { bounded: 3, full: 30 },
        run: absent::crash_loop,
    },
    Fault {
        name: "proxy dies while no agent lives",
        what: "of a guarded pod: what it dials then waits for the next proxy, agent or not",
        trials: Trials { bounded: 3, full: 20 },
        run: absent::proxy_dies,
    },
    Fault {
        name: "agent hangs while it holds",
        what: "SIGSTOP: the kernel keeps the deadlines; it goes on after SIGCONT, or dies and the \
               agent that stands by goes on. Its /livez does not answer meanwhile",
        trials: Trials { bounded: 6, full: 30 },
        run: hung::run,
    },
];

/// 200 moments over the kinds of moments that there are.
const MOMENTS: Trials = Trials { bounded: 4, full: 34 };

fn never_restarted(run: &Run, tally: &mut Tally) -> Result<()> {
    const TIMEOUT: Duration = Duration::from_secs(4);
    let node = node()?;
    let agent = node.start_agent(&run.agent().arg("--timeout").arg("4s"))?;
    agent.wait_message(SOON, "agent armed")?;
    let starts = held(&node, &agent, 0..run.trials())?;
    agent.kill();
    for start in &starts {
        start.judge(tally, Due { ready_ns: None, timeout: TIMEOUT });
    }
    Ok(())
}

/// Pods of which each has a connect that waits, as the agent knows.
fn held(node: &Node, agent: &Agent, numbers: std::ops::Range<u32>) -> Result<Vec<Start>> {
    let starts = begin(node, numbers)?;
    for start in &starts {
        wait_held(agent, start)?;
    }
    Ok(starts)
}

/// Pods that start side by side.
fn begin(node: &Node, numbers: std::ops::Range<u32>) -> Result<Vec<Start>> {
    thread::scope(|scope| {
        let begin = |n| scope.spawn(move || Start::begin(node, format!("pod-{n}")));
        let starts: Vec<_> = numbers.map(begin).collect();
        let join = |start: thread::ScopedJoinHandle<'_, _>| {
            start.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        starts.into_iter().map(join).collect()
    })
}

fn wait_held(agent: &Agent, start: &Start) -> Result<()> {
    agent
        .wait_log(SOON, |line| {
            line["message"] == "connect held" && line["pod_uid"] == start.pod.uid()
        })
        .map(drop)
}
