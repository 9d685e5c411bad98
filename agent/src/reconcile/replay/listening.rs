//! Who listens where a replayed SYN will arrive.
//!
//! A proxy opens a port's addresses one after the other: Envoy first a listener's `address`, then
//! its `additional_addresses`. It is ready with the first, and a SYN to the other address family
//! that arrives in between is refused.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use crate::readiness::listener::{LOOPBACK, Listeners};

/// The addresses of a pod for which a replay has waited in vain: its proxy listens on the other
/// family only. One that is guarded is opened for each connect to such an address.
#[derive(Clone, Debug, Default)]
pub(super) struct OneFamily(Arc<Mutex<HashSet<SocketAddr>>>);

/// Asks about one pod's network namespace.
pub(super) struct Listening {
    /// `None` where nobody is to be waited for, or the kernel does not tell.
    listeners: Option<Listeners>,
    /// The answers of this pass.
    known: HashMap<SocketAddr, bool>,
    one_family: OneFamily,
}

// === impl OneFamily ===

impl OneFamily {
    fn with<T>(&self, work: impl FnOnce(&mut HashSet<SocketAddr>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

// === impl Listening ===

impl Listening {
    /// Must be called inside the network namespace. If it never `asks`, nobody is waited for.
    pub(super) fn open(asks: bool, one_family: OneFamily) -> Self {
        let listeners = asks.then(Listeners::open).and_then(Result::ok);
        Self { listeners, known: HashMap::new(), one_family }
    }

    /// Begins another pass: who did not listen may do so now.
    pub(super) fn look_again(&mut self) {
        self.known.retain(|_, listens| *listens);
    }

    /// Whether the proxy is about to listen at `address`: it does on this port's other loopback
    /// address already. A port at which nobody listens at all is not waited for: the gate has not
    /// opened because of a listener.
    pub(super) fn is_about_to(&mut self, address: SocketAddr) -> bool {
        let of_other_family = |ip: &IpAddr| ip.is_ipv4() != address.is_ipv4();
        self.has(address) == Some(false)
            && LOOPBACK
                .into_iter()
                .filter(of_other_family)
                .any(|other| self.has(SocketAddr::new(other, address.port())) == Some(true))
            && !self.one_family.with(|known| known.contains(&address))
    }

    /// The proxy has had its time and does not listen there: it is not waited for again.
    pub(super) fn was_in_vain(&self, address: SocketAddr) {
        self.one_family.with(|known| known.insert(address));
    }

    /// `None`: who listens there cannot be told, which is no reason to wait.
    fn has(&mut self, address: SocketAddr) -> Option<bool> {
        let listeners = self.listeners.as_ref()?;
        if let Some(known) = self.known.get(&address) {
            return Some(*known);
        }
        let has = listeners.has(address).ok()?;
        self.known.insert(address, has);
        Some(has)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readiness::sandbox::Sandbox;

    const V4: &str = "127.0.0.1:15001";
    const V6: &str = "[::1]:15001";

    async fn open(sandbox: &Sandbox, asks: bool, one_family: &OneFamily) -> Listening {
        let one_family = one_family.clone();
        let open = move || Ok(Listening::open(asks, one_family));
        sandbox.entrance.run(&sandbox.netns, open).await.unwrap()
    }

    fn about_to(listening: &mut Listening) -> [bool; 2] {
        listening.look_again();
        [V4, V6].map(|address| listening.is_about_to(address.parse().unwrap()))
    }

    #[tokio::test]
    async fn an_address_is_waited_for_while_the_other_family_has_a_listener() {
        for (first, then, waits) in [(V4, V6, [false, true]), (V6, V4, [true, false])] {
            let sandbox = Sandbox::new();
            let mut listening = open(&sandbox, true, &OneFamily::default()).await;
            assert_eq!(about_to(&mut listening), [false, false], "nobody listens");
            let _first = sandbox.listen(first).await;
            assert_eq!(about_to(&mut listening), waits, "{first} listens");
            let _then = sandbox.listen(then).await;
            assert_eq!(about_to(&mut listening), [false, false], "both listen");
        }
    }

    #[tokio::test]
    async fn whoever_does_not_ask_does_not_wait() {
        let sandbox = Sandbox::new();
        let _first = sandbox.listen(V4).await;
        let mut listening = open(&sandbox, false, &OneFamily::default()).await;
        assert_eq!(about_to(&mut listening), [false, false]);
    }

    #[tokio::test]
    async fn a_proxy_of_one_family_is_waited_for_once() {
        let sandbox = Sandbox::new();
        let one_family = OneFamily::default();
        let _first = sandbox.listen(V4).await;
        let mut listening = open(&sandbox, true, &one_family).await;
        assert_eq!(about_to(&mut listening), [false, true]);
        listening.was_in_vain(V6.parse().unwrap());
        assert_eq!(about_to(&mut listening), [false, false]);
        let mut of_next_replay = open(&sandbox, true, &one_family).await;
        assert_eq!(about_to(&mut of_next_replay), [false, false]);
        let mut of_another_pod = open(&sandbox, true, &OneFamily::default()).await;
        assert_eq!(about_to(&mut of_another_pod), [false, true]);
    }
}
