//! `thalweg forget replay`.

use std::fmt::Write;
use std::path::Path;

use serde_json::{Value, json};
use thalweg_lab::TrainData;
use thalweg_lab::corpus::read_documents;
use thalweg_storage::Storage;
use thalweg_storage::guard::{OwnKind, check_file};
use thalweg_storage::publish::publish_file;
use thalweg_study::forget::{
    ReplayCorpora, ReplayOptions, ReplayPlan, ReplayPolicy, ReplayRun, SCHEDULE, open_tokenizer, plan_replay,
    read_entities,
};
use thalweg_tensor::{counted, shell_path};

use crate::args::ForgetReplayArgs;
use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;
use crate::messages::document_of;
use crate::train_config::{WrittenConfigs, folder_of_config, read_config, start_of};

const CONFIGS: WrittenConfigs = WrittenConfigs {
    mark: "# A run of a schedule of replay, by `thalweg forget replay`.",
    what: "a config that `forget replay` wrote",
};
const SAMPLES_KIND: &str = "thalweg-forget-replay-samples";
const SAMPLES_FILE: OwnKind<'_> = OwnKind::json("samples that `forget replay` wrote", SAMPLES_KIND);
const SCHEDULE_NAME: &str = "schedule.json";
const SCHEDULE_LIMIT_BYTES: u64 = 1 << 28;

pub(super) fn run(args: &ForgetReplayArgs, world: &World<'_>) -> Result<Outcome, Error> {
    let storage = &*world.storage;
    if matches!(args.policy, ReplayPolicy::Focused | ReplayPolicy::Intensive) && args.entities.is_none() {
        return Err(Error::usage_with_hint(
            format!("the policy `{}` replays samples with an entity, but no entities are given", args.policy),
            "name what `thalweg forget entities` wrote with `--entities`",
        ));
    }
    let config = read_config(&args.config, world)?;
    let (base, start_step) = start_of(&args.from, world)?;
    let folder = folder_of_config(&args.config, world)?;
    let entities = args.entities.as_deref().map(|path| read_entities(storage, path)).transpose()?.unwrap_or_default();
    let tokenizer = open_tokenizer(None, Some(&base), &world.resolver(), storage)?;
    let mut earlier = Vec::new();
    for path in &args.memory {
        earlier.extend(read_documents(storage, path)?);
    }
    let later = match args.policy {
        ReplayPolicy::Similar => TrainData::read_documents(&config, &folder, storage)?,
        _ => Vec::new(),
    };
    let &ForgetReplayArgs { policy, interval, epochs, max_replays, seed, .. } = args;
    let options = ReplayOptions { policy, interval, epochs, max_replays, seed };
    let corpora = ReplayCorpora { earlier: &earlier, later: &later, entities: &entities, tokenizer: &tokenizer };
    let plan = plan_replay(&options, &config, start_step, &corpora)?;
    let is_new = storage.file_info(&args.out).is_err();
    storage.create_folder(&args.out)?;
    let out = storage.canonical_path(&args.out)?;
    let runs = plan.runs(&config, (&folder, &base), &out);
    let document = document(&plan, &runs);
    if !is_new {
        check_out(&args.out, &runs, &document, storage)?;
    }
    write_runs(&runs, &earlier, &out, world)?;
    publish_file(storage, &out.join(SCHEDULE_NAME), format!("{document:#}\n").as_bytes(), SCHEDULE.file())?;
    Ok(world.answer(&document, &text(args, &plan, &runs)))
}

/// Refuses a folder that holds anything else than this schedule: the configs of another one would be trained too, and
/// what was trained by another one would be taken for this one's.
fn check_out(out: &Path, runs: &[ReplayRun], document: &Value, storage: &dyn Storage) -> Result<(), Error> {
    let entries = storage.list_folder(out)?;
    let is_ours = |name: &str| {
        let stem = name.strip_suffix(".toml").or_else(|| name.strip_suffix(".jsonl")).unwrap_or(name);
        name == SCHEDULE_NAME || runs.iter().any(|run| run.name == stem)
    };
    let foreign = entries.iter().find(|entry| !is_ours(&entry.name)).map(|entry| entry.name.clone());
    let schedule = out.join(SCHEDULE_NAME);
    let other = match storage.read_file(&schedule, SCHEDULE_LIMIT_BYTES) {
        Ok(bytes) => serde_json::from_slice::<Value>(&bytes).ok().as_ref() != Some(document),
        Err(_) => false,
    };
    let found = foreign.or_else(|| other.then(|| SCHEDULE_NAME.to_owned()));
    found.map_or(Ok(()), |name| {
        Err(Error::usage_with_hint(
            format!("`{}` holds `{name}`, which is not of this schedule", out.display()),
            "name a folder that does not exist yet with `-o`",
        ))
    })
}

fn write_runs(runs: &[ReplayRun], earlier: &[String], out: &Path, world: &World<'_>) -> Result<(), Error> {
    let storage = &*world.storage;
    let config_path = |run: &ReplayRun| out.join(format!("{}.toml", run.name));
    for run in runs {
        CONFIGS.check(&config_path(run), world)?;
        if let Some((_, path)) = &run.replayed {
            check_file(storage, path, SAMPLES_FILE, &[])?;
        }
    }
    for run in runs {
        if let Some((samples, path)) = &run.replayed {
            let line = |&i: &usize| json!({"kind": SAMPLES_KIND, "version": 1, "id": i, "text": earlier[i]});
            let lines: String = samples.iter().map(|i| format!("{}\n", line(i))).collect();
            publish_file(storage, path, lines.as_bytes(), SAMPLES_FILE)?;
        }
        CONFIGS.publish(&config_path(run), &run.config, world)?;
    }
    Ok(())
}

fn document(plan: &ReplayPlan, runs: &[ReplayRun]) -> Value {
    let mut document = document_of(SCHEDULE.kind, plan);
    document["version"] = json!(SCHEDULE.version);
    document["runs"] = runs.iter().map(|run| run.name.as_str()).collect();
    document
}

fn text(args: &ForgetReplayArgs, plan: &ReplayPlan, runs: &[ReplayRun]) -> String {
    let mut text = String::new();
    let out = shell_path(&args.out);
    let n_samples: usize = plan.cycles.iter().map(|cycle| cycle.samples.len()).sum();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{} of {} replay, {} of {} samples, in steps {} to {}: {:.3} times the steps without replay",
        counted(plan.cycles.len(), "burst"),
        plan.policy,
        counted(n_samples, "sample"),
        plan.n_memory,
        plan.start_step,
        plan.end_step,
        plan.cost_factor
    );
    let midways: Vec<String> = plan.cycles.iter().map(|cycle| cycle.midway_step.to_string()).collect();
    let _ = writeln!(text, "score midway between replays, here and in `control`: steps {}", midways.join(", "));
    let _ = writeln!(
        text,
        "{} in `{}`; train them in order, each resumes from the one before:",
        counted(runs.len(), "config"),
        args.out.display()
    );
    let _ = writeln!(text, "  for config in {out}/*.toml; do thalweg train \"$config\" -o \"${{config%.toml}}\"; done");
    text
}
