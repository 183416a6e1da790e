//! `_METADATA`: the tree that was saved, and which of its leaves are arrays.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};
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
        let keys = keys_of(leaf)?;
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

/// The keys that lead to a leaf.
fn keys_of(leaf: &Value) -> Result<Vec<String>, String> {
    let keys = leaf["key_metadata"].as_array().ok_or("a leaf has no list of keys")?;
    let key = |key: &Value| match &key["key"] {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    Ok(keys.iter().map(key).collect::<Option<_>>().ok_or("a key of a leaf is not text")?)
}

/// What is written of a leaf: its label, and its keys with their types.
pub(crate) type Leaf = (String, Value);

/// The leaves of a tree by the names of their arrays, to be written again; none for a tree that is not described.
///
/// # Errors
/// `Layout`, `Storage`.
pub(super) fn read_leaves(storage: &Arc<dyn Storage>, path: &Path) -> Result<BTreeMap<String, Leaf>, Error> {
    let bytes = storage.read_file(path, MAX_TREE_BYTES)?;
    parse_leaves(&bytes).map_err(|reason| refuse(path, reason))
}

fn parse_leaves(bytes: &[u8]) -> Result<BTreeMap<String, Leaf>, String> {
    let mut json: Value = serde_json::from_slice(bytes).map_err(|error| format!("it is not JSON: {error}"))?;
    let Some(Value::Object(leaves)) = json.get_mut("tree_metadata").map(Value::take) else {
        return Ok(BTreeMap::new());
    };
    let leaf = |(label, mut leaf): (String, Value)| {
        let name = keys_of(&leaf)?.join(".");
        Ok((name, (label, leaf["key_metadata"].take())))
    };
    leaves.into_iter().map(leaf).collect()
}

/// Writes the description of a tree whose leaves are all arrays of an OCDBT store of zarr 2.
pub(super) fn write_tree(leaves: impl Iterator<Item = Leaf>) -> Vec<u8> {
    // As NumPy's, they are restored without a mesh of devices, and as JAX's where a target says so.
    let value = json!({"value_type": "np.ndarray", "skip_deserialize": false});
    let leaves: Map<String, Value> =
        leaves.map(|(label, keys)| (label, json!({"key_metadata": keys, "value_metadata": value}))).collect();
    let tree = json!({
        "tree_metadata": leaves,
        "use_ocdbt": true,
        "use_zarr3": false,
        // Every chunk is stored, so that Orbax takes one that is missing for an error.
        "store_array_data_equal_to_fill_value": true,
        "custom_metadata": null,
    });
    tree.to_string().into_bytes()
}

/// The leaf of an array under one key, which is its name.
pub(super) fn plain_leaf(name: &str) -> Leaf {
    /// How Orbax calls the keys of dictionaries.
    const DICT: u8 = 2;
    let quoted = name.replace('\\', r"\\").replace('\'', r"\'");
    (format!("('{quoted}',)"), json!([{"key": name, "key_type": DICT}]))
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
        let text = format!(r#"{{"tree_metadata":{{"x":{a},"y":{b}}}}}"#);
        let tree = parse_tree(text.as_bytes()).unwrap();
        assert_eq!(tree.paths["params.a.b"], ["params", "a.b"]);
        assert_eq!((tree.arrays, tree.others), (vec!["params.a.b".to_owned()], vec!["opt.0".to_owned()]));
        assert_eq!(parse_tree(b"{}"), Ok(Tree::default()));
        // What is written has the same leaves again, and odd names stay apart.
        let names = ["a.b", "it's", r"it\'s", "('a', 'b')"];
        let written = parse_leaves(text.as_bytes()).unwrap().into_values().chain(names.map(plain_leaf));
        let read = parse_tree(&write_tree(written)).unwrap();
        assert_eq!((read.paths["params.a.b"].len(), read.paths["a.b"].len(), read.arrays.len()), (2, 1, 6));
        for text in ["", "[", r#"{"tree_metadata":[]}"#, r#"{"tree_metadata":{"x":{}}}"#] {
            assert!(parse_tree(text.as_bytes()).is_err(), "{text}");
        }
    }
}
