//! `thalweg launch slurm`: one script that submits an array of shares and a last step.
//!
//! What Slurm does, and how the script takes it: a job that depends on an array by `afterok` waits forever once a task
//! failed, and a dependency on a job that slurmctld has forgotten is dropped without an error. So the last step is
//! submitted with the array, runs after any end of it, and checks every share itself. Tasks may run again, also on a
//! second node while the first still runs: a share that is done is skipped.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use thalweg_storage::guard::OwnKind;
use thalweg_storage::publish::publish_file;
use thalweg_tensor::{shell_path, shell_word};

use super::{Work, own_program};
use crate::args::SlurmArgs;
use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;

const MARK: &str = "# A merge by thalweg as jobs of Slurm.";
const SCRIPT: OwnKind<'static> = OwnKind::text("a script of `thalweg launch slurm`", MARK);

/// Options of sbatch that the script sets itself.
const OWN_OPTIONS: [&str; 5] = ["--array", "--dependency", "--parsable", "--wrap", "--test-only"];
const OWN_LETTERS: [&str; 2] = ["-a", "-d"];

pub(super) fn run(args: &SlurmArgs, world: &World<'_>) -> Result<Outcome, Error> {
    check_options(&args.options)?;
    let work = Work::open(&args.work, world)?;
    let script = work.script(args.out.as_deref(), "slurm.sh", world)?;
    let text = script_text(&work, &script, &own_program()?, &args.options);
    publish_file(&*world.storage, &script, text.as_bytes(), SCRIPT)?;
    let submit = format!("bash {}", shell_path(&script));
    let said = if args.submit { Some(submit_script(&script)?) } else { None };
    let document = work.document("slurm", &json!({"script": script, "submit": submit, "submitted": said}));
    let next = said.unwrap_or_else(|| format!("next: `{submit}` submits it\n"));
    Ok(world.answer(&document, &format!("wrote `{}`\n{next}", script.display())))
}

fn check_options(options: &[String]) -> Result<(), Error> {
    let is_own = |option: &&String| {
        let name = option.split('=').next().unwrap_or(option);
        OWN_OPTIONS.contains(&name)
            || OWN_LETTERS.iter().any(|letter| option.starts_with(letter) && !option.starts_with("--"))
    };
    match options.iter().find(is_own) {
        Some(option) => Err(Error::usage_with_hint(
            format!("the script sets `{option}` itself"),
            "leave it out; the script takes the shares to run as its argument",
        )),
        None => Ok(()),
    }
}

/// The script. It is submitted by running it; Slurm runs it with one argument.
fn script_text(work: &Work, script: &Path, program: &Path, options: &[String]) -> String {
    let word = |path: &Path| shell_path(path);
    let options: Vec<String> = options.iter().map(|option| shell_word(option)).collect();
    let (script, program, plan) = (word(script), word(program), word(&work.path));
    let (n_shares, last, options) = (work.n_shares, work.n_shares - 1, options.join(" "));
    format!(
        r#"#!/bin/bash
{MARK}
#
#   bash {script}            submits all {n_shares} shares and the last step
#   bash {script} 2,5-7      submits only these shares, and the last step
#
# Finished shares are skipped, so it may be submitted again at any time.
set -euo pipefail

script={script}
plan={plan}
shares={n_shares}
thalweg=${{THALWEG:-{program}}}
options=({options})

case "${{1:-}}" in
share)
    # Without this option the program would start a thread for each core of the node.
    exec "$thalweg" merge --plan "$plan" --shard "$SLURM_ARRAY_TASK_ID/$shares" \
        ${{SLURM_CPUS_PER_TASK:+-j "$SLURM_CPUS_PER_TASK"}}
    ;;
finish)
    status=0
    document=$("$thalweg" merge --plan "$plan" --finish --json ${{SLURM_CPUS_PER_TASK:+-j "$SLURM_CPUS_PER_TASK"}}) ||
        status=$?
    printf '%s\n' "$document"
    if [ "$status" -ne 0 ]; then
        missing=$(printf '%s\n' "$document" | sed -n 's/^  "rerun": "\([0-9,-]*\)",\{{0,1\}}$/\1/p')
        printf 'to run what is missing (--array=%s): bash %q %s\n' "${{missing:-0-{last}}}" "$script" "$missing" >&2
    fi
    exit "$status"
    ;;
*)
    array=${{1:-0-{last}}}
    job=$(sbatch --job-name=thalweg-share "${{options[@]}}" --parsable --array="$array" "$script" share)
    job=${{job%%;*}}
    # At once, and after any end: a dependency on a job that Slurm has forgotten is dropped, and one on success waits
    # forever after a failure. The last step checks every share itself.
    finish=$(sbatch --job-name=thalweg-finish "${{options[@]}}" --parsable --dependency="afterany:$job" "$script" finish)
    printf 'shares %s are job %s, the last step is job %s\n' "$array" "$job" "${{finish%%;*}}"
    ;;
esac
"#
    )
}

/// Runs the script, and returns what it says.
fn submit_script(script: &PathBuf) -> Result<String, Error> {
    let cannot = |why: String| {
        Error::usage_with_hint(
            format!("the script could not be submitted: {why}"),
            format!("submit it on a machine with sbatch: `bash {}`", shell_path(script)),
        )
    };
    let output = Command::new("bash").arg(script).output().map_err(|error| cannot(error.to_string()))?;
    if !output.status.success() {
        return Err(cannot(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
