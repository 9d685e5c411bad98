//! Links between the documents.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use crate::files;

/// The relative links that lead to no file or to no heading, each with its document.
pub(crate) fn broken() -> Vec<String> {
    let documents = files::documents();
    let headings: HashMap<PathBuf, Vec<String>> = documents
        .iter()
        .map(|document| {
            (files::root().join(document).canonicalize().unwrap(), anchors(&files::read(document)))
        })
        .collect();
    let mut broken = Vec::new();
    for document in documents {
        let links = targets(&files::prose(&files::read(&document)));
        for link in links.iter().filter(|link| !link.contains("://")) {
            if !leads_somewhere(&document, link, &headings) {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    broken
}

fn leads_somewhere(document: &Path, link: &str, headings: &HashMap<PathBuf, Vec<String>>) -> bool {
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let document = files::root().join(document);
    let target = match path {
        "" => document,
        path => document.parent().unwrap().join(path),
    };
    let Ok(target) = target.canonicalize() else { return false };
    match headings.get(&target) {
        Some(anchors) => anchor.is_empty() || anchors.iter().any(|one| one == anchor),
        None => anchor.is_empty(),
    }
}

/// What stands in the round brackets of `[text](target)`.
fn targets(text: &str) -> Vec<String> {
    let ends = text.split("](").skip(1);
    ends.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect()
}

/// The anchors that GitHub gives the headings.
fn anchors(text: &str) -> Vec<String> {
    let prose = files::prose(text);
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let headings = HashMap::from([(
        files::root().join("README.md"),
        anchors("# A `holdfast run` of one's own\n```\n# no heading\n```\n"),
    )]);
    let leads = |link: &str| leads_somewhere(Path::new("docs/wait.md"), link, &headings);
    assert!(leads("../README.md") && leads("log.md"));
    assert!(leads("../README.md#a-holdfast-run-of-ones-own"));
    assert!(!leads("../README.md#no-heading") && !leads("nothing.md") && !leads("README.md"));
    assert_eq!(targets("[a](b.md), ![c](d#e) and [f]"), ["b.md", "d#e"]);
}
