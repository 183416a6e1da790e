//! Which files beside the tensors travel from the named source, and the note about those that do not.

use std::collections::BTreeMap;

use thalweg_checkpoint::{SideFile, SideFileKind};
use thalweg_tensor::display_name;

use crate::align::OpenSource;
use crate::plan::{CodePolicy, OutputPlan};

/// The source whose files travel to an output.
fn named_source<'a>(output: &OutputPlan, sources: &'a [OpenSource]) -> Option<&'a OpenSource> {
    let path = &output.sources.get(output.policy.side_files_from)?.path;
    sources.iter().find(|source| source.path == *path)
}

/// The files that travel to an output.
pub(crate) fn travelling_files<'a>(
    output: &'a OutputPlan,
    sources: &'a [OpenSource],
) -> impl Iterator<Item = &'a SideFile> + 'a {
    let files = named_source(output, sources).into_iter().flat_map(|source| source.checkpoint.side_files());
    files.filter(|file| match file.kind {
        SideFileKind::Travels => true,
        SideFileKind::Code => output.policy.code == CodePolicy::Copy,
        SideFileKind::Stays(_) => false,
    })
}

/// A note about files of the named source that are not copied to an output, with the reasons; `None` if all are.
pub fn side_file_notes(output: &OutputPlan, sources: &[OpenSource]) -> Option<String> {
    /// Names listed for each reason before the rest is counted.
    const MAX_NAMES: usize = 8;
    let source = named_source(output, sources)?;
    let mut stays: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for file in source.checkpoint.side_files() {
        let reason = match file.kind {
            SideFileKind::Travels => continue,
            SideFileKind::Code if output.policy.code == CodePolicy::Copy => continue,
            SideFileKind::Code => "code: `--code` copies it",
            SideFileKind::Stays(reason) => reason.words(),
        };
        stays.entry(reason).or_default().push(format!("`{}`", display_name(&file.name)));
    }
    if stays.is_empty() {
        return None;
    }
    let list = |(reason, mut names): (&str, Vec<String>)| {
        let n_more = names.len().saturating_sub(MAX_NAMES);
        names.truncate(MAX_NAMES);
        let more = if n_more > 0 { format!(" and {n_more} more") } else { String::new() };
        format!("{}{more} ({reason})", names.join(", "))
    };
    let lists: Vec<String> = stays.into_iter().map(list).collect();
    Some(format!("not copied from `{}`: {}", source.path.display(), lists.join("; ")))
}
