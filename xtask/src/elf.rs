//! The one thing we ask of executables: whether they run in a virtual machine without libraries.

use std::{fs, path::Path};

/// Whether the executable needs no dynamic loader (a 64-bit little-endian ELF without `PT_INTERP`).
pub(crate) fn is_static(path: &Path) -> bool {
    fs::read(path).is_ok_and(|file| has_interpreter(&file) == Some(false))
}

fn has_interpreter(file: &[u8]) -> Option<bool> {
    // Offsets of the ELF64 file header and program headers: elf(5).
    const MAGIC_64_LITTLE: &[u8] = b"\x7fELF\x02\x01";
    const E_PHOFF: usize = 0x20;
    const E_PHENTSIZE: usize = 0x36;
    const E_PHNUM: usize = 0x38;
    const PT_INTERP: u32 = 3;

    if !file.starts_with(MAGIC_64_LITTLE) {
        return None;
    }
    let bytes = |at: usize, count: usize| file.get(at..at.checked_add(count)?);
    let half = |at| Some(usize::from(u16::from_le_bytes(bytes(at, 2)?.try_into().ok()?)));
    let word = |at| Some(u32::from_le_bytes(bytes(at, 4)?.try_into().ok()?));
    let table = u64::from_le_bytes(bytes(E_PHOFF, 8)?.try_into().ok()?);
    let table = usize::try_from(table).ok()?;
    let (size, count) = (half(E_PHENTSIZE)?, half(E_PHNUM)?);
    for index in 0..count {
        if word(table.checked_add(index * size)?)? == PT_INTERP {
            return Some(true);
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_binary_is_dynamic_and_text_is_no_executable() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(has_interpreter(&own), Some(true));
        assert_eq!(has_interpreter(b"#!/bin/sh\n"), None);
        assert_eq!(has_interpreter(&own[..0x30]), None);
    }
}
