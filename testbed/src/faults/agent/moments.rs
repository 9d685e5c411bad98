//! The agent is killed at one moment of a pod's start, and comes back some time later.

use std::{
    sync::{Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use fastrand::Rng;

use crate::{
    Agent, Node, Pod, PodSpec, Process, apps, backend_v4, bpf,
    clock::monotonic_ns,
    faults::{
        Due, NAMESPACE, Run, SOON, Tally, footprint,
        light::{LightProxy, eventually},
        node, nothing_left, sentry,
    },
};

/// Nodes whose agents are killed side by side: most of a trial is waiting.
const LANES: u32 = 4;

/// The agent's own default.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How long nobody comes.
const ABSENCE_MS: std::ops::RangeInclusive<u64> = 0..=5_000;

/// How long the proxy takes its time: sometimes it is ready before the next agent is there, sometimes
/// afterwards.
const PROXY_MS: std::ops::RangeInclusive<u64> = 200..=3_000;

/// Of a pod's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// Before there is a pod; the next one comes when the sentry holds its connect.
    Absent,
    /// Just before or after the pod's cgroup is made.
    BeforeDiscovery,
    /// Its gate is closed, and its application has not dialled.
    BeforeFirstSyn,
    /// It waits.
    Holding,
    /// The proxy says that it is ready.
    Ready,
    /// The application is connected, and the programs are about to come off.
    Detaching,
}

/// A node on which one pod after the other starts.
struct Lane<'a> {
    run: &'a Run,
    node: &'a Node,
    sentry: &'a Process,
    random: Rng,
    moment: Moment,
}

/// What is random about one trial.
struct Chances {
    /// From the moment to the kill, or to what the kill happens beside.
    first: Duration,
    second: Duration,
    absence: Duration,
    proxy: Duration,
}

/// A pod that has started, for as long as it is to live.
struct Started {
    app: Process,
    proxy: LightProxy,
    ready_ns: u64,
}

/// The pod's events, for whoever kills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// The cgroup will be made.
    Begins,
    /// The sentry holds its connect.
    Minded,
    /// The proxy is ready.
    Ready,
    /// The application's connect has come to its end.
    Ended,
}

pub(super) fn run(run: &Run, tally: &mut Tally, moment: Moment) -> Result<()> {
    let tally = Mutex::new(tally);
    let lane = |number: u32| -> Result<()> {
        let node = node()?;
        let sentry = sentry(&node, &run.agent())?;
        let mut agent = node.start_agent(&run.agent())?;
        agent.wait_message(SOON, "agent armed")?;
        let random = run.random((u64::from(number) << 8) | moment as u64);
        let mut lane = Lane { run, node: &node, sentry: &sentry, random, moment };
        for nth in 0..run.trials().div_ceil(LANES) {
            let name = format!("pod-{number}-{nth}");
            agent = lane.trial(&agent, &name, &tally).with_context(|| name.clone())?;
        }
        Ok(())
    };
    let lanes: Vec<Result<()>> = thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES).map(|number| scope.spawn(move || lane(number))).collect();
        lanes
            .into_iter()
            .map(|lane| lane.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    lanes.into_iter().collect()
}

// === impl Moment ===

impl Moment {
    /// How far from it the agent is killed.
    const fn within(self) -> Duration {
        Duration::from_millis(match self {
            // The making of the cgroup and the kill have each a delay of their own.
            Self::BeforeDiscovery => 20,
            // Until the sandbox is there nobody can dial; a bit more, for the first ones.
            Self::BeforeFirstSyn => 300,
            Self::Holding => 500,
            Self::Ready => 3,
            Self::Detaching => 150,
            Self::Absent => 0,
        })
    }
}

// === impl Lane ===

impl Lane<'_> {
    /// One pod, during whose start the agent is killed and another one started, which is returned.
    fn trial(&mut self, agent: &Agent, name: &str, tally: &Mutex<&mut Tally>) -> Result<Agent> {
        let chances = self.chances();
        let pod = self.node.pod(PodSpec::new(NAMESPACE, name))?;
        pod.publish()?;
        if self.moment == Moment::Absent {
            self.kill_beside_the_sentry(agent)?;
        }
        let (tell, told) = mpsc::channel();
        let (lane, pod, chances) = (&*self, &pod, &chances);
        thread::scope(|scope| {
            let change = scope.spawn(move || lane.change(agent, pod, &told, chances));
            let started = lane.start(pod, &tell, chances, tally);
            // Nobody waits for what will not be told.
            drop(tell);
            let changed = change.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let Started { app, proxy: _proxy, ready_ns } = started?;
            let (agent, back_ns) = changed?;
            let attempt = app.wait_attempt(TIMEOUT + SOON).ok();
            // The agent that was to release it: the next one, unless it has lived to see its end.
            let sees_ns = if self.moment == Moment::Detaching { 0 } else { back_ns };
            let due = Due { ready_ns: Some(ready_ns.max(sees_ns)), timeout: TIMEOUT };
            lock(tally).count_since(name, attempt.as_ref(), due, Some(ready_ns));
            is_clean(pod)?;
            Ok(agent)
        })
    }

    /// Nobody but the sentry is there for what starts when this returns.
    fn kill_beside_the_sentry(&self, agent: &Agent) -> Result<()> {
        let told = |message: &str| {
            let lines = self.sentry.log_records();
            lines.into_iter().filter(|line| line["message"] == message).count()
        };
        let posted = || told("no agent works; sentry posted until one does");
        // Otherwise it has nothing new to tell of the next absence.
        eventually("the sentry has seen this agent", || {
            Ok(told("an agent works again") == posted())
        })?;
        let before = posted();
        agent.kill();
        eventually("the sentry is posted", || Ok(posted() > before))
    }

    /// Waits until the sentry has dropped a SYN of this pod: it notes when it dropped the first.
    fn wait_minded(&self, pod: &Pod) -> Result<()> {
        let first_drops = footprint::map(self.node, "WAITING_SINCE")?;
        let id = pod.cgroup().id()?;
        eventually("the sentry holds the connect", || Ok(first_drops.keys()?.contains(&id)))
    }

    fn chances(&mut self) -> Chances {
        let random = &mut self.random;
        let within = u64::try_from(self.moment.within().as_micros()).unwrap_or(u64::MAX);
        Chances {
            first: Duration::from_micros(random.u64(0..=within)),
            second: Duration::from_micros(random.u64(0..=within)),
            absence: Duration::from_millis(random.u64(ABSENCE_MS)),
            proxy: Duration::from_millis(random.u64(PROXY_MS)),
        }
    }

    /// The pod's side.
    fn start(
        &self,
        pod: &Pod,
        tell: &mpsc::Sender<Told>,
        chances: &Chances,
        tally: &Mutex<&mut Tally>,
    ) -> Result<Started> {
        // An agent that is not there any more hears nothing.
        let tell = |what| {
            let _: Result<_, mpsc::SendError<Told>> = tell.send(what);
        };
        tell(Told::Begins);
        thread::sleep(chances.second);
        pod.set_up()?;
        let dial = || pod.start_container("app", apps::connect(backend_v4())?.get("/bytes/1000"));
        let app = dial()?;
        app.wait_connecting(SOON)?;
        if self.moment == Moment::Absent {
            self.wait_minded(pod)?;
            tell(Told::Minded);
        }
        let proxy = LightProxy::start(pod, &self.run.binary, chances.proxy)?;
        let ready_ns = proxy.wait_ready()?;
        tell(Told::Ready);
        if self.moment == Moment::Detaching {
            app.wait_attempt(SOON)?;
            tell(Told::Ended);
            thread::sleep(chances.first + chances.second);
            let again = dial()?;
            let attempt = again.wait_attempt(SOON).ok();
            let due = Due { ready_ns: Some(ready_ns), timeout: TIMEOUT };
            let what = format!("{}, once more", pod.name());
            lock(tally).count(&what, attempt.as_ref(), due);
        }
        Ok(Started { app, proxy, ready_ns })
    }

    /// Kills the agent at its moment; the next one, and since when it is there.
    fn change(
        &self,
        agent: &Agent,
        pod: &Pod,
        told: &mpsc::Receiver<Told>,
        chances: &Chances,
    ) -> Result<(Agent, u64)> {
        let wait_line = |message: &str| {
            agent.wait_log(SOON, |line| line["message"] == message && line["pod_uid"] == pod.uid())
        };
        let wait_told = |what| -> Result<()> {
            let told = told.iter().any(|told| told == what);
            ensure!(told, "the pod did not come as far as {what:?}");
            Ok(())
        };
        match self.moment {
            // It is dead already.
            Moment::Absent => wait_told(Told::Minded)?,
            Moment::BeforeDiscovery => wait_told(Told::Begins)?,
            Moment::BeforeFirstSyn => drop(wait_line("gate closed")?),
            Moment::Holding => drop(wait_line("connect held")?),
            Moment::Ready => wait_told(Told::Ready)?,
            Moment::Detaching => wait_told(Told::Ended)?,
        }
        thread::sleep(chances.first);
        agent.kill();
        thread::sleep(chances.absence);
        let next = self.node.start_agent(&self.run.agent())?;
        next.wait_message(SOON, "agent armed")?;
        Ok((next, monotonic_ns()))
    }
}

/// A pod whose proxy is ready has no programs.
fn is_clean(pod: &Pod) -> Result<()> {
    nothing_left("programs stay on the pod", || bpf::programs_below(pod.cgroup()))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
