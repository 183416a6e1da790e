//! How a start point is resumed from by the trainer whose files it has.
//!
//! `scripts/resumed_runs.py` resumes from merges in these formats with the real libraries.

use std::path::Path;

use thalweg_lab::config::{MomentsPolicy, StartState};
use thalweg_merge::output_format::OptimizerPolicy;

use crate::start_policy::{StatePolicy, TrainerInstructions};

impl StatePolicy {
    /// What to do in the trainers that read the checkpoint: for safetensors the lab, Hugging Face's Trainer, torchtitan
    /// and Megatron-LM.
    pub fn instructions(&self) -> Vec<TrainerInstructions> {
        if let Some(rows) = for_own_format(self) {
            return rows;
        }
        let row = |trainer, lines| TrainerInstructions { trainer, lines };
        vec![
            row("thalweg train", self.for_lab()),
            row("Hugging Face Trainer", self.for_hugging_face()),
            row("torchtitan", self.for_torchtitan()),
            row("Megatron-LM", self.for_megatron()),
        ]
    }
}

/// What to do in the trainers that read the start point's format; `None` for safetensors, which many read.
fn for_own_format(policy: &StatePolicy) -> Option<Vec<TrainerInstructions>> {
    let row = |trainer, lines| Some(vec![TrainerInstructions { trainer, lines }]);
    match policy.format.as_str() {
        "safetensors" => None,
        "dcp" => row("torchtitan", for_torchtitan(policy)),
        "megatron-dist" | "megatron-legacy" => row("Megatron-LM", for_megatron(policy)),
        "deepspeed-zero" => row("DeepSpeed", for_deepspeed(policy)),
        "deepspeed-universal" => {
            let mut lines = vec!["in the config of DeepSpeed: \"checkpoint\": {\"load_universal\": true}".to_owned()];
            lines.extend(for_deepspeed(policy));
            row("DeepSpeed", lines)
        }
        "torch" => row("PyTorch", for_pytorch(policy)),
        _ => row("its trainer", vec![format!("load `{}` like any of its checkpoints", policy.checkpoint.display())]),
    }
}

/// Whether training resumes with the state of the optimizer that is in the files.
fn resumes(policy: &StatePolicy) -> bool {
    policy.optimizer != OptimizerPolicy::Drop
        && policy.state == StartState::Full
        && policy.moments != MomentsPolicy::Reset
}

/// Where the state of a trainer that resumes comes from.
fn origin(policy: &StatePolicy, rest: &str) -> String {
    match policy.optimizer {
        OptimizerPolicy::Average => format!("moments are averaged; {rest} are those of the newest source"),
        _ => format!("moments, {rest} are those of the newest source"),
    }
}

/// As the checkpoint options of torchtitan have it.
fn for_torchtitan(policy: &StatePolicy) -> Vec<String> {
    if !resumes(policy) {
        return policy.params_alone_in_torchtitan("");
    }
    let load = format!("--checkpoint.enable --checkpoint.initial_load_path \"{}\"", policy.checkpoint.display());
    let mut lines = vec![
        format!("{load} --checkpoint.no_initial_load_model_only"),
        format!("with an empty checkpoint.folder: {}", origin(policy, "schedule, step and data")),
    ];
    lines.extend(skipped(policy));
    lines
}

/// As megatron/training/arguments.py has it.
fn for_megatron(policy: &StatePolicy) -> Vec<String> {
    let step = policy.newest().and_then(|newest| newest.step).unwrap_or(0);
    let mut lines = vec![format!(
        "move `{}` to DIR/iter_{step:07}, and write {step} into DIR/latest_checkpointed_iteration.txt",
        policy.checkpoint.display()
    )];
    if resumes(policy) {
        let mut load = format!("--load DIR: {}", origin(policy, "schedule and iteration"));
        if policy.skip_data_steps > 0 {
            let (first, last) = (step + 1, step + policy.skip_data_steps);
            load.push_str(&format!("; --iterations-to-skip $(seq {first} {last})"));
        }
        lines.push(load);
    } else if policy.state == StartState::Full {
        lines.push("--load DIR --no-load-optim --no-load-rng, and give --lr-warmup-iters for fresh moments".to_owned());
        lines.extend(skipped(policy));
    } else {
        lines.push("--load DIR --finetune: without optimizer and random state, from iteration 0".to_owned());
    }
    lines
}

fn for_deepspeed(policy: &StatePolicy) -> Vec<String> {
    let text = |path: Option<&Path>| path.map_or_else(|| ".".to_owned(), |path| path.display().to_string());
    let folder = text(policy.checkpoint.parent().filter(|parent| !parent.as_os_str().is_empty()));
    let tag = text(policy.checkpoint.file_name().map(Path::new));
    let options = if resumes(policy) { "" } else { ", load_optimizer_states=False, load_lr_scheduler_states=False" };
    let mut lines = vec![format!("engine.load_checkpoint(\"{folder}\", tag=\"{tag}\"{options})")];
    if resumes(policy) {
        lines.push(origin(policy, "schedule and step"));
    }
    lines.extend(skipped(policy));
    lines
}

fn for_pytorch(policy: &StatePolicy) -> Vec<String> {
    let checkpoint = policy.checkpoint.display();
    let line = match resumes(policy) {
        true => format!("resume from `{checkpoint}` like any checkpoint: {}", origin(policy, "schedule and step")),
        false => format!("load only the model of `{checkpoint}`: moments, schedule and data start over"),
    };
    std::iter::once(line).chain(skipped(policy)).collect()
}

/// What to do about batches to skip.
fn skipped(policy: &StatePolicy) -> Option<String> {
    let step = policy.newest()?.step?;
    (policy.skip_data_steps > 0).then(|| format!("let the data begin after step {}", step + policy.skip_data_steps))
}
