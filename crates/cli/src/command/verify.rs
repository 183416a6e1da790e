//! `thalweg verify`: is an output still what its receipt says?

use thalweg_merge::verify::{SourceState, Verification, VerifyScope, verify_output};
use thalweg_storage::guard::shown_names;

use crate::args::VerifyArgs;
use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;
use crate::messages::Messages;

/// Verification holds one small buffer a thread; the limit is never met.
const MEMORY_BYTES: u64 = 256_000_000;

pub(crate) fn run(args: &VerifyArgs, world: &World<'_>, messages: &Messages) -> Result<Outcome, Error> {
    let scope = if args.inputs { VerifyScope::OutputAndInputs } else { VerifyScope::Output };
    let found = verify_output(&world.find_checkpoint(&args.path)?, scope, &world.context(MEMORY_BYTES));
    world.clear_progress();
    let found = found?;
    messages.json(&found.document(scope));
    if !found.compared_bytes {
        messages.note("this output was made with `--digest none`: sizes and headers were compared, not bytes");
    }
    if !found.strays.is_empty() {
        messages.note(format!(
            "`{}` also holds {}, which the receipt does not list: other programs may load it instead",
            args.path.display(),
            shown_names(&found.strays)
        ));
    }
    messages.text(&text(args, &found));
    Ok(if found.is_equal() { Outcome::Done } else { Outcome::No })
}

/// What differs, and then a sentence about the output and its sources.
fn text(args: &VerifyArgs, found: &Verification) -> String {
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
    let (path, n_files, n_sources) = (args.path.display(), found.files.len(), found.sources.len());
    let n_changed = found.sources.iter().filter(|source| source.state != SourceState::Unchanged).count();
    let sources = match n_changed {
        _ if !args.inputs => String::new(),
        0 if found.output_is_equal() => format!(", and so are its {n_sources} sources"),
        0 => format!("; its {n_sources} sources are"),
        n => format!("; {n} of its {n_sources} sources are not what was merged"),
    };
    let is_not = if found.output_is_equal() { String::new() } else { "not ".to_owned() };
    let files = if found.output_is_equal() { format!(": {n_files} files") } else { String::new() };
    text.push_str(&format!("`{path}` is {is_not}what its receipt says{files}{sources}\n"));
    text
}
