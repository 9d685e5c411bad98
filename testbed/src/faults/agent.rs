//! The agent is killed, and comes back or does not.

use std::time::Duration;

use anyhow::Result;

use super::{
    Due, Fault, Run, Tally, Trials, node,
    start::{SOON, Start},
};

pub(super) const FAULTS: &[Fault] = &[Fault {
    name: "agent killed while it holds, never restarted",
    what: "kill -9 while a connect waits; the kernel opens the gate at its deadline",
    trials: Trials { bounded: 4, full: 20 },
    run: never_restarted,
}];

fn never_restarted(run: &Run, tally: &mut Tally) -> Result<()> {
    const TIMEOUT: Duration = Duration::from_secs(4);
    let node = node()?;
    let agent = node.start_agent(&run.agent().arg("--timeout").arg("4s"))?;
    agent.wait_message(SOON, "agent armed")?;
    let mut starts = Vec::new();
    for n in 0..run.trials() {
        starts.push(Start::begin(&node, format!("pod-{n}"))?);
    }
    for start in &starts {
        agent.wait_log(SOON, |line| {
            line["message"] == "connect held" && line["pod_uid"] == start.pod.uid()
        })?;
    }
    agent.kill();
    for start in &starts {
        start.judge(tally, Due { ready_ns: None, timeout: TIMEOUT });
    }
    Ok(())
}
