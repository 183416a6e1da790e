//! `thalweg eval`: what checkpoints score on a suite, and how much better each is than the baseline.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use thalweg_eval::uncertainty::Bootstrap;
use thalweg_eval::{
    Comparison, PreparedSuite, ScoreCache, StartRule, Subject, Suite, TaskScores, TokenizerFiles, adjust_for_many,
    compare_scores, max_positions, score_suite,
};
use thalweg_study::text::or_dash;

use crate::args::EvalArgs;
use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;
use crate::messages::with_fields;
use crate::options::show_bytes;
use crate::scoring::open_suite;

/// What one checkpoint scored.
struct Scored {
    path: PathBuf,
    params_digest: String,
    tokenizer_digest: String,
    tasks: Vec<TaskScores>,
}

/// Gains of one checkpoint over the baseline.
struct Compared {
    checkpoint: usize,
    comparisons: Vec<Comparison>,
}

pub(crate) fn run(args: &EvalArgs, world: &World<'_>) -> Result<Outcome, Error> {
    let paths = checkpoints_with_baseline(args);
    if args.results {
        return crate::eval_results::run(&paths, args.card.as_deref(), world);
    }
    if let Some(command) = &args.eval_command {
        return crate::eval_external::run(command, args.eval_timeout, &paths, world);
    }
    let suite_path = args.suite.as_deref().unwrap_or(Path::new(""));
    let suite = fit_context(open_suite(suite_path, args.start_token, world)?, &paths, world)?;
    let scored = world.in_pool(|| score_all(args, &paths, &suite, world))??;
    let compared = world.in_pool(|| compare_all(&scored))??;
    if scored.iter().any(|other| other.tokenizer_digest != scored[0].tokenizer_digest) {
        world.note("the tokenizers differ: only measures that do not depend on tokens are compared");
    }
    Ok(world.answer(&document(&suite, &scored, &compared), &text(&suite, &scored, &compared)))
}

/// The suite in a context that all of the checkpoints see, so that they can be compared.
fn fit_context(suite: Suite, paths: &[PathBuf], world: &World<'_>) -> Result<Suite, Error> {
    if !suite.has_open_context() {
        return Ok(suite);
    }
    let mut least = suite.context_length;
    for path in paths {
        let checkpoint = world.resolver().open_checkpoint(path)?;
        let config = checkpoint.config().ok_or_else(|| thalweg_eval::Error::ConfigMissing { path: path.clone() })?;
        least = least.min(max_positions(config, path)?);
    }
    Ok(suite.fit(least).into_owned())
}

/// The checkpoints in the order of the results: the baseline first.
fn checkpoints_with_baseline(args: &EvalArgs) -> Vec<PathBuf> {
    let baseline = args.baseline.as_ref().map(|named| {
        let word = |word: &str, meant: Option<&PathBuf>| meant.filter(|_| named.as_os_str() == word).cloned();
        let of_those = || word("last", args.checkpoints.last()).or_else(|| word("first", args.checkpoints.first()));
        // A checkpoint that is called `first` or `last` comes before the word.
        if args.checkpoints.contains(named) { named.clone() } else { of_those().unwrap_or_else(|| named.clone()) }
    });
    let others = args.checkpoints.iter().filter(|path| Some(*path) != baseline.as_ref());
    baseline.iter().chain(others).cloned().collect()
}

fn score_all(args: &EvalArgs, paths: &[PathBuf], suite: &Suite, world: &World<'_>) -> Result<Vec<Scored>, Error> {
    let context = world.eval_context();
    let cache = args.cache.as_deref().map(|folder| ScoreCache::new(&*world.storage, folder));
    let mut known: Option<(TokenizerFiles, Value, PreparedSuite)> = None;
    let mut scored = Vec::new();
    for path in paths {
        let checkpoint = world.resolver().open_checkpoint(path)?;
        let config = checkpoint.config().ok_or_else(|| thalweg_eval::Error::ConfigMissing { path: path.clone() })?;
        let files = TokenizerFiles::find(&*world.storage, args.tokenizer.as_deref(), &checkpoint, path)?;
        // Checkpoints of one run share both, and splitting a suite into tokens takes longer than comparing files.
        let is_known = known.as_ref().is_some_and(|(tokenizer, with, _)| *tokenizer == files && with == config);
        if !is_known {
            let prepared = PreparedSuite::new(suite, &files.open()?, config, path)?;
            known = Some((files, config.clone(), prepared));
        }
        let Some((_, _, prepared)) = &known else { continue };
        let needed = show_bytes(Subject::needed_bytes(path, config, prepared)?);
        world.messages.detail(format!("{}: scoring takes {needed} of memory", path.display()));
        let subject = Subject::load(path, config, &checkpoint, prepared, &context)?;
        let tasks = score_suite(prepared, &subject, cache.as_ref(), &context)?;
        scored.push(Scored {
            path: path.clone(),
            params_digest: subject.params_digest().to_string(),
            tokenizer_digest: prepared.tokenizer_digest().to_string(),
            tasks,
        });
    }
    Ok(scored)
}

/// Every other checkpoint against the first, adjusted for all that was looked at.
fn compare_all(scored: &[Scored]) -> Result<Vec<Compared>, Error> {
    let mut compared = Vec::new();
    for (checkpoint, other) in scored.iter().enumerate().skip(1) {
        let comparisons = compare_scores(&scored[0].tasks, &other.tasks, Bootstrap::default())?;
        compared.push(Compared { checkpoint, comparisons });
    }
    let mut all: Vec<&mut Comparison> = compared.iter_mut().flat_map(|one| &mut one.comparisons).collect();
    adjust_for_many(&mut all);
    Ok(compared)
}

fn document(suite: &Suite, scored: &[Scored], compared: &[Compared]) -> Value {
    let mut scores = Vec::new();
    for checkpoint in scored {
        for task in &checkpoint.tasks {
            let how = json!({
                "seconds": task.seconds,
                "tokens_per_second": tokens_per_second(task),
                "cached": task.is_cached,
                "params_digest": checkpoint.params_digest,
                "tokenizer_digest": checkpoint.tokenizer_digest,
            });
            let row = |score| with_fields(with_fields(json!({"checkpoint": checkpoint.path}), &score), &how);
            scores.extend(task.scores().into_iter().map(row));
        }
    }
    let mut comparisons = Vec::new();
    for one in compared {
        let models = || json!({"a": scored[0].path, "b": scored[one.checkpoint].path});
        comparisons.extend(one.comparisons.iter().map(|comparison| with_fields(models(), comparison)));
    }
    json!({
        "kind": "thalweg-eval",
        "version": 1,
        "suite": {
            "name": suite.name,
            "path": suite.path,
            "role": suite.role.map(thalweg_eval::suite::SuiteRole::name),
            "context_length": suite.context_length,
            "start_token": suite.start_rule.name(),
            "digest": suite.digest.to_string(),
        },
        "scores": scores,
        "comparisons": comparisons,
    })
}

fn tokens_per_second(task: &TaskScores) -> Option<f64> {
    let rate = task.n_tokens as f64 / task.seconds;
    rate.is_finite().then_some(rate)
}

fn text(suite: &Suite, scored: &[Scored], compared: &[Compared]) -> String {
    let rule = match suite.start_rule {
        StartRule::Always => String::new(),
        rule => format!(", start token: {}", rule.name()),
    };
    let mut text = format!("suite `{}`, context of {} tokens{rule}\n", suite.name, suite.context_length);
    for checkpoint in scored {
        let n_cached = checkpoint.tasks.iter().filter(|task| task.is_cached).count();
        let from = if n_cached > 0 {
            format!(" ({} from the cache)", thalweg_tensor::part_of(n_cached, checkpoint.tasks.len(), "task"))
        } else {
            String::new()
        };
        let _ = writeln!(text, "\n{}{from}", checkpoint.path.display());
        let _ = writeln!(text, "  {:<20} {:<15} {:>10} {:>10} {:>7}", "task", "measure", "value", "std. err.", "items");
        for score in checkpoint.tasks.iter().flat_map(TaskScores::scores) {
            let error = or_dash(score.standard_error, |error| format!("{error:.4}"));
            let name = score.measure.name();
            let _ = writeln!(text, "  {:<20} {name:<15} {:>10.4} {error:>10} {:>7}", score.task, score.value, score.n);
        }
    }
    for one in compared {
        let (a, b) = (scored[0].path.display(), scored[one.checkpoint].path.display());
        let _ = writeln!(text, "\ngain of {b}\nover {a} (positive is better)");
        let _ = writeln!(
            text,
            "  {:<20} {:<15} {:>10}  {:<22} {:>8}",
            "task", "measure", "gain", "95 % interval", "p (Holm)"
        );
        for comparison in &one.comparisons {
            text.push_str(&row(comparison));
        }
    }
    text
}

fn row(comparison: &Comparison) -> String {
    let task = comparison.task.clone().unwrap_or_else(|| format!("mean of {} tasks", comparison.n));
    let interval = or_dash(comparison.interval_95, |[low, high]| format!("[{low:+.4}, {high:+.4}]"));
    let p = or_dash(comparison.p_holm, show_p);
    let measure = comparison.measure.name();
    format!("  {task:<20} {measure:<15} {:>+10.4}  {interval:<22} {p:>8}\n", comparison.gain)
}

fn show_p(p: f64) -> String {
    if p < 0.001 { "< 0.001".to_owned() } else { format!("{p:.3}") }
}
