//! Pods as the API delivers them when they have been scheduled and nothing of them runs, modelled
//! on what the injectors of the meshes make (the sources are named in `core/profile/builtin.yaml`).

use std::{fs, path::PathBuf};

use super::{convert, kept::Kept};
use crate::core::{PodView, Profiles};

fn directory() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "fixtures", "pods"].iter().collect()
}

/// The names of all of them.
pub(crate) fn names() -> Vec<String> {
    let files = fs::read_dir(directory()).unwrap();
    let mut names: Vec<String> = files
        .map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

/// The pod with this name.
pub(crate) fn pod(name: &str) -> PodView {
    let text = fs::read_to_string(directory().join(name).with_extension("json")).unwrap();
    let kept = Kept::of(&Profiles::builtin());
    convert::pod(&serde_json::from_str(&text).unwrap(), &kept).unwrap()
}
