//! The cases on a node of the testbed, which plays kubelet: start order, probes, restarts.

use std::{
    net::SocketAddr,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use testpod::{ClientArgs, Event, Part, ProxyArgs, Record};

use super::{
    APP, Case, Expected, HOLD, LabelTimes, Observation, Order, Place, Report, Row, SETUP, cases,
    judge,
    observation::{attempts, is_done},
};
use crate::{
    Agent, AgentOptions, Node, Pod, PodSpec, Process, RestartPolicy, User, backend_v4,
    clock::monotonic_ns, mesh::Mesh,
};

const ENABLED: &str = "e2e";
const NOT_ENABLED: &str = "e2e-plain";
const LABELLED: &str = "e2e-labelled";

/// For what takes some seconds by design, on a machine that has much else to do.
const CASE_WITHIN: Duration = Duration::from_secs(40);
/// Between two looks at what a process has printed.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Nothing printed for so long by a client that connects ten times a second: it waits.
const SILENCE: Duration = Duration::from_millis(1_500);
/// Lines of each container shown with a case that fails.
const LAST_LINES: usize = 8;
/// Lines of the agent's log shown with it.
const AGENT_LINES: usize = 20;

/// Plays all cases, those that a node without kubelet can have, at the same time.
pub fn run(binary: &Path) -> Result<Report> {
    let node = Node::new()?;
    let api = node.api();
    api.put_namespace(ENABLED, &[(HOLD, "enabled")]);
    api.put_namespace(NOT_ENABLED, &[]);
    api.put_namespace(LABELLED, &[]);
    let agent = node.start_agent(&AgentOptions::new(binary))?;
    agent.wait_message(CASE_WITHIN, "agent armed")?;
    let player = Player { node: &node, agent: &agent, binary };
    let rows: Vec<Vec<Row>> = thread::scope(|scope| {
        let threads: Vec<_> =
            cases().into_iter().map(|case| scope.spawn(move || player.rows(&case))).collect();
        threads
            .into_iter()
            .map(|thread| match thread.join() {
                Ok(rows) => rows,
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect()
    });
    let status = agent.stop(CASE_WITHIN)?;
    ensure!(status.success(), "the agent ended with {status}");
    Ok(Report::new("a node of the testbed".to_owned(), rows.concat()))
}

#[derive(Clone, Copy)]
struct Player<'a> {
    node: &'a Node,
    agent: &'a Agent,
    binary: &'a Path,
}

/// A pod of a case, and what runs in it.
struct Play<'a> {
    player: Player<'a>,
    case: &'a Case,
    pod: Pod,
    dead: Vec<Process>,
    proxy: Option<Process>,
    app: Option<Process>,
    setup: Option<Process>,
}

impl Player<'_> {
    fn rows(self, case: &Case) -> Vec<Row> {
        let spec = self.spec(case);
        let pod = match self.node.create_pod(spec) {
            Ok(pod) => pod,
            Err(error) => {
                let trouble = Some(format!("{error:#}"));
                return judge(case, &Observation { trouble, ..Observation::default() });
            }
        };
        let mut play =
            Play { player: self, case, pod, dead: Vec::new(), proxy: None, app: None, setup: None };
        let mut seen = Observation::default();
        if let Err(error) = play.run(&mut seen) {
            seen.trouble = Some(format!("{error:#}").replace('\n', " "));
        }
        play.observe(&mut seen);
        let mut rows = judge(case, &seen);
        for row in rows.iter_mut().filter(|row| !row.ok) {
            row.details = play.about();
        }
        rows
    }

    fn spec(self, case: &Case) -> PodSpec {
        let namespace = match case.place {
            Place::Enabled => ENABLED,
            Place::NotEnabled => NOT_ENABLED,
            Place::Labelled => LABELLED,
        };
        let mut spec = PodSpec::new(namespace, case.name).mesh(case.mesh);
        for (key, value) in &case.labels {
            spec = spec.label(*key, *value);
        }
        for (key, value) in &case.annotations {
            spec = spec.annotation(*key, *value);
        }
        if case.init.is_some() {
            spec = spec.init_containers([SETUP]);
        }
        if case.order == Order::Native {
            spec = spec.native_sidecar();
        }
        if case.is_job {
            spec = spec.restart_policy(RestartPolicy::Never);
        }
        spec
    }
}

impl Play<'_> {
    /// What kubelet would do, until there is nothing more to see.
    fn run(&mut self, seen: &mut Observation) -> Result<()> {
        if let Some(init) = &self.case.init {
            let setup = self.start(SETUP, &self.client(init), User::default())?;
            let status = self.setup.insert(setup).wait(CASE_WITHIN)?;
            ensure!(status.success(), "the init container ended with {status}");
        }
        if self.case.order != Order::AppFirst {
            self.start_proxy()?;
            self.wait_for_proxy()?;
        }
        let app = self.start(APP, &self.client(&self.case.client), User::default())?;
        self.app = Some(app);
        if self.case.order == Order::AppFirst {
            self.start_proxy()?;
        }
        match self.case.expected {
            Expected::Labelled => return self.label(seen),
            Expected::Survives { .. } => self.restart_proxy()?,
            Expected::InitRefused => self.wait_for_event()?,
            _ => {}
        }
        if self.case.is_job {
            seen.job_succeeded = Some(self.job_succeeds()?);
        }
        self.until("the client's last attempt", |play| is_done(&play.app_records()))
    }

    fn start(&self, container: &str, part: &Part, user: User) -> Result<Process> {
        let command = crate::Command::new(self.player.binary).args(part.arguments());
        self.pod.start_container(container, command.user(user.uid, user.gid))
    }

    fn start_proxy(&mut self) -> Result<()> {
        let ProxyArgs { die_after, .. } = self.case.proxy;
        let proxy = ProxyArgs {
            // Who has died is known here; kubelet needs a file for that.
            die_after: die_after.filter(|_| self.dead.is_empty()),
            die_once: None,
            ..self.case.proxy.clone()
        };
        let mesh = self.case.mesh;
        self.proxy = Some(self.start(mesh.proxy(), &Part::Proxy(proxy), mesh.user())?);
        Ok(())
    }

    /// Here the mesh's redirect is real: the application dials what its owner means.
    fn client(&self, args: &ClientArgs) -> Part {
        let to: SocketAddr = if self.case.mesh == Mesh::Own { args.to } else { backend_v4() };
        Part::Client(ClientArgs { to, path: "/port".to_owned(), ..args.clone() })
    }

    fn wait_for_proxy(&self) -> Result<()> {
        if self.case.order == Order::PostStart {
            let command = crate::Command::new(self.player.binary).arg("wait");
            let hook = self.pod.exec(self.case.mesh.proxy(), command)?;
            let status = hook.wait(CASE_WITHIN)?;
            ensure!(status.success(), "the postStart hook ended with {status}");
            return Ok(());
        }
        self.until("the proxy's readiness", |play| {
            play.proxy_records().iter().any(|record| record.event == Event::ProxyReady)
        })?;
        self.pod.set_kube_ready(self.case.mesh.proxy(), true)
    }

    fn restart_proxy(&mut self) -> Result<()> {
        if let Some(proxy) = self.proxy.take() {
            let ended = proxy.wait(CASE_WITHIN);
            self.dead.push(proxy);
            ended.context("wait for the proxy's death")?;
        }
        self.start_proxy()
    }

    fn wait_for_event(&self) -> Result<()> {
        self.until("an Event", |play| !play.events().is_empty())
    }

    fn job_succeeds(&self) -> Result<bool> {
        let status = |process: &Option<Process>| {
            process.as_ref().context("a container was not started")?.wait(CASE_WITHIN)
        };
        Ok(status(&self.app)?.success() && status(&self.proxy)?.success())
    }

    /// Sets the label while the client is being refused, and removes it while it waits.
    fn label(&self, seen: &mut Observation) -> Result<()> {
        const SOME: usize = 3;
        let api = self.player.node.api();
        self.until("refusals", |play| attempts(&play.app_records()) >= SOME)?;
        let set_ns = monotonic_ns();
        api.label_namespace(LABELLED, HOLD, Some("enabled"));
        self.until("a connect that waits", |play| {
            let last = play.app_records().last().map_or(0, |record| record.mono_ns);
            Duration::from_nanos(monotonic_ns().saturating_sub(last)) > SILENCE
        })?;
        let before = attempts(&self.app_records());
        let removed_ns = monotonic_ns();
        // One machine, one clock.
        seen.label = Some(LabelTimes { set_ns, removed_ns, early: Duration::ZERO });
        api.label_namespace(LABELLED, HOLD, None);
        self.until("more refusals", |play| attempts(&play.app_records()) >= before + SOME)
    }

    fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) -> Result<()> {
        let deadline = Instant::now() + CASE_WITHIN;
        while !holds(self) {
            if Instant::now() > deadline {
                bail!("no sign of {what} within {CASE_WITHIN:?}");
            }
            thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    fn observe(&self, seen: &mut Observation) {
        seen.proxy = self.dead.iter().flat_map(records).chain(self.proxy_records()).collect();
        seen.client = self.app_records();
        seen.init = self.setup.iter().flat_map(records).collect();
        seen.events = self.events();
    }

    /// The last lines of its containers, and what the agent has to say about it.
    fn about(&self) -> Vec<String> {
        let containers = [(SETUP, &self.setup), (APP, &self.app), ("proxy", &self.proxy)];
        let mut lines = Vec::new();
        for (name, process) in containers {
            let log = process.as_ref().map(Process::stdout).unwrap_or_default();
            let from = log.len().saturating_sub(LAST_LINES);
            lines.extend(log[from..].iter().map(|line| format!("{name}: {line}")));
        }
        let agent = self.player.agent.logs();
        let mine = agent.iter().filter(|line| line["pod_uid"] == self.pod.uid());
        let mine: Vec<String> = mine.map(|line| format!("agent: {line}")).collect();
        lines.extend_from_slice(&mine[mine.len().saturating_sub(AGENT_LINES)..]);
        lines
    }

    fn app_records(&self) -> Vec<Record> {
        self.app.iter().flat_map(records).collect()
    }

    fn proxy_records(&self) -> Vec<Record> {
        self.proxy.iter().flat_map(records).collect()
    }

    fn events(&self) -> Vec<String> {
        let all = self.player.node.api().events();
        let mine = all.iter().filter(|event| event["regarding"]["name"] == self.case.name);
        mine.filter_map(|event| event["reason"].as_str().map(str::to_owned)).collect()
    }
}

fn records(process: &Process) -> Vec<Record> {
    Record::all(&process.stdout().join("\n"))
}
