//! Indexes of shards, and configs.

use serde_json::{Map, Value, json};
use thalweg_checkpoint::index::{check_file_name, parse_index};
use thalweg_checkpoint::{compare_configs, parse_config, quantisation_of, updated_config, without_quantisation};
use thalweg_tensor::Dtype;

use crate::check_message;

/// An accepted index names files below its folder, each once, and reads back when it is printed.
pub(crate) fn check_index(bytes: &[u8]) {
    let index = match parse_index(bytes) {
        Ok(index) => index,
        Err(error) => return check_message(&error),
    };
    assert!(!index.tensors.is_empty());
    assert!(index.files.windows(2).all(|pair| pair[0] < pair[1]));
    assert!(index.tensors.windows(2).all(|pair| pair[0].0 < pair[1].0));
    for file in &index.files {
        check_file_name(file).unwrap();
        let folder = std::path::Path::new("folder");
        let parts = folder.join(file).components().count();
        assert_eq!(parts, 1 + file.split('/').count(), "`{file}` leaves the folder");
    }
    let file = |idx: u32| &index.files[usize::try_from(idx).unwrap()];
    let mut used: Vec<&String> = index.tensors.iter().map(|(_, idx)| file(*idx)).collect();
    used.sort_unstable();
    used.dedup();
    assert_eq!(used.len(), index.files.len(), "a file without a tensor");
    let map: Map<String, Value> =
        index.tensors.iter().map(|(name, idx)| (name.to_string(), json!(file(*idx)))).collect();
    let mut printed = json!({ "weight_map": map });
    if let Some(total_size) = index.total_size {
        printed["metadata"] = json!({ "total_size": total_size });
    }
    assert_eq!(parse_index(printed.to_string().as_bytes()).unwrap(), index);
}

/// A config stays what it is but for its dtype, whatever dtype is written into it.
pub(crate) fn check_config(bytes: &[u8]) {
    let config = match parse_config(bytes) {
        Ok(config) => config,
        Err(message) => {
            assert!(updated_config(bytes, Dtype::F32).is_err());
            return check_message(&message);
        }
    };
    assert!(compare_configs(&[("a", &config), ("b", &config)]).is_empty());
    let printed = config.to_string();
    assert_eq!(parse_config(printed.as_bytes()).unwrap(), config, "{printed}");
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let updated = updated_config(bytes, dtype).unwrap();
        assert_eq!(updated_config(&updated, dtype).unwrap(), updated, "a second update changes something");
        let after = parse_config(&updated).unwrap();
        check_same_but_dtypes(&config, &after);
    }
    // A dtype that configs have no word for changes no byte.
    assert_eq!(updated_config(bytes, Dtype::U8).unwrap(), bytes);
    if let Ok(plain) = without_quantisation(bytes) {
        let plain = parse_config(&plain).unwrap();
        assert_eq!(quantisation_of(&plain), None);
        let (Value::Object(before), Value::Object(after)) = (&config, &plain) else { return };
        assert!(before.keys().filter(|key| *key != "quantization_config").eq(after.keys()));
    }
}

fn check_same_but_dtypes(before: &Value, after: &Value) {
    let (Value::Object(before), Value::Object(after)) = (before, after) else {
        return assert_eq!(before, after);
    };
    assert!(before.keys().eq(after.keys()));
    for (key, value) in before {
        match (value, &after[key]) {
            (Value::String(_), Value::String(_)) if matches!(key.as_str(), "dtype" | "torch_dtype") => {}
            (value, other) => check_same_but_dtypes(value, other),
        }
    }
}
