//! Programs that Debian packages bring, and how to see whether they are there.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{elf, workspace::find_program};

use super::Scope;

/// A Debian package that is needed for what it installs, not for its name.
pub(crate) struct Package {
    pub(crate) name: &'static str,
    pub(crate) why: &'static str,
    probe: Probe,
    /// The scopes that need it.
    pub(super) scopes: &'static [Scope],
}

/// What shows that a package, or its like on another system, is installed.
enum Probe {
    Programs(&'static [&'static str]),
    /// A busybox that runs where no library is.
    StaticBusybox,
    /// glibc's static library, which the compiler's linker finds.
    StaticLibc,
}

/// Everything but the toolchain for eBPF, which is detected by itself, and a C compiler, without
/// which no Rust program, this one included, could be linked.
pub(super) const PACKAGES: [Package; 13] = [
    Package {
        name: "iptables",
        why: "writes the redirect rules of a mesh into test pods",
        probe: Probe::Programs(&["iptables", "iptables-restore", "ip6tables"]),
        scopes: &[Scope::Demo, Scope::Tests],
    },
    Package {
        name: "iproute2",
        why: "builds the network of test pods; ss shows their sockets",
        probe: Probe::Programs(&["ip", "ss"]),
        scopes: &[Scope::Demo, Scope::Tests],
    },
    Package {
        name: "nftables",
        why: "the other way to write redirect rules",
        probe: Probe::Programs(&["nft"]),
        scopes: &[Scope::Tests],
    },
    Package {
        name: "bpftool",
        why: "a second opinion on attached programs and their maps",
        probe: Probe::Programs(&["bpftool"]),
        scopes: &[Scope::Tests],
    },
    Package {
        name: "conntrack",
        why: "shows the connections that NAT remembers",
        probe: Probe::Programs(&["conntrack"]),
        scopes: &[Scope::Tests],
    },
    Package {
        name: "strace",
        why: "shows what an application's connect() saw",
        probe: Probe::Programs(&["strace"]),
        scopes: &[Scope::Tests],
    },
    Package {
        name: "python3",
        why: "an asyncio client among the test applications; unpacks Envoy",
        probe: Probe::Programs(&["python3"]),
        scopes: &[Scope::Demo, Scope::Tests],
    },
    Package {
        name: "nodejs",
        why: "a client that dials non-blocking among the test applications",
        probe: Probe::Programs(&["node"]),
        scopes: &[Scope::Tests],
    },
    Package {
        name: "qemu-system-x86",
        why: "boots the older kernels",
        probe: Probe::Programs(&["qemu-system-x86_64"]),
        scopes: &[Scope::Tests],
    },
    Package {
        name: "busybox-static",
        why: "the user space of those virtual machines",
        probe: Probe::StaticBusybox,
        scopes: &[Scope::Tests],
    },
    Package {
        name: "g++",
        why: "builds libFuzzer, which is C++",
        probe: Probe::Programs(&["c++"]),
        scopes: &[Scope::Tests],
    },
    Package {
        name: "libc6-dev",
        why: "static libc for programs that run where no library is",
        probe: Probe::StaticLibc,
        scopes: &[Scope::Tests, Scope::Image],
    },
    Package {
        name: "buildah",
        why: "makes the image, without a daemon",
        probe: Probe::Programs(&["buildah"]),
        scopes: &[Scope::Image],
    },
];

/// Packages of the scope that are missing.
pub(crate) fn missing(scope: Scope) -> impl Iterator<Item = &'static Package> {
    PACKAGES
        .iter()
        .filter(move |package| package.scopes.contains(&scope) && !package.probe.is_there())
}

/// A busybox that needs no libraries.
pub(crate) fn static_busybox() -> Option<PathBuf> {
    find_program("busybox").filter(|busybox| elf::is_static(busybox))
}

/// Whether a C compiler finds the static libc of the machines that it compiles for.
pub(crate) fn has_static_libc(compiler: &str) -> bool {
    Command::new(compiler).arg("-print-file-name=libc.a").output().is_ok_and(|output| {
        // The compiler repeats the bare name of a file that it does not find.
        Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_absolute()
    })
}

// === impl Probe ===

impl Probe {
    fn is_there(&self) -> bool {
        match self {
            Self::Programs(names) => names.iter().all(|name| find_program(name).is_some()),
            Self::StaticBusybox => static_busybox().is_some(),
            Self::StaticLibc => has_static_libc("cc"),
        }
    }
}
