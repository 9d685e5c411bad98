//! What is in the binary and is no crate of the lock file: the libraries that the linker adds.

use std::{env, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::platform::Platform;
use crate::workspace::Workspace;

/// The licence of [`glibc`], as SPDX has it.
pub(crate) const GLIBC_LICENSE: &str = "LGPL-2.1-or-later";

/// That of Rust's standard library.
const STD_LICENSE: &str = "MIT OR Apache-2.0";

/// A library that is linked statically.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Library {
    name: &'static str,
    version: String,
    license: &'static str,
    description: &'static str,
}

// === impl Library ===

impl Library {
    /// What a bill refers to it by: no registry has it, so it is a generic package's URL.
    pub(crate) fn reference(&self) -> String {
        format!("pkg:generic/{}@{}", self.name, self.version)
    }

    /// As CycloneDX describes it.
    pub(crate) fn component(&self) -> Value {
        let Self { name, version, license, description } = self;
        json!({
            "type": "library",
            "bom-ref": self.reference(),
            "name": name,
            "version": version,
            "description": description,
            "scope": "required",
            "licenses": [{ "expression": license }],
            "purl": self.reference(),
        })
    }
}

/// Asks the compilers that make the binary which libraries they bring.
pub(crate) fn find(workspace: &Workspace, platform: Platform) -> Result<Vec<Library>> {
    // A header that every other includes; nothing is compiled.
    let mut compiler = Command::new(platform.compiler());
    compiler.args(["-E", "-dM", "-include", "features.h", "-x", "c", "/dev/null"]);
    let mut rustc = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--version", "--verbose"]).current_dir(&workspace.root);
    Ok(vec![glibc(&answer(&mut compiler)?)?, std(&answer(&mut rustc)?)?])
}

/// As they are found where these are the versions.
#[cfg(test)]
pub(crate) fn of(libc: &str, rust: &str) -> Vec<Library> {
    let (major, minor) = libc.split_once('.').unwrap();
    let macros = format!("#define __GLIBC__ {major}\n#define __GLIBC_MINOR__ {minor}\n");
    vec![glibc(&macros).unwrap(), std(&format!("release: {rust}\n")).unwrap()]
}

fn answer(command: &mut Command) -> Result<String> {
    let name = command.get_program().display().to_string();
    let output = command.output().with_context(|| format!("run {name}"))?;
    ensure!(
        output.status.success(),
        "{name}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// From the macros that a C compiler knows once it has read the library's headers.
fn glibc(macros: &str) -> Result<Library> {
    let value = |name: &str| {
        let mut lines = macros.lines().filter_map(|line| line.strip_prefix("#define "));
        lines
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .with_context(|| format!("the C library has no {name}: it is not glibc"))
    };
    let version = format!("{}.{}", value("__GLIBC__")?, value("__GLIBC_MINOR__")?);
    Ok(Library {
        name: "glibc",
        version,
        license: GLIBC_LICENSE,
        description: "The GNU C Library, linked statically",
    })
}

/// From what `rustc --version --verbose` says.
fn std(told: &str) -> Result<Library> {
    let release = told.lines().find_map(|line| line.strip_prefix("release: "));
    Ok(Library {
        name: "rust-std",
        version: release.context("rustc does not tell its release")?.to_owned(),
        license: STD_LICENSE,
        description: "Rust's standard library, linked statically",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn glibc_s_version_is_that_of_its_headers() {
        let macros = "#define __GLIBC_USE(F) x\n#define __GLIBC_MINOR__ 36\n#define __GLIBC__ 2\n";
        let library = glibc(macros).unwrap();
        assert_eq!(
            library.component(),
            json!({
                "type": "library",
                "bom-ref": "pkg:generic/glibc@2.36",
                "name": "glibc",
                "version": "2.36",
                "description": "The GNU C Library, linked statically",
                "scope": "required",
                "licenses": [{ "expression": "LGPL-2.1-or-later" }],
                "purl": "pkg:generic/glibc@2.36",
            })
        );
        let error = glibc("#define __linux__ 1\n").unwrap_err().to_string();
        assert!(error.contains("not glibc"), "{error}");
    }

    #[test]
    fn std_s_version_is_that_of_its_compiler() {
        let library = std("rustc 1.95.0 (abc 2026-04-01)\nhost: x\nrelease: 1.95.0\n").unwrap();
        assert_eq!(library.reference(), "pkg:generic/rust-std@1.95.0");
        assert_eq!(library.component()["licenses"], json!([{ "expression": "MIT OR Apache-2.0" }]));
        assert!(std("rustc").is_err());
    }
}
