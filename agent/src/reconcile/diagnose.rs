//! What is known of pods that nobody enabled.

use std::time::Duration;

use tokio::sync::oneshot;

use super::{
    Reconciler,
    ask::{WatchError, Workloads},
};
use crate::{
    clock,
    core::{Diagnosis, Event, Finding, Orderer, PodName, PodReport, ProxyReport, ReadyCheck},
    node::oldest_process,
};

impl Reconciler {
    pub(super) fn workloads(&self) -> Workloads {
        Workloads {
            at: self.journal.epoch().stamp(clock::now()),
            observe: self.machine.observes(),
            workloads: self.journal.workloads(),
        }
    }

    /// Answers with what is known of the pod, and with what its proxy says to one question more. That
    /// may take half a second, in which this task does other things.
    pub(super) fn diagnose(&self, name: &PodName, answer: oneshot::Sender<Option<Diagnosis>>) {
        let Some((uid, pod)) =
            self.machine.find(name).and_then(|uid| Some((uid.clone(), self.report(&uid)?)))
        else {
            let _: Result<(), _> = answer.send(None);
            return;
        };
        let proxy = pod.proxy.as_ref().filter(|proxy| !proxy.guessed);
        let kubelet = proxy.is_some_and(|proxy| {
            proxy.kube_ready && self.machine.kubelet_says_ready(&uid, &proxy.container)
        });
        let look = proxy.map(|ProxyReport { ready, ports, guessed, .. }| {
            let cgroup = self.paths.get(&uid);
            let pid = cgroup.and_then(|cgroup| oldest_process(cgroup, &self.proc_root).ok()?);
            self.prober.look(uid.clone(), ready.clone(), ports.clone(), *guessed, pid)
        });
        let workload = self.journal.workloads().into_iter().find(|facts| facts.concern(&pod.pod));
        let watch = self.machine.may_watch(&uid).err();
        let observe = self.machine.observes();
        tokio::spawn(async move {
            let finding = match look {
                Some(look) => Some(look.await),
                None => None,
            };
            let finding = finding.map(|finding| match finding {
                Finding::KubeletSilent { .. } if kubelet => {
                    Finding::Ready { check: ReadyCheck::Kube }
                }
                finding => finding,
            });
            // Whoever asked may have given up.
            let _: Result<(), _> =
                answer.send(Some(Diagnosis::new(pod, finding, workload, observe, watch)));
        });
    }

    pub(super) fn watch(
        &mut self,
        pod: PodName,
        time: Duration,
        by: Orderer,
    ) -> Result<PodReport, WatchError> {
        let uid = self.machine.find(&pod).ok_or(WatchError::NoSuchPod)?;
        if !time.is_zero() {
            self.machine.may_watch(&uid)?;
        }
        let Orderer { uid: by_uid, pid: by_pid } = by;
        let PodName { namespace, name } = &pod;
        let time_ms = time.as_millis() as u64;
        tracing::info!(
            %namespace, pod = %name, pod_uid = %uid, time_ms, by_uid, by_pid,
            "the operator has the pod observed"
        );
        self.apply(Event::Watched { pod, until: clock::now() + time });
        self.report(&uid).ok_or(WatchError::NoSuchPod)
    }
}
