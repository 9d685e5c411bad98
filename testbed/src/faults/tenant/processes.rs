//! What a tenant's processes can do.

use std::{fs, thread, time::Duration};

use anyhow::{Result, ensure};

use super::{
    super::{Due, Run, SOON, Tally},
    scene::{Scene, spec},
};
use crate::{
    PROXY, PROXY_ID, PROXY_PORT, apps,
    apps::{FastOpen, hostile},
    backend_v4,
};

/// The pods' timeout: the default.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Longer than any of these attacks has to last.
const STORM: Duration = Duration::from_secs(600);

/// Lines about a pod in which thousands of processes connect: each of the first some is named, then
/// they are counted.
const LINES: usize = 200;

pub(super) fn forks(run: &Run, tally: &mut Tally) -> Result<()> {
    let scene = Scene::new(run)?;
    let tenant = scene.tenant(&["app"])?;
    let app = tenant.start_container("app", hostile::forks(backend_v4(), STORM)?)?;
    app.wait_record(SOON, |line| line["event"] == "under_way")?;
    scene.neighbours(run, tally)?;
    ensure!(app.exit_status().is_none(), "the storm has ended");
    let lines = scene.lines_of(&tenant);
    ensure!((1..=LINES).contains(&lines), "{lines} lines about processes that nobody can count");
    drop(app);
    scene.end(tenant)
}

pub(super) fn cgroups(run: &Run, tally: &mut Tally) -> Result<()> {
    const DEPTH: u32 = 100;
    const WIDTH: u32 = 1_000;
    let scene = Scene::new(run)?;
    let tenant = scene.tenant(&["app"])?;
    let app = tenant.start_container("app", hostile::cgroups(DEPTH, WIDTH, backend_v4())?)?;
    app.wait_record(SOON, |line| line["event"] == "nested")?;
    scene.neighbours(run, tally)?;
    ensure!(app.exit_status().is_none(), "a connect from level {DEPTH} does not wait");
    let proxy = tenant.start_proxy()?;
    let ready_ns = Some(proxy.wait_ready(SOON)?);
    let attempt = app.wait_attempt(TIMEOUT + SOON)?;
    tally.count("tenant", Some(&attempt), Due { ready_ns, timeout: TIMEOUT });
    let lines = scene.lines_of(&tenant);
    ensure!(lines <= LINES, "{lines} lines about a pod with many cgroups");
    drop((app, proxy));
    scene.end(tenant)
}

pub(super) fn disguises(run: &Run, tally: &mut Tally) -> Result<()> {
    let scene = Scene::new(run)?;
    let tenant = scene.tenant(&["user", "port", "mover", "open"])?;
    let client = apps::connect(backend_v4())?.user(PROXY_ID, PROXY_ID);
    let as_proxy = tenant.start_container("user", client)?;
    // As far as its mesh lets the proxy's user: its rules redirect nothing of it.
    let passed = as_proxy.wait_attempt(SOON)?;
    ensure!(passed.elapsed() < SOON, "{passed:?}");

    // In the proxy's own cgroup: what is made there is the proxy's.
    let idle = tenant.start_container(PROXY, apps::testbed_app()?.arg("pause"))?;
    let mover = tenant.start_container("mover", apps::testbed_app()?.arg("pause"))?;
    let proxys = tenant.container_cgroup(PROXY)?;
    for turn in 0..50 {
        let to = if turn % 2 == 0 { proxys.clone() } else { tenant.container_cgroup("mover")? };
        fs::write(to.path().join("cgroup.procs"), mover.pid().to_string())?;
    }
    let listener = tenant.start_container("port", apps::listener(PROXY_PORT, 1)?)?;
    listener.wait_record(SOON, |line| line["event"] == "listening")?;
    let client = apps::connect(backend_v4())?.fast_open(FastOpen::Sendto).get("/bytes/10");
    let open = tenant.start_container("open", client)?;
    open.wait_connecting(SOON)?;
    scene.neighbours(run, tally)?;
    ensure!(open.exit_status().is_none(), "a listener on the port alone counts as ready");
    drop((as_proxy, idle, mover, listener, open));
    scene.end(tenant)
}

pub(super) fn answers(run: &Run, tally: &mut Tally) -> Result<()> {
    /// Each answer may take the probe its 500 ms; the others are over at once.
    const PATIENCE: Duration = Duration::from_secs(8);
    let scene = Scene::new(run)?;
    let patience = format!("{}s", PATIENCE.as_secs());
    let tenant = scene.node.create_pod(spec().annotation("holdfast.dev/timeout", patience))?;
    let server = tenant.start_container(PROXY, hostile::answer(false)?)?;
    server.wait_record(SOON, |line| line["event"] == "listening")?;
    let app = tenant.start_container("app", apps::connect(backend_v4())?)?;
    scene.neighbours(run, tally)?;
    let attempt = app.wait_attempt(PATIENCE + SOON)?;
    tally.count("tenant", Some(&attempt), Due { ready_ns: None, timeout: PATIENCE });
    // The kernel opens a gate in any case; the agent has its mind on it still.
    scene.agent.wait_log(SOON, |line| {
        line["message"] == "gate opened" && line["pod_uid"] == tenant.uid()
    })?;
    server.wait_record(SOON, |line| line["event"] == "answers" && line["left"] == 0)?;
    let records = server.records();
    let followed = records.iter().find(|line| line["event"] == "followed");
    ensure!(followed.is_none(), "the agent has followed a redirect: {followed:?}");
    let lines = scene.lines_of(&tenant);
    ensure!(lines <= LINES, "{lines} lines about answers");
    drop((server, app));
    scene.end(tenant)
}

pub(super) fn flaps(run: &Run, tally: &mut Tally) -> Result<()> {
    const FLAPS: usize = 20;
    /// A gate that opens and closes, a hold that ends and one that begins, and their sums.
    const LINES_EACH: usize = 12;
    /// In one minute of one reason; a slow machine may see the next minute begin.
    const EVENTS: usize = 10;
    let scene = Scene::new(run)?;
    let tenant = scene.tenant(&["app"])?;
    let dialling = || -> Result<_> {
        let client = apps::connect(backend_v4())?.nonblocking().count(3);
        tenant.start_container("app", client)
    };
    let flap = || -> Result<()> {
        let app = dialling()?;
        let proxy = tenant.start_container(PROXY, hostile::answer(true)?)?;
        proxy.wait_record(SOON, |line| line["event"] == "listening")?;
        app.wait_attempts(SOON, 3)?;
        proxy.kill();
        Ok(())
    };
    let (flapped, met) = thread::scope(|scope| {
        let flaps = scope.spawn(|| (0..FLAPS).try_for_each(|_| flap()));
        let met = scene.neighbours(run, tally);
        let flapped = flaps.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (flapped, met)
    });
    flapped?;
    met?;
    let lines = scene.lines_of(&tenant);
    ensure!(lines <= FLAPS * LINES_EACH, "{lines} lines about {FLAPS} proxies");
    let events = scene.events_of(&tenant);
    for reason in &events {
        let count = events.iter().filter(|other| *other == reason).count();
        ensure!(count <= EVENTS, "{count} Events {reason}");
    }
    scene.end(tenant)
}
