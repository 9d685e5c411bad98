//! What a tenant's sockets can do.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::{
    super::{Due, NAMESPACE, Run, SOON, Tally},
    scene::{Scene, Sniffer, spec},
};
use crate::{PodSpec, apps, apps::hostile, backend_v4};

/// As many as the ports of one address allow, nearly.
const MANY: u32 = 10_000;

/// Lines about so many connects: some in the beginning, then one every 5 s, and a sum.
const LINES: usize = 100;

/// The pods' timeout: the default.
const TIMEOUT: Duration = Duration::from_secs(60);

pub(super) fn many(run: &Run, tally: &mut Tally) -> Result<()> {
    let scene = Scene::new(run)?;
    let tenant = scene.tenant(&["app"])?;
    let client = apps::connect(backend_v4())?.nonblocking().count(MANY);
    let app = tenant.start_container("app", client)?;
    let last = MANY - 1;
    app.wait_record(SOON, |line| line["event"] == "connecting" && line["index"] == last)?;
    scene.neighbours(run, tally)?;
    ensure!(app.exit_status().is_none(), "the tenant's own connects do not wait");
    let lines = scene.lines_of(&tenant);
    ensure!(lines <= LINES, "{lines} lines about one pod's connects");
    drop(app);
    scene.end(tenant)
}

/// Its own well-formed connects, after all that was forged in their name.
const OWN: usize = 8;

/// Packets, and sockets whose connections they are forged for.
const FORGED: u32 = 4_000;
const TARGETS: usize = 8;

pub(super) fn forged(run: &Run, tally: &mut Tally) -> Result<()> {
    let scene = Scene::new(run)?;
    let tenant = scene.node.create_pod(spec().containers(["app", "forger"]).dns_capture())?;
    let mut sniffer = Sniffer::start(&tenant, FORGED)?;
    let client = apps::connect(backend_v4())?.nonblocking().count(OWN as u32);
    let app = tenant.start_container("app", client)?;
    let seed = run.random(1).u64(..);
    let forger = tenant.start_container("forger", hostile::forge(backend_v4(), FORGED, seed)?)?;
    forger.wait_record(SOON, |line| line["event"] == "under_way")?;
    scene.neighbours(run, tally)?;
    let sent = forger.wait_record(SOON, |line| line["event"] == "forged")?;
    ensure!(sent["sent"].as_u64() > Some(u64::from(FORGED / 2)), "{sent}");
    ensure!(sniffer.sockets()? == 0, "a held SYN went through a closed gate");
    let forged = sniffer.forged();
    ensure!(forged > 100, "only {forged} forged SYNs have arrived");
    let proxy = tenant.start_proxy()?;
    let ready_ns = Some(proxy.wait_ready(SOON)?);
    for attempt in app.wait_attempts(TIMEOUT + SOON, OWN)? {
        tally.count("tenant", Some(&attempt), Due { ready_ns, timeout: TIMEOUT });
    }
    let sockets = sniffer.sockets()?;
    ensure!(sniffer.forged() == forged, "a forged SYN has come after the last one was sent");
    ensure!((OWN..=OWN + TARGETS).contains(&sockets), "SYNs of {sockets} sockets");
    drop((app, forger, proxy));
    scene.end(tenant)
}

pub(super) fn lent(run: &Run, tally: &mut Tally) -> Result<()> {
    let scene = Scene::new(run)?;
    let tenant = scene.tenant(&["app", "netns", "stopped"])?;
    let partner = scene.node.create_pod(PodSpec::new(NAMESPACE, "partner"))?;
    let mut sniffers = [Sniffer::start(&tenant, 0)?, Sniffer::start(&partner, 0)?];
    let folder = tempfile::tempdir()?;
    let via = folder.path().join("lend.sock");
    let lender = tenant.start_container("app", hostile::lend(&via, backend_v4())?)?;
    lender.wait_record(SOON, |line| line["event"] == "lending")?;
    let borrower = partner.start_container("app", hostile::borrow(&via, backend_v4())?)?;
    let elsewhere = tenant.start_container("netns", apps::connect_in_own_netns(backend_v4())?)?;
    let stopped = tenant.start_container("stopped", apps::connect(backend_v4())?)?;
    borrower.wait_connecting(SOON)?;
    stopped.wait_connecting(SOON)?;
    // Between the line and connect() there is nothing that waits; stopped before it is as good.
    thread::sleep(Duration::from_millis(100));
    stopped.signal(Signal::SIGSTOP);
    scene.neighbours(run, tally)?;

    let own = tenant.start_proxy()?;
    let others = partner.start_proxy()?;
    // The gate is that of the socket's maker; its name in the log may be that of either.
    let ready_ns = own.wait_ready(SOON)?.max(others.wait_ready(SOON)?);
    let attempt = borrower.wait_attempt(TIMEOUT + SOON)?;
    tally.count("lent", Some(&attempt), Due { ready_ns: Some(ready_ns), timeout: TIMEOUT });
    stopped.signal(Signal::SIGCONT);
    ensure!(stopped.wait_attempt(SOON)?.is_connected(), "a stopped process's connect is lost");
    // The lent socket and the stopped process's; the one from elsewhere must not show here.
    let seen = [sniffers[0].sockets()?, sniffers[1].sockets()?];
    ensure!(seen == [2, 0], "SYNs of {seen:?} sockets");
    drop((lender, borrower, elsewhere, stopped, own, others, partner));
    scene.end(tenant)
}
