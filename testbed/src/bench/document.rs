//! `docs/benchmarks.md` and its plots, made from one run's results.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};

use super::{Part, Results, Section};

/// The document, below the checkout's folder of documents.
const DOCUMENT: &str = "benchmarks.md";
/// Its plots.
const PLOTS: &str = "benchmarks";

const INTRODUCTION: &str = "\
# Benchmarks

What holdfast does to a pod's start, what it costs, and what people use instead, measured next to each other: one run of `cargo xtask
bench --write` on one machine, from whose JSON this page and its plots are made. The pods are the testbed's: real cgroups, network
namespaces, iptables rules, Envoy and applications; what is played of kubelet is named where it counts. Absolute times are this machine's;
ratios and the way things grow carry over. *Stolen* is what the hypervisor gave to other machines of the processor time that this one wanted while a part was
measured, which all of a part's numbers contain. [performance.md](performance.md) tells what was profiled, and what each optimisation has gained. `cargo xtask bench --quick` compares ratios with those on record in under three minutes.

";

/// Writes the document and its plots into `docs`, the plots of an earlier run away.
///
/// # Errors
///
/// If a part is missing, or a file cannot be written.
pub fn write(results: &Results, docs: &Path) -> Result<()> {
    let lacking = lacking(results, super::parts());
    if !lacking.is_empty() {
        bail!("the document is of one whole run, and this one lacks {}", lacking.join(", "));
    }
    let sections = results.sections()?;
    let plots = docs.join(PLOTS);
    if plots.exists() {
        fs::remove_dir_all(&plots).with_context(|| format!("remove {}", plots.display()))?;
    }
    fs::create_dir_all(&plots).with_context(|| format!("create {}", plots.display()))?;
    for plot in sections.iter().flat_map(|(_, section)| &section.plots) {
        let path = plots.join(&plot.name).with_extension("svg");
        fs::write(&path, plot.svg()?).with_context(|| format!("write {}", path.display()))?;
    }
    let path = docs.join(DOCUMENT);
    fs::write(&path, text(results, &sections)).with_context(|| format!("write {}", path.display()))
}

/// The names of the parts that have not been run.
fn lacking<'a>(results: &Results, parts: impl Iterator<Item = &'a Part>) -> Vec<&'static str> {
    parts.map(|part| part.name).filter(|name| !results.parts.contains_key(*name)).collect()
}

fn text(results: &Results, sections: &[(&Part, Section)]) -> String {
    let mut text = INTRODUCTION.to_owned() + &results.machine.table(&results.stolen);
    for (part, section) in sections {
        let Section { title, text: words, plots } = section;
        text += &format!("\n## {title}\n\n{}\n", words.trim());
        for plot in plots {
            text += &format!("\n![{}]({PLOTS}/{}.svg)\n", plot.title, plot.name);
        }
        text += &format!("\nAgain: `cargo xtask bench {}`.\n", part.name);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Axis, Machine, Plot, Series};

    fn machine() -> Machine {
        Machine {
            cpu: "A CPU".into(),
            cores: 2,
            memory_mib: 8192,
            kernel: "6.1.0".into(),
            envoy: "1.40.0".into(),
            commit: "0123456789ab".into(),
            date: "2026-01-02".into(),
        }
    }

    fn part(name: &'static str) -> Part {
        Part {
            name,
            what: "",
            measure: |_| unreachable!("nothing is measured here"),
            section: |_| unreachable!("nothing is read here"),
            quick: |_| unreachable!("nothing is measured here"),
        }
    }

    #[test]
    fn the_document_has_the_machine_and_each_section_with_its_plots() {
        let plot = Plot {
            name: "first-cdf".into(),
            title: "After readiness".into(),
            x: Axis::log("ms"),
            y: Axis::linear("share"),
            series: vec![Series { name: "hold".into(), points: vec![(1.0, 1.0)] }],
        };
        let title = "Time to first connection".into();
        let section = Section { title, text: "\n| a | b |\n".into(), plots: vec![plot] };
        let stolen = [("first".to_owned(), 3.25), ("scale".to_owned(), 0.0)].into();
        let results = Results { machine: machine(), parts: [].into(), stolen };
        let text = text(&results, &[(&part("first"), section)]);
        assert!(text.starts_with("# Benchmarks\n"));
        assert!(text.contains("A CPU, 2 cores") && text.contains("8.0 GiB"), "{text}");
        assert!(text.contains("first 3.2 %, scale 0.0 %"), "{text}");
        let expected = "
## Time to first connection

| a | b |

![After readiness](benchmarks/first-cdf.svg)

Again: `cargo xtask bench first`.
";
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn a_document_of_some_parts_is_lacking() {
        let parts = [part("first"), part("scale")];
        let mut results = Results { machine: machine(), parts: [].into(), stolen: [].into() };
        results.parts.insert("scale".into(), serde_json::Value::Null);
        assert_eq!(lacking(&results, parts.iter()), ["first"]);
    }
}
