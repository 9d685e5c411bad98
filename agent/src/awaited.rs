//! Ports at which somebody is waited for to listen. The kernel tells who does, and each word of it
//! has to be asked for.

use std::{
    collections::{BTreeSet, HashMap},
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::core::NetnsCookie;

/// A port of a network namespace, on any of its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The namespace.
    pub netns: NetnsCookie,
    /// The port.
    pub port: u16,
}

/// Whom the kernel is to tell of.
pub trait Questions: Send {
    /// Asks to be told once of the next one who begins to listen there.
    ///
    /// # Errors
    ///
    /// If nobody is going to tell.
    fn ask(&mut self, place: Place) -> io::Result<()>;

    /// Takes the question back, if it has not been answered.
    fn take_back(&mut self, place: Place);
}

/// All that are waited for. Clones are the same.
#[derive(Clone)]
pub struct AwaitedPorts(Arc<Mutex<Books>>);

struct Books {
    questions: Box<dyn Questions>,
    waiting: HashMap<Place, Arc<Waiter>>,
}

/// Who waits, and what has come.
#[derive(Default)]
struct Waiter {
    arrived: Mutex<BTreeSet<u16>>,
    news: Notify,
}

/// The ports of one network namespace, for as long as this lives.
pub struct Awaited {
    all: AwaitedPorts,
    places: Vec<Place>,
    waiter: Arc<Waiter>,
}

// === impl AwaitedPorts ===

impl AwaitedPorts {
    /// Of none yet.
    #[must_use]
    pub fn new(questions: Box<dyn Questions>) -> Self {
        Self(Arc::new(Mutex::new(Books { questions, waiting: HashMap::new() })))
    }

    /// Waits for listeners at these ports. Of two who wait at the same one the last to ask hears of it.
    #[must_use]
    pub fn wait_at(&self, netns: NetnsCookie, ports: impl IntoIterator<Item = u16>) -> Awaited {
        let places = ports.into_iter().map(|port| Place { netns, port }).collect();
        Awaited { all: self.clone(), places, waiter: Arc::default() }
    }

    /// The kernel's answers.
    pub fn arrived(&self, places: impl IntoIterator<Item = Place>) {
        let books = self.books();
        for place in places {
            if let Some(waiter) = books.waiting.get(&place) {
                lock(&waiter.arrived).insert(place.port);
                waiter.news.notify_one();
            }
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        lock(&self.0)
    }
}

/// No writer panics half-way.
fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// If of one of them nobody is going to tell.
    pub fn ask(&self) -> io::Result<()> {
        let mut books = self.all.books();
        self.places.iter().try_for_each(|place| {
            books.waiting.insert(*place, Arc::clone(&self.waiter));
            books.questions.ask(*place)
        })
    }

    /// The ports at which somebody has begun to listen since this was last waited for. Nothing is lost of
    /// a future that is dropped.
    pub async fn arrived(&self) -> BTreeSet<u16> {
        self.waiter.news.notified().await;
        std::mem::take(&mut *lock(&self.waiter.arrived))
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        let mut books = self.all.books();
        for place in &self.places {
            // Somebody else may wait there by now.
            if books.waiting.get(place).is_some_and(|of| Arc::ptr_eq(of, &self.waiter)) {
                books.waiting.remove(place);
                books.questions.take_back(*place);
            }
        }
    }
}

impl fmt::Debug for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Awaited").field("places", &self.places).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use futures::FutureExt as _;

    use super::*;

    /// What is asked of the kernel, by port.
    #[derive(Clone, Default)]
    struct Asked(Arc<Mutex<BTreeSet<u16>>>);

    impl Questions for Asked {
        fn ask(&mut self, place: Place) -> io::Result<()> {
            self.0.lock().unwrap().insert(place.port);
            Ok(())
        }

        fn take_back(&mut self, place: Place) {
            self.0.lock().unwrap().remove(&place.port);
        }
    }

    const NETNS: NetnsCookie = NetnsCookie(7);

    fn arrived(awaited: &Awaited) -> Vec<u16> {
        awaited.arrived().now_or_never().into_iter().flatten().collect()
    }

    #[test]
    fn an_arrival_is_heard_by_who_waits_there_and_once() {
        let ports = AwaitedPorts::new(Box::new(Asked::default()));
        let (here, elsewhere) =
            (ports.wait_at(NETNS, [15001, 15021]), ports.wait_at(NetnsCookie(8), [15001]));
        here.ask().unwrap();
        elsewhere.ask().unwrap();
        ports.arrived([Place { netns: NETNS, port: 15021 }, Place { netns: NETNS, port: 15001 }]);
        ports.arrived([Place { netns: NETNS, port: 1 }]);
        assert_eq!(arrived(&here), [15001, 15021]);
        assert_eq!((arrived(&here), arrived(&elsewhere)), (vec![], vec![]));
    }

    #[test]
    fn the_last_who_asks_hears_and_takes_the_question_back() {
        let asked = Asked::default();
        let ports = AwaitedPorts::new(Box::new(asked.clone()));
        let first = ports.wait_at(NETNS, [15001, 15021]);
        first.ask().unwrap();
        let second = ports.wait_at(NETNS, [15001]);
        second.ask().unwrap();
        // As of a probe that was replaced: it ends after the new one has begun.
        drop(first);
        assert_eq!(*asked.0.lock().unwrap(), BTreeSet::from([15001]));
        ports.arrived([Place { netns: NETNS, port: 15001 }]);
        assert_eq!(arrived(&second), [15001]);
        // Whoever asks again has not been forgotten for somebody who asked in between.
        let third = ports.wait_at(NETNS, [15001]);
        third.ask().unwrap();
        second.ask().unwrap();
        drop(third);
        ports.arrived([Place { netns: NETNS, port: 15001 }]);
        assert_eq!(arrived(&second), [15001]);
        drop(second);
        assert!(asked.0.lock().unwrap().is_empty());
    }
}
