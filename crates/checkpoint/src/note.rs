//! Things a user should be told about a checkpoint that can be read all the same.

use std::fmt;

use thalweg_tensor::display_name;

/// One remark. Shown after the result, never instead of an error.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Note {
    /// A single file and an index stand side by side; the single file is read, as transformers does.
    SingleFilePreferred {
        /// The file that is read.
        used: String,
        /// The one that is not.
        unused: String,
    },
    /// Shards that the index does not list.
    StrayShards {
        /// Their names, sorted.
        files: Vec<String>,
    },
    /// The index states another total than its tensors have.
    TotalSizeWrong {
        /// What the index says.
        stated_bytes: u64,
        /// What the headers say.
        found_bytes: u64,
    },
    /// A header field that the format does not define, which was not interpreted.
    UnknownHeaderField {
        /// The file.
        file: String,
        /// The first such field.
        field: String,
    },
    /// The folder's only candidate has another name than usual.
    UnusualName {
        /// The file.
        file: String,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SingleFilePreferred { used, unused } => {
                write!(f, "`{used}` is read and `{unused}` beside it is not, as transformers does")
            }
            Self::StrayShards { files } => {
                let first = files.first().map(|name| display_name(name)).unwrap_or_default();
                match files.len() {
                    1 => write!(f, "`{first}` is not part of the checkpoint and is not read"),
                    n => write!(f, "{n} shards such as `{first}` are not part of the checkpoint and are not read"),
                }
            }
            Self::TotalSizeWrong { stated_bytes, found_bytes } => {
                write!(f, "the index states a `total_size` of {stated_bytes} bytes, its tensors have {found_bytes}")
            }
            Self::UnknownHeaderField { file, field } => {
                let (file, field) = (display_name(file), display_name(field));
                write!(f, "the header of `{file}` has a field `{field}` that the format does not define; it is ignored")
            }
            Self::UnusualName { file } => {
                write!(f, "`{}` is read, the only candidate in the folder", display_name(file))
            }
        }
    }
}
