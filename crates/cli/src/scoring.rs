//! By what a study scores: suites in this program's engine, or another program's command.

use std::path::{Path, PathBuf};

use serde_json::json;
use thalweg_checkpoint::ReadOptions;
use thalweg_eval::external::{ExternalResults, ExternalScore, read_results_file};
use thalweg_eval::{ReportSuite, SelectionSuite, StartRule, Suite, check_apart};
use thalweg_merge::context::RunContext;
use thalweg_merge::engine::{ExecuteOptions, PartialStage, execute_merge};
use thalweg_merge::plan::{DigestChoice, MergePlan, OutputPlan};
use thalweg_storage::guard::OwnKind;
use thalweg_storage::publish::{Replace, publish_file};
use thalweg_study::engine_evaluator::EngineEvaluator;
use thalweg_study::evaluator::{Evaluator, ModelScores, OnScore, check_by};
use thalweg_study::record::{CostRow, SuiteRow};
use thalweg_study::text::digest_digits;
use thalweg_tensor::digest::{DigestKind, bytes_digest};

use crate::args::ScoringArgs;
use crate::error::Error;
use crate::eval_external::{Scratch, check_command, check_params, score_one};
use crate::eval_results::tell_refused;
use crate::host::World;
use crate::messages::Messages;
use crate::options::{Seconds, show_count};

/// The suite that scores of another program belong to.
const COMMAND_SUITE: &str = "command";

/// Refuses options that do not say what scores; `what` is the message.
pub(crate) fn check_scoring(args: &ScoringArgs, what: &str) -> Result<(), Error> {
    match args.is_given() {
        true => Ok(()),
        false => Err(Error::usage_with_hint(what, "name a suite with `--suite FILE`")),
    }
}

/// A suite, with another rule of start tokens where one is given.
pub(crate) fn open_suite(path: &Path, rule: Option<StartRule>, world: &World<'_>) -> Result<Suite, Error> {
    let suite = Suite::open(&*world.storage, path)?;
    Ok(match rule {
        Some(rule) => suite.with_start_rule(rule),
        None => suite,
    })
}

/// The suite that decides, and the one that reports, which share nothing.
pub(crate) fn open_suites(args: &ScoringArgs, report: Option<&Path>, world: &World<'_>) -> Result<Vec<Suite>, Error> {
    let Some(path) = &args.suite else {
        return match report {
            None => Ok(Vec::new()),
            Some(_) => Err(Error::usage_with_hint(
                "`--report-suite` needs a suite to choose by, but none was given",
                "name one with `--suite FILE`, or leave `--report-suite` out",
            )),
        };
    };
    let open = |path: &Path| open_suite(path, args.start_token, world);
    let suite = open(path)?;
    if let Some(by) = &args.by {
        check_by(by, suite.tasks.iter().flat_map(|task| task.measures.iter().map(|one| (&*task.name, one.name()))))?;
    }
    let Some(report) = report else {
        if suite.role.is_none() {
            world.note(format!(
                "suite `{}` has no `role`: a merge that it chooses should be reported on another suite",
                suite.name
            ));
        }
        return Ok(vec![suite]);
    };
    let report = ReportSuite::new(open(report)?)?;
    let selection = SelectionSuite::new(suite)?;
    check_apart(&selection, &report)?;
    if selection.suite().name == report.suite().name {
        return Err(Error::usage(format!("both suites are called `{}`: rename one of them", report.suite().name)));
    }
    Ok(vec![selection.suite().clone(), report.suite().clone()])
}

/// Says how much will be scored, before it begins: `what` names the models, such as `10 merges`.
pub(crate) fn tell_cost(evaluator: &dyn Evaluator, (n_models, what): (usize, &str), world: &World<'_>) {
    let tokens = evaluator.tokens_per_model().map_or_else(String::new, |tokens| {
        let all = tokens.saturating_mul(n_models as u64);
        format!(", {} tokens each, {} in all", show_count(tokens), show_count(all))
    });
    world.note(format!("scoring {what}{tokens}; known scores are reused"));
}

/// What scores, as the options say. `like` is any checkpoint of the run, `folder` that of the study. Models are counted
/// by a [`ScoringMeter`](crate::meter::ScoringMeter), so `run` has no bars and neither have evaluations.
pub(crate) fn make_evaluator<'a>(
    args: &ScoringArgs,
    suites: &[Suite],
    (like, folder): (&Path, Option<&Path>),
    (world, run): (&'a World<'_>, &'a RunContext<'a>),
) -> Result<Box<dyn Evaluator + 'a>, Error> {
    let cache = args.cache.clone().or_else(|| folder.map(|folder| folder.join("scores")));
    match &args.eval_command {
        Some(command) => {
            check_command(command)?;
            let cache =
                cache.unwrap_or_else(|| std::env::temp_dir().join(format!("thalweg-scores-{}", std::process::id())));
            let (command, limit, cost) = (command.clone(), args.eval_timeout, CostRow::default());
            Ok(Box::new(CommandEvaluator { command, limit, cache, run, messages: world.messages, cost }))
        }
        None => {
            let tokenizer = args.tokenizer.as_deref();
            Ok(Box::new(EngineEvaluator::new(suites, like, tokenizer, cache, world.quiet_eval_context(), run)?))
        }
    }
}

/// What the options score on, before anything is opened to be scored.
pub(crate) fn suite_rows(args: &ScoringArgs, suites: &[Suite]) -> Vec<SuiteRow> {
    match &args.eval_command {
        Some(command) => vec![command_row(command)],
        None => suites.iter().map(SuiteRow::from).collect(),
    }
}

/// The suite that the scores of a command belong to.
pub(crate) fn command_row(command: &str) -> SuiteRow {
    let digest = bytes_digest(DigestKind::Blake3, command.as_bytes()).to_string();
    SuiteRow { name: COMMAND_SUITE.to_owned(), role: None, digest }
}

/// Makes merges, each at its path, for a program that scores them, by one reading of their sources. Returns how many
/// bytes were read.
pub(crate) fn make_for_program<'a>(
    merges: impl Iterator<Item = (PathBuf, &'a OutputPlan)>,
    run: &RunContext<'_>,
) -> Result<u64, thalweg_study::Error> {
    let mut outputs = Vec::new();
    for (path, output) in merges {
        path.parent().map_or(Ok(()), |folder| run.storage.create_folder(folder))?;
        // Such programs read safetensors.
        outputs.push(OutputPlan { path, digest: DigestChoice::None, ..output.of_model_alone() });
    }
    if outputs.is_empty() {
        return Ok(0);
    }
    let options = ExecuteOptions { replace: Replace::Force, partial: PartialStage::Discard };
    let outcomes = execute_merge(&MergePlan::new(outputs)?, options, run)?;
    Ok(outcomes.iter().map(|outcome| outcome.receipt.bytes_read).max().unwrap_or(0))
}

/// Another program: merges are written for it, one at a time, and removed.
struct CommandEvaluator<'a> {
    command: String,
    limit: Option<Seconds>,
    cache: PathBuf,
    run: &'a RunContext<'a>,
    messages: &'a Messages,
    cost: CostRow,
}

impl CommandEvaluator<'_> {
    /// A name made of the command and the identity of every file that is read.
    fn key(&self, what: &str, sources: &[PathBuf]) -> Result<PathBuf, thalweg_study::Error> {
        let mut text = format!("{}\n{what}", self.command);
        for source in sources {
            text.push_str(&self.run.pool.open(source, &ReadOptions::default())?.identity());
        }
        Ok(self.cache.join(format!("{}.json", digest_digits(&text, 32))))
    }

    /// Scores from the cache. Refused ones are noted again.
    fn known(&self, path: &Path, key: &Path) -> Option<Vec<ExternalScore>> {
        let results = read_results_file(&*self.run.storage, key).ok()?;
        tell_refused(path, &results, self.messages);
        Some(results.scores)
    }

    fn score(&mut self, path: &Path, key: &Path) -> Result<Vec<ExternalScore>, thalweg_study::Error> {
        let storage = &self.run.storage;
        check_params(path, path, (storage, &ReadOptions::default()), self.messages).map_err(Error::of_evaluator)?;
        let scratch = Scratch::new(storage).map_err(Error::of_evaluator)?;
        let results = score_one(&self.command, path, path, &scratch.out(0), (self.limit, self.run));
        scratch.close(results.is_ok(), self.messages);
        let results = results.map_err(Error::of_evaluator)?;
        tell_refused(path, &results, self.messages);
        self.cost.n_evaluations += 1;
        storage.create_folder(&self.cache)?;
        publish_file(&**storage, key, &kept_results(&results), OwnKind::in_own_folder("a kept score"))?;
        Ok(results.scores)
    }

    fn score_merge(&mut self, output: &OutputPlan) -> Result<Vec<ExternalScore>, thalweg_study::Error> {
        let sources: Vec<PathBuf> = output.sources.iter().map(|source| source.path.clone()).collect();
        let key = self.key(&output.digest_without_paths()?, &sources)?;
        if let Some(known) = self.known(&output.path, &key) {
            return Ok(known);
        }
        if let [source] = sources.as_slice() {
            return self.score(source, &key);
        }
        let path = self.cache.join("merge-to-score");
        self.cost.bytes_read += make_for_program([(path.clone(), output)].into_iter(), self.run)?;
        // If scoring fails, the merge stays, so that the user can try the command on it.
        let scores = self.score(&path, &key)?;
        self.run.storage.remove(&path)?;
        Ok(scores)
    }
}

/// Results as a plain list for the cache. Refused scores are kept so that they are refused again.
fn kept_results(results: &ExternalResults) -> Vec<u8> {
    let rows = results.scores.iter().map(|score| {
        json!({
            "task": score.task, "value": score.value, "stderr": score.standard_error, "n": score.n,
            "higher_is_better": score.higher_is_better,
        })
    });
    let refused = results.refused.iter().map(|one| json!({"task": one.task, "refused": one.why}));
    serde_json::to_vec(&rows.chain(refused).collect::<Vec<_>>()).unwrap_or_default()
}

impl Evaluator for CommandEvaluator<'_> {
    fn suites(&self) -> Vec<SuiteRow> {
        vec![command_row(&self.command)]
    }

    fn score_checkpoint(&mut self, path: &Path) -> Result<ModelScores, thalweg_study::Error> {
        let key = self.key("", &[path.to_owned()])?;
        let scores = match self.known(path, &key) {
            Some(known) => known,
            None => self.score(path, &key)?,
        };
        Ok(ModelScores::from_external(COMMAND_SUITE, scores))
    }

    fn score_merges(
        &mut self,
        outputs: &[OutputPlan],
        on_score: OnScore<'_>,
    ) -> Result<Vec<ModelScores>, thalweg_study::Error> {
        let mut all = Vec::new();
        for (i, output) in outputs.iter().enumerate() {
            self.run.check_interrupt()?;
            let scores = ModelScores::from_external(COMMAND_SUITE, self.score_merge(output)?);
            on_score(i, &scores);
            all.push(scores);
        }
        Ok(all)
    }

    fn cost(&self) -> CostRow {
        self.cost
    }
}
