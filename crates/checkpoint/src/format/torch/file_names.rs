//! The endings of the names of torch.save files.

pub(super) const FILE_ENDS: [&str; 5] = [".pt", ".pth", ".bin", ".ckpt", ".pth.tar"];

/// Whether a name is like those of torch.save files, without their indexes.
pub(crate) fn is_saved_name(name: &str) -> bool {
    strip_end(name).is_some()
}

/// A name without the ending of torch.save files; `None` if it has none.
pub(super) fn strip_end(name: &str) -> Option<&str> {
    FILE_ENDS.iter().find_map(|end| name.strip_suffix(end))
}
