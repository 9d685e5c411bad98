//! How each sequence ends: whoever waits goes on, all that is true is told and comes to the right end,
//! and of pods that are gone nothing is left.

use std::time::Duration;

use agent_ebpf::Treatment;
use anyhow::{Result, ensure};

use super::{
    random::Random,
    step::{Hold, SLOTS, Source, Step, Who, Wish},
    world::World,
};

/// Longer than any hold of a short setup may last: an order, the longest time that a pod asks for,
/// and a retransmission.
const LONG: Duration = Duration::from_secs(200);

/// Longer than an opening takes.
const OPENING: Duration = Duration::from_secs(5);

impl World {
    /// Ends a sequence in one of several ways.
    pub(super) fn finish(&mut self, random: &mut Random) -> Result<()> {
        if self.setup.is_short() {
            if random.once_in(2) {
                self.end_agent()?;
            }
            self.all_go_on()?;
        }
        if self.agent.is_none() {
            self.start_agent();
        }
        if random.once_in(4) {
            self.settle(random)?;
        }
        if random.once_in(2) { self.clean_up(random) } else { self.end_agent() }
    }

    /// Time alone ends every wait, with an agent or without, whatever has not been told.
    fn all_go_on(&mut self) -> Result<()> {
        self.pass(LONG, true)?;
        let waits =
            self.kernel.sockets.iter().find(|socket| self.now.since(socket.connect_at) >= LONG);
        ensure!(waits.is_none(), "waits for ever: {waits:?}");
        if self.agent.is_none() {
            for cgroup in self.kernel.gates.keys() {
                let treatment = self.kernel.treatment(*cgroup, self.now);
                let is_open = !matches!(treatment, Treatment::Hold | Treatment::Refuse);
                ensure!(is_open, "without an agent {cgroup} goes on to {treatment:?}");
            }
        }
        Ok(())
    }

    fn hear_all(&mut self) -> Result<()> {
        for source in [Source::Namespaces, Source::Pods, Source::Cgroups] {
            while self.news(source)? {}
        }
        while !self.kernel.ring.is_empty() {
            self.reports(u8::MAX)?;
        }
        Ok(())
    }

    /// The agent hears all, the probes tell the truth, nobody orders anything: whatever came before, and
    /// in whatever order, each gate is where the facts want it.
    fn settle(&mut self, random: &mut Random) -> Result<()> {
        if self.lost_news {
            self.end_agent()?;
            self.start_agent();
        }
        self.fails.0 = 0;
        self.relabel(random.pick(&[Hold::Unset, Hold::Enabled, Hold::Enabled]));
        let is_ready = random.once_in(2);
        for slot in 0..SLOTS {
            self.step(Step::Order(slot, Wish::Nothing))?;
            for who in [Who::App, Who::Proxy] {
                self.step(Step::Start { slot, who, has_bundle: true, reuses: false })?;
            }
            self.listen(slot, true);
            self.cluster.status(slot, true);
        }
        self.cluster.list_pods();
        self.hear_all()?;
        self.step(Step::Counts(true))?;
        // What was failing has failed; what is asked is answered until it is at rest.
        for _ in 0..4 {
            for slot in 0..SLOTS {
                self.probe(slot, true)?;
            }
            self.pass(OPENING, true)?;
            self.hear_all()?;
        }
        if !is_ready {
            // The proxy dies, while an application runs.
            for slot in 0..SLOTS {
                self.end(slot, Who::Proxy);
                self.cluster.status(slot, false);
            }
            self.hear_all()?;
            for slot in 0..SLOTS {
                self.probe(slot, false)?;
            }
            self.pass(OPENING, true)?;
            self.hear_all()?;
        }
        (0..SLOTS).try_for_each(|slot| self.check_settled(slot, is_ready))
    }

    /// Everything goes; then nothing is left.
    fn clean_up(&mut self, random: &mut Random) -> Result<()> {
        self.fails.0 = 0;
        // News that was lost does not come again but by an agent's start.
        self.end_agent()?;
        self.start_agent();
        self.hear_all()?;
        for slot in 0..SLOTS {
            for who in [Who::Sandbox, Who::Init, Who::App, Who::Proxy] {
                while self.process_runs(slot, who) {
                    self.end(slot, who);
                }
                self.cluster.remove(slot, who);
            }
            self.remove_cgroup(slot);
            self.cluster.delete_object(slot);
        }
        if random.once_in(2) {
            while self.news(Source::Cgroups)? {}
        }
        self.hear_all()?;
        self.pass(OPENING, true)?;
        let Some(agent) = &self.agent else { return Ok(()) };
        let machine = &agent.machine;
        ensure!(machine.pods.is_empty(), "pods are left: {:?}", machine.pods);
        ensure!(machine.by_cgroup.is_empty(), "cgroups are left: {:?}", machine.by_cgroup);
        ensure!(machine.next_wakeup().is_none(), "a timer is left");
        ensure!(agent.probes.is_empty(), "probes are left: {:?}", agent.probes);
        ensure!(self.kernel.gates.is_empty(), "gates are left: {:?}", self.kernel.gates);
        ensure!(self.kernel.verdicts.is_empty(), "verdicts are left: {:?}", self.kernel.verdicts);
        ensure!(self.kernel.sockets.is_empty(), "sockets are left: {:?}", self.kernel.sockets);
        let (held, ended) = agent.waits;
        ensure!(held == ended, "{held} waits were told of, and {ended} ends");
        let running = agent.history.episodes().filter(|one| one.ended_at.is_none()).count();
        ensure!(running == 0, "{running} episodes go on");
        self.end_agent()
    }

    fn process_runs(&self, slot: usize, who: Who) -> bool {
        self.cluster.pods[slot].containers.iter().any(|one| one.who == who && one.populated)
    }
}
