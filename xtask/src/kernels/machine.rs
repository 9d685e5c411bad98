//! One virtual machine, from power-on to power-off.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{Tests, verdict};

/// The emulator; there may be no KVM, and the tests need seconds, not speed.
const QEMU: &str = "qemu-system-x86_64";

/// Kernel, test binary (unpacked in memory) and thousands of sockets fit well.
const MEMORY_MIB: &str = "512";

/// What the kernel prints stays out of the tests' lines, except what is worse than an error.
/// A panic reboots at once, which `-no-reboot` turns into the emulator's end. Whether the timer ticks
/// is not looked at: of an emulator that gets no turn the kernel believes that it does not, and panics
/// (`timer_irq_works` in arch/x86/kernel/apic/io_apic.c).
const COMMAND_LINE: &str = "console=ttyS0 quiet loglevel=3 panic=-1 no_timer_check";

/// Emulated machines boot and switch off in 10 to 20 s each on a busy host.
const BOOT_ALLOWANCE: Duration = Duration::from_secs(60);

/// How long a process may take to end once its output has.
const END: Duration = Duration::from_secs(5);

/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(50);

/// Boots a kernel with an archive and returns what appeared on its console.
///
/// The console is also written to `log` as it comes. Nothing is left running: the machine is
/// killed after a panic, and some time after the tests' own time limit has passed.
pub(crate) fn boot(
    image: &Path,
    initramfs: &Path,
    tests: Tests,
    timeout: Duration,
    log: &Path,
) -> Result<String> {
    // Unknown words with "=" on the kernel's command line become environment of process 1.
    let mut command_line = format!("{COMMAND_LINE} HOLDFAST_TIMEOUT={}", timeout.as_secs().max(1));
    for (name, value) in tests.variables() {
        command_line.push_str(&format!(" {name}={value}"));
    }
    if let Some(filter) = tests.filter() {
        command_line.push_str(&format!(" HOLDFAST_TESTS={filter}"));
    }
    let mut command = Command::new(QEMU);
    command
        .args(["-machine", "q35,accel=tcg", "-cpu", "max", "-smp", "1", "-m", MEMORY_MIB])
        // Nothing but a serial console: no display, no network, no disk, no user's settings.
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"])
        .args(["-no-reboot", "-append", &command_line, "-kernel"])
        .arg(image)
        .arg("-initrd")
        .arg(initramfs)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // What the emulator itself has to say belongs to the console's log.
        .stderr(Stdio::inherit());
    let deadline = Instant::now() + timeout + BOOT_ALLOWANCE;
    follow(&mut Process::start(&mut command)?, deadline, log)
}

/// What a process writes until its output ends, until a kernel's last words, or until the deadline.
pub(crate) fn follow(process: &mut Process, deadline: Instant, log: &Path) -> Result<String> {
    let mut log_file = File::create(log).with_context(|| format!("create {}", log.display()))?;
    let output = process.0.stdout.take().context("the process has no output")?;
    let (sender, lines) = mpsc::channel();
    // A thread of its own, since reading a pipe has no time limit. It ends with the process, which
    // is killed at the latest when the caller drops it: so nobody waits for it here.
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n') {
            let Ok(line) = line else { break };
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let mut text = String::new();
    while let Ok(line) = lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        let line = String::from_utf8_lossy(&line);
        writeln!(log_file, "{line}").with_context(|| format!("write {}", log.display()))?;
        text.push_str(&line);
        text.push('\n');
        if verdict::is_last(&line) {
            break;
        }
    }
    Ok(text)
}

/// A running process, killed when dropped.
pub(crate) struct Process(Child);

// === impl Process ===

impl Process {
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        command.spawn().map(Self).with_context(|| format!("run {program}"))
    }

    /// How it ended, if it has, or does within a moment.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + END;
        loop {
            let status = self.0.try_wait().context("wait for a process")?;
            if status.is_some() || Instant::now() > deadline {
                return Ok(status);
            }
            thread::sleep(LOOK);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        let _: std::io::Result<()> = self.0.kill();
        let _: std::io::Result<_> = self.0.wait();
    }
}
