//! Asks the programs who begins to listen, and reads what they tell.

use std::{convert::Infallible, fmt, io};

use agent_ebpf::AwaitedPort;
use aya::maps::{HashMap, MapData, RingBuf};

use super::{BpfError, map::write_failed, ring::Ring};
use crate::{
    awaited::{AwaitedPorts, Place, Questions},
    core::NetnsCookie,
};

/// Whom the programs are to tell of; who has been told of is no more in here.
pub(super) struct Asked(HashMap<MapData, AwaitedPort, u8>);

/// Brings the programs' news to whoever waits for it.
pub struct Arrivals {
    ring: Ring,
    ports: AwaitedPorts,
}

// === impl Asked ===

impl Asked {
    pub(super) const MAP: &'static str = "AWAITED";

    pub(super) const fn new(map: HashMap<MapData, AwaitedPort, u8>) -> Self {
        Self(map)
    }
}

impl Questions for Asked {
    fn ask(&mut self, place: Place) -> io::Result<()> {
        let written = self.0.insert(key(place), 1, 0);
        written.map_err(|source| io::Error::other(write_failed(Self::MAP, source)))
    }

    fn take_back(&mut self, place: Place) {
        // It has been answered, or stays a question whose answer nobody hears.
        let _: Result<(), _> = self.0.remove(&key(place));
    }
}

fn key(place: Place) -> AwaitedPort {
    AwaitedPort::new(place.netns.0, place.port.into())
}

/// Bytes of another size are not of this ABI and are passed over.
fn place(bytes: &[u8]) -> Option<Place> {
    let told: AwaitedPort = bytemuck::try_pod_read_unaligned(bytes).ok()?;
    let port = told.port.try_into().ok()?;
    Some(Place { netns: NetnsCookie(told.netns_cookie), port })
}

// === impl Arrivals ===

impl Arrivals {
    pub(super) const MAP: &'static str = "ARRIVED";

    /// Must be called within a tokio runtime.
    pub(super) fn new(ring: RingBuf<MapData>, ports: AwaitedPorts) -> Result<Self, BpfError> {
        Ok(Self { ring: Ring::new(ring)?, ports })
    }

    /// Brings news until there can be none any more.
    ///
    /// # Errors
    ///
    /// [`BpfError::Ring`], always: the ring cannot be waited for.
    pub async fn bring(mut self) -> Result<Infallible, BpfError> {
        loop {
            let arrived = self.ring.next(place).await?;
            self.ports.arrived(arrived);
        }
    }
}

impl fmt::Debug for Arrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrivals").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_what_was_asked() {
        let asked = Place { netns: NetnsCookie(1 << 40), port: 65_535 };
        assert_eq!(place(bytemuck::bytes_of(&key(asked))), Some(asked));
        assert_eq!(place(&[0xff; size_of::<AwaitedPort>()]), None, "no port has such a number");
        assert_eq!(place(&[0; size_of::<AwaitedPort>() - 1]), None);
    }
}
