//! What the operator is told to type to helm.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::files;

/// It takes the release's values alone: a value that the new chart has a default for is not there,
/// and its templates fail. `--reset-then-reuse-values` is the one that works.
const OLD_VALUES: &str = "--reuse-values";

/// The files that advise it: documents, what the agent prints, and what the chart does.
pub(crate) fn old_values() -> Vec<String> {
    let mut files = files::documents();
    for folder in ["agent/src", "deploy/chart"] {
        below(Path::new(folder), &mut files);
    }
    files.retain(|file| {
        // A picture or an archive advises nothing.
        fs::read_to_string(files::root().join(file)).is_ok_and(|text| text.contains(OLD_VALUES))
    });
    files.iter().map(|file| format!("{}: {OLD_VALUES}", file.display())).collect()
}

fn below(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(files::root().join(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = folder.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            below(&path, files);
        } else {
            files.push(path);
        }
    }
}
