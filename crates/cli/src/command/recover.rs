//! `thalweg recover`: spikes of a step log, and the checkpoint to resume from.

use std::fmt::Write;

use thalweg_merge::scheme::Scheme;
use thalweg_study::recover::{RecoveryPlan, SpikeSearch};
use thalweg_study::request::parse_scheme_word;
use thalweg_study::restart::{Restart, RestartRequest, UNWRITTEN, recovery_document, search_run};
use thalweg_study::start_policy::StatePolicy;
use thalweg_tensor::counted;
use thalweg_trajectory::Trajectory;

use crate::args::RecoverArgs;
use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;
use crate::merged::{describe, execute_options};
use crate::policy::describe_policy;
use crate::run::{log_words, spike_line};

pub(crate) fn run(args: &RecoverArgs, world: &World<'_>) -> Result<Outcome, Error> {
    let request = request(args)?;
    let resolver = world.resolver();
    let trajectory = resolver.open_run(&args.run_path, &args.run.options)?;
    let search = search_run(&trajectory)?;
    if search.spikes.is_empty() {
        world.answer(&recovery_document(&trajectory, &search, None), &looked_at(&trajectory, &search));
        return Ok(Outcome::No);
    }
    let cx = world.context(args.execution.memory);
    let restart = Restart::propose(&request, (&trajectory, &search), &resolver, &cx)?;
    let restart = restart.write(&request, execute_options(&args.execution), &resolver, &cx)?;
    let Restart { plan, policy, outcome } = &restart;
    let mut text = looked_at(&trajectory, &search);
    describe_proposal(&mut text, args, &request.scheme, plan, policy);
    text.extend(outcome.iter().map(describe));
    world.answer(&recovery_document(&trajectory, &search, Some(&restart)), &text);
    plan.notes.iter().for_each(|note| world.note(note));
    if plan.sources.len() == 1 && args.out.is_some() {
        world.note("nothing was written: one checkpoint is not a merge");
    }
    Ok(Outcome::Done)
}

fn request(args: &RecoverArgs) -> Result<RestartRequest, Error> {
    Ok(RestartRequest {
        scheme: parse_scheme_word(&args.scheme)?,
        moments: args.moments,
        data: args.data,
        output: args.output.clone(),
        out: args.out.clone(),
    })
}

/// The spikes, or that there is none, with what was looked at.
fn looked_at(trajectory: &Trajectory, search: &SpikeSearch) -> String {
    let log = log_words(trajectory).unwrap_or_default();
    let range = search.range.map_or_else(String::new, |(first, last)| format!(", steps {first} to {last}"));
    let mut text = format!("step log {log}: {}{range}\n", counted(search.n_losses, "loss"));
    if search.spikes.is_empty() {
        let threshold = search.threshold;
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "no spike: no loss is more than {threshold} standard deviations of the log's noise above its level"
        );
        return text;
    }
    text.extend(search.spikes.iter().map(spike_line));
    text
}

fn describe_proposal(
    text: &mut String,
    args: &RecoverArgs,
    scheme: &Scheme,
    plan: &RecoveryPlan,
    policy: &StatePolicy,
) {
    let onset = plan.spike.onset;
    // Writing to a String cannot fail.
    let _ = match plan.sources.as_slice() {
        [only] => writeln!(text, "\nresume from `{}`, the only checkpoint before step {onset}", only.path.display()),
        sources => writeln!(text, "\nresume from the {scheme} of {} checkpoints before step {onset}:", sources.len()),
    };
    for source in &plan.sources {
        let _ = writeln!(text, "{:>12}  {}", source.step, source.path.display());
    }
    if let [_, .., newest] = plan.sources.as_slice() {
        let measured = "which did no worse in our experiments (docs/results/recovery.md)";
        let _ = writeln!(text, "or from step {} alone, {measured}", newest.step);
    }
    if args.out.is_none() && policy.is_merge() {
        let _ = writeln!(text, "`-o {UNWRITTEN}` writes the merge");
    }
    describe_policy(text, policy);
}
