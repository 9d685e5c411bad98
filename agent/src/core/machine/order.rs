//! The operator's orders.

use super::{Machine, Pod, gate::GatePhase, pod::Standing};
use crate::core::{Action, Monotonic, Order, OrderRefusal, PodUid};

impl Machine {
    /// Whether an order can be followed. One to open always can, if only for the time when the pod
    /// is one to hold.
    ///
    /// # Errors
    ///
    /// If the gate is to be closed, and cannot be.
    pub fn may_order(&self, uid: &PodUid, order: Option<Order>) -> Result<(), OrderRefusal> {
        let (Some(Order::Closed { .. }), Some(pod)) = (order, self.pods.get(uid)) else {
            return Ok(());
        };
        match pod.standing_by_facts() {
            Standing::Exempt(exemption) => Err(OrderRefusal::Exempt(exemption)),
            _ if matches!(pod.gate, GatePhase::Failed) => Err(OrderRefusal::Failed),
            Standing::Hold | Standing::Unknown => Ok(()),
        }
    }

    pub(super) fn ordered(
        &mut self,
        uid: &PodUid,
        order: Option<Order>,
        now: Monotonic,
        actions: &mut Vec<Action>,
    ) {
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.ordered(order);
            self.evaluate(uid, now, actions);
        }
    }
}

impl Pod {
    fn ordered(&mut self, order: Option<Order>) {
        // Whoever takes an order back wants the gate to be worked again; but the pod has run without
        // one meanwhile, so its proxy is asked first.
        if order.is_none() && matches!(self.gate, GatePhase::Failed) {
            self.gate = GatePhase::Absent;
            self.late = true;
        }
        self.order = order;
    }

    /// Forgets an order whose time is up.
    pub(super) fn expire_order(&mut self, now: Monotonic) {
        self.order = self.order.filter(|order| order.until().is_none_or(|until| now < until));
    }
}
