//! The file: a tar archive, compressed as it is written, of bounded size.

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use flate2::{Compression, write::GzEncoder};
use tar::{Builder, EntryType, Header};

/// Bytes of all files together: some thousand episodes, far more than a node remembers.
const MAX_BYTES: usize = 10 * 1024 * 1024;

/// Who may read what comes out of it.
const FILE_MODE: u32 = 0o600;

pub(super) struct Archive<W: Write> {
    tar: Builder<GzEncoder<W>>,
    folder: String,
    left: usize,
    manifest: String,
}

// === impl Archive ===

impl<W: Write> Archive<W> {
    /// An empty one, all of whose files are in one folder.
    pub(super) fn new(out: W, folder: &str) -> Self {
        let tar = Builder::new(GzEncoder::new(out, Compression::default()));
        Self { tar, folder: folder.to_owned(), left: MAX_BYTES, manifest: String::new() }
    }

    /// Adds a file; or, to the manifest, why there is none.
    ///
    /// # Errors
    ///
    /// If the archive cannot be written.
    pub(super) fn add(&mut self, name: &str, content: io::Result<Vec<u8>>) -> io::Result<()> {
        // Writing to a String cannot fail.
        let content = match content {
            Ok(content) => content,
            Err(error) => {
                let _ = writeln!(self.manifest, "{name}: missing: {error}");
                return Ok(());
            }
        };
        let kept = &content[..content.len().min(self.left)];
        let _ = match content.len() - kept.len() {
            0 => writeln!(self.manifest, "{name}: {} bytes", kept.len()),
            cut => writeln!(self.manifest, "{name}: {} bytes, and {cut} cut off", kept.len()),
        };
        self.left -= kept.len();
        self.append(name, kept)
    }

    /// Adds the manifest, and ends.
    ///
    /// # Errors
    ///
    /// If the archive cannot be written.
    pub(super) fn finish(mut self) -> io::Result<()> {
        let manifest = std::mem::take(&mut self.manifest);
        self.append("manifest.txt", manifest.as_bytes())?;
        self.tar.into_inner()?.finish()?.flush()
    }

    fn append(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(FILE_MODE);
        header.set_size(content.len() as u64);
        self.tar.append_data(&mut header, format!("{}/{name}", self.folder), content)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, io::Read as _};

    use flate2::read::GzDecoder;

    use super::*;

    fn files(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut tar = tar::Archive::new(GzDecoder::new(archive));
        let read = tar.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.path().unwrap().display().to_string(), content)
        });
        read.collect()
    }

    #[test]
    fn what_is_missing_and_what_was_cut_off_is_in_the_manifest() {
        let mut out = Vec::new();
        let mut archive = Archive::new(&mut out, "dump");
        archive.add("a", Ok(b"content".to_vec())).unwrap();
        archive.add("b", Err(io::Error::other("no such thing"))).unwrap();
        archive.add("c", Ok(vec![b'x'; MAX_BYTES])).unwrap();
        archive.add("d", Ok(b"more".to_vec())).unwrap();
        archive.finish().unwrap();
        let files = files(&out);
        assert_eq!(files["dump/a"], b"content");
        assert_eq!(files["dump/c"].len(), MAX_BYTES - 7);
        let manifest = String::from_utf8(files["dump/manifest.txt"].clone()).unwrap();
        assert_eq!(
            manifest,
            format!(
                "a: 7 bytes\nb: missing: no such thing\nc: {} bytes, and 7 cut off\n\
                 d: 0 bytes, and 4 cut off\n",
                MAX_BYTES - 7
            )
        );
        assert_eq!(files.len(), 4);
    }

    #[test]
    fn a_full_disk_is_an_error() {
        let mut room = [0; 64];
        let mut archive = Archive::new(&mut room[..], "dump");
        let noise = (0..100_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8);
        let added = archive.add("a", Ok(noise.collect()));
        assert!(added.is_err() || archive.finish().is_err());
    }
}
