//! Makes the image's files with buildah, and an archive of them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::{
    empty,
    facts::{Facts, PACKAGE},
    platform::Platform,
};
use crate::{console, workspace::Workspace};

/// Writes the OCI archive and returns the digest of the image's manifest.
pub(super) fn write(
    workspace: &Workspace,
    facts: &Facts,
    platform: Platform,
    binary: &Path,
    archive: &Path,
    log: &Path,
) -> Result<String> {
    let directory = empty(&workspace.target.join("image/oci"))?;
    let context = directory.join("context");
    fs::create_dir(&context).with_context(|| format!("create {}", context.display()))?;
    // Alone in the directory that buildah reads.
    let copy = context.join(PACKAGE);
    fs::copy(binary, &copy).with_context(|| format!("copy {}", binary.display()))?;

    let layout = directory.join("layout");
    let recipe = workspace.root.join("xtask/src/image/Containerfile");
    console::run_logged(
        &mut buildah(&directory, facts, platform, &recipe, &context, &layout),
        log,
    )?;
    let index = layout.join("index.json");
    let text = fs::read_to_string(&index).with_context(|| format!("read {}", index.display()))?;
    let digest = digest(&text, &facts.reference())?;

    // Renamed last: an interrupted build leaves no half of an image.
    let partial = archive.with_extension("tar.partial");
    console::run_logged(&mut tar(facts, &layout, &partial), log)?;
    fs::rename(&partial, archive).with_context(|| format!("rename {}", partial.display()))?;
    // It holds the image three times over.
    fs::remove_dir_all(&directory).with_context(|| format!("remove {}", directory.display()))?;
    Ok(digest)
}

/// The command that leaves the image at `layout`, a directory in the form of OCI's image layout.
fn buildah(
    storage: &Path,
    facts: &Facts,
    platform: Platform,
    recipe: &Path,
    context: &Path,
    layout: &Path,
) -> Command {
    let mut command = Command::new("buildah");
    command
        // A store of its own, without mounts: the machine's images are none of our business.
        .arg("--root")
        .arg(storage.join("storage"))
        .arg("--runroot")
        .arg(storage.join("run"))
        .args(["--storage-driver=vfs", "build", "--format=oci", "--disable-compression=false"])
        .args(["--platform", platform.name()])
        .arg(format!("--timestamp={}", facts.created.as_second()))
        // A label with buildah's version would make another image of the same binary.
        .arg("--identity-label=false");
    for (key, value) in facts.labels() {
        command.arg("--label").arg(format!("{key}={value}"));
    }
    let mut destination = PathBuf::from("oci:").into_os_string();
    destination.push(layout);
    destination.push(":");
    destination.push(facts.reference());
    command.arg("--file").arg(recipe).arg("--tag").arg(destination).arg(context);
    command
}

/// The command that packs the layout; the archive is the same whenever and by whomever it is made.
fn tar(facts: &Facts, layout: &Path, archive: &Path) -> Command {
    let mut command = Command::new("tar");
    command
        .args(["--create", "--format=ustar", "--sort=name", "--mode=u=rwX,go=rX"])
        .args(["--owner=0", "--group=0", "--numeric-owner"])
        .arg(format!("--mtime=@{}", facts.created.as_second()))
        .arg("--file")
        .arg(archive)
        .arg("--directory")
        .arg(layout)
        .args(["blobs", "index.json", "oci-layout"]);
    command
}

/// The digest of the one manifest in a layout's index, which must have the reference as its name.
fn digest(index: &str, reference: &str) -> Result<String> {
    let index: Value = serde_json::from_str(index).context("the image's index.json")?;
    let manifests = index["manifests"].as_array().map(Vec::as_slice).unwrap_or_default();
    let [manifest] = manifests else {
        bail!("buildah made {} images instead of one", manifests.len());
    };
    let name = &manifest["annotations"]["org.opencontainers.image.ref.name"];
    ensure!(name == reference, "buildah named the image {name}, not {reference}");
    let digest = manifest["digest"].as_str().context("an image without a digest")?;
    Ok(digest.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_digest_is_that_of_the_one_image_with_its_full_name() {
        let manifest = json!({
            "digest": "sha256:1",
            "annotations": { "org.opencontainers.image.ref.name": "docker.io/library/holdfast:1" },
        });
        let index = json!({ "manifests": [manifest] }).to_string();
        assert_eq!(digest(&index, "docker.io/library/holdfast:1").unwrap(), "sha256:1");
        assert!(digest(&index, "docker.io/library/holdfast:2").is_err());
        assert!(digest(r#"{"manifests":[]}"#, "docker.io/library/holdfast:1").is_err());
    }
}
