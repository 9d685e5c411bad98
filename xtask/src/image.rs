//! `cargo xtask image`: the agent as one static binary in an image of its own.
//!
//! Nothing is pulled and no daemon is asked: buildah writes the image's files, tar makes an archive
//! of them that `ctr --namespace k8s.io images import` and its like read. The same commit gives the
//! same bytes on the same toolchain: timestamps are the commit's, paths of the machine are
//! replaced, and the registry's lock file is binding.

mod archive;
mod facts;
mod linked;
mod platform;
mod sbom;

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use self::facts::Facts;
pub(crate) use self::platform::Platform;
use crate::{
    console, ebpf_toolchain, elf,
    setup::{self, Scope},
    workspace::Workspace,
};

/// Nodes pull it: more than this is a dependency that should not be there.
const MAX_IMAGE_BYTES: u64 = 15_000_000;

/// The profile in the workspace's manifest that the binary is built with.
const PROFILE: &str = "image";

/// Held by the run that makes the image, in the target directory.
const LOCK: &str = "image.lock";

/// Options of `cargo xtask image`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The platform of the image [default: this machine's]. Another one needs Rust's standard
    /// library for it and a cross compiler with a static libc.
    #[arg(long, value_enum)]
    platform: Option<Platform>,
    /// Print paths, sizes and digest as one JSON object.
    #[arg(long)]
    json: bool,
}

/// An image and what comes with it.
#[derive(Debug)]
pub(crate) struct Built {
    /// The name in the archive, which a manifest's `holdfast:VERSION` stands for.
    pub(crate) reference: String,
    pub(crate) platform: Platform,
    /// The OCI archive.
    pub(crate) archive: PathBuf,
    pub(crate) archive_bytes: u64,
    /// Of the image's manifest, as runtimes and registries show it.
    pub(crate) digest: String,
    pub(crate) binary: PathBuf,
    pub(crate) binary_bytes: u64,
    /// CycloneDX, JSON.
    pub(crate) sbom: PathBuf,
}

/// `cargo xtask image`.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let Args { platform, json } = *args;
    let start = Instant::now();
    let built = build(workspace, platform)?;
    console::headline(&format!(
        "{} for {} in {}",
        built.reference,
        built.platform.name(),
        console::seconds(start.elapsed())
    ));
    let (image, binary) = (megabytes(built.archive_bytes), megabytes(built.binary_bytes));
    console::line(&format!("image   {image:>8}  {}", built.archive.display()));
    console::line(&format!("binary  {binary:>8}  {}", built.binary.display()));
    console::line(&format!("bill of materials {}", built.sbom.display()));
    console::line(&format!("digest  {}", built.digest));
    if json {
        print(&built);
    }
    Ok(())
}

/// Builds the image for a platform, by default this machine's, after installing what that needs.
pub(crate) fn build(workspace: &Workspace, platform: Option<Platform>) -> Result<Built> {
    let platform = platform
        .or_else(Platform::of_host)
        .context("holdfast has no image for this machine's architecture: name a --platform")?;
    // Until it is dropped: what is left half-way in target/ is nobody else's to pack.
    let _lock = lock(workspace)?;
    setup::ensure(workspace, Scope::Image)?;
    platform.check(workspace)?;
    let facts = Facts::gather(workspace)?;

    console::headline("image");
    let binary = compile(workspace, platform, &facts)?;
    let log = workspace.log("image/image.log")?;
    let stem = format!("{}-{}{}", facts::PACKAGE, facts.version, platform.suffix());
    let sbom = workspace.target.join(format!("{stem}.cdx.json"));
    console::step("listing what is in the binary", || {
        let linked = linked::find(workspace, platform)?;
        sbom::write(workspace, &facts, platform.triple(), &linked, &sbom, &log)
    })?;
    let archive = workspace.target.join(format!("{stem}.tar"));
    let digest = console::step("making the image", || {
        archive::write(workspace, &facts, platform, &binary, &archive, &log)
    })?;
    let archive_bytes = size(&archive)?;
    ensure!(
        archive_bytes <= MAX_IMAGE_BYTES,
        "{} has {}, more than {}: see which dependency has grown, with cargo bloat for example",
        archive.display(),
        megabytes(archive_bytes),
        megabytes(MAX_IMAGE_BYTES)
    );
    let binary_bytes = size(&binary)?;
    let reference = facts.reference();
    Ok(Built { reference, platform, archive, archive_bytes, digest, binary, binary_bytes, sbom })
}

/// Builds what this machine's image would have in it, and nothing around it.
pub(crate) fn binary(workspace: &Workspace) -> Result<PathBuf> {
    let platform = Platform::of_host().context("holdfast has no image for this architecture")?;
    let _lock = lock(workspace)?;
    compile(workspace, platform, &Facts::gather(workspace)?)
}

/// Waits for its turn: two runs of one target directory would write to the same files.
fn lock(workspace: &Workspace) -> Result<fs::File> {
    let path = workspace.target.join(LOCK);
    fs::create_dir_all(&workspace.target)
        .with_context(|| format!("create {}", workspace.target.display()))?;
    let file = fs::File::create(&path).with_context(|| format!("create {}", path.display()))?;
    let failed = || format!("lock {}", path.display());
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(fs::TryLockError::WouldBlock) => {}
        Err(fs::TryLockError::Error(error)) => return Err(error).with_context(failed),
    }
    console::line(&format!("waiting for the run that holds {}", path.display()));
    file.lock().with_context(failed)?;
    Ok(file)
}

/// Builds the agent so that it runs where no library is.
fn compile(workspace: &Workspace, platform: Platform, facts: &Facts) -> Result<PathBuf> {
    let mut flags = vec!["-Ctarget-feature=+crt-static".into()];
    flags.extend(ebpf_toolchain::remapped_paths(&workspace.root));
    let mut command = workspace.cargo();
    command
        .args(["build", "--locked", "--profile", PROFILE])
        .args(["--package", facts::PACKAGE, "--bin", facts::PACKAGE])
        // Named also where it is this machine's own: then the flags are not for build scripts and
        // macros, which a static libc would keep from being loaded.
        .args(["--target", platform.triple()])
        // Instead of a user's own flags, which would make another binary.
        .env("CARGO_ENCODED_RUSTFLAGS", ebpf_toolchain::encode_rustflags(&flags))
        .env(platform.linker_variable(), platform.compiler())
        // It is for linters: an agent without programs must never be shipped.
        .env_remove("AYA_BUILD_SKIP")
        .env("HOLDFAST_COMMIT", facts.revision.as_deref().unwrap_or("unknown"));
    console::run_visible(&mut command)?;
    let binary = workspace.target.join(platform.triple()).join(PROFILE).join(facts::PACKAGE);
    ensure!(elf::is_static(&binary), "{} is linked dynamically", binary.display());
    Ok(binary)
}

/// A directory without whatever an earlier run left there.
fn empty(directory: &Path) -> Result<PathBuf> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove {}", directory.display()));
        }
        _ => {}
    }
    fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    Ok(directory.to_owned())
}

fn size(file: &Path) -> Result<u64> {
    Ok(fs::metadata(file).with_context(|| format!("read {}", file.display()))?.len())
}

/// As registries count them: a megabyte is a million bytes.
fn megabytes(bytes: u64) -> String {
    let tenths = bytes.div_ceil(100_000);
    format!("{}.{} MB", tenths / 10, tenths % 10)
}

#[expect(clippy::print_stdout, reason = "the result, alone on standard output")]
fn print(built: &Built) {
    let Built { reference, platform, archive, archive_bytes, digest, binary, binary_bytes, sbom } =
        built;
    let result = json!({
        "reference": reference,
        "platform": platform.name(),
        "digest": digest,
        "image": { "path": archive, "bytes": archive_bytes },
        "binary": { "path": binary, "bytes": binary_bytes },
        "sbom": { "path": sbom },
    });
    println!("{result}");
}

#[cfg(test)]
mod tests {
    use std::{env, process, sync::mpsc, thread, time::Duration};

    use super::*;

    #[test]
    fn one_run_at_a_time_makes_the_image() {
        let target = env::temp_dir().join(format!("image-lock-{}", process::id()));
        let workspace = Workspace { root: target.clone(), target: target.clone() };
        let first = lock(&workspace).unwrap();
        let (sender, receiver) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| sender.send(lock(&workspace).is_ok()));
            let waits = receiver.recv_timeout(Duration::from_millis(200));
            assert!(waits.is_err(), "a second one does not wait");
            drop(first);
            assert_eq!(receiver.recv(), Ok(true));
        });
        fs::remove_dir_all(target).unwrap();
    }

    #[test]
    fn sizes_are_rounded_up_so_that_none_looks_smaller_than_its_limit() {
        assert_eq!(megabytes(0), "0.0 MB");
        assert_eq!(megabytes(100_000), "0.1 MB");
        assert_eq!(megabytes(MAX_IMAGE_BYTES), "15.0 MB");
        assert_eq!(megabytes(MAX_IMAGE_BYTES + 1), "15.1 MB");
    }
}
