//! An average that was taken while training, written as a folder of safetensors with a record of what it is.

use std::path::Path;

use serde_json::json;
use thalweg_checkpoint::{CONFIG_FILE_NAME, FolderFiles, SideFileKind, side_files_of, updated_config, write_folder};
use thalweg_merge::context::RunContext;
use thalweg_merge::plan::{DEFAULT_SHARD_BYTES, OutputDtype};

use crate::error::{Failure, Result};
use crate::saves_window::SavesWindow;

/// Name of the record, which is written last.
const RECORD_NAME: &str = "thalweg-average.json";
const RECORD_KIND: &str = "thalweg-average";
/// The largest record that is read: one of 10,000 saves with large numerators is smaller.
const MAX_RECORD_BYTES: u64 = 64 << 20;

/// Writes the window as `out`, with the config and tokenizer of a checkpoint if one is named. Replaces only an average.
pub(crate) fn write_average(
    window: &SavesWindow,
    out: &Path,
    side_files_from: Option<&Path>,
    run: &RunContext<'_>,
) -> Result<()> {
    let files = side_files_from.map(|folder| side_files(window, folder, run)).transpose()?.unwrap_or_default();
    let record = average_record(window, &files, run);
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    let folder = FolderFiles {
        files: &files,
        manifest: (RECORD_NAME, record.as_bytes()),
        kind: RECORD_KIND,
        what: "an average that was written while training",
        earlier: &earlier_files(out, run),
        shard_bytes: DEFAULT_SHARD_BYTES,
    };
    if let Some(parent) = out.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        run.storage.create_folder(parent)?;
    }
    write_folder::<Failure>(&run.storage, out, &window.catalog, folder, &mut |staged| {
        window.with_merge(|merge| Ok(merge.merge_tensors(&|_| true, staged, run)?))
    })
}

/// What was averaged, and the small files beside it.
pub(crate) fn average_record(window: &SavesWindow, files: &[(String, Vec<u8>)], run: &RunContext<'_>) -> String {
    let (numerators, divisor) = window.coefficients.to_decimal_strings();
    let sources: Vec<_> = (window.steps.iter().zip(&numerators))
        .map(|(step, numerator)| json!({"step": step, "numerator": numerator}))
        .collect();
    let record = json!({
        "kind": RECORD_KIND,
        "version": 1,
        "tool": run.tool,
        "step": window.steps.last(),
        "scheme": window.scheme,
        "divisor": divisor,
        "sources": sources,
        "dtype": window.options.dtype,
        "files": files.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        "written_unix_seconds": run.host.unix_seconds(),
    });
    serde_json::to_string_pretty(&record).unwrap_or_default()
}

/// The small files that an average which is there already says it has.
fn earlier_files(out: &Path, run: &RunContext<'_>) -> Vec<String> {
    let bytes = run.storage.read_file(&out.join(RECORD_NAME), MAX_RECORD_BYTES).unwrap_or_default();
    let record: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let names = record.get("files").and_then(|names| names.as_array());
    names.into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect()
}

/// The files that a merge of that checkpoint would take along, the config with the element type of the average.
fn side_files(window: &SavesWindow, folder: &Path, run: &RunContext<'_>) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    for file in side_files_of(&*run.storage, folder)? {
        if file.kind != SideFileKind::Travels {
            continue;
        }
        let mut bytes = file.read(&*run.storage)?;
        if file.name == CONFIG_FILE_NAME && window.options.dtype != OutputDtype::Same {
            let dtype = window.options.dtype.resolve(thalweg_tensor::Dtype::F32);
            let path = file.path.display();
            bytes = updated_config(&bytes, dtype).map_err(|why| Failure::usage(format!("`{path}`: {why}")))?;
        }
        files.push((file.name, bytes));
    }
    Ok(files)
}
