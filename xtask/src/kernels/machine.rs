//! One virtual machine, from power-on to power-off.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::verdict;

/// The emulator; there may be no KVM, and the tests need seconds, not speed.
const QEMU: &str = "qemu-system-x86_64";

/// Kernel, test binary (unpacked in memory) and thousands of sockets fit well.
const MEMORY_MIB: &str = "512";

/// What the kernel prints stays out of the tests' lines, except what is worse than an error.
/// A panic reboots at once, which `-no-reboot` turns into the emulator's end.
const COMMAND_LINE: &str = "console=ttyS0 quiet loglevel=3 panic=-1";

/// Emulated machines boot and switch off in 10 to 20 s each on a busy host.
const BOOT_ALLOWANCE: Duration = Duration::from_secs(60);

/// Boots a kernel with an archive and returns what appeared on its console.
///
/// The console is also written to `log` as it comes. Nothing is left running: the machine is
/// killed after a panic, and some time after the tests' own time limit has passed.
pub(crate) fn boot(
    image: &Path,
    initramfs: &Path,
    test_timeout: Duration,
    log: &Path,
) -> Result<String> {
    let mut machine = Machine::start(image, initramfs, test_timeout)?;
    let mut log_file = File::create(log).with_context(|| format!("create {}", log.display()))?;
    let output = machine.0.stdout.take().context("the emulator has no output")?;

    let (sender, lines) = mpsc::channel();
    // A thread of its own, since reading a pipe has no time limit. It ends with the emulator.
    let reader = thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n') {
            let Ok(line) = line else { break };
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let deadline = Instant::now() + test_timeout + BOOT_ALLOWANCE;
    let mut console = String::new();
    // Ends with the emulator, with a panic or when the time is over.
    while let Ok(line) = lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        let line = String::from_utf8_lossy(&line);
        writeln!(log_file, "{line}").with_context(|| format!("write {}", log.display()))?;
        console.push_str(&line);
        console.push('\n');
        if verdict::is_last(&line) {
            break;
        }
    }
    // Ends the reader too, whose pipe closes.
    drop(machine);
    drop(lines);
    if reader.join().is_err() {
        console.push_str("the console's reader panicked\n");
    }
    Ok(console)
}

/// A running emulator, killed when dropped.
struct Machine(Child);

// === impl Machine ===

impl Machine {
    fn start(image: &Path, initramfs: &Path, test_timeout: Duration) -> Result<Self> {
        // Unknown words with "=" on the kernel's command line become environment of process 1.
        let command_line =
            format!("{COMMAND_LINE} HOLDFAST_TIMEOUT={}", test_timeout.as_secs().max(1));
        Command::new(QEMU)
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
            .stderr(Stdio::inherit())
            .spawn()
            .map(Self)
            .with_context(|| format!("run {QEMU}"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        let _: std::io::Result<()> = self.0.kill();
        let _: std::io::Result<_> = self.0.wait();
    }
}
