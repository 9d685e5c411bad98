//! What `holdfast version` prints.

use std::fmt::Write as _;

use agent_ebpf::ABI_VERSION;
use serde::Serialize;

use super::{Output, terminal::safe};
use crate::preflight::Kernel;

/// Which holdfast this is, and on what it runs.
#[derive(Clone, Debug, Serialize)]
pub struct Version {
    /// The package's version.
    pub version: &'static str,
    /// The commit that it was built from, `-dirty` if the checkout was not that commit; "unknown" if
    /// it was built outside of git.
    pub commit: &'static str,
    /// The version of what the agent shares with its eBPF programs: agents of the same one go on with
    /// each other's gates.
    pub abi: u32,
    /// The compiler.
    pub rustc: &'static str,
    /// The machine that it was built for.
    pub target: &'static str,
    /// The kernel that runs here.
    pub kernel: String,
}

// === impl Version ===

impl Version {
    /// This one's.
    #[must_use]
    pub fn of_this() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            commit: env!("HOLDFAST_BUILD_COMMIT"),
            abi: ABI_VERSION,
            rustc: env!("HOLDFAST_BUILD_RUSTC"),
            target: env!("HOLDFAST_BUILD_TARGET"),
            kernel: Kernel::running().release,
        }
    }

    /// As text.
    ///
    /// # Errors
    ///
    /// If a serializer refuses it.
    pub fn render(&self, output: Output) -> anyhow::Result<String> {
        output.render(self, |_| self.lines())
    }

    fn lines(&self) -> String {
        let Self { version, commit, abi, rustc, target, kernel } = self;
        let fields = [
            ("holdfast", *version),
            ("commit", commit),
            ("abi", &abi.to_string()),
            ("rustc", rustc),
            ("target", target),
            ("kernel", kernel),
        ];
        fields.into_iter().fold(String::new(), |mut text, (name, value)| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name:<10}{}", safe(value));
            text
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_has_a_line_and_a_key() {
        let version = Version::of_this();
        let text = version.render(Output::Table).unwrap();
        assert!(text.starts_with(&format!("holdfast  {}\ncommit    ", version.version)), "{text}");
        assert_eq!(text.lines().count(), 6, "{text}");
        let json = version.render(Output::Json).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["abi"], ABI_VERSION);
        assert!(json["rustc"].as_str().is_some_and(|text| text.starts_with("1.")), "{json}");
        // Whoever builds a package may call it anything, but nothing.
        let commit = json["commit"].as_str().unwrap();
        assert!(!commit.is_empty() && !commit.contains(char::is_whitespace), "{commit}");
    }
}
