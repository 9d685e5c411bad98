//! Whether the agent holds what it should hold.

use std::{fmt::Write as _, sync::Arc};

use tokio::sync::watch;

/// What must have happened before the agent is armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The kernel has taken the programs.
    ProgramsLoaded,
    /// The API has told of all pods of this node.
    PodsListed,
    /// The API has told of all namespaces.
    NamespacesListed,
    /// All of kubelet's cgroups have been seen.
    CgroupsListed,
}

/// Told by the parts, read by `/readyz`. Clones are of the same agent.
///
/// What has happened stays so: an API server that goes away later must neither stall a roll-out
/// nor have the agent restarted, because gates are worked without it.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    state: Arc<watch::Sender<State>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    met: [bool; Reason::ALL.len()],
    stands_by: bool,
}

/// What `/readyz` answers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) is_ready: bool,
    pub(super) text: String,
}

// === impl Reason ===

impl Reason {
    const ALL: [Self; 4] =
        [Self::ProgramsLoaded, Self::PodsListed, Self::NamespacesListed, Self::CgroupsListed];

    const fn name(self) -> &'static str {
        match self {
            Self::ProgramsLoaded => "programs-loaded",
            Self::PodsListed => "pods-listed",
            Self::NamespacesListed => "namespaces-listed",
            Self::CgroupsListed => "cgroups-listed",
        }
    }

    const fn why_not(self) -> &'static str {
        match self {
            Self::ProgramsLoaded => "the eBPF programs are not loaded yet",
            Self::PodsListed => "the API server has not listed this node's pods yet",
            Self::NamespacesListed => "the API server has not listed the namespaces yet",
            Self::CgroupsListed => "the pods' cgroups have not been read yet",
        }
    }
}

// === impl Readiness ===

impl Readiness {
    /// This has happened; telling it again changes nothing.
    pub fn met(&self, reason: Reason) {
        self.state.send_if_modified(|state| !std::mem::replace(state.met(reason), true));
    }

    /// All that can be proven without working the gates is: the agent is ready to take over from
    /// the one that runs.
    pub fn stand_by(&self) {
        self.state.send_if_modified(|state| !std::mem::replace(&mut state.stands_by, true));
    }

    /// Whether all has happened.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        self.state.borrow().is_armed()
    }

    /// Whether this has happened.
    pub(crate) fn has_met(&self, reason: Reason) -> bool {
        *self.state.borrow().clone().met(reason)
    }

    /// Whether the gates are worked: the kernel has taken the programs.
    pub(crate) fn is_working(&self) -> bool {
        self.has_met(Reason::ProgramsLoaded)
    }

    /// Whether another agent works here.
    pub(crate) fn stands_by(&self) -> bool {
        self.state.borrow().stands_by
    }

    /// What has not happened yet, in words.
    pub(crate) fn missing(&self) -> Vec<String> {
        let mut state = *self.state.borrow();
        let missing = Reason::ALL.into_iter().filter(|reason| !*state.met(*reason));
        missing.map(|reason| reason.why_not().to_owned()).collect()
    }

    /// Waits until all has happened.
    pub async fn armed(&self) {
        // Fails only without a sender, and this handle has it.
        let _: Result<_, _> = self.state.subscribe().wait_for(State::is_armed).await;
    }

    pub(super) fn report(&self, verbose: bool) -> Report {
        let state = *self.state.borrow();
        let is_ready = state.is_armed() || state.stands_by;
        Report { is_ready, text: state.text(is_ready, verbose) }
    }
}

// === impl State ===

impl State {
    fn met(&mut self, reason: Reason) -> &mut bool {
        &mut self.met[reason as usize]
    }

    fn is_armed(&self) -> bool {
        self.met.iter().all(|met| *met)
    }

    /// As the API server words its own `/readyz`, which is what operators are used to.
    fn text(mut self, is_ready: bool, verbose: bool) -> String {
        if is_ready && !verbose {
            return "ok".to_owned();
        }
        let mut text = String::new();
        for reason in Reason::ALL {
            let (name, met) = (reason.name(), *self.met(reason));
            // Writing to a string cannot fail.
            let _: std::fmt::Result = match met {
                true if verbose => writeln!(text, "[+]{name} ok"),
                true => Ok(()),
                false => writeln!(text, "[-]{name} failed: {}", reason.why_not()),
            };
        }
        if verbose {
            if self.stands_by && !self.is_armed() {
                text.push_str("[+]standing by for the agent that runs\n");
            }
            text.push_str(if is_ready { "readyz check passed\n" } else { "readyz check failed\n" });
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(readiness: &Readiness, verbose: bool) -> (bool, String) {
        let Report { is_ready, text } = readiness.report(verbose);
        (is_ready, text)
    }

    #[test]
    fn what_is_missing_is_told_until_nothing_is() {
        let readiness = Readiness::default();
        for (nth, reason) in Reason::ALL.into_iter().enumerate() {
            let (is_ready, missing) = text(&readiness, false);
            assert!(!is_ready && !readiness.is_armed());
            assert_eq!(missing.lines().count(), Reason::ALL.len() - nth, "{missing}");
            assert!(missing.contains(reason.why_not()), "{missing}");
            let (_, all) = text(&readiness, true);
            assert_eq!(all.matches("[+]").count(), nth, "{all}");
            assert_eq!(all.matches("[-]").count(), Reason::ALL.len() - nth, "{all}");
            assert!(all.ends_with("readyz check failed\n"), "{all}");
            readiness.met(reason);
            readiness.met(reason);
        }
        assert!(readiness.is_armed());
        assert_eq!(text(&readiness, false), (true, "ok".to_owned()));
        let (_, all) = text(&readiness, true);
        assert_eq!(
            all,
            "[+]programs-loaded ok\n[+]pods-listed ok\n[+]namespaces-listed ok\n\
             [+]cgroups-listed ok\nreadyz check passed\n"
        );
    }

    #[test]
    fn an_agent_that_stands_by_is_ready_and_stays_so() {
        let readiness = Readiness::default();
        readiness.stand_by();
        assert_eq!(text(&readiness, false), (true, "ok".to_owned()));
        let (is_ready, all) = text(&readiness, true);
        assert!(is_ready && all.contains("[+]standing by") && all.contains("[-]pods-listed"));
        assert!(!readiness.is_armed());
        Reason::ALL.into_iter().for_each(|reason| readiness.met(reason));
        let (is_ready, all) = text(&readiness, true);
        assert!(is_ready && readiness.is_armed() && !all.contains("standing by"), "{all}");
    }

    #[tokio::test]
    async fn who_waits_for_arming_is_woken_by_the_last_reason() {
        let readiness = Readiness::default();
        let waiting = tokio::spawn({
            let readiness = readiness.clone();
            async move { readiness.armed().await }
        });
        let (last, others) = Reason::ALL.split_last().unwrap();
        others.iter().for_each(|reason| readiness.met(*reason));
        readiness.stand_by();
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        readiness.met(*last);
        waiting.await.unwrap();
        readiness.armed().await;
    }
}
