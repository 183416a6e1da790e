//! `thalweg watch`: the merges of a run in training, kept current.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use thalweg_merge::prepare_head::HeadOutcome;
use thalweg_study::evaluator::Evaluator;
use thalweg_study::forecast::case::read_case_file;
use thalweg_study::record::SuiteRow;
use thalweg_study::request::Resolver;
use thalweg_study::watch::{
    Bests, KeepOptions, MakeEvaluator, Notice, OnceScores, PreparedSums, TargetCrossing, UnscoredModel, WatchEnds,
    WatchEvent, WatchForecast, WatchNews, WatchPass, WatchRequest, WatchRow, WatchedOutput, Watcher, keep_watching,
    score_once,
};
use thalweg_tensor::counted;

use crate::args::{ServePort, WatchArgs};
use crate::command::Outcome;
use crate::error::Error;
use crate::eval_external::check_command;
use crate::eval_requests::{OpenRequests, RequestEvaluator, check_request_command, tell_workers_to_end};
use crate::host::{World, command_line};
use crate::merged::execute_options;
use crate::messages::document_of;
use crate::notify::{Notifier, Target};
use crate::options::{show_bytes, show_gain};
use crate::requests::anneal_question;
use crate::scoring::{make_evaluator, open_suites, suite_rows};
use crate::serve::open::open_server;
use crate::serve::{Server, Waits};

/// Merges that a person reads one by one; JSON has all of them.
const MAX_ROWS: usize = 40;

pub(crate) fn run(args: &WatchArgs, world: &World<'_>) -> Result<Outcome, Error> {
    check_options(args)?;
    let suites = open_suites(&args.scoring, None, world)?;
    let resolver = world.resolver();
    let cx = world.context(args.execution.memory);
    let run = match resolver.find(&args.run_path) {
        // A run that does not exist yet may begin later.
        Err(_) if !args.once => args.run_path.clone(),
        found => found?,
    };
    let request = request(args, run, suite_rows(&args.scoring, &suites), (&resolver, world))?;
    let mut watcher = Watcher::open(request, execute_options(&args.execution), &resolver, &cx)?;
    let quiet = world.quiet_context(args.execution.memory);
    let folder = watcher.request().folder.clone();
    let open_requests = OpenRequests::default();
    let make = |like: &Path| {
        let contexts = (world, &quiet);
        let evaluator = match (&args.eval_requests, &args.scoring.eval_command) {
            (Some(requests), Some(command)) => {
                let (place, limit) = ((&**requests, &**command), args.scoring.eval_timeout);
                RequestEvaluator::new(place, limit, &open_requests, contexts)
                    .map(|evaluator| Box::new(evaluator) as Box<dyn Evaluator>)
            }
            _ => make_evaluator(&args.scoring, &suites, (like, Some(&*folder)), contexts),
        };
        evaluator.map_err(Error::of_evaluator)
    };
    let make: Option<MakeEvaluator<'_>> = if args.scoring.is_given() { Some(&make) } else { None };
    std::thread::scope(|scope| {
        let targets = args.notify.iter().cloned().map(Target::Hook);
        let targets = targets.chain(args.notify_command.iter().cloned().map(Target::Command)).collect();
        let notifier = Notifier::start(scope, targets, world);
        let rows = watcher.rows();
        let forecasts = rows.iter().filter(|row| row.event == WatchEvent::Forecast).cloned().collect();
        let (bests, target, request) = (Bests::of(rows), args.target, watcher.request().clone());
        let news = News { notifier, bests, forecasts, target, request, world };
        if args.once {
            return watch_once(args, &mut watcher, make, news);
        }
        watch_on(args, &mut watcher, (make, &open_requests), news)
    })
}

/// What is told to people elsewhere.
struct News<'a> {
    notifier: Option<Notifier<'a>>,
    bests: Bests,
    /// Lines of forecasts so far, and the value that is worth a message.
    forecasts: Vec<WatchRow>,
    target: Option<f64>,
    request: WatchRequest,
    world: &'a World<'a>,
}

impl News<'_> {
    fn looked(&self, pass: &WatchPass) {
        let Some(notifier) = &self.notifier else { return };
        for spike in &pass.new_spikes {
            notifier.send(&Notice::of_spike(spike, &pass.recovery, &self.request, self.world.unix_seconds()));
        }
    }

    fn scored(&mut self, rows: &[WatchRow]) {
        let Some(notifier) = &self.notifier else { return };
        if let Some(best) = self.bests.take(rows) {
            notifier.send(&Notice::of_best(best, &self.request, self.world.unix_seconds()));
        }
        self.forecasts.extend(rows.iter().filter(|row| row.event == WatchEvent::Forecast).cloned());
        let is_forecast = rows.iter().any(|row| row.event == WatchEvent::Forecast);
        let crossing =
            self.target.filter(|_| is_forecast).and_then(|target| TargetCrossing::find(&self.forecasts, target));
        if let Some(crossing) = crossing {
            notifier.send(&Notice::of_crossing(crossing, &self.request, self.world.unix_seconds()));
        }
    }
}

fn watch_on(
    args: &WatchArgs,
    watcher: &mut Watcher<'_>,
    (make, open_requests): (Option<MakeEvaluator<'_>>, &OpenRequests),
    mut news: News<'_>,
) -> Result<Outcome, Error> {
    let (world, folder) = (news.world, watcher.request().folder.clone());
    let _server = args.serve.map(|port| serve_page(args, &folder, port, world)).transpose()?;
    let options = KeepOptions {
        poll_seconds: args.poll.0,
        heartbeat_seconds: args.heartbeat.0,
        sleep: &|seconds| world.sleep(seconds),
        make_evaluator: make,
        scoring_state: &|| open_requests.describe(&*world.storage),
        is_over: &|| args.until.as_ref().is_some_and(|path| world.storage.file_info(path).is_ok()),
        tell: &mut |what| {
            world.messages.clear_bar();
            match &what {
                WatchNews::Looked(pass) => news.looked(pass),
                WatchNews::Scored(rows) => news.scored(rows),
                _ => {}
            }
            tell(what, world);
        },
    };
    keep_watching(watcher, options)?;
    if let Some(requests) = &args.eval_requests {
        tell_workers_to_end(requests, &*world.storage)?;
    }
    Ok(Outcome::Done)
}

/// Serves the page of the folder until the watcher ends.
fn serve_page(args: &WatchArgs, folder: &Path, ServePort(port): ServePort, world: &World<'_>) -> Result<Server, Error> {
    let server = open_server(folder, &args.at, port, (Waits::Yes, world))?;
    world.messages.json_line(&document_of("thalweg-serve", &json!({"path": folder, "url": server.url})));
    world.messages.text(&format!("the page is at {}\n", server.url));
    Ok(server)
}

fn watch_once(
    args: &WatchArgs,
    watcher: &mut Watcher<'_>,
    make: Option<MakeEvaluator<'_>>,
    mut news: News<'_>,
) -> Result<Outcome, Error> {
    let world = news.world;
    let pass = watcher.bring_up_to_date()?;
    news.looked(&pass);
    let (mut scored, mut once) = (Vec::new(), OnceScores::default());
    if let Some(make) = make {
        once = score_once(watcher, make, &mut |rows| {
            news.scored(rows);
            scored.extend_from_slice(rows);
        })?;
    }
    let mut document = document(&pass);
    document["scored"] = json!(scored);
    document["unscored"] = json!(once.failed.iter().map(unscored_row).collect::<Vec<_>>());
    world.answer(&document, &table(args, &pass));
    world.messages.text(&score_lines(&scored));
    tell_prepared(&watcher.prepare()?, world);
    finish(&pass, &once, world)
}

fn check_options(args: &WatchArgs) -> Result<(), Error> {
    if args.scoring.by.is_some() {
        return Err(Error::usage_with_hint("`--by` has no effect here: no merge is chosen", "leave it out"));
    }
    if !args.once && args.ends.iter().any(|end| end.starts_with("every:")) {
        return Err(Error::usage_with_hint(
            "`--ends every:STEPS` counts back from the newest checkpoint, which changes while the run trains",
            "`--every STEPS` takes multiples of a number of steps",
        ));
    }
    if args.forecast && !args.scoring.is_given() {
        return Err(Error::usage_with_hint("which scores should be forecast?", "name a suite with `--suite FILE`"));
    }
    if !args.forecast && !args.anneal.is_default() {
        return Err(Error::usage_with_hint("nothing is forecast without `--forecast`", "add `--forecast`"));
    }
    if args.serve.is_none() && !args.at.is_default() {
        return Err(Error::usage_with_hint("nothing is served without `--serve`", "add `--serve`"));
    }
    match (&args.scoring.eval_command, &args.eval_requests) {
        (Some(command), Some(_)) => check_request_command(command),
        (Some(command), None) => check_command(command),
        (None, _) => Ok(()),
    }
}

/// Says what happened, as text and as lines of JSON.
fn tell(news: WatchNews<'_>, world: &World<'_>) {
    match news {
        WatchNews::Looked(pass) => {
            let mut document = document(pass);
            let made = |one: &&WatchedOutput| !one.was_done;
            document["outputs"] = json!(pass.outputs.iter().filter(made).collect::<Vec<_>>());
            world.messages.json_line(&document);
            world.messages.text(&made_lines(pass));
            tell_failed(pass, world);
            if let Some((first, last)) = pass.vanished_steps.first().zip(pass.vanished_steps.last()) {
                let which = if first == last { format!("step {first}") } else { format!("steps {first} to {last}") };
                world.note(format!(
                    "{which} disappeared: the newest windows reach further back; `--hold` keeps checkpoints"
                ));
            }
        }
        WatchNews::Prepared(prepared) => {
            let made: Vec<serde_json::Value> = prepared.iter().filter_map(prepared_row).collect();
            if !made.is_empty() {
                world.messages.json_line(&line(json!({"prepared": made})));
            }
            tell_prepared(prepared, world);
        }
        WatchNews::Scored(rows) => {
            world.messages.json_line(&line(json!({"scored": rows})));
            world.messages.text(&score_lines(rows));
        }
        WatchNews::Trouble(error) => {
            let hint = error.hint().map_or_else(String::new, |hint| format!(" ({hint})"));
            world.note(format!("{error}{hint}; trying again"));
        }
        WatchNews::Unscored(model) => {
            world.messages.json_line(&line(json!({"unscored": [unscored_row(model)]})));
            tell_unscored(model, world);
        }
        WatchNews::Late(error) => world.note(error),
        WatchNews::Heartbeat(beat) => world.messages.progress_line(beat),
    }
}

fn prepared_row(one: &PreparedSums) -> Option<serde_json::Value> {
    let HeadOutcome::Made { n_bytes } = one.outcome else { return None };
    Some(json!({"scheme": one.scheme, "n_checkpoints": one.n_checkpoints, "bytes": n_bytes}))
}

fn tell_prepared(prepared: &[PreparedSums], world: &World<'_>) {
    for PreparedSums { scheme, n_checkpoints, outcome } in prepared {
        match outcome {
            HeadOutcome::Made { n_bytes } => world
                .messages
                .text(&format!("prepared the next {scheme} of {n_checkpoints}: {} on disk\n", show_bytes(*n_bytes))),
            HeadOutcome::Impossible(why) => {
                world.note(format!("the next {scheme} of {n_checkpoints} cannot be prepared: {why}"));
            }
            HeadOutcome::Known | HeadOutcome::Abandoned => {}
        }
    }
}

fn unscored_row(model: &UnscoredModel) -> serde_json::Value {
    json!({"name": model.name, "end_step": model.end_step, "error": model.error.to_string()})
}

fn tell_unscored(model: &UnscoredModel, world: &World<'_>) {
    let hint = model.error.hint().map_or_else(String::new, |hint| format!(" ({hint})"));
    world.note(format!("`{}` is not scored: {}{hint}", model.name, model.error));
}

/// A line for each end that has new merges.
fn made_lines(pass: &WatchPass) -> String {
    let mut by_end: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for one in pass.outputs.iter().filter(|one| !one.was_done) {
        by_end.entry(one.end_step).or_default().push(format!("{} of {}", one.scheme, one.n_checkpoints));
    }
    let lines = by_end.iter().map(|(step, merges)| format!("step {step}: merged {}\n", merges.join(", ")));
    let mut text: String = lines.collect();
    if !text.is_empty() {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "read {}", show_bytes(pass.bytes_read));
    }
    text
}

/// A line for each score, with the gain over the raw checkpoint at the same step.
fn score_lines(rows: &[WatchRow]) -> String {
    let mut text = String::new();
    for row in rows {
        let step = row.end_step;
        for one in &row.forecasts {
            let ([low, high], steps) = (one.interval_80, counted(one.anneal_steps, "step"));
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "step {step}: if annealed here over {steps}: {} {} {:.4} (80 %: {low:.4} to {high:.4})",
                one.task, one.measure, one.value
            );
        }
        row.refused.iter().for_each(|why| text.push_str(&format!("step {step}: no forecast: {why}\n")));
        for score in &row.scores {
            let model = if row.n_checkpoints == 1 && ["raw", "annealed"].contains(&&*row.scheme) {
                row.scheme.clone()
            } else {
                format!("{} of {}", row.scheme, row.n_checkpoints)
            };
            let gain = score.gain.map_or_else(String::new, |gain| format!(", gain {}", show_gain(gain)));
            let (task, measure) = (&score.task, &score.measure);
            // Writing to a String cannot fail.
            let _ = writeln!(text, "step {step}: {model}: {task} {measure} {:.4}{gain}", score.value);
        }
    }
    text
}

fn request(
    args: &WatchArgs,
    run: PathBuf,
    scored_on: Vec<SuiteRow>,
    (resolver, world): (&Resolver<'_>, &World<'_>),
) -> Result<WatchRequest, Error> {
    let ends = match args.every {
        Some(interval) => WatchEnds::Multiples(interval),
        None if args.ends.is_empty() => WatchEnds::All,
        None => WatchEnds::Named(args.ends.clone()),
    };
    let forecast = args.forecast.then(|| forecast(args, (resolver, world))).transpose()?;
    Ok(WatchRequest {
        forecast: forecast.map(Arc::new),
        run,
        command: command_line(),
        run_options: args.run.options.clone(),
        windows: args.windows.clone(),
        interval_steps: args.interval_steps,
        interval_tokens: args.interval_tokens,
        ends,
        from_step: args.from_step,
        output: args.output.clone(),
        scored_on,
        holds: args.hold,
        prepares: args.prepare,
        folder: args.out.clone(),
    })
}

fn forecast(args: &WatchArgs, (resolver, world): (&Resolver<'_>, &World<'_>)) -> Result<WatchForecast, Error> {
    let read = |path: &Path| read_case_file(&*world.storage, path);
    let own_cases = args.anneal.calibrate.as_deref().map(read).transpose()?.unwrap_or_default();
    let truth = |(step, path): &(u64, PathBuf)| Ok::<_, Error>((*step, resolver.resolve_checkpoint(path)?));
    let truths = args.truth.iter().map(truth).collect::<Result<_, Error>>()?;
    Ok(WatchForecast { question: anneal_question(&args.anneal), own_cases, truths })
}

fn tell_failed(pass: &WatchPass, world: &World<'_>) {
    for failed in &pass.failed {
        world.note(format!("`{}` could not be made: {}", failed.path.display(), failed.error));
    }
}

/// Says which merges could not be made, and which models could not be scored. Either makes the command fail, after the
/// others were made.
fn finish(pass: &WatchPass, once: &OnceScores, world: &World<'_>) -> Result<Outcome, Error> {
    tell_failed(pass, world);
    once.failed.iter().for_each(|model| tell_unscored(model, world));
    once.late.iter().for_each(|error| world.note(error));
    if let Some(first) = pass.failed.first() {
        let n_all = pass.failed.len() + pass.outputs.len();
        let what = format!("{} of {} could not be made", pass.failed.len(), counted(n_all, "merge"));
        let hint = first.hint.clone().unwrap_or_else(|| "repair the checkpoints named above, then rerun".to_owned());
        return Err(Error::usage_with_hint(what, hint));
    }
    if !once.failed.is_empty() {
        let what = format!("{} could not be scored", counted(once.failed.len(), "model"));
        return Err(Error::usage_with_hint(what, "rerun the command: it tries again and keeps the merges"));
    }
    if !once.late.is_empty() {
        let what = format!("the scores of {} have not arrived", counted(once.late.len(), "end"));
        return Err(Error::usage_with_hint(what, "rerun the command later: it does not repeat requests"));
    }
    Ok(Outcome::Done)
}

/// A line of what happened.
fn line(news: serde_json::Value) -> serde_json::Value {
    document_of("thalweg-watch", &news)
}

fn document(pass: &WatchPass) -> serde_json::Value {
    line(json!({
        "outputs": pass.outputs, "failed": pass.failed, "skipped": pass.skipped, "needed_steps": pass.needed_steps,
        "vanished_steps": pass.vanished_steps, "bytes_read": pass.bytes_read,
    }))
}

fn table(args: &WatchArgs, pass: &WatchPass) -> String {
    let mut text = String::new();
    let made: Vec<&WatchedOutput> = pass.outputs.iter().filter(|one| !one.was_done).collect();
    // Writing to a String cannot fail.
    if !made.is_empty() {
        let _ = writeln!(text, "{:>10} {:>5} {:<16} folder in `{}`", "end step", "N", "scheme", args.out.display());
    }
    for one in made.iter().take(MAX_ROWS) {
        let _ = writeln!(text, "{:>10} {:>5} {:<16} {}", one.end_step, one.n_checkpoints, one.scheme, one.name());
    }
    if made.len() > MAX_ROWS {
        let _ = writeln!(text, "and {} more", made.len() - MAX_ROWS);
    }
    let n_kept = pass.outputs.len() - made.len();
    let newest = pass.newest_step.map_or_else(String::new, |step| format!(", the newest at step {step}"));
    let _ = writeln!(
        text,
        "{}{newest}; made {}, kept {n_kept}, read {}",
        counted(pass.n_finished, "finished checkpoint"),
        counted(made.len(), "merge"),
        show_bytes(pass.bytes_read)
    );
    text
}
