//! What the task answers, and how it takes orders.

use super::{Ask, OrderError, OrderRequest, Reconciler, Snapshot};
use crate::{
    clock,
    core::{Event, Line, Order, Orderer, PodName, PodReport, PodUid},
};

impl Reconciler {
    pub(super) fn ask(&mut self, ask: Ask) {
        // Who was told that nobody answers must not find the order carried out later.
        if ask.is_given_up() {
            return;
        }
        match ask {
            Ask::Snapshot(answer) => {
                let epoch = self.journal.epoch();
                let snapshot = Snapshot {
                    at: epoch.stamp(clock::now()),
                    pods: self.machine.report(epoch),
                    episodes: self.journal.episodes(),
                    totals: self.journal.totals(),
                    entries: self.journal.entries(),
                    gates: self.gates.totals(),
                };
                // Whoever asked may have given up.
                let _: Result<(), _> = answer.send(snapshot);
            }
            Ask::Pod { pod, answer } => {
                let report = self.machine.find(&pod).and_then(|uid| self.report(&uid));
                let _: Result<(), _> = answer.send(report);
            }
            Ask::Order { pod, order, by, answer } => {
                let _: Result<(), _> = answer.send(self.order(&pod, order, by));
            }
            Ask::Followed(answer) => {
                let _: Result<(), _> = answer.send(self.followed());
            }
            Ask::LoudPrograms(answer) => {
                let _: Result<(), _> = answer.send(self.gates.loud_programs());
            }
            Ask::Follow { pod, on, kernel, answer } => {
                let _: Result<(), _> = answer.send(self.follow(&pod, on, kernel));
            }
            Ask::UnfollowAll(answer) => {
                let _: Result<(), _> = answer.send(self.unfollow_all());
            }
            Ask::Inventory(answer) => {
                let _: Result<(), _> = answer.send(self.gates.stock());
            }
            Ask::Workloads(answer) => {
                let _: Result<(), _> = answer.send(self.workloads());
            }
            Ask::Diagnose { pod, answer } => self.diagnose(&pod, answer),
            Ask::Watch { pod, time, by, answer } => {
                let _: Result<(), _> = answer.send(self.watch(pod, time, by));
            }
        }
    }

    pub(super) fn report(&self, uid: &PodUid) -> Option<PodReport> {
        self.machine.report_of(uid, self.journal.epoch())
    }

    fn order(
        &mut self,
        pod: &PodName,
        request: OrderRequest,
        by: Orderer,
    ) -> Result<PodReport, OrderError> {
        let uid = self.machine.find(pod).ok_or(OrderError::NoSuchPod)?;
        let now = clock::now();
        let (order, limit) = match request {
            OrderRequest::Open(limit) => {
                (Some(Order::Open { until: limit.map(|limit| now + limit) }), limit)
            }
            OrderRequest::Close(limit) => (Some(Order::Closed { until: now + limit }), Some(limit)),
            OrderRequest::Auto => (None, None),
        };
        self.machine.may_order(&uid, order)?;
        if let Some(report) = self.report(&uid) {
            self.journal.record(report.pod, Line::Ordered { order, limit, by });
        }
        self.apply(Event::Ordered { uid: uid.clone(), order });
        self.report(&uid).ok_or(OrderError::NoSuchPod)
    }
}
