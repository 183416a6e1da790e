//! What the files of a share are called in the stage.

use std::path::{Path, PathBuf};

use thalweg_storage::publish::is_stage_name;

use super::Share;

const PREFIX: &str = "thalweg-share-";

/// A file of a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShareFile {
    /// Keeps a second process from the share.
    Lock,
    /// Which units are done.
    Journal,
    /// That all are.
    Record,
}

impl ShareFile {
    const ALL: [Self; 3] = [Self::Lock, Self::Journal, Self::Record];

    fn extension(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::Journal => "journal",
            Self::Record => "json",
        }
    }

    pub(crate) fn path(self, stage: &Path, share: Share) -> PathBuf {
        stage.join(format!("{PREFIX}{}-of-{}.{}", share.index, share.count, self.extension()))
    }
}

/// The file of a share that a name is; `None` for any other, and for records that are being written.
pub(crate) fn parse_name(name: &str) -> Option<(ShareFile, Share)> {
    let (share, extension) = name.strip_prefix(PREFIX)?.split_once('.')?;
    let (index, count) = share.split_once("-of-")?;
    let share = Share::new(index.parse().ok()?, count.parse().ok()?)?;
    let file = ShareFile::ALL.into_iter().find(|file| file.extension() == extension)?;
    // A number with a sign or with zeros before it is not ours.
    (format!("{}-of-{}", share.index, share.count) == name.strip_prefix(PREFIX)?.split_once('.')?.0)
        .then_some((file, share))
}

/// Whether a name in a stage is that of a share's file, or of a record that was being written.
pub(crate) fn is_share_name(name: &str) -> bool {
    let being_written = || {
        let (record, _) = name.split_once(".json.")?;
        is_stage_name(name).then(|| parse_name(&format!("{record}.json")))?
    };
    parse_name(name).is_some() || being_written().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_look_like_no_step() {
        let share = Share::new(3, 16).unwrap();
        for file in ShareFile::ALL {
            let path = file.path(Path::new("/s"), share);
            let name = path.file_name().unwrap().to_str().unwrap();
            assert_eq!(parse_name(name), Some((file, share)));
            assert!(is_share_name(name));
            assert_eq!(thalweg_storage::publish::trainer_part(name), None);
        }
        assert!(is_share_name("thalweg-share-3-of-16.json.thalweg-new"));
        assert!(is_share_name("thalweg-share-3-of-16.json.thalweg-new-2"));
    }

    #[test]
    fn other_names_are_not_ours() {
        for name in [
            "thalweg-share-3-of-3.json",
            "thalweg-share-03-of-4.json",
            "thalweg-share-+3-of-4.json",
            "thalweg-share-3-of-4.txt",
            "thalweg-share-3-of-4.json.bak",
            "thalweg-share-3-of-99999999999.json",
            "thalweg-share-.json",
            "thalweg-journal",
        ] {
            assert!(!is_share_name(name), "{name}");
        }
    }
}
