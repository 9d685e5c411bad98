//! Writes the archive that a kernel unpacks as its first file system.
//!
//! The format is "newc" of the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
//! Written here, device nodes need no root.

/// The only console that the kernel opens for process 1.
const CONSOLE_MAJOR: u32 = 5;
const CONSOLE_MINOR: u32 = 1;

/// File types of stat(2).
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFCHR: u32 = 0o020_000;

/// An archive that is being written.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    /// Entries so far; each one's inode number, since equal ones would be hard links.
    entries: u32,
}

// === impl Archive ===

impl Archive {
    pub(crate) fn directory(&mut self, path: &str) {
        self.entry(path, S_IFDIR | 0o755, (0, 0), &[]);
    }

    /// A file that root can run.
    pub(crate) fn executable(&mut self, path: &str, content: &[u8]) {
        self.entry(path, S_IFREG | 0o755, (0, 0), content);
    }

    /// `/dev/console`, without which process 1 has neither input nor output.
    pub(crate) fn console(&mut self) {
        self.entry("dev/console", S_IFCHR | 0o600, (CONSOLE_MAJOR, CONSOLE_MINOR), &[]);
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        let size = u32::try_from(content.len()).expect("a newc file is smaller than 4 GiB");
        let name_size = u32::try_from(path.len() + 1).expect("a path is short");
        let fields = [
            self.entries, // inode
            mode,
            0, // owner
            0, // group
            1, // links
            0, // modification time: the archive depends on nothing but its content
            size,
            0, // device that holds the file
            0,
            device.0, // device that the file is
            device.1,
            name_size,
            0, // checksum, unused in this format
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
    }

    /// Headers and contents begin at multiples of four bytes.
    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads an archive back as (name, mode, content).
    fn entries(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        while !bytes.is_empty() {
            assert_eq!(&bytes[..6], b"070701");
            let field = |index: usize| {
                let text = std::str::from_utf8(&bytes[6 + 8 * index..14 + 8 * index]).unwrap();
                usize::from_str_radix(text, 16).unwrap()
            };
            let (mode, size, name_size) = (field(1), field(6), field(11));
            let name = String::from_utf8(bytes[110..110 + name_size - 1].to_vec()).unwrap();
            let start = (110 + name_size).next_multiple_of(4);
            let content = bytes[start..start + size].to_vec();
            entries.push((name, u32::try_from(mode).unwrap(), content));
            bytes = &bytes[(start + size).next_multiple_of(4)..];
        }
        entries
    }

    #[test]
    fn what_is_written_can_be_read_back() {
        let mut archive = Archive::default();
        archive.directory("dev");
        archive.console();
        archive.executable("init", b"#!/bin/sh");
        assert_eq!(
            entries(&archive.finish()),
            [
                ("dev".into(), 0o040_755, vec![]),
                ("dev/console".into(), 0o020_600, vec![]),
                ("init".into(), 0o100_755, b"#!/bin/sh".to_vec()),
                ("TRAILER!!!".into(), 0, vec![]),
            ]
        );
    }
}
