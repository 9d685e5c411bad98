//! One round of a probe: who listens, then whom to ask.

use std::{io, net::SocketAddr, sync::Arc};

use super::{
    http::{self, Answer, Question, TIMEOUT},
    listener::{LOOPBACK, Listeners},
};
use crate::{
    core::{Finding, PodUid, ReadyCheck},
    netns::{Entrance, Netns},
};

/// What the rounds of one pod's probe ask.
#[derive(Debug)]
pub(super) struct Round {
    /// Whose it is, for the log.
    pub(super) uid: PodUid,
    /// The first that says ready counts.
    pub(super) checks: Vec<ReadyCheck>,
    /// The ports that must have a listener before it counts.
    pub(super) ports: Vec<u16>,
    /// One of them is enough.
    pub(super) any_port: bool,
    /// Whether the kernel tells who listens.
    pub(super) listeners: bool,
}

/// What the part of a round that is done inside the namespace leaves to do outside.
enum Look {
    Found(Seen),
    /// If there is no question, this is what was found.
    Ask(Vec<Question>, Finding),
}

/// What a round has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// What it came to.
    pub(super) finding: Finding,
    /// Every port that must have a listener has one: whoever connects is answered, ready or not.
    pub(super) listens: bool,
}

// === impl Round ===

impl Round {
    /// Whether there is a check that can be asked; kubelet's word comes from elsewhere.
    pub(super) fn can_ask(&self) -> bool {
        self.checks.iter().any(|check| *check != ReadyCheck::Kube)
    }

    /// Where somebody has to listen before it is worth another look.
    pub(super) fn awaited_ports(&self) -> impl Iterator<Item = u16> {
        let of_check = |check: &ReadyCheck| match check {
            ReadyCheck::Http { port, .. } | ReadyCheck::Tcp { port } => Some(*port),
            ReadyCheck::Kube => None,
        };
        self.ports.iter().copied().chain(self.checks.iter().filter_map(of_check))
    }

    /// Goes once through all checks, in one visit to the namespace.
    ///
    /// # Errors
    ///
    /// If the namespace cannot be entered.
    pub(super) async fn run(
        self: &Arc<Self>,
        entrance: &Entrance,
        netns: &Arc<Netns>,
    ) -> io::Result<Seen> {
        let round = Arc::clone(self);
        match entrance.run(netns, move || Ok(round.look())).await? {
            Look::Found(seen) => Ok(seen),
            Look::Ask(questions, otherwise) => {
                let finding = match http::first_ready(questions).await {
                    Ok(check) => Finding::Ready { check: self.checks[check].clone() },
                    Err(asked) => {
                        asked.map_or(otherwise, |(check, answer)| self.not_ready(check, answer))
                    }
                };
                Ok(Seen { finding, listens: true })
            }
        }
    }

    fn not_ready(&self, check: usize, answer: Answer) -> Finding {
        let check = self.checks[check].clone();
        match answer {
            Answer::Refused => Finding::Refused { check },
            Answer::Silent => Finding::Silent { check, within_ms: TIMEOUT.as_millis() as u64 },
            Answer::Failed(error) => Finding::Failed { check, error },
            Answer::Status(status) => Finding::Answered { check, status },
        }
    }

    /// Nobody is asked at whose port nobody listens: that costs a lookup in place of a connection
    /// that is refused.
    fn look(&self) -> Look {
        let listeners = self.listeners.then(Listeners::open).and_then(|opened| {
            opened
                .inspect_err(|error| {
                    tracing::debug!(pod_uid = %self.uid, %error, "listeners cannot be looked up");
                })
                .ok()
        });
        // `None`: the kernel does not tell.
        let listens = |address: SocketAddr| {
            let has = listeners.as_ref()?.has(address);
            has.inspect_err(|error| {
                tracing::debug!(
                    pod_uid = %self.uid, %error, %address, "listener cannot be looked up"
                );
            })
            .ok()
        };
        let on_loopback = |port: u16| {
            let answers = LOOPBACK.map(|ip| listens(SocketAddr::new(ip, port)));
            let unknown = answers.contains(&None);
            if answers.contains(&Some(true)) { Some(true) } else { (!unknown).then_some(false) }
        };
        // Sockets that cannot be looked up are no reason to hold any longer ...
        let ports = self.ports.iter().copied();
        let without: Vec<u16> = ports.filter(|port| on_loopback(*port) == Some(false)).collect();
        let enough = if self.any_port { self.ports.len() } else { 1 };
        if !without.is_empty() && without.len() >= enough {
            let finding = Finding::NobodyListens { ports: without };
            return Look::Found(Seen { finding, listens: false });
        }
        let found = |finding| Look::Found(Seen { finding, listens: true });
        if !self.can_ask() {
            return found(Finding::KubeletSilent { ports: self.ports.clone() });
        }
        // ... and no reason to let go either, where they are all there is to go by.
        let tcp = self.checks.iter().position(
            |check| matches!(check, ReadyCheck::Tcp { port } if on_loopback(*port) == Some(true)),
        );
        if let Some(check) = tcp {
            return found(Finding::Ready { check: self.checks[check].clone() });
        }
        let (mut questions, mut asked_ports, mut failed) = (Vec::new(), Vec::new(), None);
        for (index, check) in self.checks.iter().enumerate() {
            let (ReadyCheck::Http { port, .. } | ReadyCheck::Tcp { port }) = check else {
                continue;
            };
            if !asked_ports.contains(port) {
                asked_ports.push(*port);
            }
            let ReadyCheck::Http { path, .. } = check else { continue };
            let addresses = LOOPBACK.map(|ip| SocketAddr::new(ip, *port));
            for address in addresses.into_iter().filter(|address| listens(*address) != Some(false))
            {
                match Question::new(&self.uid, index, address, path) {
                    Ok(question) => questions.push(question),
                    Err(error) => {
                        tracing::debug!(
                            pod_uid = %self.uid, %error, %address, "no socket to ask with"
                        );
                        let (check, error) = (check.clone(), error.to_string());
                        failed = Some(Finding::Failed { check, error });
                    }
                }
            }
        }
        let otherwise = failed.unwrap_or(Finding::NobodyListens { ports: asked_ports });
        Look::Ask(questions, otherwise)
    }
}

#[cfg(test)]
mod tests;
