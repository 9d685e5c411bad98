//! Who listens where a replayed SYN will arrive.
//!
//! A proxy opens a port's addresses one after the other: Envoy first a listener's `address`, then
//! its `additional_addresses`. It is ready with the first, and a SYN to the other address family
//! that arrives in between is refused.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use crate::readiness::listener::{LOOPBACK, Listeners};

/// Asks about one pod's network namespace.
pub(super) struct Listening {
    /// `None` where the kernel does not tell.
    listeners: Option<Listeners>,
    /// The answers of this pass.
    known: HashMap<SocketAddr, bool>,
}

// === impl Listening ===

impl Listening {
    /// Must be called inside the network namespace, if `is_told` by this kernel who listens.
    pub(super) fn open(is_told: bool) -> Self {
        // Without it everything is sent at once.
        let listeners = is_told.then(Listeners::open).and_then(Result::ok);
        Self { listeners, known: HashMap::new() }
    }

    /// Begins another pass: who did not listen may do so now.
    pub(super) fn look_again(&mut self) {
        self.known.retain(|_, listens| *listens);
    }

    /// Whether the proxy is about to listen at `address`: it does on this port's other loopback
    /// address already. A port at which nobody listens at all is not waited for: the gate has not
    /// opened because of a listener.
    pub(super) fn is_about_to(&mut self, address: SocketAddr) -> bool {
        let port = address.port();
        let of_other_family = |ip: &IpAddr| ip.is_ipv4() != address.is_ipv4();
        !self.has(address)
            && LOOPBACK
                .into_iter()
                .filter(of_other_family)
                .any(|other| self.has(SocketAddr::new(other, port)))
    }

    fn has(&mut self, address: SocketAddr) -> bool {
        let Self { listeners, known } = self;
        *known.entry(address).or_insert_with(|| {
            // `Ok(false)` alone is a reason to wait.
            listeners.as_ref().is_none_or(|listeners| listeners.has(address).unwrap_or(true))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readiness::sandbox::Sandbox;

    const V4: &str = "127.0.0.1:15001";
    const V6: &str = "[::1]:15001";

    async fn open(sandbox: &Sandbox, is_told: bool) -> Listening {
        sandbox.entrance.run(&sandbox.netns, move || Ok(Listening::open(is_told))).await.unwrap()
    }

    fn about_to(listening: &mut Listening) -> [bool; 2] {
        listening.look_again();
        [V4, V6].map(|address| listening.is_about_to(address.parse().unwrap()))
    }

    #[tokio::test]
    async fn an_address_is_waited_for_while_the_other_family_has_a_listener() {
        for (first, then, waits) in [(V4, V6, [false, true]), (V6, V4, [true, false])] {
            let sandbox = Sandbox::new();
            let mut listening = open(&sandbox, true).await;
            assert_eq!(about_to(&mut listening), [false, false], "nobody listens");
            let _first = sandbox.listen(first).await;
            assert_eq!(about_to(&mut listening), waits, "{first} listens");
            let _then = sandbox.listen(then).await;
            assert_eq!(about_to(&mut listening), [false, false], "both listen");
        }
    }

    #[tokio::test]
    async fn a_kernel_that_does_not_tell_is_no_reason_to_wait() {
        let sandbox = Sandbox::new();
        let _first = sandbox.listen(V4).await;
        assert_eq!(about_to(&mut open(&sandbox, false).await), [false, false]);
    }
}
