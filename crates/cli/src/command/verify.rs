//! `thalweg verify`: is an output still what its receipt says?

use serde_json::json;
use thalweg_merge::verify::{Verdict, VerifyScope, verify_output};

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
    let verdicts = |verdicts: &[Verdict]| -> Vec<serde_json::Value> {
        let row =
            |verdict: &Verdict| json!({"name": verdict.name, "equal": verdict.fault.is_none(), "fault": verdict.fault});
        verdicts.iter().map(row).collect()
    };
    messages.json(&json!({
        "kind": "thalweg-verify",
        "version": 1,
        "equal": found.is_equal(),
        "compared_bytes": found.compared_bytes,
        "files": verdicts(&found.files),
        "tensors": verdicts(&found.tensors),
        "sources": verdicts(&found.sources),
    }));
    if !found.compared_bytes {
        messages.note("this output was made with `--digest none`: sizes and headers were compared, not bytes");
    }
    let path = args.path.display();
    for verdict in [&found.files, &found.tensors, &found.sources].into_iter().flatten() {
        if let Some(fault) = &verdict.fault {
            messages.text(&format!("{}: {fault}\n", verdict.name));
        }
    }
    if found.is_equal() {
        let inputs =
            if args.inputs { format!(", and so are its {} sources", found.sources.len()) } else { String::new() };
        messages.text(&format!("`{path}` is what its receipt says: {} files{inputs}\n", found.files.len()));
        return Ok(Outcome::Done);
    }
    messages.text(&format!("`{path}` is not what its receipt says\n"));
    Ok(Outcome::No)
}
