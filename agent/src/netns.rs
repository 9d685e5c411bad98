//! Network namespaces: a handle to one, and a way to do something inside it.

use std::{
    fs::File,
    io,
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::Path,
    sync::Arc,
};

use nix::sched::{CloneFlags, setns};

use crate::{core::NetnsCookie, worker::Worker};

/// A network namespace, kept alive by this handle.
#[derive(Debug)]
pub struct Netns {
    file: File,
    inode: u64,
}

/// Does things inside network namespaces, on one thread of its own: a thread that has entered a
/// pod's namespace must never go on as a worker of the agent. A socket made there stays there,
/// wherever it is used afterwards.
#[derive(Clone, Debug)]
pub struct Entrance {
    worker: Worker,
    /// The agent's own namespace.
    home: Arc<File>,
}

// === impl Netns ===

impl Netns {
    /// Opens the namespace behind `path`, such as `/proc/<pid>/ns/net`.
    ///
    /// # Errors
    ///
    /// If the process is gone or may not be inspected (that takes `CAP_SYS_PTRACE`).
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let inode = file.metadata()?.ino();
        Ok(Self { file, inode })
    }

    /// Its inode number, by which namespaces of one machine are told apart.
    #[must_use]
    pub const fn inode(&self) -> u64 {
        self.inode
    }
}

// === impl Entrance ===

impl Entrance {
    /// Starts the thread. It ends with the last clone of this handle.
    ///
    /// # Errors
    ///
    /// If no thread can be started, or it could not leave a namespace again.
    pub fn start() -> io::Result<Self> {
        let home = Arc::new(File::open("/proc/thread-self/ns/net")?);
        Ok(Self { worker: Worker::start("netns")?, home })
    }

    /// Runs `work` inside `netns`. It must not block: others wait for their turn.
    ///
    /// # Errors
    ///
    /// If the namespace cannot be entered (that takes `CAP_SYS_ADMIN`), or what `work` returns.
    pub async fn run<T, F>(&self, netns: &Arc<Netns>, work: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> io::Result<T> + Send + 'static,
    {
        let netns = Arc::clone(netns);
        let home = Arc::clone(&self.home);
        let enter_and_work = move || {
            setns(&netns.file, CloneFlags::CLONE_NEWNET)?;
            let result = work();
            // A namespace lives as long as a thread is in it, and with it the devices of a pod that
            // has gone. Where the way back fails the next job leaves it.
            let _: nix::Result<()> = setns(&*home, CloneFlags::CLONE_NEWNET);
            result
        };
        self.worker.run(enter_and_work).await?
    }
}

/// The cookie of the calling thread's namespace; `None` before Linux 5.14.
///
/// # Errors
///
/// If no socket can be made, of which to ask it.
pub fn own_cookie() -> io::Result<Option<NetnsCookie>> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    Ok(cookie_of(&socket))
}

/// The cookie of the namespace in which `socket` was made; `None` before Linux 5.14.
#[must_use]
pub fn cookie_of(socket: &socket2::Socket) -> Option<NetnsCookie> {
    /// include/uapi/asm-generic/socket.h
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let mut cookie = 0_u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: `cookie` and `len` are live and `len` tells the size of `cookie`.
    let ret = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    (ret == 0).then_some(NetnsCookie(cookie))
}

#[cfg(test)]
mod tests {
    use std::{fs, thread, time::Duration};

    use nix::{sched::unshare, unistd::gettid};

    use super::*;

    #[tokio::test]
    async fn the_thread_does_not_stay_in_a_pod_s_namespace() {
        let foreign = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            Netns::open(Path::new("/proc/thread-self/ns/net")).unwrap()
        });
        let foreign = Arc::new(foreign.join().unwrap());
        let entrance = Entrance::start().unwrap();
        let inside = || fs::read_link("/proc/thread-self/ns/net");
        let (tid, seen) = entrance.run(&foreign, move || Ok((gettid(), inside()?))).await.unwrap();
        let own = inside().unwrap();
        assert_ne!(seen, own);
        let path = format!("/proc/self/task/{tid}/ns/net");
        // It answers before it goes.
        while fs::read_link(&path).unwrap() != own {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
