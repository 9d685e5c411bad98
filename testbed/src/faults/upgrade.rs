//! Agents are exchanged while pods start as fast as the machine makes them.

mod leftovers;
mod load;

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use self::{leftovers::Objects, load::Load};
use super::{Due, Fault, Run, SOON, Tally, Trials, node, sentry, start::Start};
use crate::{Agent, Node, clock::monotonic_ns, proxy};

pub(super) const FAULTS: &[Fault] = &[Fault {
    name: "agents exchanged under load",
    what: "every 3 s another binary: turn by turn beside the old one, after the old one's end, and \
           after the end of one with another ABI; up to 20 pods/s start meanwhile, whose proxies are \
           ready 1 to 2 s later. holdfast cleanup leaves nothing afterwards",
    trials: Trials { bounded: 20, full: 400 },
    run: exchanged,
}];

/// From one exchange to the next.
const EVERY: Duration = Duration::from_secs(3);

/// The same as part of a test run.
const EVERY_BOUNDED: Duration = Duration::from_secs(1);

/// For an agent that has to share the machine with all these starts.
const PATIENCE: Duration = Duration::from_secs(180);

const STANDS_BY: &str = "standing by for the agent that works on this node to end";

/// How one agent follows another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exchange {
    /// `maxSurge`: the next one stands by before the old one is told to end.
    Surge,
    /// `maxUnavailable`: the next one is started when the old one has ended.
    Replace,
    /// The same, and the maps of the old one are of another layout.
    OtherAbi,
}

/// What came of the exchanges.
struct Exchanged {
    agent: Agent,
    /// From the old agent's end to the arming of the next, in nanoseconds of `CLOCK_MONOTONIC`.
    absences: Vec<(u64, u64)>,
    objects: Objects,
}

fn exchanged(run: &Run, tally: &mut Tally) -> Result<()> {
    let node = node()?;
    let sentry = sentry(&node, &run.agent())?;
    let first = node.start_agent(&run.agent())?;
    first.wait_message(SOON, "agent armed")?;
    let count = AtomicU64::new(u64::MAX);
    let load = Load::new(run, &node, &count)?;
    let (exchanged, started) = thread::scope(|scope| {
        let load = scope.spawn(|| load.run());
        let exchanged = exchange(run, &node, first);
        // It ends now, unless a slow machine has made fewer than were asked for.
        let pods = if exchanged.is_ok() { run.trials().into() } else { 0 };
        count.store(pods, Ordering::Relaxed);
        (exchanged, load.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let Exchanged { agent, absences, mut objects } = exchanged?;
    for start in started? {
        let ready_ns = start.ready_ns;
        let absence = absences.iter().find(|(from, to)| (*from..*to).contains(&ready_ns));
        let ready_with_agent_ns = absence.map_or(ready_ns, |(_, to)| *to);
        let due = Due { ready_ns: Some(ready_with_agent_ns), timeout: load::TIMEOUT };
        tally.count_since(&start.name, start.attempt.as_ref(), due, Some(ready_ns));
    }
    leftovers::no_netns(&agent)?;
    let held = Start::begin(&node, "left-behind")?;
    agent.wait_log(SOON, |line| {
        line["message"] == "connect held" && line["pod_uid"] == held.pod.uid()
    })?;
    objects.add(agent.pid())?;
    ensure!(agent.stop(SOON)?.success(), "the last agent failed: {:?}", agent.stderr());
    drop(sentry);
    leftovers::clean_up(&run.binary, &node, &objects)
}

fn exchange(run: &Run, node: &Node, mut agent: Agent) -> Result<Exchanged> {
    let binaries = [run.binary.clone(), other_binary(run, node)?];
    let start = |nth: usize| {
        let mut options = run.agent();
        options.binary.clone_from(&binaries[nth % binaries.len()]);
        node.start_agent(&options)
    };
    let (mut absences, mut objects) = (Vec::new(), Objects::default());
    let kinds = [Exchange::Surge, Exchange::Replace, Exchange::OtherAbi];
    let (count, every) = if run.full { (21, EVERY) } else { (kinds.len(), EVERY_BOUNDED) };
    for (nth, exchange) in kinds.into_iter().cycle().take(count).enumerate() {
        thread::sleep(every);
        objects.add(agent.pid())?;
        let early = (exchange == Exchange::Surge).then(|| start(nth + 1)).transpose()?;
        if let Some(next) = &early {
            next.wait_message(PATIENCE, STANDS_BY)?;
        }
        let from = monotonic_ns();
        let ended = agent.stop(PATIENCE)?;
        ensure!(ended.success(), "agent {nth} failed: {:?}", agent.stderr());
        if exchange == Exchange::OtherAbi {
            make_foreign(node, nth)?;
        }
        let next = early.map_or_else(|| start(nth + 1), Ok)?;
        next.wait_message(PATIENCE, "agent armed").with_context(|| {
            let lines = next.stderr();
            let of_agent = lines.iter().filter(|line| !line.contains("\"pod\":"));
            let said = of_agent.map(String::as_str).collect::<Vec<_>>().join("\n");
            format!("agent {} by {exchange:?} said of itself:\n{said}", nth + 1)
        })?;
        absences.push((from, monotonic_ns()));
        agent = next;
    }
    Ok(Exchanged { agent, absences, objects })
}

/// The same program under another name, as a new image brings it.
fn other_binary(run: &Run, node: &Node) -> Result<PathBuf> {
    let path = node.runtime_root().join("holdfast-next");
    proxy::copy_for_all(&run.binary, &path)?;
    Ok(path)
}

/// What stands is another version's from now on: it has another version's name.
fn make_foreign(node: &Node, nth: usize) -> Result<()> {
    let root = node.bpffs().join("holdfast");
    for entry in fs::read_dir(&root).with_context(|| format!("list {}", root.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        let is_version = name.to_str().is_some_and(|name| {
            name.strip_prefix('v').is_some_and(|number| number.parse::<u32>().is_ok())
        });
        if is_version {
            let other = root.join(format!("v0_{nth}"));
            fs::rename(entry.path(), &other).with_context(|| {
                format!("rename {} to {}", entry.path().display(), other.display())
            })?;
        }
    }
    Ok(())
}
