//! What the record of a demo says beyond that of any sweep: a caution, what was run, commands to try, the anneal.

use thalweg_lab::run_folder::digest_config;
use thalweg_trajectory::Trajectory;

use super::Configs;
use super::spec::{ANNEAL_CURVE, DemoSize, DemoSpec, LEARNING_RATE, SCHEMES, SEQUENCE_LENGTH};
use crate::begin_record::training_points;
use crate::record::{AnnealRun, Fact, ShellCommand, TrialRow};
use crate::text::show_whole;

pub(super) fn caution(spec: &DemoSpec) -> Option<String> {
    (spec.size != DemoSize::Full).then(|| {
        "This is the quick demo: a model so small, trained so briefly, that it shows how merging works, \
         not what it is worth. Run it without `--quick` to train a million parameters."
            .to_owned()
    })
}

pub(super) fn facts(spec: &DemoSpec, configs: &Configs, n_params: usize, n_threads: usize) -> Vec<Fact> {
    let numbers = spec.numbers();
    let fact = |name: &str, value: String| Fact { name: name.to_owned(), value };
    let (tokens_per_step, last_step, fork_step) = (configs.run.tokens_per_step(), numbers.last_step, numbers.fork_step);
    vec![
        fact(
            "model",
            format!(
                "Llama, {} layers of width {}, {} parameters",
                numbers.layers,
                numbers.hidden,
                show_whole(n_params as u64)
            ),
        ),
        fact(
            "text",
            "very simple short stories (TinyStories, CDLA-Sharing-1.0; African Storybook, CC BY 4.0), byte-level BPE of 512 tokens"
                .to_owned(),
        ),
        fact(
            "run",
            format!(
                "{last_step} steps of {tokens_per_step} tokens ({}), sequences of {SEQUENCE_LENGTH}, seed {}",
                show_whole(last_step * tokens_per_step),
                spec.seed
            ),
        ),
        fact(
            "learning rate",
            format!(
                "AdamW, {LEARNING_RATE} after a warmup of {} steps, then constant; chosen beforehand, not tuned for merging",
                numbers.warmup_steps
            ),
        ),
        fact(
            "anneal",
            format!("from step {fork_step} to {last_step} with the same data, {ANNEAL_CURVE} to 0; same tokens as the run"),
        ),
        fact("checkpoints", format!("every {} steps; float32", numbers.every_steps)),
        fact(
            "held-out text",
            format!("{} documents for choosing and {} others for reporting", numbers.n_documents, numbers.n_documents),
        ),
        fact("threads", n_threads.to_string()),
        fact("digest of the run's config", digest_config(&configs.run)),
        fact("digest of the anneal's config", digest_config(&configs.anneal)),
    ]
}

pub(super) fn anneal_run(spec: &DemoSpec, annealed: &Trajectory) -> AnnealRun {
    let numbers = spec.numbers();
    AnnealRun {
        fork_step: numbers.fork_step,
        end_step: numbers.last_step,
        curve: ANNEAL_CURVE.to_owned(),
        floor: 0.0,
        training: training_points(annealed),
    }
}

pub(super) fn commands(spec: &DemoSpec, chosen: &TrialRow) -> Vec<ShellCommand> {
    let (n, scheme) = (chosen.n_checkpoints, &chosen.scheme);
    let run = thalweg_tensor::shell_path(spec.path("run"));
    let counts: Vec<String> = spec.numbers().counts.iter().map(ToString::to_string).collect();
    let command = |what: &str, line: String| ShellCommand { what: what.to_owned(), line };
    vec![
        command("See what a run holds, and what would block a merge:", "thalweg inspect runs/my-run".to_owned()),
        command(
            "Merge its newest checkpoints in the same way as the merge above:",
            format!("thalweg merge runs/my-run --last {n} --scheme {scheme} -o merged"),
        ),
        command(
            "Make every window on this page in one pass:",
            format!("thalweg sweep runs/my-run --counts {} --schemes {} -o sweep", counts.join(","), SCHEMES.join(",")),
        ),
        command("The run of this page is an ordinary run folder:", format!("thalweg explain {run} --last {n}")),
    ]
}
