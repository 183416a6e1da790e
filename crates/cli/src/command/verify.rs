//! `thalweg verify`: is an output still what its receipt says?

use std::path::{Path, PathBuf};

use serde_json::json;
use thalweg_merge::own::merges_in;
use thalweg_merge::verify::{SourceState, Verification, VerifyScope, verify_output};
use thalweg_storage::guard::shown_names;
use thalweg_tensor::counted;

use crate::args::VerifyArgs;
use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;

/// Verification holds one small buffer a thread; the limit is never met.
const MEMORY_BYTES: u64 = 256_000_000;

pub(crate) fn run(args: &VerifyArgs, world: &World<'_>) -> Result<Outcome, Error> {
    let path = world.find_checkpoint(&args.path)?;
    let merges = merges_in(&*world.storage, &path)?;
    if !merges.is_empty() {
        return verify_all(&merges, args, world);
    }
    let found = verify(&path, args, world)?;
    world.messages.json(&found.document(scope(args)));
    tell(&args.path, &found, world);
    world.messages.text(&text(&args.path, args, &found));
    Ok(Outcome::when(found.is_equal()))
}

fn scope(args: &VerifyArgs) -> VerifyScope {
    if args.inputs { VerifyScope::OutputAndInputs } else { VerifyScope::Output }
}

fn verify(path: &Path, args: &VerifyArgs, world: &World<'_>) -> Result<Verification, Error> {
    Ok(verify_output(path, scope(args), &world.context(MEMORY_BYTES))?)
}

/// Verifies each merge of a sweep. One that cannot be read does not keep the others from being verified.
fn verify_all(merges: &[PathBuf], args: &VerifyArgs, world: &World<'_>) -> Result<Outcome, Error> {
    let (mut rows, mut is_equal, mut fault) = (Vec::new(), true, None);
    for path in merges {
        match verify(path, args, world) {
            Ok(found) => {
                is_equal &= found.is_equal();
                let mut row = found.document(scope(args));
                row["path"] = json!(path);
                rows.push(row);
                tell(path, &found, world);
                world.messages.text(&text(path, args, &found));
            }
            Err(error) => {
                rows.push(json!({"path": path, "equal": false, "fault": error.to_string()}));
                world.messages.text(&format!("`{}` cannot be verified: {error}\n", path.display()));
                fault.get_or_insert(error);
            }
        }
    }
    let is_equal = is_equal && fault.is_none();
    world.messages.json(&json!({"kind": "thalweg-verify", "version": 1, "equal": is_equal, "merges": rows}));
    match fault {
        Some(error) => Err(error),
        None => Ok(Outcome::when(is_equal)),
    }
}

/// Notes what the verdict does not cover.
fn tell(path: &Path, found: &Verification, world: &World<'_>) {
    if !found.compared_bytes {
        world.note("this output was made with `--digest none`: sizes and headers were compared, not bytes");
    }
    if !found.strays.is_empty() {
        world.note(format!(
            "`{}` also holds {}, which the receipt does not list: other programs may load it instead",
            path.display(),
            shown_names(&found.strays)
        ));
    }
}

/// What differs, and then a sentence about the output and its sources.
fn text(path: &Path, args: &VerifyArgs, found: &Verification) -> String {
    let mut text = String::new();
    for (name, fault) in found.faults() {
        text.push_str(&format!("{name}: {fault}\n"));
    }
    for source in &found.sources {
        let path = source.path.display();
        match &source.state {
            SourceState::Unchanged => {}
            SourceState::Missing => text.push_str(&format!("source `{path}` is missing\n")),
            SourceState::Changed(what) => text.push_str(&format!("source `{path}` has changed: {what}\n")),
            SourceState::Unreadable(what) => text.push_str(&format!("source `{path}` cannot be read: {what}\n")),
        }
    }
    let (path, n_files, n_sources) = (path.display(), found.files.len(), found.sources.len());
    let n_changed = found.sources.iter().filter(|source| source.state != SourceState::Unchanged).count();
    let sources = match n_changed {
        _ if !args.inputs => String::new(),
        0 if n_sources == 1 && found.output_is_equal() => ", and so does its source".to_owned(),
        0 if found.output_is_equal() => format!(", and so do its {n_sources} sources"),
        0 if n_sources == 1 => "; its source does".to_owned(),
        0 => format!("; its {n_sources} sources do"),
        _ if n_sources == 1 => "; its source does not match".to_owned(),
        1 => format!("; 1 of its {n_sources} sources does not match"),
        n => format!("; {n} of its {n_sources} sources do not match"),
    };
    let output = match found.output_is_equal() {
        true => format!("matches its receipt: {}", counted(n_files, "file")),
        false => "does not match its receipt".to_owned(),
    };
    text.push_str(&format!("`{path}` {output}{sources}\n"));
    text
}
