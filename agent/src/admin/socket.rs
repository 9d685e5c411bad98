//! The socket: there before anybody else can use it, and gone with its agent.

use std::{
    fs::{self, DirBuilder},
    io::{self, ErrorKind},
    os::{
        fd::AsFd,
        unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use nix::sys::stat::{Mode, fchmod};
use socket2::{Domain, SockAddr, Type};
use tokio::net::{UnixListener, UnixStream, unix::UCred};

use crate::http::Listener;

/// Commands that wait to be accepted; there are few.
const BACKLOG: i32 = 64;

/// Of a directory that is made for the socket: nobody but root needs to know what is in it.
const DIRECTORY_MODE: u32 = 0o700;

/// Of the socket: who may write to it may have gates opened and closed.
const SOCKET_MODE: u32 = 0o600;

/// Of a directory to which its group or anybody may write.
const OTHERS_WRITE: u32 = 0o022;

/// Another agent may remove the dead one's socket at the same time, and make its own.
const TRIES: usize = 3;

/// The commands cannot be answered there.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody answers there.
    #[error("failed to answer commands at {}: an agent that lives does; if both are to stay, name another socket with --admin-socket", .path.display())]
    Taken {
        /// The socket.
        path: PathBuf,
    },
    /// Something else has the name.
    #[error("failed to answer commands at {}: it is there and is no socket; name another one with --admin-socket", .path.display())]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// The system says no.
    #[error("failed to answer commands at {}: {source}; name another socket with --admin-socket", .path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A socket that listens. Dropping it removes its file, if that is still its own.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of its file.
    file: Option<(u64, u64)>,
}

// === impl Socket ===

impl Socket {
    /// Listens at `path`, whose directory is made if it is missing. A dead agent's socket is
    /// replaced, a living one's is not. The caller must be within a tokio runtime.
    ///
    /// # Errors
    ///
    /// If an agent answers there, or the path cannot be had.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |source| SocketError::Io { path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            let mut builder = DirBuilder::new();
            builder.recursive(true).mode(DIRECTORY_MODE).create(directory).map_err(failed)?;
        }
        for _ in 0..TRIES {
            match listen(path) {
                Ok(listener) => {
                    let file = identity(path).ok();
                    return Ok(Self { listener, path: path.to_owned(), file });
                }
                Err(error) if error.kind() == ErrorKind::AddrInUse => remove_dead(path)?,
                Err(error) => return Err(failed(error)),
            }
        }
        Err(SocketError::Taken { path: path.to_owned() })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Listener for Socket {
    type Stream = UnixStream;
    type Peer = Peer;

    async fn accept(&self) -> io::Result<(UnixStream, Peer)> {
        let (stream, _) = self.listener.accept().await?;
        let peer = stream.peer_cred().ok().map(Peer::from);
        Ok((stream, peer.unwrap_or_default()))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.file.is_some() && identity(&self.path).ok() == self.file {
            // Whoever comes next replaces it.
            let _: Result<(), io::Error> = fs::remove_file(&self.path);
        }
    }
}

/// Who asks, as the kernel saw it connect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Its user; `None`: the kernel does not tell.
    pub(crate) uid: Option<u32>,
    /// Its process; `None`: in a pid namespace of which the agent's knows nothing.
    pub(crate) pid: Option<u32>,
}

// === impl Peer ===

impl Peer {
    /// Whether it may ask: root, or whoever the agent runs as.
    pub(super) fn is_allowed(self) -> bool {
        self.uid.is_some_and(|uid| uid == 0 || uid == nix::unistd::geteuid().as_raw())
    }
}

impl From<UCred> for Peer {
    fn from(credentials: UCred) -> Self {
        let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0);
        Self { uid: Some(credentials.uid()), pid }
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // bind(2) gives the file the socket's own mode (net/unix/af_unix.c, unix_bind_bsd), so that there
    // is no instant at which anybody else could connect. The umask can only take more of it away,
    // which root does without. Nothing is done to the path: it may be somebody else's by now.
    fchmod(socket.as_fd(), Mode::from_bits_truncate(SOCKET_MODE))?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    UnixListener::from_std(socket.into())
}

/// Removes the socket at `path` if nobody listens at it any more.
fn remove_dead(path: &Path) -> Result<(), SocketError> {
    let failed = |source| SocketError::Io { path: path.to_owned(), source };
    let is_socket = match fs::symlink_metadata(path) {
        Ok(file) => file.file_type().is_socket(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    if !is_socket {
        return Err(SocketError::NoSocket { path: path.to_owned() });
    }
    match connect(path) {
        // The file is there, and no process has it open any more.
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(()),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        // With a full queue (EAGAIN) somebody lives, too.
        _ => Err(SocketError::Taken { path: path.to_owned() }),
    }
}

fn connect(path: &Path) -> io::Result<()> {
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}

/// The directory that the socket is to be in, if others may write to it: they could put a socket of
/// theirs there, at which the operator's commands would be answered.
pub(super) fn lax_directory(socket: &Path) -> Option<&Path> {
    let directory = match socket.parent()? {
        empty if empty.as_os_str().is_empty() => Path::new("."),
        directory => directory,
    };
    // What is not there yet is made for its owner alone.
    let found = fs::metadata(directory).ok()?;
    let is_own = found.uid() == 0 || found.uid() == nix::unistd::geteuid().as_raw();
    let is_closed = found.mode() & OTHERS_WRITE == 0;
    (!(is_own && is_closed)).then_some(directory)
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let file = fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::PermissionsExt as _, net::UnixListener as StdListener};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[tokio::test]
    async fn it_is_for_its_owner_alone_in_a_directory_that_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/admin.sock");
        let socket = Socket::bind(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        let (_, peer) = socket.accept().await.unwrap();
        let me = Peer { uid: Some(nix::unistd::geteuid().as_raw()), pid: Some(std::process::id()) };
        assert_eq!(peer, me);
        assert!(peer.is_allowed());
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_directory_to_which_others_may_write_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let set = |mode| fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
        for (mode, is_lax) in
            [(0o700, false), (0o755, false), (0o775, true), (0o757, true), (0o1777, true)]
        {
            set(mode);
            assert_eq!(lax_directory(&path), is_lax.then_some(dir.path()), "{mode:o}");
        }
        set(0o755);
        // Only root gives a directory away.
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(dir.path(), Some(65_534), None).unwrap();
            assert_eq!(lax_directory(&path), Some(dir.path()), "its owner may");
        }
        assert_eq!(lax_directory(&dir.path().join("a/admin.sock")), None, "it is made");
    }

    #[tokio::test]
    async fn a_dead_agents_socket_is_replaced_and_a_living_ones_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        drop(StdListener::bind(&path).unwrap());
        assert!(path.exists());
        let first = Socket::bind(&path).unwrap();
        let error = Socket::bind(&path).unwrap_err();
        assert!(matches!(error, SocketError::Taken { .. }), "{error}");
        assert!(error.to_string().contains("--admin-socket"), "{error}");
        // Whoever has taken the place keeps it when the first one ends.
        fs::remove_file(&path).unwrap();
        let second = Socket::bind(&path).unwrap();
        drop(first);
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        drop(second);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        fs::write(&path, "precious").unwrap();
        let error = Socket::bind(&path).unwrap_err();
        assert!(matches!(error, SocketError::NoSocket { .. }), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        let long = dir.path().join("a".repeat(120));
        let error = Socket::bind(&long).unwrap_err();
        assert!(matches!(error, SocketError::Io { .. }), "{error}");
    }

    #[test]
    fn only_root_and_the_agents_own_user_may_ask() {
        let of = |uid| Peer { uid, pid: None }.is_allowed();
        assert!(of(Some(0)));
        assert!(of(Some(nix::unistd::geteuid().as_raw())));
        assert!(!of(Some(65_534)));
        assert!(!of(None));
    }
}
