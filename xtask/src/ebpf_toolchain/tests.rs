use super::*;

/// The beginning of what bpf-linker 0.13.0 with LLVM 22.1.8 wrote.
const BITCODE_OF_22: &[u8] = &[
    0x42, 0x43, 0xc0, 0xde, 0x35, 0x14, 0x00, 0x00, 0x05, 0x00, 0x00, 0x00, 0x62, 0x0c, 0x30, 0x24,
    0x4a, 0x59, 0xbe, 0xa6, 0x6d, 0xfb, 0xb5, 0xcf, 0x0b, 0x51, 0x80, 0x4c, 0x01, 0x00, 0x00, 0x00,
    0x21, 0x0c, 0x00, 0x00,
];

#[test]
fn the_llvm_of_a_linker_is_read_from_its_bitcode() {
    assert_eq!(llvm_of_bitcode(BITCODE_OF_22), Some(22));
}

#[test]
fn bitcode_that_tells_nothing_is_no_version() {
    assert_eq!(llvm_of_bitcode(b""), None);
    assert_eq!(llvm_of_bitcode(&BITCODE_OF_22[..14]), None);
    assert_eq!(llvm_of_bitcode(b"\x7fELF and so on, longer than a header of bitcode is"), None);
}

#[test]
fn the_llvm_of_a_compiler_is_read_from_its_version() {
    let answer = "rustc 1.96.0 (ac68faa20 2026-05-25)\nbinary: rustc\nLLVM version: 22.1.8\n";
    assert_eq!(llvm_of_rustc(answer), Some(22));
    assert_eq!(llvm_of_rustc("rustc 1.96.0\nbinary: rustc\n"), None);
}

#[test]
fn a_compiler_that_cargo_would_refuse_is_too_old() {
    assert!(is_at_least("rustc 1.97.0-nightly (e50aa6fba 2026-05-19)", "1.95"));
    assert!(is_at_least("rustc 1.95.0", "1.95"));
    assert!(!is_at_least("rustc 1.85.0 (built from a source tarball)", "1.95"));
    assert!(!is_at_least("gcc", "1.95"));
}

#[test]
fn a_linker_reads_bitcode_of_its_own_and_of_older_llvm() {
    let linker = |llvm| Linker { path: PathBuf::from("bpf-linker"), llvm };
    assert!(linker(Some(22)).reads(Some(22)));
    assert!(linker(Some(23)).reads(Some(22)));
    assert!(!linker(Some(21)).reads(Some(22)));
    assert!(linker(None).reads(Some(22)));
    assert!(linker(Some(21)).reads(None));
}

#[test]
fn an_unfit_linker_is_named_with_both_versions() {
    let unfit = Linker { path: PathBuf::from("/opt/bin/bpf-linker"), llvm: Some(21) };
    let Missing { piece, why, how, .. } = missing_linker(Some(22), Some(&unfit));
    assert_eq!(piece, Piece::BpfLinker { llvm: Some(22) });
    assert!(why.contains("/opt/bin/bpf-linker is built with LLVM 21"), "{why}");
    assert!(how.contains("--features llvm-22"), "{how}");
}

#[test]
fn the_inner_cargo_keeps_registries_and_loses_the_outer_build() {
    for key in ["CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_REGISTRIES_X_INDEX", "PATH", "HOME"] {
        assert!(!is_foreign(key), "{key}");
    }
    for key in ["CARGO", "CARGO_PKG_NAME", "CARGO_TARGET_DIR", "CARGO_BUILD_TARGET", "RUSTC"] {
        assert!(is_foreign(key), "{key}");
    }
}

#[test]
fn rustflags_name_linker_btf_and_architecture_and_hide_the_checkout() {
    let flags =
        encoded_rustflags(Path::new("/work space"), Path::new("/t/bpf-linker"), "riscv64gc");
    let flags: Vec<&str> = flags.to_str().expect("ASCII").split(RUSTFLAG_SEPARATOR).collect();
    assert_eq!(
        flags[..5],
        [
            "-Clinker=/t/bpf-linker",
            "-Cdebuginfo=2",
            "-Clink-arg=--btf",
            "--cfg=bpf_target_arch=\"riscv64\"",
            "--remap-path-prefix=/work space=/holdfast",
        ]
    );
}
