//! `thalweg demo`: the whole story on the embedded corpus, ending in a page.

use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde_json::json;
use thalweg_study::demo::{DemoSize, DemoSpec, DemoWatcher, run_demo};
use thalweg_study::study_summary::summary_text;
use thalweg_study::write_study::PAGE_NAME;

use crate::args::DemoArgs;
use crate::command::Outcome;
use crate::error::Error;
use crate::host::{SUMMING_MEMORY_BYTES, World, command_line};
use crate::messages::Messages;
use crate::meter::{Meter, Urgency};

pub(crate) fn run(args: &DemoArgs, world: &World<'_>) -> Result<Outcome, Error> {
    let size = if args.quick { DemoSize::Quick } else { DemoSize::Full };
    let spec = DemoSpec { folder: args.out.clone(), seed: args.seed, size };
    let watcher = ShareWatcher::new(world.messages);
    let record = run_demo(&spec, command_line(), &watcher, &world.context(SUMMING_MEMORY_BYTES))
        .map_err(|error| explain_stop(error, args))?;
    let page = spec.folder.join(PAGE_NAME);
    let document = json!({
        "kind": "thalweg-demo", "version": 2, "page": page, "seed": args.seed, "choice": record.choice,
        "raws": record.raws, "trials": record.trials, "annealed": record.annealed, "cost": record.cost,
    });
    let mut text = summary_text(&record);
    let (page, run_folder) = (page.display(), spec.folder.join("run"));
    // Writing to a String cannot fail.
    let _ = writeln!(text, "\nThe page is `{page}`: open it in a browser.");
    let _ = writeln!(text, "The run is `{}`: try `thalweg inspect` on it.", run_folder.display());
    Ok(world.answer(&document, &text))
}

/// Says how to resume after Ctrl-C, and what to do about a folder of another demo.
fn explain_stop(error: thalweg_study::Error, args: &DemoArgs) -> Error {
    match error {
        thalweg_study::Error::Lab(source @ thalweg_lab::Error::OtherRun { .. }) => Error::usage_with_hint(
            format!("`{}` holds another demo: {source}", args.out.display()),
            "name another folder with `-o DIR`, or give the same seed and size again",
        ),
        other => other.into(),
    }
}

/// Tells a person how far the demo is.
struct ShareWatcher<'a> {
    messages: &'a Messages,
    meter: Meter<'a>,
    state: Mutex<State>,
}

struct State {
    began: Instant,
    /// What was done already when the clock began.
    first_share: Option<f64>,
    stage: String,
}

/// Ticks of the bar.
const N_TICKS: u64 = 10_000;

impl<'a> ShareWatcher<'a> {
    fn new(messages: &'a Messages) -> Self {
        let state = State { began: Instant::now(), first_share: None, stage: String::new() };
        Self { messages, meter: Meter::new(messages, "{bar:30} {percent:>3} % {msg}"), state: Mutex::new(state) }
    }
}

impl State {
    /// Seconds that the rest takes at the speed so far.
    fn seconds_left(&self, share: f64) -> Option<f64> {
        let done = share - self.first_share.unwrap_or(share);
        let elapsed = self.began.elapsed().as_secs_f64();
        (done > 0.005).then(|| elapsed / done * (1.0 - share))
    }
}

impl DemoWatcher for ShareWatcher<'_> {
    fn on_progress(&self, stage: &str, share_done: f64, detail: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.first_share.is_none() {
            (state.first_share, state.began) = (Some(share_done), Instant::now());
        }
        let urgency = if state.stage == stage { Urgency::InTurn } else { Urgency::Now };
        stage.clone_into(&mut state.stage);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of the ticks")]
        let ticks = (share_done.clamp(0.0, 1.0) * N_TICKS as f64) as u64;
        self.meter.show([ticks, N_TICKS], urgency, || {
            let left = state.seconds_left(share_done).map_or_else(String::new, |left| format!(", {left:.0} s left"));
            let text = if detail.is_empty() { format!("{stage}{left}") } else { format!("{stage}: {detail}{left}") };
            // The bar has its own percentage.
            if self.messages.draws_bars() { text } else { format!("{:3.0} % {text}", share_done * 100.0) }
        });
    }

    fn on_note(&self, text: &str) {
        self.messages.note(text);
    }
}
