//! A plain disk for the tests of this crate.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thalweg_storage::{Error, FileInfo, FileKind, FolderEntry, ReadAt, Storage, WriteAt};

#[derive(Debug)]
pub(crate) struct Disk;

pub(crate) fn disk() -> Arc<dyn Storage> {
    Arc::new(Disk)
}

fn fail(act: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { act, path: path.clone(), source }
}

fn info(meta: &fs::Metadata) -> FileInfo {
    let kind = if meta.is_file() {
        FileKind::File
    } else if meta.is_dir() {
        FileKind::Folder
    } else {
        FileKind::Other
    };
    let modified_ns = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
    FileInfo { kind, len_bytes: meta.len(), modified_ns, id: (meta.dev(), meta.ino()) }
}

#[derive(Debug)]
struct Open {
    file: File,
    path: PathBuf,
    info: FileInfo,
}

impl ReadAt for Open {
    fn info(&self) -> FileInfo {
        self.info
    }
    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let wanted_bytes = offset + out.len() as u64;
        self.file.read_exact_at(out, offset).map_err(|_| Error::Truncated {
            path: self.path.clone(),
            wanted_bytes,
            found_bytes: self.info.len_bytes,
        })
    }
    fn check_unchanged(&self) -> Result<(), Error> {
        let now = fs::metadata(&self.path).map(|meta| info(&meta)).ok();
        if now == Some(self.info) { Ok(()) } else { Err(Error::Changed { path: self.path.clone() }) }
    }
}

impl WriteAt for Open {
    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all_at(bytes, offset).map_err(fail("write", &self.path))
    }
    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.file.read_exact_at(out, offset).map_err(fail("read", &self.path))
    }
    fn len_bytes(&self) -> Result<u64, Error> {
        Ok(self.file.metadata().map_err(fail("read", &self.path))?.len())
    }
    fn sync(&self) -> Result<(), Error> {
        Ok(())
    }
}

impl Storage for Disk {
    fn file_info(&self, path: &Path) -> Result<FileInfo, Error> {
        Ok(info(&fs::metadata(path).map_err(fail("open", path))?))
    }
    fn list_folder(&self, path: &Path) -> Result<Vec<FolderEntry>, Error> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path).map_err(fail("list", path))?.flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let found = fs::metadata(entry.path()).map(|meta| info(&meta)).ok();
            let (kind, len_bytes) = found.map_or((FileKind::Other, 0), |info| (info.kind, info.len_bytes));
            entries.push(FolderEntry { name, kind, len_bytes });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }
    fn open_file(&self, path: &Path) -> Result<Arc<dyn ReadAt>, Error> {
        if self.file_info(path)?.kind != FileKind::File {
            return Err(Error::NotAFile { path: path.to_owned() });
        }
        let file = File::open(path).map_err(fail("open", path))?;
        let info = info(&file.metadata().map_err(fail("open", path))?);
        Ok(Arc::new(Open { file, path: path.to_owned(), info }))
    }
    fn create_file(&self, path: &Path, len_bytes: u64) -> Result<Arc<dyn WriteAt>, Error> {
        let file =
            OpenOptions::new().read(true).write(true).create_new(true).open(path).map_err(fail("create", path))?;
        file.set_len(len_bytes).map_err(fail("create", path))?;
        let info = info(&file.metadata().map_err(fail("open", path))?);
        Ok(Arc::new(Open { file, path: path.to_owned(), info }))
    }
    fn open_for_update(&self, path: &Path) -> Result<Arc<dyn WriteAt>, Error> {
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(fail("open", path))?;
        let info = info(&file.metadata().map_err(fail("open", path))?);
        Ok(Arc::new(Open { file, path: path.to_owned(), info }))
    }
    fn create_folder(&self, path: &Path) -> Result<(), Error> {
        fs::create_dir_all(path).map_err(fail("create", path))
    }
    fn sync_folder(&self, _path: &Path) -> Result<(), Error> {
        Ok(())
    }
    fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        fs::rename(from, to).map_err(fail("rename", from))
    }
    fn exchange(&self, a: &Path, _b: &Path) -> Result<(), Error> {
        Err(Error::Io { act: "exchange", path: a.to_owned(), source: io::ErrorKind::Unsupported.into() })
    }
    fn remove(&self, path: &Path) -> Result<(), Error> {
        let result = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        result.map_err(fail("remove", path))
    }
    fn free_bytes(&self, _path: &Path) -> Result<Option<u64>, Error> {
        Ok(None)
    }
    fn canonical_path(&self, path: &Path) -> Result<PathBuf, Error> {
        fs::canonicalize(path).map_err(fail("open", path))
    }
    fn lock(&self, _path: &Path) -> Result<Box<dyn std::fmt::Debug + Send + Sync>, Error> {
        Ok(Box::new(()))
    }
}
