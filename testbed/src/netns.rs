//! Network namespaces that live only as long as a process in them: no name, no mount, nothing to
//! leave behind.

use std::{
    fs::{self, File},
    io::Write as _,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::{fs::MetadataExt as _, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns};

/// An open handle on a network namespace.
#[derive(Debug)]
pub struct Netns {
    file: File,
}

impl Netns {
    /// The namespace that process `pid` is in.
    pub fn of_process(pid: u32) -> Result<Self> {
        Self::open(Path::new(&format!("/proc/{pid}/ns/net")))
    }

    /// The namespace of the calling thread.
    pub fn current() -> Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        Ok(Self { file })
    }

    /// A second handle on the same namespace.
    pub fn try_clone(&self) -> Result<Self> {
        Ok(Self { file: self.handle()? })
    }

    /// A path to it, for other processes, as long as this lives.
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }

    /// The descriptor, for a child that enters between fork and exec.
    fn handle(&self) -> Result<File> {
        self.file.try_clone().context("duplicate a namespace handle")
    }

    /// The namespace's inode number, which is its identity on this machine.
    pub fn inode(&self) -> Result<u64> {
        Ok(self.file.metadata().context("stat a namespace handle")?.ino())
    }

    /// Moves the calling thread in. Only for threads that end afterwards.
    pub(crate) fn enter(&self) -> Result<()> {
        setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET).context("enter a network namespace")
    }

    /// Runs `work` on a thread of its own inside the namespace; the caller's thread stays outside.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.enter()?;
                    work()
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Writes a sysctl of this namespace, for example `net.ipv4.tcp_fastopen`.
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        if !key.starts_with("net.") {
            bail!("{key} does not belong to a network namespace: only net.* does");
        }
        // /proc/sys/net shows the namespace of whoever opens it.
        self.run(|| fs::write(&path, value).with_context(|| format!("write {value} to {path}")))
    }

    /// A command that will run inside. `ip netns exec` would also mount a fresh /sys over the
    /// cgroups, hence not that.
    pub fn command(&self, program: &str) -> Result<Command> {
        let inside = self.handle()?;
        let mut command = Command::new(program);
        // SAFETY: between fork and exec only setns(2) runs, which is async-signal-safe.
        unsafe {
            command.pre_exec(move || enter_raw(&inside));
        }
        Ok(command)
    }

    /// Runs `program` inside with `input` on its standard input and fails with its error text.
    pub(crate) fn feed(&self, program: &str, args: &[&str], input: &str) -> Result<()> {
        let mut child = self
            .command(program)?
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("run {program}: run `cargo xtask setup` to install it"))?;
        let fed = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output().with_context(|| format!("wait for {program}"))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            bail!("{program} {} failed: {}\nits input was:\n{input}", args.join(" "), text.trim());
        }
        fed.with_context(|| format!("write to {program}"))
    }

    /// Runs lines of `ip` commands inside.
    pub(crate) fn ip(&self, lines: &str) -> Result<()> {
        self.feed("ip", &["-batch", "-"], lines)
    }
}

fn enter_raw(namespace: &File) -> std::io::Result<()> {
    // SAFETY: the descriptor is open for as long as `namespace` lives.
    if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}
