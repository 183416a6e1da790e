//! The names of files that trainers write beside the model: training state, logs and results.

const STARTS: [&str; 23] = [
    "all_results",
    "common.pt",
    "data_loader",
    "dataloader",
    "eval_results",
    "events.out.tfevents",
    // Of verl's folders.
    "extra_state",
    "latest_checkpointed",
    "lr_scheduler",
    "optim-",
    "optim.",
    "optim_",
    "optimizer",
    "random_states",
    "rng_state",
    "sampler",
    "scaler",
    "scheduler",
    "train_results",
    "train_state",
    "trainer_state",
    "training_args",
    "zero_to_",
];
const ENDS: [&str; 9] =
    [".pkl", ".pickle", ".log", ".jsonl", ".csv", ".tsv", ".wandb", "_optim_states.pt", "_model_states.pt"];
const NAMES: [&str; 9] = [
    "latest",
    "latest_universal",
    "log.txt",
    // Of Lightning's folders of shards.
    "meta.pt",
    "metadata.pkl",
    "metrics.json",
    // Of OLMo's folders.
    "train.pt",
    "trainer_log.json",
    "zero_to_fp32.py",
];

/// Whether a file of this name is not weights, whatever its ending.
pub fn is_state_name(name: &str) -> bool {
    STARTS.iter().any(|start| name.starts_with(start))
        || ENDS.iter().any(|end| name.ends_with(end))
        || NAMES.contains(&name)
}
