//! Standard input as a file: what another program pipes in is read whole, once, and then lies in memory.

use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::{Error, MemoryStorage, ReadAt, Storage};

/// The path of standard input.
pub const STDIN_PATH: &str = "/dev/stdin";
/// More than that is not a log.
const MAX_INPUT_BYTES: u64 = 512 << 20;

/// What was piped in, if `path` is standard input and not a file of the disk.
pub(crate) fn piped_input(path: &Path) -> Result<Option<Arc<dyn ReadAt>>, Error> {
    static INPUT: Mutex<Option<Arc<dyn ReadAt>>> = Mutex::new(None);
    if path != Path::new(STDIN_PATH) || std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file()) {
        return Ok(None);
    }
    let mut input = INPUT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(input) = &*input {
        return Ok(Some(Arc::clone(input)));
    }
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().take(MAX_INPUT_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|source| Error::Io { act: "read", path: path.to_owned(), source })?;
    let found_bytes = bytes.len() as u64;
    if found_bytes > MAX_INPUT_BYTES {
        return Err(Error::TooLarge { path: path.to_owned(), limit_bytes: MAX_INPUT_BYTES, found_bytes });
    }
    let (memory, name) = (MemoryStorage::new(), Path::new("/stdin"));
    memory.create_file(name, 0)?.write_all_at(0, &bytes)?;
    Ok(Some(Arc::clone(input.insert(memory.open_file(name)?))))
}
