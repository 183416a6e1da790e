//! Pickles, and the archives and streams that torch.save makes of them.

use std::sync::Arc;

use thalweg_checkpoint::ReadOptions;
use thalweg_checkpoint::format::torch::read_content;
use thalweg_checkpoint::pickle::{NameList, PickleLimits, Value, parse_pickle};

use crate::check_message;
use crate::header::MemoryFile;

/// A name that inputs of the corpus call.
const NAMES: NameList = &[("torch._utils", "_rebuild_tensor_v2")];

/// Any bytes as a pickle.
pub(crate) fn check_pickle(bytes: &[u8]) {
    let limits = limits(bytes.len());
    let (pickle, n_bytes) = match parse_pickle(bytes, &[NAMES], &limits) {
        Ok(parsed) => parsed,
        Err(error) => {
            assert!(error.position <= bytes.len());
            return check_message(&error);
        }
    };
    assert!(n_bytes <= bytes.len() && bytes[n_bytes - 1] == b'.');
    // What follows the end makes no difference, and a pickle without its end differs from one that is wrong.
    let (_, again) = parse_pickle(&bytes[..n_bytes], &[NAMES], &limits).unwrap();
    assert_eq!(again, n_bytes);
    assert!(parse_pickle(&bytes[..n_bytes - 1], &[NAMES], &limits).unwrap_err().is_truncated());
    walk(pickle.root());
    pickle.unlisted_names().for_each(|global| assert!(!global.display().chars().any(char::is_control)));
}

/// Looks at everything that can be reached, a bounded number of times.
fn walk(root: Value<'_>) {
    let mut waiting = vec![root];
    for _ in 0..10_000 {
        let Some(value) = waiting.pop() else { return };
        // Lists that hold each other a hundred times must not make this list long.
        waiting.truncate(1_000);
        let _ = (value.opaque_name(), value.kind(), value.get("a"), value.as_persistent());
        waiting.extend(value.items().take(100));
        waiting.extend(value.entries().take(100).flat_map(|(key, value)| [key, value]));
        if let Some(object) = value.as_any_object() {
            waiting.extend(object.state());
            waiting.push(object.args());
        }
    }
}

fn limits(n_bytes: usize) -> PickleLimits {
    PickleLimits { max_memory_bytes: (1 << 20) + 100 * n_bytes as u64, ..PickleLimits::default() }
}

/// Any bytes as a torch.save file: whatever is accepted is within the file.
pub(crate) fn check_file(bytes: &[u8]) {
    let file = MemoryFile(Arc::from(bytes));
    let content = match read_content(&file, 0, &ReadOptions::default()) {
        Ok(content) => content,
        Err(error) => return check_message(&error),
    };
    assert!(!content.entries.is_empty());
    for entry in &content.entries {
        let n_elements = entry.shape.n_elements().unwrap();
        entry.dtype.bytes_of(n_elements).unwrap();
        for piece in &entry.pieces {
            let n_spanned = piece.n_spanned(&entry.shape).unwrap();
            let end = piece.offset + entry.dtype.bytes_of(n_spanned).unwrap();
            assert!(end <= bytes.len() as u64, "`{}` ends at {end} of {}", entry.name, bytes.len());
        }
    }
    let whole = ReadOptions { key: Some(".".to_owned()), ..ReadOptions::default() };
    let again = read_content(&file, 0, &whole).unwrap();
    if let Ok(state) = read_content(&file, 0, &ReadOptions { optimizer: true, ..ReadOptions::default() }) {
        assert!(state.n_state <= state.entries.len() && state.entries.len() >= content.entries.len());
    }
    assert!(again.entries.len() + again.findings.unreadable.len() >= content.entries.len());
}
