//! The first and last bytes of a part of a file, read once: opening an archive takes twenty short reads there, and a
//! distributed checkpoint has thousands of archives.

use std::ops::Range;

use thalweg_storage::{Error, FileInfo, ReadAt};

/// Bytes kept of each end: room for the pickle, the other small records and the directory of an archive of one tensor.
const END_BYTES: u64 = 2048;

/// A file, and what it holds at the ends of one of its parts.
#[derive(Debug)]
pub(crate) struct KeptEnds<'a> {
    file: &'a dyn ReadAt,
    /// Where the kept bytes begin.
    ends: [(u64, Vec<u8>); 2],
}

impl<'a> KeptEnds<'a> {
    /// Reads the ends of a part. If that fails, nothing is kept, and who reads them gets the error.
    pub(crate) fn new(file: &'a dyn ReadAt, part: Range<u64>) -> Self {
        let head_end = part.end.min(part.start.saturating_add(END_BYTES));
        let tail_start = part.end.saturating_sub(END_BYTES).max(head_end);
        let keep = |range: Range<u64>| {
            let n_bytes = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(0);
            let mut bytes = vec![0; n_bytes];
            let is_read = n_bytes > 0 && file.read_exact_at(range.start, &mut bytes).is_ok();
            (range.start, if is_read { bytes } else { Vec::new() })
        };
        Self { file, ends: [keep(part.start..head_end), keep(tail_start..part.end)] }
    }

    fn kept(&self, offset: u64, n_bytes: usize) -> Option<&[u8]> {
        self.ends.iter().find_map(|(start, bytes)| {
            let at = usize::try_from(offset.checked_sub(*start)?).ok()?;
            bytes.get(at..at.checked_add(n_bytes)?)
        })
    }
}

impl ReadAt for KeptEnds<'_> {
    fn info(&self) -> FileInfo {
        self.file.info()
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        match self.kept(offset, out.len()) {
            Some(bytes) => {
                out.copy_from_slice(bytes);
                Ok(())
            }
            None => self.file.read_exact_at(offset, out),
        }
    }

    fn check_unchanged(&self) -> Result<(), Error> {
        self.file.check_unchanged()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use thalweg_storage::{LocalStorage, Storage};

    use super::*;
    use crate::format::torch::TorchFile;
    use crate::format::torch::tensor::{Found, read_tensor};

    /// A file that counts how often it is read.
    #[derive(Debug)]
    struct Counted {
        file: Arc<dyn ReadAt>,
        n_reads: AtomicUsize,
    }

    impl ReadAt for Counted {
        fn info(&self) -> FileInfo {
            self.file.info()
        }

        fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
            self.n_reads.fetch_add(1, Ordering::Relaxed);
            self.file.read_exact_at(offset, out)
        }

        fn check_unchanged(&self) -> Result<(), Error> {
            self.file.check_unchanged()
        }
    }

    fn chunks() -> Counted {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
        let file = LocalStorage::new().open_file(&fixtures.join("dcp-fsdp2/step-60/__0_0.distcp")).unwrap();
        Counted { file, n_reads: AtomicUsize::new(0) }
    }

    /// Where the tensor in an archive is, and how many reads that took.
    fn find_tensor(counted: &Counted, file: &dyn ReadAt, part: Range<u64>) -> (String, usize) {
        let archive = TorchFile::open(file, part, &[]).unwrap();
        let Ok(Found::Tensor(spec)) = read_tensor(archive.pickle.root()) else { panic!("no tensor") };
        let piece = archive.locate(file, 0, &spec).unwrap();
        (format!("{piece:?}"), counted.n_reads.swap(0, Ordering::Relaxed))
    }

    #[test]
    fn an_archive_of_one_tensor_opens_with_two_reads() {
        let file = chunks();
        // A long chunk, and one that is shorter than the two ends.
        for part in [0..13_865, 13_865..16_594] {
            let (wanted, n_plain) = find_tensor(&file, &file, part.clone());
            assert_eq!(find_tensor(&file, &KeptEnds::new(&file, part.clone()), part), (wanted, 2));
            assert!(n_plain > 10, "{n_plain}");
        }
    }

    #[test]
    fn bytes_are_those_of_the_file_at_any_offset() {
        let file = chunks();
        let part = 13_865..22_052;
        let ends = KeptEnds::new(&file, part.clone());
        let edges = [0, 1, 2047, 2048, 2049, 4096, 6138, 6139, 6140, 8186, 8187, 8188];
        for start in edges {
            for n_bytes in [0, 1, 2, 2048, 3000] {
                let (mut wanted, mut found) = (vec![0; n_bytes], vec![1; n_bytes]);
                file.read_exact_at(part.start + start, &mut wanted).unwrap();
                ends.read_exact_at(part.start + start, &mut found).unwrap();
                assert!(wanted == found, "{n_bytes} bytes at {start}");
            }
        }
        let end = file.info().len_bytes;
        assert!(KeptEnds::new(&file, 0..end + 1).read_exact_at(end, &mut [0]).is_err());
    }
}
