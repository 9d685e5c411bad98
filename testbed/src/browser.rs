//! A browser without a window, for pages that people will look at: what does it say of a page, and
//! how does the page look?

mod devtools;

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, Result, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::signal::{Signal, killpg},
    unistd::{Pid, pipe2},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use self::devtools::DevTools;

/// Names the browser when it is not where `cargo xtask setup` puts it.
const CHROMIUM_VARIABLE: &str = "HOLDFAST_CHROMIUM";

/// The descriptors on which `--remote-debugging-pipe` reads commands and writes answers.
const COMMANDS_FD: i32 = 3;
const ANSWERS_FD: i32 = 4;

/// Pixels; a picture of a longer page ends there.
const MAX_PICTURE_HEIGHT: f64 = 8_000.0;

/// A running browser. Dropping it kills it.
#[must_use = "dropping a browser kills it"]
#[derive(Debug)]
pub struct Browser {
    child: Child,
    devtools: Mutex<DevTools>,
    /// Its profile, its caches, and what it says.
    home: TempDir,
}

/// How a page is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Width in CSS pixels.
    pub width: u32,
    /// Height in CSS pixels.
    pub height: u32,
    /// Device pixels for one CSS pixel.
    pub scale: u32,
    /// Whether it is a telephone, which shows a page as wide as the page says.
    pub is_mobile: bool,
    /// Whether the person prefers dark pages.
    pub is_dark: bool,
}

/// A page that has been loaded.
#[derive(Debug)]
pub struct Visit<'a> {
    browser: &'a Browser,
    session: String,
    target: String,
    /// What the console got, errors of loading and of the page's security policy included.
    pub console: Vec<String>,
    /// All that was asked for, the page itself first.
    pub requests: Vec<String>,
}

// === impl View ===

impl View {
    /// A telephone, upright.
    pub const PHONE: Self =
        Self { width: 390, height: 844, scale: 2, is_mobile: true, is_dark: false };

    /// A usual window of a desktop.
    pub const DESKTOP: Self =
        Self { width: 1440, height: 900, scale: 1, is_mobile: false, is_dark: false };

    /// The same by night.
    #[must_use]
    pub const fn dark(self) -> Self {
        Self { is_dark: true, ..self }
    }
}

// === impl Browser ===

impl Browser {
    /// Starts the browser that `cargo xtask setup` has brought.
    pub fn start() -> Result<Self> {
        let program = installed_chromium()?;
        let home = TempDir::with_prefix("holdfast-browser-").context("make a directory")?;
        let (commands_read, commands_write) = pipe2(OFlag::O_CLOEXEC).context("make a pipe")?;
        let (answers_read, answers_write) = pipe2(OFlag::O_CLOEXEC).context("make a pipe")?;
        let mut command = Command::new(&program);
        command
            .args([
                "--headless",
                "--remote-debugging-pipe",
                // It refuses to run as root with one.
                "--no-sandbox",
                "--disable-gpu",
                // Small in containers.
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
                // Nothing but this machine is reached, whatever a page or the browser itself asks for.
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--no-first-run",
                "--no-proxy-server",
            ])
            .arg(format!("--user-data-dir={}", home.path().join("profile").display()))
            .arg("about:blank")
            .env("HOME", home.path())
            .env("XDG_CACHE_HOME", home.path().join("cache"))
            .env("XDG_CONFIG_HOME", home.path().join("config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(home.path().join("stderr")).context("create its log")?)
            // Its children end with it.
            .process_group(0);
        // Far from the two numbers, so that putting one there does not close the other.
        let commands = beyond_standard(&commands_read)?;
        let answers = beyond_standard(&answers_write)?;
        // SAFETY: only dup2, which may be called between fork and exec, on descriptors that are
        // open until the child has started.
        unsafe {
            command.pre_exec(move || {
                for (from, to) in [(&commands, COMMANDS_FD), (&answers, ANSWERS_FD)] {
                    if libc::dup2(from.as_raw_fd(), to) < 0 {
                        return Err(io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        let child = command.spawn().with_context(|| format!("start {}", program.display()))?;
        // The child's ends are the child's alone: the pipes end when it does.
        drop((command, commands_read, answers_write));
        let devtools = DevTools::new(File::from(commands_write), File::from(answers_read));
        let browser = Self { child, devtools: Mutex::new(devtools), home };
        browser.lock().call(None, "Browser.getVersion", json!({})).with_context(|| {
            let log = fs::read_to_string(browser.home.path().join("stderr")).unwrap_or_default();
            format!("{} does not answer: {log}", program.display())
        })?;
        Ok(browser)
    }

    /// Loads a page.
    pub fn visit(&self, url: &str, view: View) -> Result<Visit<'_>> {
        let View { width, height, scale, is_mobile, is_dark } = view;
        let mut devtools = self.lock();
        let target = string(
            devtools.call(None, "Target.createTarget", json!({ "url": "about:blank" }))?,
            "targetId",
        )?;
        let attach = json!({ "targetId": target, "flatten": true });
        let session = string(devtools.call(None, "Target.attachToTarget", attach)?, "sessionId")?;
        let mut call =
            |method: &str, parameters: Value| devtools.call(Some(&session), method, parameters);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            call(&format!("{domain}.enable"), json!({}))?;
        }
        call(
            "Emulation.setDeviceMetricsOverride",
            json!({
                "width": width, "height": height,
                "deviceScaleFactor": scale, "mobile": is_mobile,
            }),
        )?;
        let scheme = if is_dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        call("Emulation.setEmulatedMedia", json!({ "features": features }))?;
        let navigated = call("Page.navigate", json!({ "url": url }))?;
        if let Some(error) = navigated["errorText"].as_str() {
            bail!("open {url}: {error}");
        }
        devtools.wait_for(&session, "Page.loadEventFired")?;
        // The console's lines are written before this is answered.
        devtools.call(Some(&session), "Runtime.evaluate", json!({ "expression": "0" }))?;
        let (mut console, mut requests) = (Vec::new(), Vec::new());
        for (method, parameters) in devtools.take_events(&session) {
            match method.as_str() {
                "Log.entryAdded" => console.push(parameters["entry"].to_string()),
                "Runtime.consoleAPICalled" | "Runtime.exceptionThrown" => {
                    console.push(parameters.to_string());
                }
                "Network.requestWillBeSent" => {
                    requests.extend(parameters["request"]["url"].as_str().map(str::to_owned));
                }
                _ => {}
            }
        }
        drop(devtools);
        Ok(Visit { browser: self, session, target, console, requests })
    }

    fn lock(&self) -> MutexGuard<'_, DevTools> {
        // A panic elsewhere leaves a connection behind that is still good, or answers with errors.
        self.devtools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended by itself.
        let group = Pid::from_raw(self.child.id().cast_signed());
        let _: nix::Result<()> = killpg(group, Signal::SIGKILL);
        let _: io::Result<_> = self.child.wait();
    }
}

// === impl Visit ===

impl Visit<'_> {
    /// What a JavaScript expression gives, as JSON. The page's own policy does not bind it.
    pub fn evaluate(&self, expression: &str) -> Result<Value> {
        let parameters = json!({ "expression": expression, "returnByValue": true });
        let mut answer = self.call("Runtime.evaluate", parameters)?;
        if let Some(exception) = answer.get("exceptionDetails") {
            bail!("{expression}: {exception}");
        }
        Ok(answer["result"]["value"].take())
    }

    /// By how many CSS pixels the page is wider than the window: what a person would have to scroll.
    pub fn overflow(&self) -> Result<i64> {
        let width = "document.documentElement.scrollWidth - document.documentElement.clientWidth";
        self.evaluate(width)?.as_i64().context("a width that is no number")
    }

    /// Makes a picture of the whole page, as PNG.
    pub fn screenshot(&self, file: &Path) -> Result<()> {
        let metrics = self.call("Page.getLayoutMetrics", json!({}))?;
        let side = |name: &str| metrics["cssContentSize"][name].as_f64().unwrap_or_default();
        let answer = self.call(
            "Page.captureScreenshot",
            json!({
                "captureBeyondViewport": true,
                "clip": {
                    "x": 0, "y": 0, "scale": 1,
                    "width": side("width"), "height": side("height").min(MAX_PICTURE_HEIGHT),
                },
            }),
        )?;
        let picture = BASE64
            .decode(answer["data"].as_str().context("no picture")?)
            .context("decode the picture")?;
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        }
        fs::write(file, picture).with_context(|| format!("write {}", file.display()))
    }

    fn call(&self, method: &str, parameters: Value) -> Result<Value> {
        self.browser.lock().call(Some(&self.session), method, parameters)
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        // A browser that has ended has no pages.
        let _: Result<Value> = self.browser.lock().call(
            None,
            "Target.closeTarget",
            json!({ "targetId": self.target }),
        );
    }
}

fn string(mut answer: Value, field: &str) -> Result<String> {
    match answer[field].take() {
        Value::String(text) => Ok(text),
        other => bail!("{field} is {other}"),
    }
}

/// The same pipe under a number that none of the two is.
fn beyond_standard(pipe: &OwnedFd) -> Result<OwnedFd> {
    let raw = fcntl(pipe, FcntlArg::F_DUPFD_CLOEXEC(ANSWERS_FD + 1)).context("copy a pipe")?;
    // SAFETY: fcntl has just made this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

fn installed_chromium() -> Result<PathBuf> {
    let program = std::env::var_os(CHROMIUM_VARIABLE).map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/chromium/chromium"),
        PathBuf::from,
    );
    match fs::canonicalize(&program) {
        Ok(path) if path.is_file() => Ok(path),
        _ => bail!(
            "no browser at {}: run `cargo xtask setup`, or set {CHROMIUM_VARIABLE}",
            program.display()
        ),
    }
}
