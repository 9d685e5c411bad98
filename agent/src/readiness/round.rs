//! One round of a probe: who listens, then whom to ask.

use std::{io, net::SocketAddr, sync::Arc};

use super::{
    http::{self, Question},
    listener::{LOOPBACK, Listeners},
};
use crate::{
    core::{PodUid, ReadyCheck},
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

/// What a round found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// The check with this index says ready, and every port has a listener.
    Ready(usize),
    /// Not every port has a listener; nobody was asked then.
    NobodyListens,
    /// None of the checks says ready.
    NotReady,
    /// There is no check that could be asked.
    NothingToAsk,
}

/// What the part of a round that is done inside the namespace leaves to do outside.
enum Look {
    Found(Finding),
    Ask(Vec<Question>),
}

// === impl Round ===

impl Round {
    /// Whether there is a check that can be asked; kubelet's word comes from elsewhere.
    pub(super) fn can_ask(&self) -> bool {
        self.checks.iter().any(|check| *check != ReadyCheck::Kube)
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
    ) -> io::Result<Finding> {
        let round = Arc::clone(self);
        match entrance.run(netns, move || Ok(round.look())).await? {
            Look::Found(finding) => Ok(finding),
            Look::Ask(questions) => {
                Ok(http::first_ready(questions).await.map_or(Finding::NotReady, Finding::Ready))
            }
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
        let mut taken = self.ports.iter().map(|port| on_loopback(*port).unwrap_or(true));
        let listening = if self.any_port && !self.ports.is_empty() {
            taken.any(|taken| taken)
        } else {
            taken.all(|taken| taken)
        };
        if !listening {
            return Look::Found(Finding::NobodyListens);
        }
        if !self.can_ask() {
            return Look::Found(Finding::NothingToAsk);
        }
        // ... and no reason to let go either, where they are all there is to go by.
        let tcp = self.checks.iter().position(
            |check| matches!(check, ReadyCheck::Tcp { port } if on_loopback(*port) == Some(true)),
        );
        if let Some(check) = tcp {
            return Look::Found(Finding::Ready(check));
        }
        let mut questions = Vec::new();
        for (index, check) in self.checks.iter().enumerate() {
            let ReadyCheck::Http { port, path } = check else { continue };
            let addresses = LOOPBACK.map(|ip| SocketAddr::new(ip, *port));
            for address in addresses.into_iter().filter(|address| listens(*address) != Some(false))
            {
                match Question::new(&self.uid, index, address, path) {
                    Ok(question) => questions.push(question),
                    Err(error) => tracing::debug!(
                        pod_uid = %self.uid, %error, %address, "no socket to ask with"
                    ),
                }
            }
        }
        Look::Ask(questions)
    }
}

#[cfg(test)]
mod tests;
