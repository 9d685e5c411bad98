//! Ports at which somebody is waited for to listen, and the news that somebody does.

use std::{
    collections::HashMap as StdHashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use agent_ebpf::AwaitedPort;
use aya::maps::{HashMap, MapData, RingBuf};
use tokio::sync::Notify;

use super::{BpfError, ring::Ring};
use crate::core::NetnsCookie;

/// All that are waited for. Clones are the same.
#[derive(Clone)]
pub struct AwaitedPorts(Arc<Mutex<Books>>);

struct Books {
    /// Of whom the programs are to tell; each is told once and is no more in here then.
    asked: HashMap<MapData, AwaitedPort, u8>,
    /// Who wants to know.
    waiting: StdHashMap<AwaitedPort, Arc<Notify>>,
}

/// The ports of one network namespace, for as long as this lives.
pub struct Awaited {
    all: AwaitedPorts,
    ports: Vec<AwaitedPort>,
    arrived: Arc<Notify>,
}

/// Brings the programs' news to whoever waits for it.
pub struct Arrivals {
    ring: Ring,
    ports: AwaitedPorts,
}

// === impl AwaitedPorts ===

impl AwaitedPorts {
    pub(super) const MAP: &'static str = "AWAITED";

    pub(super) fn new(asked: HashMap<MapData, AwaitedPort, u8>) -> Self {
        Self(Arc::new(Mutex::new(Books { asked, waiting: StdHashMap::new() })))
    }

    /// Waits for listeners at these ports. Of two who wait for the same port the later one hears of it.
    #[must_use]
    pub fn wait_at(&self, netns: NetnsCookie, ports: impl IntoIterator<Item = u16>) -> Awaited {
        let ports = ports.into_iter().map(|port| AwaitedPort::new(netns.0, port.into())).collect();
        let awaited = Awaited { all: self.clone(), ports, arrived: Arc::new(Notify::new()) };
        let mut books = self.books();
        for port in &awaited.ports {
            books.waiting.insert(*port, Arc::clone(&awaited.arrived));
        }
        drop(books);
        awaited
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for AwaitedPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwaitedPorts").finish_non_exhaustive()
    }
}

// === impl Awaited ===

impl Awaited {
    /// Asks for the next listener at each of the ports. Whoever looks for one after this misses none.
    ///
    /// # Errors
    ///
    /// [`BpfError`] if a port finds no room: nobody tells of it then.
    pub fn ask(&self) -> Result<(), BpfError> {
        let mut books = self.all.books();
        for port in &self.ports {
            books
                .asked
                .insert(port, 1, 0)
                .map_err(|source| super::map::write_failed(AwaitedPorts::MAP, source))?;
        }
        Ok(())
    }

    /// Somebody has begun to listen at one of the ports, since this was last waited for.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        let mut books = self.all.books();
        for port in &self.ports {
            // Somebody else may wait there by now.
            if books.waiting.get(port).is_some_and(|of| Arc::ptr_eq(of, &self.arrived)) {
                books.waiting.remove(port);
                // It has been told of, or stays a question whose answer nobody hears.
                let _: Result<(), _> = books.asked.remove(port);
            }
        }
    }
}

impl fmt::Debug for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Awaited").field("ports", &self.ports).finish_non_exhaustive()
    }
}

// === impl Arrivals ===

impl Arrivals {
    pub(super) const MAP: &'static str = "ARRIVED";

    /// Must be called within a tokio runtime.
    pub(super) fn new(ring: RingBuf<MapData>, ports: AwaitedPorts) -> Result<Self, BpfError> {
        Ok(Self { ring: Ring::new(ring)?, ports })
    }

    /// Brings news until it cannot be waited for any more.
    ///
    /// # Errors
    ///
    /// [`BpfError::Ring`], always.
    pub async fn bring(mut self) -> Result<std::convert::Infallible, BpfError> {
        loop {
            let arrived =
                self.ring.next(|bytes| bytemuck::try_pod_read_unaligned(bytes).ok()).await?;
            let books = self.ports.books();
            for port in arrived {
                if let Some(waiting) = books.waiting.get::<AwaitedPort>(&port) {
                    waiting.notify_one();
                }
            }
        }
    }
}

impl fmt::Debug for Arrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrivals").finish_non_exhaustive()
    }
}
