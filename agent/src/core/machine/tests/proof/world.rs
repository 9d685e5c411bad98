//! A node on which a sequence is played: what is true, what the kernel does, and an agent that hears
//! of it and acts, or is dead. What must not be is looked for after each event.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Result;

use super::{
    super::*,
    agent::Agent,
    check::HAND_OVER,
    cluster::{Cluster, News},
    coverage::Coverage,
    kernel::{Kernel, RETRY},
    step::{Hold, Moment, Setup, Slot, Source, Step, Who, Wish},
};
use crate::core::Mode;

#[derive(Debug)]
pub(super) struct World {
    pub(super) setup: Setup,
    pub(super) now: Monotonic,
    pub(super) cluster: Cluster,
    pub(super) kernel: Kernel,
    pub(super) agent: Option<Agent>,
    pub(super) coverage: Coverage,
    /// The pods whose gates could not be worked, as long as the agent has not heard of it.
    pub(super) failed: BTreeSet<CgroupId>,
    /// Some news has not come to the agent, which needs a new look at the node.
    pub(super) lost_news: bool,
    /// So many of the next gates cannot be worked, for want of something that may be there again, or is not.
    pub(super) fails: (u8, bool),
    /// The shortest and the longest time that a connect may be held, and when the last order to close
    /// ends.
    shortest: Duration,
    longest: Duration,
    ordered: Monotonic,
    pub(super) counts: bool,
    /// What each agent hears is kept.
    pub(super) records: bool,
}

pub(super) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

// === impl World ===

impl World {
    /// `records`: what each agent hears is kept.
    pub(super) fn new(setup: Setup, records: bool) -> Self {
        let mut world = Self {
            setup,
            now: Monotonic(0),
            cluster: Cluster::new(setup.same_name),
            kernel: Kernel::default(),
            agent: None,
            coverage: Coverage::default(),
            failed: BTreeSet::new(),
            lost_news: false,
            fails: (0, false),
            shortest: ms(setup.timeout_ms),
            longest: ms(setup.timeout_ms),
            ordered: Monotonic(0),
            counts: true,
            records,
        };
        world.start_agent();
        world
    }

    pub(super) fn play(&mut self, moments: &[Moment]) -> Result<()> {
        moments.iter().try_for_each(|moment| self.moment(*moment))
    }

    fn moment(&mut self, Moment { after_ms, on_time, step }: Moment) -> Result<()> {
        self.pass(ms(after_ms), on_time)?;
        self.step(step)
    }

    /// Time passes; the agent's timers fire if it is `on_time`.
    pub(super) fn pass(&mut self, time: Duration, on_time: bool) -> Result<()> {
        /// An agent that is woken more often than that in one wait does not come to rest.
        const MOST_WAKEUPS: usize = 10_000;
        let end = self.now + time;
        let mut wakeups = 0;
        while on_time
            && let Some(due) = self.agent.as_ref().and_then(|agent| agent.machine.next_wakeup())
            && due < end
        {
            wakeups += 1;
            anyhow::ensure!(wakeups < MOST_WAKEUPS, "the agent is woken without end at {due}");
            // As the task's timer does: a moment later.
            self.now = self.now.max(due + ms(1)).min(end);
            self.kernel.run_until(self.now);
            self.hear(Event::Tick)?;
            if self.now == end {
                break;
            }
        }
        self.now = self.now.max(end);
        self.kernel.run_until(self.now);
        if on_time {
            self.tick_if_due()?;
        }
        self.check_waits()
    }

    /// Nobody waits longer than the time that was chosen, or until the last order ends, and a
    /// retransmission: whatever was lost, failed or taken over. Nor does a closed gate let go of anybody
    /// for its own time's sake before that time is over.
    fn check_waits(&self) -> Result<()> {
        let late = self.kernel.sockets.iter().find(|socket| {
            let end = (socket.connect_at + self.longest).max(self.ordered);
            self.now > end + RETRY
        });
        anyhow::ensure!(late.is_none(), "waits for too long at {}: {late:?}", self.now);
        let early = self.kernel.shortest.filter(|shortest| *shortest < self.shortest);
        anyhow::ensure!(early.is_none(), "a closed gate has let go too early: after {early:?}");
        Ok(())
    }

    fn tick_if_due(&mut self) -> Result<()> {
        let due = self.agent.as_ref().and_then(|agent| agent.machine.next_wakeup());
        if due.is_some_and(|due| due < self.now) { self.hear(Event::Tick) } else { Ok(()) }
    }

    pub(super) fn step(&mut self, step: Step) -> Result<()> {
        let now = self.now;
        match step {
            Step::MakeObject(slot, shape, hold) => self.cluster.make_object(slot, shape, hold),
            Step::Label(slot, hold) => self.cluster.change(slot, |object| object.hold = hold),
            Step::Timeout(slot, timeout) => {
                if let Some(timeout) = timeout.map(ms) {
                    self.shortest = self.shortest.min(timeout);
                    self.longest = self.longest.max(timeout);
                }
                self.cluster.change(slot, |object| object.timeout_ms = timeout);
            }
            Step::Terminate(slot) => self.cluster.change(slot, |object| object.terminating = true),
            Step::Finish(slot) => self.cluster.change(slot, |object| object.finished = true),
            Step::DeleteObject(slot) => self.cluster.delete_object(slot),
            Step::LabelNamespace(hold) => self.cluster.label_namespace(Some(hold)),
            Step::DeleteNamespace => self.cluster.label_namespace(None),
            Step::Status(slot, ready) => self.cluster.status(slot, ready),
            Step::MakeCgroup { slot, reuses } => {
                if let Some(cgroup) = self.cluster.make_cgroup(slot, reuses) {
                    self.kernel.listens.remove(&cgroup);
                }
            }
            Step::RemoveCgroup(slot) => self.remove_cgroup(slot),
            Step::Start { slot, who, has_bundle, reuses } => {
                self.cluster.start(slot, who, has_bundle, reuses);
            }
            Step::End(slot, who) => self.end(slot, who),
            Step::Remove(slot, who) => self.cluster.remove(slot, who),
            Step::Listen(slot, listens) => self.listen(slot, listens),
            Step::Connect { slot, who, recorded } => {
                if let Some((pod, container)) = self.process(slot, who) {
                    self.kernel.connect(pod, container, recorded, now);
                }
            }
            Step::Query(slot) => {
                if let Some((pod, container)) = self.process(slot, Who::App) {
                    self.kernel.query(pod, container, now);
                }
            }
            Step::CloseSocket => {
                let first = self.kernel.sockets.first().map(|socket| socket.cookie);
                self.kernel.close(|socket| Some(socket.cookie) == first, now);
            }
            Step::News(Source::Kernel, count) => return self.reports(count),
            Step::News(source, count) => {
                return (0..count).try_for_each(|_| self.news(source).map(drop));
            }
            Step::Again(source) => {
                let last = self.agent.as_ref().and_then(|agent| agent.last.get(&(source as u8)));
                if let Some(event) = last.cloned() {
                    return self.hear(event);
                }
            }
            Step::Stale(slot, back) => {
                if let Some(view) = self.cluster.stale(slot, usize::from(back)) {
                    return self.hear(Event::PodApplied(view));
                }
            }
            Step::Relist => self.cluster.list_pods(),
            Step::LoseReport => drop(self.kernel.ring.pop_front()),
            Step::LoseCgroupNews => {
                self.lost_news |= self.cluster.lose_cgroup_news();
            }
            Step::Probe(slot) => {
                let cgroup = self.cluster.pods[slot].cgroup;
                let listens = cgroup.and_then(|cgroup| self.kernel.listens.get(&cgroup));
                let ready = listens.copied().unwrap_or(false);
                return self.probe(slot, ready);
            }
            Step::ProbeSays(slot, ready) => return self.probe(slot, ready),
            Step::SeeHostNetwork(slot) => {
                let uid = self.cluster.uid(slot);
                if self.agent.as_ref().is_some_and(|agent| agent.probes.contains_key(&uid)) {
                    return self.hear(Event::HostNetworkSeen(uid));
                }
            }
            Step::Order(slot, wish) => return self.order(slot, wish),
            Step::Watch(slot, for_ms) => {
                if let Some(view) = self.cluster.view(slot) {
                    let (pod, until) = (view.name, now + ms(for_ms));
                    return self.hear(Event::Watched { pod, until });
                }
            }
            Step::FailGates { count, may_pass } => self.fails = (count, may_pass),
            Step::Counts(counts) => self.counts = counts,
            Step::Die => return self.end_agent(),
            Step::StartAgent => {
                self.end_agent()?;
                self.start_agent();
            }
            Step::Wait => {}
        }
        Ok(())
    }

    fn process(&self, slot: Slot, who: Who) -> Option<(CgroupId, CgroupId)> {
        let pod = &self.cluster.pods[slot];
        let running = pod.containers.iter().rev().find(|one| one.who == who && one.populated)?;
        Some((pod.cgroup?, running.cgroup))
    }

    pub(super) fn listen(&mut self, slot: Slot, listens: bool) {
        let Some(cgroup) = self.cluster.pods[slot].cgroup else { return };
        let listens = listens && self.process(slot, Who::Proxy).is_some();
        self.kernel.listens.insert(cgroup, listens);
        self.kernel.look_again(cgroup, self.now);
    }

    pub(super) fn end(&mut self, slot: Slot, who: Who) {
        if let Some(container) = self.cluster.end(slot, who) {
            self.kernel.close(|socket| socket.container == container, self.now);
            if who == Who::Proxy {
                self.listen(slot, false);
            }
        }
    }

    pub(super) fn remove_cgroup(&mut self, slot: Slot) {
        if let Some(cgroup) = self.cluster.remove_cgroup(slot) {
            self.kernel.close(|socket| socket.pod == cgroup, self.now);
            if let Some(gate) = self.kernel.gates.get_mut(&cgroup) {
                gate.is_dead = true;
            }
        }
    }

    /// The agent hears the next of a source; `false`: there is nothing.
    pub(super) fn news(&mut self, source: Source) -> Result<bool> {
        if self.agent.is_none() {
            return Ok(false);
        }
        let Some(news) = self.cluster.next(source) else { return Ok(false) };
        match news {
            News::Of(mut event) => {
                let Some(agent) = &mut self.agent else { return Ok(false) };
                agent.last.insert(source as u8, event.clone());
                if let Event::PodCgroupFound { cgroup, inherited, .. } = &mut event {
                    let is_left = agent.left.remove(cgroup);
                    *inherited = is_left.then(|| self.kernel.left_on(*cgroup)).flatten();
                }
                self.hear(event)?;
            }
            News::CgroupsListed => self.forget_left(),
        }
        Ok(true)
    }

    /// As [`crate::bpf::Gates::forget_left`].
    fn forget_left(&mut self) {
        let Some(agent) = &mut self.agent else { return };
        for cgroup in std::mem::take(&mut agent.left) {
            self.kernel.gates.remove(&cgroup);
            self.kernel.look_again(cgroup, self.now);
        }
        let known: BTreeSet<CgroupId> = agent.machine.containers().collect();
        self.kernel.verdicts.retain(|container, _| known.contains(container));
    }

    pub(super) fn reports(&mut self, count: u8) -> Result<()> {
        for _ in 0..count {
            if self.agent.is_none() {
                break;
            }
            let Some(report) = self.kernel.ring.pop_front() else { break };
            self.hear(Event::Kernel(report))?;
        }
        Ok(())
    }

    pub(super) fn probe(&mut self, slot: Slot, ready: bool) -> Result<()> {
        let uid = self.cluster.uid(slot);
        let Some(agent) = &mut self.agent else { return Ok(()) };
        // What a probe says that has been stopped is not passed on; nor is a second no.
        match agent.probes.get_mut(&uid) {
            None => return Ok(()),
            Some(Some(false)) if !ready => return Ok(()),
            Some(said) => *said = Some(ready),
        }
        if ready {
            agent.ready.insert(uid.clone());
        }
        self.hear(if ready { Event::ProxyReady(uid) } else { Event::ProxyNotReady(uid) })
    }

    fn order(&mut self, slot: Slot, wish: Wish) -> Result<()> {
        let (uid, now) = (self.cluster.uid(slot), self.now);
        let order = match wish {
            Wish::Nothing => None,
            Wish::Open => Some(Order::Open { until: None }),
            Wish::OpenFor(time) => Some(Order::Open { until: Some(now + ms(time)) }),
            Wish::CloseFor(time) => Some(Order::Closed { until: now + ms(time) }),
        };
        let Some(agent) = &self.agent else { return Ok(()) };
        if agent.machine.may_order(&uid, order).is_err() {
            return Ok(());
        }
        if let Some(Order::Closed { until }) = order {
            self.ordered = self.ordered.max(until + HAND_OVER);
        }
        self.hear(Event::Ordered { uid, order })
    }

    /// Whether connects wait at all, by the agent's settings.
    pub(super) fn holds(&self) -> bool {
        matches!(self.setup.mode, Mode::Hold | Mode::Retry)
    }

    pub(super) fn relabel(&mut self, hold: Hold) {
        self.cluster.label_namespace(Some(hold));
    }
}
