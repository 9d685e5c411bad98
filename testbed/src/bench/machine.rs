//! Where the numbers come from: what they depend on, and nothing that names anybody's machine.

use std::{collections::BTreeMap, fs, process::Command, thread};

use anyhow::{Context as _, Result, ensure};
use jiff::{Timestamp, tz::TimeZone};
use serde::{Deserialize, Serialize};

use super::table::table;
use crate::proxy;

/// The machine, the software, the day.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Machine {
    /// The processor's name, as the kernel tells it.
    pub cpu: String,
    /// How many of its cores the benchmark could use.
    pub cores: usize,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// The kernel's release.
    pub kernel: String,
    /// Envoy's version.
    pub envoy: String,
    /// The commit of holdfast that was measured.
    pub commit: String,
    /// The day, in UTC.
    pub date: String,
}

/// Behind a commit from which the checkout differs.
const CHANGED: &str = " with changes";

impl Machine {
    pub(super) fn this() -> Result<Self> {
        let cpus = fs::read_to_string("/proc/cpuinfo").context("read /proc/cpuinfo")?;
        let memory = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
        let envoy = output(Command::new(proxy::installed_envoy()?).arg("--version"))?;
        Ok(Self {
            cpu: field(&cpus, "model name").unwrap_or("unknown").to_owned(),
            cores: thread::available_parallelism().context("count the cores")?.get(),
            memory_mib: memory_mib(&memory).context("no MemTotal in /proc/meminfo")?,
            kernel: nix::sys::utsname::uname()
                .context("ask the kernel's release")?
                .release()
                .to_string_lossy()
                .into_owned(),
            envoy: envoy_version(&envoy).context("Envoy's --version tells none")?.to_owned(),
            commit: commit()?,
            date: Timestamp::now().to_zoned(TimeZone::UTC).date().to_string(),
        })
    }

    /// Whether numbers of both belong into one document, measured some hours apart.
    #[must_use]
    pub fn is_same_run(&self, other: &Self) -> bool {
        let without_date = |machine: &Self| Self { date: String::new(), ..machine.clone() };
        // What is not committed may be anything.
        !self.commit.ends_with(CHANGED) && without_date(self) == without_date(other)
    }

    /// As a table of the document; `stolen` is what the hypervisor kept while parts were measured, in percent.
    pub(super) fn table(&self, stolen: &BTreeMap<String, f64>) -> String {
        let Self { cpu, cores, memory_mib, kernel, envoy, commit, date } = self;
        let memory = format!("{:.1} GiB", *memory_mib as f64 / 1024.0);
        let stolen = stolen.iter().map(|(part, percent)| format!("{part} {percent:.1} %"));
        let rows = [
            ("processor", format!("{cpu}, {cores} cores")),
            ("memory", memory),
            ("kernel", kernel.clone()),
            ("Envoy", envoy.clone()),
            ("holdfast", format!("commit {commit}")),
            ("measured on", date.clone()),
            ("stolen", stolen.collect::<Vec<_>>().join(", ")),
        ];
        table(&["machine", ""], &rows.map(|(what, value)| vec![what.to_owned(), value]))
    }
}

/// The value of the first `key : value`.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.find(|(name, _)| name.trim() == key).map(|(_, value)| value.trim())
}

fn memory_mib(meminfo: &str) -> Option<u64> {
    let kib: u64 = field(meminfo, "MemTotal")?.strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024)
}

/// Of `PATH  version: <commit>/1.40.0/Clean/RELEASE/BoringSSL`.
fn envoy_version(text: &str) -> Option<&str> {
    text.split_once(" version: ")?.1.split('/').nth(1)
}

/// The checkout's, with a mark if something in it is not committed.
fn commit() -> Result<String> {
    let git = |args: &[&str]| output(Command::new("git").args(args));
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?.trim().to_owned();
    // What the benchmark writes itself does not change what it measures.
    let changes = git(&["status", "--porcelain", "--untracked-files=no", "--", ":!docs"])?;
    Ok(if changes.is_empty() { commit } else { commit + CHANGED })
}

fn output(command: &mut Command) -> Result<String> {
    let shown = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("run {shown}"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{shown}: {}: {}", output.status, error.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_one_commit_on_one_machine_belong_together() {
        let machine = |commit: &str, date: &str| Machine {
            cpu: "A CPU".into(),
            cores: 2,
            memory_mib: 8192,
            kernel: "6.1.0".into(),
            envoy: "1.40.0".into(),
            commit: commit.into(),
            date: date.into(),
        };
        let first = machine("0123", "2026-01-02");
        assert!(first.is_same_run(&machine("0123", "2026-01-03")));
        assert!(!first.is_same_run(&machine("4567", "2026-01-02")));
        assert!(!first.is_same_run(&Machine { cores: 4, ..first.clone() }));
        let changed = machine("0123 with changes", "2026-01-02");
        assert!(!changed.is_same_run(&changed));
    }

    #[test]
    fn what_the_machine_tells_is_read() {
        let cpus = "processor\t: 0\nmodel name\t: A CPU @ 2.0GHz\n\nmodel name\t: Another\n";
        assert_eq!(field(cpus, "model name"), Some("A CPU @ 2.0GHz"));
        assert_eq!(memory_mib("MemTotal:        8388608 kB\nMemFree: 1 kB\n"), Some(8192));
        let text = "\n/opt/envoy  version: 0123abcd/1.40.0/Clean/RELEASE/BoringSSL\n";
        assert_eq!(envoy_version(text), Some("1.40.0"));
        assert_eq!(envoy_version("nothing"), None);
    }
}
