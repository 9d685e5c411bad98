//! The operator's orders.

use super::{Machine, Pod, gate::GatePhase, pod::Standing};
use crate::core::{Action, Exemption, Monotonic, Order, OrderRefusal, PodUid, WatchRefusal};

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
            Standing::Observe => Err(OrderRefusal::Exempt(Exemption::NotEnabled)),
            _ if matches!(pod.gate, GatePhase::Failed { .. }) => Err(OrderRefusal::Failed),
            Standing::Hold | Standing::Unknown => Ok(()),
        }
    }

    /// Whether a pod's starts can be observed.
    ///
    /// # Errors
    ///
    /// If it is held, or there is nothing to observe, or somebody has said that it is not to be held.
    pub fn may_watch(&self, uid: &PodUid) -> Result<(), WatchRefusal> {
        let Some(pod) = self.pods.get(uid) else { return Err(WatchRefusal::Unknown) };
        match pod.standing_by_facts() {
            Standing::Hold => Err(WatchRefusal::Enabled),
            Standing::Unknown => Err(WatchRefusal::Unknown),
            Standing::Observe => Ok(()),
            Standing::Exempt(_) if pod.can_be_observed() => Ok(()),
            Standing::Exempt(Exemption::NotEnabled) if pod.would_be.is_some() => {
                Err(WatchRefusal::Disabled)
            }
            Standing::Exempt(Exemption::NotEnabled) => Err(WatchRefusal::NoProxy),
            Standing::Exempt(exemption) => Err(WatchRefusal::Exempt(exemption)),
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
        // Whoever takes an order back wants the gate to be worked again.
        if order.is_none() {
            self.begin_anew();
        }
        self.order = order;
    }

    /// Forgets an order whose time is up.
    pub(super) fn expire_order(&mut self, now: Monotonic) {
        self.order = self.order.filter(|order| order.until().is_none_or(|until| now < until));
    }
}
