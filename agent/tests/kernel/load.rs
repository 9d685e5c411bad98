//! The ways in which the programs are loaded.

use std::fs;

use holdfast::bpf::{self, LoadOptions};
use tokio::runtime::Runtime;

use crate::pod::Pod;

#[test]
fn debug_lines_cost_the_verifier_nothing_it_cannot_bear() {
    drop(Pod::with(&LoadOptions { kernel_log: true, ..LoadOptions::default() }));
}

#[test]
fn pinned_maps_go_with_the_agent() {
    let bpffs = std::env::temp_dir().join(format!("holdfast-bpffs-{}", std::process::id()));
    fs::create_dir_all(&bpffs).unwrap();
    let options = || LoadOptions { bpffs: Some(bpffs.clone()), ..LoadOptions::default() };
    let runtime = Runtime::new().unwrap();
    let _context = runtime.enter();
    let error = bpf::require_bpffs(&bpffs).unwrap_err().to_string();
    assert!(error.contains("not a BPF file system"), "{error}");

    let nothing: Option<&str> = None;
    nix::mount::mount(Some("bpf"), &bpffs, Some("bpf"), nix::mount::MsFlags::empty(), nothing)
        .unwrap();
    let pinned = bpffs.join("holdfast/v2");
    let loaded = bpf::load(&options()).unwrap();
    assert_eq!(fs::read_dir(&pinned).unwrap().count(), 5);
    // As after a kill: the pins are still there, and are replaced.
    let again = bpf::load(&options()).unwrap();
    drop(loaded);
    drop(again);
    assert!(!bpffs.join("holdfast").exists());
    nix::mount::umount(&bpffs).unwrap();
    fs::remove_dir(&bpffs).unwrap();
}
