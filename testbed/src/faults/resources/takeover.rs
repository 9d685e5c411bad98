//! Agents that want for something while they take over what another has left.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{
    super::{Due, Fault, Run, SOON, Tally, Trials, light, node},
    Waiting, start,
};
use crate::clock::monotonic_ns;

pub(in super::super) const FAULTS: &[Fault] = &[Fault {
    name: "out of file descriptors while taking over",
    what: "kill -9 while connects wait; then one agent after another that may open a few files more than \
           the one before it, until one gets through; the connects wait for an agent without a limit",
    trials: Trials { bounded: 4, full: 20 },
    run: few_files,
}];

/// The hold's time: longer than all these agents take.
const TIMEOUT: Duration = Duration::from_secs(300);

/// The fewest files that an agent may open: with less its runtime does not start. Each further agent may
/// open so many more.
const FILES: usize = 16;
const MORE_FILES: usize = 12;
const MORE_FILES_BOUNDED: usize = 24;

fn few_files(run: &Run, tally: &mut Tally) -> Result<()> {
    let node = node()?;
    let options = run.agent().arg("--timeout").arg(humantime::format_duration(TIMEOUT).to_string());
    let agent = start(&node, &options)?;
    let lanes = light::lanes(&node, run.trials() as usize)?;
    let waiting = Waiting::begin(&node, &lanes, "waits")?;
    agent.kill();
    drop(agent);
    let step = if run.full { MORE_FILES } else { MORE_FILES_BOUNDED };
    let mut failed = 0;
    for files in (FILES..).step_by(step) {
        let limited = options.clone().wrapper(["prlimit".to_owned(), format!("--nofile={files}")]);
        let agent = node.start_agent(&limited)?;
        let works = agent.wait_message(SOON, "agent started").is_ok();
        agent.kill();
        if works {
            break;
        }
        ensure!(
            agent.exit_status().is_some_and(|status| !status.success()),
            "{:?}",
            agent.stderr()
        );
        failed += 1;
    }
    ensure!(failed > 0, "{FILES} files are enough");
    for (pod, app) in &waiting.pods {
        let ended = app.records().into_iter().find(|line| line["event"] == "connect");
        ensure!(ended.is_none(), "{} did not go on waiting: {ended:?}", pod.name());
    }
    let _agent = start(&node, &options)?;
    waiting.release(run, Due { ready_ns: Some(monotonic_ns()), timeout: TIMEOUT }, tally)
}
