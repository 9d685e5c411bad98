//! The kernel's tables are full.

use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::{
    super::{
        Due, Fault, Run, SOON, Tally, Trials,
        footprint::{self, Footprint},
        light::{self, LightProxy, dial, dial_many, eventually, wait_gate},
        node,
    },
    Waiting, start,
};
use crate::{PodSpec, apps, backend_v4, clock::monotonic_ns};

pub(in super::super) const FAULTS: &[Fault] = &[
    Fault {
        name: "more held sockets than records",
        what: "--max-sockets 64: those without a record are held as well, and go on with their own \
               retransmission",
        trials: Trials { bounded: 400, full: 400 },
        run: no_record,
    },
    Fault {
        name: "no room for another gate",
        what: "the table of gates is full when pods start, and has room again later; their connects \
               are counted from then on",
        trials: Trials { bounded: 3, full: 20 },
        run: no_gate,
    },
    Fault {
        name: "event ring full",
        what: "the agent is stopped while thousands of reports come, and more pods begin to wait; it \
               goes on without their reports",
        trials: Trials { bounded: 60, full: 600 },
        run: ring_full,
    },
];

/// The hold's time, the default.
const TIMEOUT: Duration = Duration::from_secs(60);

/// More connects than the ring has room for the reports of (`EVENT_RING_BYTES` of the programs), each
/// of which makes two.
const MORE_THAN_THE_RING: u64 = 6_000;

fn no_record(run: &Run, tally: &mut Tally) -> Result<()> {
    let node = node()?;
    let agent = start(&node, &run.agent().arg("--max-sockets").arg("64"))?;
    let lane = node.lane()?;
    let before = Footprint::of(&node, &agent)?;
    let pod = light::attached(&node, &lane, "crowd")?;
    let app = dial_many(&pod, run.trials())?;
    eventually("the table is full", || Ok(footprint::map(&node, "SOCKETS")?.count()? >= 64))?;
    let proxy = LightProxy::start(&pod, &run.binary, Duration::ZERO)?;
    let ready_ns = Some(proxy.wait_ready()?);
    for attempt in app.wait_attempts(TIMEOUT + SOON, run.trials() as usize)? {
        let what = format!("socket {}", attempt.index);
        tally.count(&what, Some(&attempt), Due { ready_ns, timeout: TIMEOUT });
    }
    pod.delete()?;
    before.compare(&node, &agent, None)?;
    Ok(())
}

fn no_gate(run: &Run, tally: &mut Tally) -> Result<()> {
    let node = node()?;
    let agent = start(&node, &run.agent())?;
    let lanes = light::lanes(&node, run.trials() as usize)?;
    let gates = footprint::map(&node, "GATES")?;
    // No cgroup has such an id.
    let others: Vec<u64> = (0..u64::from(gates.max_entries())).map(|n| u64::MAX - n).collect();
    for other in &others {
        gates.put_zero(*other)?;
    }
    let mut pods = Vec::new();
    for (number, lane) in lanes.iter().enumerate() {
        let pod = node.pod(PodSpec::new(super::super::NAMESPACE, format!("late-{number}")))?;
        pod.publish()?;
        pod.create_cgroup()?;
        let failed = agent.wait_log(SOON, |line| {
            line["pod_uid"] == pod.uid() && line["message"].as_str().is_some_and(is_failure)
        })?;
        ensure!(failed["again"] == true, "{failed}");
        // As without holdfast: nobody waits for what is not there.
        pod.start_sandbox_in(lane)?;
        let refused = dial(&pod)?.wait_attempt(SOON)?;
        ensure!(refused.outcome == "ECONNREFUSED", "{refused:?}");
        pods.push(pod);
    }
    for other in others {
        gates.remove(other)?;
    }
    for pod in &pods {
        wait_gate(pod)?;
        let told = agent.logs();
        let of_pod = told.iter().filter(|line| line["pod_uid"] == pod.uid());
        let failures = of_pod.filter(|line| line["message"].as_str().is_some_and(is_failure));
        ensure!(failures.count() == 1, "told more than once");
    }
    let begun = pods.into_iter().map(|pod| {
        let app = dial(&pod)?;
        app.wait_connecting(SOON)?;
        Ok((pod, app))
    });
    let waiting = Waiting { pods: begun.collect::<Result<Vec<_>>>()? };
    waiting.release(run, Due { ready_ns: None, timeout: TIMEOUT }, tally)
}

fn is_failure(message: &str) -> bool {
    message.starts_with("gate failed")
}

fn ring_full(run: &Run, tally: &mut Tally) -> Result<()> {
    const SOCKETS: u32 = 20;
    let node = node()?;
    let agent = start(&node, &run.agent())?;
    let pods = (run.trials() / SOCKETS) as usize;
    let lanes = light::lanes(&node, pods + 1)?;
    let Some((noisy, lanes)) = lanes.split_first() else { return Ok(()) };
    let noisy = light::attached(&node, noisy, "noisy")?;
    let pods = lanes
        .iter()
        .enumerate()
        .map(|(number, lane)| light::attached(&node, lane, format!("quiet-{number}")))
        .collect::<Result<Vec<_>>>()?;
    agent.process().signal(Signal::SIGSTOP);
    let mut begun = 0;
    while begun < MORE_THAN_THE_RING {
        let flood = apps::flood(backend_v4(), Duration::from_secs(1))?;
        begun += noisy.start_container("app", flood)?.wait_flood(SOON)?.begun;
    }
    let mut apps = Vec::new();
    for pod in &pods {
        apps.push(dial_many(pod, SOCKETS)?);
    }
    agent.process().signal(Signal::SIGCONT);
    let works_ns = monotonic_ns();
    agent.wait_message(SOON, "kernel events lost: some holds have no line in this log")?;
    for (pod, app) in pods.iter().zip(&apps) {
        let proxy = LightProxy::start(pod, &run.binary, Duration::ZERO)?;
        let ready_ns = Some(proxy.wait_ready()?.max(works_ns));
        for attempt in app.wait_attempts(TIMEOUT + SOON, SOCKETS as usize)? {
            tally.count(pod.name(), Some(&attempt), Due { ready_ns, timeout: TIMEOUT });
        }
    }
    Ok(())
}
