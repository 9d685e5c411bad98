//! The image's bill of materials: cargo-cyclonedx describes the crates, cargo tells which of them
//! are in the binary.
//!
//! cargo-cyclonedx alone lists too much: it asks for the dependencies of the whole workspace with
//! all their features and the crates that only run while building. And too little: the eBPF
//! programs are crates of another target that the binary includes, and what the linker adds is none.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{
    facts::{Facts, PACKAGE, SOURCE_DATE_EPOCH},
    linked::Library,
};
use crate::{console, ebpf_toolchain, setup, workspace::Workspace};

/// The newest version of the specification that cargo-cyclonedx writes.
const SPEC_VERSION: &str = "1.5";

/// Stands for the checkout, whose place is nobody's business and differs between machines.
const CHECKOUT: &str = "/holdfast";

/// A crate as `cargo tree` and CycloneDX both name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Crate {
    name: String,
    version: String,
}

/// Writes the bill of what is in the binary built for `triple`.
pub(crate) fn write(
    workspace: &Workspace,
    facts: &Facts,
    triple: &str,
    linked: &[Library],
    path: &Path,
    log: &Path,
) -> Result<()> {
    let mut shipped = tree(workspace, PACKAGE, triple)?;
    shipped.extend(tree(workspace, ebpf_toolchain::PACKAGE, ebpf_toolchain::TARGET)?);
    let mirror = mirror(workspace)?;
    let mut command = Command::new(setup::cyclonedx(workspace));
    command
        .arg("cyclonedx")
        .args(["--format=json", "--spec-version", SPEC_VERSION, "--all", "--no-build-deps"])
        // Those of the two targets are chosen below.
        .args(["--target=all", "--override-filename=bill", "--manifest-path"])
        .arg(mirror.join("Cargo.toml"))
        .env(SOURCE_DATE_EPOCH, facts.created.as_second().to_string());
    console::run_logged(&mut command, log)?;
    let described = mirror.join("agent/bill.json");
    let text = fs::read_to_string(&described)
        .with_context(|| format!("cargo-cyclonedx left no {}", described.display()))?;
    let place = mirror.to_str().context("the target directory's path is not UTF-8")?;
    let mut bill = serde_json::from_str(&text.replace(place, CHECKOUT))
        .with_context(|| format!("{}", described.display()))?;
    retain(&mut bill, &shipped)?;
    add(&mut bill, linked)?;
    // In its own words, for what is left of all targets.
    bill["metadata"]["properties"] =
        json!([{ "name": "cdx:rustc:sbom:target:triple", "value": triple }]);
    fs::write(path, format!("{bill:#}\n")).with_context(|| format!("write {}", path.display()))
}

/// The crates that are linked into a package's binary: no build scripts, macros or tests.
fn tree(workspace: &Workspace, package: &str, target: &str) -> Result<BTreeSet<Crate>> {
    let mut command = workspace.cargo();
    command.args(["tree", "--locked", "--package", package, "--target", target]).args([
        "--edges=normal,no-proc-macro",
        "--prefix=none",
        "--format={p}",
    ]);
    let output = command.output().context("run cargo tree")?;
    ensure!(
        output.status.success(),
        "cargo tree: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(crates(&String::from_utf8_lossy(&output.stdout)))
}

/// Lines like `ring v0.17.14` or `agent-ebpf v0.1.0 (/path)`, some of them repeated with ` (*)`.
fn crates(tree: &str) -> BTreeSet<Crate> {
    tree.lines()
        .filter_map(|line| {
            let (name, rest) = line.split_once(" v")?;
            let version = rest.split_whitespace().next()?;
            Some(Crate { name: name.into(), version: version.into() })
        })
        .collect()
}

/// A directory with links to all that cargo asks of the workspace: cargo-cyclonedx writes a file
/// beside each manifest, and sources are no place for output.
fn mirror(workspace: &Workspace) -> Result<PathBuf> {
    let mirror = super::empty(&workspace.target.join("image/sbom"))?;
    for entry in entries(&workspace.root)? {
        let name = mirror.join(entry.file_name().unwrap_or_default());
        if entry.join("Cargo.toml").is_file() {
            fs::create_dir(&name).with_context(|| format!("create {}", name.display()))?;
            for inner in entries(&entry)? {
                link(&inner, &name.join(inner.file_name().unwrap_or_default()))?;
            }
        } else if entry.is_file() {
            link(&entry, &name)?;
        }
    }
    Ok(mirror)
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = directory.read_dir().with_context(|| format!("list {}", directory.display()))?;
    Ok(entries.flatten().map(|entry| entry.path()).collect())
}

fn link(to: &Path, at: &Path) -> Result<()> {
    symlink(to, at).with_context(|| format!("create {}", at.display()))
}

/// Leaves what is shipped, and refuses a bill that lacks some of it.
fn retain(bill: &mut Value, shipped: &BTreeSet<Crate>) -> Result<()> {
    let described = &bill["metadata"]["component"];
    let mut listed: BTreeSet<Crate> = component(described).into_iter().collect();
    let mut references: BTreeSet<String> = reference(described, "bom-ref").into_iter().collect();

    let components = bill["components"].as_array_mut().context("a bill without components")?;
    components.retain(|entry| component(entry).is_some_and(|it| shipped.contains(&it)));
    listed.extend(components.iter().filter_map(component));
    references.extend(components.iter().filter_map(|entry| reference(entry, "bom-ref")));
    let missing: Vec<&str> = shipped.difference(&listed).map(|it| it.name.as_str()).collect();
    ensure!(missing.is_empty(), "cargo-cyclonedx does not know {}", missing.join(", "));

    let dependencies = bill["dependencies"].as_array_mut().context("a bill without a graph")?;
    dependencies.retain(|entry| reference(entry, "ref").is_some_and(|it| references.contains(&it)));
    for entry in dependencies {
        if let Some(on) = entry.get_mut("dependsOn").and_then(Value::as_array_mut) {
            on.retain(|it| it.as_str().is_some_and(|it| references.contains(it)));
        }
    }
    Ok(())
}

/// Adds libraries that are no crates, on which the binary as a whole depends.
fn add(bill: &mut Value, linked: &[Library]) -> Result<()> {
    let root = reference(&bill["metadata"]["component"], "bom-ref");
    let root = root.context("a bill of nothing")?;
    let components = bill["components"].as_array_mut().context("a bill without components")?;
    components.extend(linked.iter().map(Library::component));
    let dependencies = bill["dependencies"].as_array_mut().context("a bill without a graph")?;
    let on = dependencies
        .iter_mut()
        .find(|entry| entry["ref"] == root.as_str())
        .and_then(|entry| entry["dependsOn"].as_array_mut())
        .context("a bill whose binary depends on nothing")?;
    on.extend(linked.iter().map(|library| json!(library.reference())));
    dependencies.extend(linked.iter().map(|library| json!({ "ref": library.reference() })));
    Ok(())
}

fn component(entry: &Value) -> Option<Crate> {
    Some(Crate { name: reference(entry, "name")?, version: reference(entry, "version")? })
}

fn reference(entry: &Value, key: &str) -> Option<String> {
    entry.get(key)?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::linked;

    #[test]
    fn crates_are_read_from_cargos_tree() {
        let tree = "holdfast v0.1.0 (/some where/agent)\nring v0.17.14\nring v0.17.14 (*)\n\n";
        let names: Vec<String> =
            crates(tree).into_iter().map(|it| format!("{} {}", it.name, it.version)).collect();
        assert_eq!(names, ["holdfast 0.1.0", "ring 0.17.14"]);
    }

    fn bill() -> Value {
        let component = |name: &str, version: &str| json!({ "bom-ref": format!("{name}#{version}"), "name": name, "version": version });
        json!({
            "metadata": { "component": component("holdfast", "0.1.0") },
            "components": [
                component("ring", "0.17.14"),
                component("ring", "0.16.0"),
                component("windows-sys", "0.61.0"),
            ],
            "dependencies": [
                { "ref": "holdfast#0.1.0", "dependsOn": ["ring#0.17.14", "windows-sys#0.61.0"] },
                { "ref": "ring#0.17.14" },
                { "ref": "windows-sys#0.61.0" },
            ],
        })
    }

    #[test]
    fn the_bill_keeps_what_is_shipped_and_the_edges_between_them() {
        let mut bill = bill();
        retain(&mut bill, &crates("holdfast v0.1.0\nring v0.17.14\n")).unwrap();
        assert_eq!(bill["components"].as_array().map(Vec::len), Some(1));
        assert_eq!(bill["components"][0]["bom-ref"], "ring#0.17.14");
        assert_eq!(
            bill["dependencies"],
            json!([
                { "ref": "holdfast#0.1.0", "dependsOn": ["ring#0.17.14"] },
                { "ref": "ring#0.17.14" },
            ])
        );
    }

    #[test]
    fn what_is_linked_and_no_crate_is_in_the_bill_as_well() {
        let mut bill = bill();
        let linked = linked::of("2.36", "1.95.0");
        add(&mut bill, &linked).unwrap();
        let components = bill["components"].as_array().unwrap();
        assert_eq!(components[3..], linked.iter().map(Library::component).collect::<Vec<_>>());
        let [glibc, std] = ["pkg:generic/glibc@2.36", "pkg:generic/rust-std@1.95.0"];
        assert_eq!(
            bill["dependencies"][0]["dependsOn"],
            json!(["ring#0.17.14", "windows-sys#0.61.0", glibc, std])
        );
        assert_eq!(bill["dependencies"][3], json!({ "ref": glibc }));
        assert_eq!(bill["dependencies"][4], json!({ "ref": std }));
    }

    #[test]
    fn a_bill_that_lacks_a_shipped_crate_is_refused() {
        let error = retain(&mut bill(), &crates("aya-ebpf v0.2.1\n")).unwrap_err().to_string();
        assert!(error.contains("aya-ebpf"), "{error}");
    }
}
