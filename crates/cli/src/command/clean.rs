//! `thalweg clean`: removes uploads that were begun and have not ended.

use crate::args::CleanArgs;
use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;

#[cfg(feature = "cloud")]
pub(crate) fn run(args: &CleanArgs, world: &World<'_>) -> Result<Outcome, Error> {
    use serde_json::json;
    use thalweg_tensor::counted;

    use crate::options::show_bytes;
    use crate::store::routed_storage;

    if !thalweg_storage::is_address(&args.path) {
        let hint = "give an address, such as `s3://bucket/runs`: only stores have unfinished uploads";
        return Err(Error::usage_with_hint(format!("`{}` is not an address of a store", args.path.display()), hint));
    }
    let storage = routed_storage(world.interrupt(), world.messages.notes());
    let leftovers = storage.leftover_uploads(&args.path)?;
    let mut text = String::new();
    for leftover in &leftovers {
        if !args.dry_run {
            storage.remove_leftover(leftover)?;
        }
        let path = leftover.path.display();
        let size = show_bytes(leftover.len_bytes);
        let files = counted(leftover.n_files, "file");
        text.push_str(&match (leftover.is_whole, args.dry_run) {
            (true, false) => format!("`{path}` is complete: removed the marker of its upload\n"),
            (true, true) => format!("`{path}` is complete, but the marker of its upload is still there\n"),
            (false, false) => format!("removed the unfinished upload of {files}, {size}, to `{path}`\n"),
            (false, true) => format!("an unfinished upload of {files}, {size}, to `{path}`\n"),
        });
    }
    if leftovers.is_empty() {
        text = format!("no unfinished uploads below `{}`\n", args.path.display());
    }
    let rows: Vec<serde_json::Value> = leftovers
        .iter()
        .map(|leftover| {
            json!({
                "path": leftover.path,
                "files": leftover.n_files,
                "bytes": leftover.len_bytes,
                "complete": leftover.is_whole,
                "removed": !args.dry_run,
            })
        })
        .collect();
    Ok(world.answer(&json!({ "kind": "thalweg-clean", "version": 1, "path": args.path, "uploads": rows }), &text))
}

#[cfg(not(feature = "cloud"))]
pub(crate) fn run(args: &CleanArgs, _world: &World<'_>) -> Result<Outcome, Error> {
    thalweg_storage::check_local(&args.path)?;
    Err(Error::usage("this program was built without object stores, so it left no uploads"))
}
