//! Nobody comes, or nobody who lasts: what the kernel does by itself.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result};

use super::{begin, held, wait_held};
use crate::{
    PodSpec, apps, backend_v4,
    clock::monotonic_ns,
    faults::{Due, NAMESPACE, Run, SOON, Tally, light::LightProxy, node, sentry, start::Start},
};

/// Pods at their own gates, then pods that started afterwards: the processes are gone, what they have
/// attached is not, and must not stay closed.
pub(super) fn killed_with_the_sentry(run: &Run, tally: &mut Tally) -> Result<()> {
    const TIMEOUT: Duration = Duration::from_secs(4);
    let node = node()?;
    let options = run.agent().arg("--timeout").arg("4s");
    let sentry = sentry(&node, &options)?;
    let agent = node.start_agent(&options)?;
    agent.wait_message(SOON, "agent armed")?;
    let half = run.trials().div_ceil(2);
    let at_gates = held(&node, &agent, 0..half)?;
    agent.kill();
    // The sentry stands by now; once its process is gone, nobody of holdfast lives on this node.
    let later = begin(&node, half..run.trials())?;
    for start in &later {
        start.app.wait_connecting(SOON)?;
    }
    drop(sentry);
    for start in at_gates.iter().chain(&later) {
        start.judge(tally, Due { ready_ns: None, timeout: TIMEOUT });
    }
    Ok(())
}

pub(super) fn crash_loop(run: &Run, tally: &mut Tally) -> Result<()> {
    const TIMEOUT: Duration = Duration::from_secs(8);
    const TOGETHER: u32 = 3;
    let node = node()?;
    let options = run.agent().arg("--timeout").arg("8s");
    let mut random = run.random(0);
    let mut agent = node.start_agent(&options)?;
    for from in (0..run.trials()).step_by(TOGETHER as usize) {
        agent.wait_message(SOON, "agent armed")?;
        let starts = held(&node, &agent, from..run.trials().min(from + TOGETHER))?;
        let waits = |start: &Start| start.app.wait_attempt(Duration::ZERO).is_err();
        let by_ns = monotonic_ns() + nanos(TIMEOUT + SOON);
        while starts.iter().any(waits) && monotonic_ns() < by_ns {
            agent.kill();
            agent = node.start_agent(&options)?;
            thread::sleep(Duration::from_millis(random.u64(0..2_000)));
        }
        for start in &starts {
            start.judge(tally, Due { ready_ns: None, timeout: TIMEOUT });
        }
    }
    Ok(())
}

pub(super) fn proxy_dies(run: &Run, tally: &mut Tally) -> Result<()> {
    const TIMEOUT: Duration = Duration::from_secs(60);
    /// The dead one's successor takes so long, in milliseconds.
    const SUCCESSOR_MS: std::ops::RangeInclusive<u64> = 0..=2_000;
    let node = node()?;
    let _sentry = sentry(&node, &run.agent())?;
    let mut random = run.random(0);
    let mut agent = node.start_agent(&run.agent())?;
    agent.wait_message(SOON, "agent armed")?;
    for n in 0..run.trials() {
        let name = format!("pod-{n}");
        let spec = PodSpec::new(NAMESPACE, &name).annotation("holdfast.dev/guard", "enabled");
        let start = Start::of(node.create_pod(spec)?)?;
        wait_held(&agent, &start)?;
        let proxy = LightProxy::start(&start.pod, &run.binary, Duration::ZERO)?;
        start.app.wait_attempt(SOON).context("the first connect")?;
        agent.wait_log(SOON, |line| {
            line["message"] == "gate guards" && line["pod_uid"] == start.pod.uid()
        })?;
        agent.kill();
        proxy.kill();
        let client = apps::connect(backend_v4())?.get("/bytes/1000");
        let app = start.pod.start_container("app", client)?;
        app.wait_connecting(SOON)?;
        let delay = Duration::from_millis(random.u64(SUCCESSOR_MS));
        let next = LightProxy::start(&start.pod, &run.binary, delay)?;
        let ready_ns = next.wait_ready()?;
        let attempt = app.wait_attempt(TIMEOUT + SOON).ok();
        let due = Due { ready_ns: Some(ready_ns), timeout: TIMEOUT };
        tally.count(&name, attempt.as_ref(), due);
        agent = node.start_agent(&run.agent())?;
        agent.wait_message(SOON, "agent armed")?;
    }
    Ok(())
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
