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
    faults::{
        Due, Run, Tally,
        light::LightProxy,
        node,
        start::{SOON, Start},
    },
};

/// The `timeoutSeconds` of the chart's probes.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

pub(super) fn run(run: &Run, tally: &mut Tally) -> Result<()> {
    const TIMEOUT: Duration = Duration::from_secs(6);
    let node = node()?;
    let options = run.agent().arg("--timeout=6s").arg("--health-address=127.0.0.1:0");
    let agent = node.start_agent(&options)?;
    agent.wait_message(SOON, "agent armed")?;
    let third = run.trials().div_ceil(3);

    // It hangs until the deadline has passed.
    let starts = held(&node, &agent, 0..third)?;
    agent.process().signal(Signal::SIGSTOP);
    ensure!(!is_alive(&agent)?, "/livez answers for an agent that hangs");
    for start in &starts {
        start.judge(tally, Due { ready_ns: None, timeout: TIMEOUT });
    }
    agent.process().signal(Signal::SIGCONT);
    ensure!(is_alive(&agent)?, "/livez does not answer for an agent that goes on");
    drop(starts);

    // It goes on with what waits.
    let starts = held(&node, &agent, third..2 * third)?;
    agent.process().signal(Signal::SIGSTOP);
    let ready = ready(run, &starts)?;
    agent.process().signal(Signal::SIGCONT);
    judge(tally, &starts, &ready, TIMEOUT);
    drop(starts);

    // It stands in the way of the one that is to follow, until kubelet kills it.
    let next = node.start_agent(&options)?;
    next.wait_message(SOON, "standing by for the agent that works on this node to end")?;
    let starts = held(&node, &agent, 2 * third..run.trials())?;
    agent.process().signal(Signal::SIGSTOP);
    let ready = self::ready(run, &starts)?;
    ensure!(next.logged("agent armed").is_empty(), "two agents work side by side");
    agent.kill();
    judge(tally, &starts, &ready, TIMEOUT);
    next.wait_message(SOON, "agent armed")?;
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

fn judge(tally: &mut Tally, starts: &[Start], ready: &[(LightProxy, u64)], timeout: Duration) {
    for (start, (_, ready_ns)) in starts.iter().zip(ready) {
        start.judge(tally, Due { ready_ns: Some(*ready_ns), timeout });
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
