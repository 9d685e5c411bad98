//! An agent that is there and does nothing.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use super::held;
use crate::{
    Agent,
    clock::monotonic_ns,
    faults::{Due, Run, SOON, Tally, light::LightProxy, node, start::Start},
};

/// The `timeoutSeconds` of the chart's probes.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// The hold's time, the default, for whom an agent is to release: long enough that nobody whom it
/// forgets is let go by a deadline instead.
const TIMEOUT: Duration = Duration::from_secs(60);

pub(super) fn run(run: &Run, tally: &mut Tally) -> Result<()> {
    let third = run.trials().div_ceil(3);
    past_the_deadline(run, third, tally)?;

    let node = node()?;
    let options = run.agent();
    let agent = node.start_agent(&options)?;
    agent.wait_message(SOON, "agent armed")?;

    // It goes on with what waits.
    let starts = held(&node, &agent, 0..third)?;
    agent.process().signal(Signal::SIGSTOP);
    let ready = ready(run, &starts)?;
    agent.process().signal(Signal::SIGCONT);
    judge(tally, &starts, &ready, monotonic_ns());
    drop(starts);

    // It stands in the way of the one that is to follow, until kubelet kills it.
    let next = node.start_agent(&options)?;
    next.wait_message(SOON, "standing by for the agent that works on this node to end")?;
    let starts = held(&node, &agent, third..run.trials() - third)?;
    agent.process().signal(Signal::SIGSTOP);
    let ready = self::ready(run, &starts)?;
    ensure!(next.logged("agent armed").is_empty(), "two agents work side by side");
    agent.kill();
    next.wait_message(SOON, "agent armed")?;
    judge(tally, &starts, &ready, monotonic_ns());
    Ok(())
}

/// It hangs until the deadline has passed.
fn past_the_deadline(run: &Run, pods: u32, tally: &mut Tally) -> Result<()> {
    const TIMEOUT: Duration = Duration::from_secs(6);
    let node = node()?;
    let options = run.agent().arg("--timeout=6s").arg("--health-address=127.0.0.1:0");
    let agent = node.start_agent(&options)?;
    agent.wait_message(SOON, "agent armed")?;
    let starts = held(&node, &agent, 0..pods)?;
    agent.process().signal(Signal::SIGSTOP);
    ensure!(!is_alive(&agent)?, "/livez answers for an agent that hangs");
    for start in &starts {
        start.judge(tally, Due { ready_ns: None, timeout: TIMEOUT });
    }
    agent.process().signal(Signal::SIGCONT);
    ensure!(is_alive(&agent)?, "/livez does not answer for an agent that goes on");
    Ok(())
}

/// Starts the pods' proxies; each with the instant at which it is ready.
fn ready(run: &Run, starts: &[Start]) -> Result<Vec<(LightProxy, u64)>> {
    let start = |start: &Start| LightProxy::start(&start.pod, &run.binary, Duration::ZERO);
    let proxies = starts.iter().map(start).collect::<Result<Vec<_>>>()?;
    let ready = |proxy: LightProxy| {
        let ready_ns = proxy.wait_ready()?;
        Ok((proxy, ready_ns))
    };
    proxies.into_iter().map(ready).collect()
}

/// Counts those of whom an agent could know from `works_ns` on.
fn judge(tally: &mut Tally, starts: &[Start], ready: &[(LightProxy, u64)], works_ns: u64) {
    for (start, (_, ready_ns)) in starts.iter().zip(ready) {
        let due = Due { ready_ns: Some(works_ns.max(*ready_ns)), timeout: TIMEOUT };
        start.judge_since(tally, due, Some(*ready_ns));
    }
}

/// What kubelet makes of the agent's liveness probe.
fn is_alive(agent: &Agent) -> Result<bool> {
    let line = agent.wait_message(SOON, "health is served")?;
    let address = line["address"].as_str().context("no address in the line")?;
    let address: SocketAddr = address.parse().with_context(|| format!("parse {address}"))?;
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PROBE_TIMEOUT))?;
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = [0; 12];
    Ok(stream.read_exact(&mut answer).is_ok() && answer == *b"HTTP/1.1 200")
}
