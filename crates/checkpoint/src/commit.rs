//! The only place where an output starts to exist.
//!
//! First everything is made durable in the stage, the manifest last; then the storage publishes the folder. A
//! crash at any point leaves no output, or the whole one.

use crate::format::huggingface::INDEX_FILE_NAME;
use crate::{Error, StagedCheckpoint};

impl StagedCheckpoint {
    /// Makes the stage whole and durable: shards, index, then the manifest; what does not belong to the output
    /// (a journal, leftovers of another attempt) is removed, so that nothing but the output is ever published.
    ///
    /// # Errors
    /// `BadFileName` or `DuplicateFile` for the manifest; `Storage`.
    pub fn seal(&mut self, manifest_name: &str, manifest_bytes: &[u8]) -> Result<(), Error> {
        if let Some(index) = self.layout().index_bytes().map(<[u8]>::to_vec) {
            self.put_file(INDEX_FILE_NAME, &index)?;
        }
        self.sync()?;
        self.add_file(manifest_name, manifest_bytes)?;
        for entry in self.storage().list_folder(self.folder())? {
            if !self.owns(&entry.name) {
                self.storage().remove(&self.folder().join(&entry.name))?;
            }
        }
        Ok(self.storage().sync_folder(self.folder())?)
    }
}
