//! `thalweg launch ray`: one Python script that runs shares as tasks of Ray, and then the last step.
//!
//! What Ray does, and how the script takes it: a task whose worker dies is run again, possibly while what it started
//! still runs, so the program ends with its worker. An exception is not retried by default, and `ray.wait` calls a task
//! that crashed ready. So the last step runs in any case, and checks every share itself.

use serde_json::json;
use thalweg_storage::guard::OwnKind;
use thalweg_storage::publish::publish_file;
use thalweg_tensor::shell_path;

use super::{Work, own_program};
use crate::args::RayArgs;
use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;

const MARK: &str = "# A merge by thalweg as tasks of Ray.";
const SCRIPT: OwnKind<'static> = OwnKind::text("a script of `thalweg launch ray`", MARK);

/// The script; words in capitals between `@` are replaced by Python literals.
const TEMPLATE: &str = include_str!("ray_script.py");

pub(super) fn run(args: &RayArgs, world: &World<'_>) -> Result<Outcome, Error> {
    let work = Work::open(&args.work, world)?;
    let script = work.script(args.out.as_deref(), "ray.py", world)?;
    // A JSON string without control characters is a Python string too.
    let literal = |path: &std::path::Path| json!(path.to_string_lossy()).to_string();
    let replaced = [
        ("@SHARES@", work.n_shares.to_string()),
        ("@CPUS@", args.cpus.to_string()),
        ("@RETRIES@", args.retries.to_string()),
        ("@PROGRAM@", literal(&own_program()?)),
        ("@PLAN@", literal(&work.path)),
    ];
    let text = replaced.iter().fold(TEMPLATE.to_owned(), |text, (word, value)| text.replace(word, value));
    publish_file(&*world.storage, &script, text.as_bytes(), SCRIPT)?;
    let submit = format!("python3 {}", shell_path(&script));
    let text = format!("wrote `{}`\nnext: `{submit}` runs it on the cluster of `RAY_ADDRESS`\n", script.display());
    Ok(world.answer(&work.document("ray", &json!({"script": script, "submit": submit})), &text))
}
