//! `_METADATA`: the tree that was saved, and which of its leaves are arrays.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use thalweg_storage::Storage;

use super::stored::refuse;
use crate::Error;

/// The description of a tree.
pub(super) const TREE_NAME: &str = "_METADATA";
/// The longest description: a million leaves have some 500 MB.
const MAX_TREE_BYTES: u64 = 512 << 20;
/// Kinds of leaves that are arrays.
const ARRAYS: [&str; 4] = ["jax.Array", "np.ndarray", "scalar", "torch.Tensor"];

/// The leaves of a tree.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tree {
    /// By the key of their arrays, the keys that lead to them.
    pub(super) paths: BTreeMap<String, Vec<String>>,
    /// Keys of leaves that must have an array.
    pub(super) arrays: Vec<String>,
    /// Keys of leaves that are something else.
    pub(super) others: Vec<String>,
}

/// Reads the description of a tree.
///
/// # Errors
/// `Layout`, `Storage`.
pub(super) fn read_tree(storage: &Arc<dyn Storage>, path: &Path) -> Result<Tree, Error> {
    let bytes = storage.read_file(path, MAX_TREE_BYTES)?;
    parse_tree(&bytes).map_err(|reason| refuse(path, reason))
}

fn parse_tree(bytes: &[u8]) -> Result<Tree, String> {
    let json: Value = serde_json::from_slice(bytes).map_err(|error| format!("it is not JSON: {error}"))?;
    // Older versions do not describe the tree.
    let Some(leaves) = json.get("tree_metadata") else { return Ok(Tree::default()) };
    let leaves = leaves.as_object().ok_or("its `tree_metadata` is not an object")?;
    let mut tree = Tree::default();
    for leaf in leaves.values() {
        let keys = leaf["key_metadata"].as_array().ok_or("a leaf has no list of keys")?;
        let key = |key: &Value| match &key["key"] {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        let keys: Vec<String> = keys.iter().map(key).collect::<Option<_>>().ok_or("a key of a leaf is not text")?;
        let name = keys.join(".");
        let value = &leaf["value_metadata"];
        let is_array = value["value_type"].as_str().is_some_and(|kind| ARRAYS.contains(&kind));
        match is_array && value["skip_deserialize"] != true {
            true => tree.arrays.push(name.clone()),
            false => tree.others.push(name.clone()),
        }
        tree.paths.insert(name, keys);
    }
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_are_arrays_or_something_else() {
        let leaf =
            |keys: &str, kind: &str| format!(r#"{{"key_metadata":{keys},"value_metadata":{{"value_type":"{kind}"}}}}"#);
        let a = leaf(r#"[{"key":"params","key_type":2},{"key":"a.b","key_type":2}]"#, "jax.Array");
        let b = leaf(r#"[{"key":"opt","key_type":2},{"key":0,"key_type":1}]"#, "None");
        let tree = parse_tree(format!(r#"{{"tree_metadata":{{"x":{a},"y":{b}}}}}"#).as_bytes()).unwrap();
        assert_eq!(tree.paths["params.a.b"], ["params", "a.b"]);
        assert_eq!((tree.arrays, tree.others), (vec!["params.a.b".to_owned()], vec!["opt.0".to_owned()]));
        assert_eq!(parse_tree(b"{}"), Ok(Tree::default()));
        for text in ["", "[", r#"{"tree_metadata":[]}"#, r#"{"tree_metadata":{"x":{}}}"#] {
            assert!(parse_tree(text.as_bytes()).is_err(), "{text}");
        }
    }
}
