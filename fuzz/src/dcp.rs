//! The metadata of distributed checkpoints.

use thalweg_checkpoint::format::dcp::read_metadata;

use crate::check_message;

/// Any bytes as a `.metadata`: whatever is accepted covers its tensors exactly.
pub(crate) fn check_metadata(bytes: &[u8]) {
    for key in [None, Some(".")] {
        let entries = match read_metadata(bytes, key) {
            Ok(entries) => entries,
            Err(error) => {
                check_message(&error);
                continue;
            }
        };
        assert!(!entries.is_empty());
        for entry in &entries {
            let n_elements = entry.shape.n_elements().unwrap();
            entry.dtype.bytes_of(n_elements).unwrap();
            let n_held: u64 = entry.pieces.iter().map(|piece| piece.extent(&entry.shape).iter().product::<u64>()).sum();
            assert_eq!(n_held, n_elements, "`{}`", entry.name);
        }
    }
}
