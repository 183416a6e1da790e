//! Distributed checkpoints of Megatron-Core (`torch_dist`): a distributed checkpoint of PyTorch beside `metadata.json`,
//! which names the back end, and `common.pt`, which holds what is not sharded.
//!
//! Names are stored without the path to the model, and layers are stacked along a first dimension unless they differ.

use std::sync::Arc;

use serde_json::Value as Json;
use thalweg_storage::Storage;
use thalweg_tensor::display_name;

use super::dcp::error::DcpError;
use super::dcp::{Dcp, DcpFolder, open_folder, select_model};
use super::{Format, FormatContent, Place};
use crate::{CatalogCache, Error, ReadOptions};

/// The file by which Megatron-Core recognises its own distributed checkpoints.
const METADATA_FILE_NAME: &str = "metadata.json";
const COMMON_FILE_NAME: &str = "common.pt";
const MAX_METADATA_BYTES: u64 = 1 << 20;
const BACKEND: &str = "torch_dist";

/// A folder `iter_0000020` of Megatron-Core.
#[derive(Debug, Clone, Copy)]
pub struct MegatronDist;

impl Format for MegatronDist {
    fn name(&self) -> &'static str {
        "megatron-dist"
    }

    fn marks(&self) -> &'static [&'static str] {
        &[]
    }

    fn recognises(&self, place: &Place) -> bool {
        let has = |wanted: &str| place.file_names().any(|name| name == wanted);
        has(METADATA_FILE_NAME) && (has(COMMON_FILE_NAME) || Dcp.recognises(place))
    }

    fn open(
        &self,
        storage: &Arc<dyn Storage>,
        place: &Place,
        options: &ReadOptions,
        cache: &CatalogCache,
    ) -> Result<FormatContent, Error> {
        let path = place.folder().join(METADATA_FILE_NAME);
        let bytes = storage.read_file(&path, MAX_METADATA_BYTES)?;
        check_backend(&bytes).map_err(|source| Error::Dcp { path, source: Box::new(source) })?;
        let folder = DcpFolder { path: place.folder().to_owned(), prefix: String::new() };
        open_folder(storage, &folder, &|entries, _| select_model(entries, options.key.as_deref(), false), cache)
    }
}

fn check_backend(bytes: &[u8]) -> Result<(), DcpError> {
    let json: Json =
        serde_json::from_slice(bytes).map_err(|_| DcpError::Malformed { what: "`metadata.json` of Megatron-Core" })?;
    let backend = json.get("sharded_backend").and_then(Json::as_str);
    let version = json.get("sharded_backend_version").and_then(Json::as_u64);
    match (backend, version) {
        (Some(BACKEND), Some(1)) => Ok(()),
        _ => {
            let shown =
                |key| json.get(key).map_or_else(|| "none".to_owned(), |value: &Json| display_name(&value.to_string()));
            let (found, version) = (shown("sharded_backend"), shown("sharded_backend_version"));
            Err(DcpError::Backend { found, version })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_known_back_end_is_read() {
        let known = br#"{"sharded_backend": "torch_dist", "sharded_backend_version": 1, "more": []}"#;
        assert_eq!(check_backend(known), Ok(()));
        let refused = |text: &str| check_backend(text.as_bytes()).unwrap_err().to_string();
        assert!(refused(r#"{"sharded_backend": "zarr", "sharded_backend_version": 1}"#).contains("`\"zarr\"`"));
        assert!(refused(r#"{"sharded_backend": "torch_dist", "sharded_backend_version": 2}"#).contains("version 2"));
        assert!(refused("{}").contains("none"));
        assert!(refused("[").contains("metadata.json"));
    }
}
