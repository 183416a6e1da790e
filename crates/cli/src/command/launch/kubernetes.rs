//! `thalweg launch kubernetes`: an indexed Job of shares, and a Job of the last step, which begins suspended.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use thalweg_tensor::shell_word;

use super::Work;
use crate::args::KubernetesArgs;
use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;

/// How often a pod that fails is started again.
const N_RETRIES: u32 = 3;
/// The most completions that Kubernetes takes where retries are counted for each index.
const MAX_COMPLETIONS: usize = 100_000;

pub(super) fn run(args: &KubernetesArgs, world: &World<'_>) -> Result<Outcome, Error> {
    let work = Work::open(&args.work, world)?;
    if work.n_shares > MAX_COMPLETIONS {
        return Err(Error::usage(format!("a Job of Kubernetes has at most {MAX_COMPLETIONS} completions")));
    }
    check_name(&args.name)?;
    let mount = match &args.mount {
        Some(mount) => mount.clone(),
        None => common_folder(&work)?,
    };
    let jobs = [shares_job(args, &work, &mount), finish_job(args, &work, &mount)];
    if world.messages.wants_json() {
        world.messages.json(&work.document("kubernetes", &json!({"jobs": jobs})));
        return Ok(Outcome::Done);
    }
    world.messages.document(&manifest(&args.name, &jobs));
    Ok(Outcome::Done)
}

/// Names of jobs are labels: what else is refused by the server, long after this command.
fn check_name(name: &str) -> Result<(), Error> {
    const MAX_LETTERS: usize = 50;
    let is_label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let ends_well = !name.starts_with('-') && !name.ends_with('-') && !name.is_empty();
    if ends_well && name.len() <= MAX_LETTERS && name.chars().all(is_label) {
        return Ok(());
    }
    Err(Error::usage(format!(
        "`{name}` is not a name of a job: lower-case letters, digits and inner dashes, at most {MAX_LETTERS}"
    )))
}

/// The folder above all paths of the work.
fn common_folder(work: &Work) -> Result<PathBuf, Error> {
    let mut paths = work.paths();
    let first = paths.next().and_then(Path::parent).map(Path::to_owned).unwrap_or_default();
    let common = paths.fold(first, |common, path| {
        common.ancestors().find(|above| path.starts_with(above)).map(Path::to_owned).unwrap_or_default()
    });
    if common.parent().is_none() {
        return Err(Error::usage_with_hint(
            "the plan, sources and outputs have no common folder, so one volume cannot hold them",
            "say where the volume is mounted: `--mount DIR`",
        ));
    }
    Ok(common)
}

fn shares_job(args: &KubernetesArgs, work: &Work, mount: &Path) -> Value {
    let plan = work.path.display().to_string();
    let mut job = job(args, &args.name, json!(["merge", "--plan", plan, "--shard", "auto"]), mount);
    let spec = &mut job["spec"];
    spec["completionMode"] = json!("Indexed");
    spec["completions"] = json!(work.n_shares);
    spec["parallelism"] = json!(work.n_shares);
    spec["backoffLimitPerIndex"] = json!(N_RETRIES);
    // Kubernetes says which pod this is, and not of how many.
    spec["template"]["spec"]["containers"][0]["env"] =
        json!([{"name": "JOB_COMPLETIONS", "value": work.n_shares.to_string()}]);
    job
}

fn finish_job(args: &KubernetesArgs, work: &Work, mount: &Path) -> Value {
    let plan = work.path.display().to_string();
    let mut job = job(args, &finish_name(&args.name), json!(["merge", "--plan", plan, "--finish"]), mount);
    job["spec"]["suspend"] = json!(true);
    job["spec"]["backoffLimit"] = json!(N_RETRIES);
    job
}

fn finish_name(name: &str) -> String {
    format!("{name}-finish")
}

fn job(args: &KubernetesArgs, name: &str, arguments: Value, mount: &Path) -> Value {
    json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {
            "template": {
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [{
                        "name": "thalweg",
                        "image": args.image,
                        "command": ["thalweg"],
                        "args": arguments,
                        "volumeMounts": [{"name": "checkpoints", "mountPath": mount.display().to_string()}],
                    }],
                    "volumes": [{"name": "checkpoints", "persistentVolumeClaim": {"claimName": args.claim}}],
                },
            },
        },
    })
}

/// Two documents of YAML. JSON is YAML, so the jobs are written as JSON: nothing in a path or name needs other quotes.
fn manifest(name: &str, jobs: &[Value]) -> String {
    let (shares, finish) = (shell_word(name), shell_word(&finish_name(name)));
    let mut text = format!(
        "# The last step begins suspended. Let it run once all shares are done:\n\
         #   kubectl wait --for=condition=complete --timeout=-1s job/{shares}\n\
         #   kubectl patch job/{finish} --type=merge -p '{{\"spec\":{{\"suspend\":false}}}}'\n\
         # If shares failed, delete job/{shares} and apply this again: finished shares are skipped.\n"
    );
    for job in jobs {
        text.push_str("---\n");
        text.push_str(&serde_json::to_string_pretty(job).unwrap_or_default());
        text.push('\n');
    }
    text
}
