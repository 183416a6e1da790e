//! `thalweg fetch`: revisions of a repository of a hub, into the local cache.

use crate::args::FetchArgs;
use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;

#[cfg(feature = "cloud")]
pub(crate) fn run(args: &FetchArgs, world: &World<'_>) -> Result<Outcome, Error> {
    use thalweg_storage::{HubClient, HubSettings};
    use thalweg_study::fetch::{FetchReport, FetchRequest, cache_root, execute_fetch, plan_fetch};

    use crate::run::hub_cache_root;
    use crate::store::wait_notes;

    let root = cache_root(hub_cache_root(), &*world.storage)?;
    let settings = HubSettings::from_variables(&|name| std::env::var_os(name));
    let hub = HubClient::new(settings, world.interrupt().clone(), wait_notes(world.messages.notes()))?;
    let request = FetchRequest {
        repository: args.repository.clone(),
        revisions: args.revisions.clone(),
        selection: args.selection.clone(),
        checkpoint_pattern: args.checkpoint_pattern.clone(),
        code: args.code,
    };
    let cx = world.context(crate::host::SUMMING_MEMORY_BYTES);
    let plan = plan_fetch(&request, &hub, (&root, &world.resolver()))?;
    let report = FetchReport::of_plan(&plan);
    if args.dry_run {
        return Ok(world.answer(&report.to_json()?, &shown::text(&plan)));
    }
    let began = std::time::Instant::now();
    let fetched = execute_fetch(&plan, &hub, &cx)?;
    Ok(world.answer(
        &report.with_outcome(&fetched).to_json()?,
        &shown::outcome_text(&plan, &fetched, began.elapsed().as_secs_f64()),
    ))
}

#[cfg(not(feature = "cloud"))]
pub(crate) fn run(args: &FetchArgs, _world: &World<'_>) -> Result<Outcome, Error> {
    Err(Error::usage_with_hint(
        format!("this program was built without a network, so it cannot fetch `{}`", args.repository),
        "fetch it with `hf download`, which uses the same cache",
    ))
}

/// What is said about a fetch.
#[cfg(feature = "cloud")]
mod shown {
    use std::fmt::Write;

    use thalweg_study::fetch::{FetchPlan, Fetched, describe_fetch};
    use thalweg_study::text::or_dash;
    use thalweg_tensor::counted;

    use crate::options::{show_bytes, show_count};
    use crate::pace::show_network_rate;

    pub(super) fn text(plan: &FetchPlan) -> String {
        let mut text = format!("{}\n", describe_fetch(plan));
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:>10} {:>10} {:>6} {:>10} {:>10}  revision",
            "step", "tokens", "files", "size", "to fetch"
        );
        for revision in &plan.revisions {
            let number = |number: Option<u64>| or_dash(number, |number| number.to_string());
            let tokens = or_dash(revision.tokens, show_count);
            let (size, missing) = (show_bytes(revision.bytes), show_bytes(revision.missing_bytes));
            let (step, n_files, name) = (number(revision.step), revision.files.len(), &revision.name);
            let _ = writeln!(text, "{step:>10} {tokens:>10} {n_files:>6} {size:>10} {missing:>10}  {name}");
        }
        let _ = writeln!(text, "into `{}`", plan.folder.path().display());
        text
    }

    pub(super) fn outcome_text(plan: &FetchPlan, fetched: &Fetched, seconds: f64) -> String {
        let what = format!("{} of `{}`", counted(plan.revisions.len(), "revision"), plan.repository);
        let (total, bytes) = (show_bytes(plan.total().1), fetched.fetched_bytes);
        let mut text = match bytes {
            0 => format!("{what} were in the cache already: {total}\n"),
            _ => {
                let rate = show_network_rate(bytes as f64 / seconds.max(1e-9));
                format!("fetched {what}: {} of {total}, {seconds:.2} s ({rate})\n", show_bytes(bytes))
            }
        };
        let _ = writeln!(text, "next: `{}`", fetched.next);
        text
    }
}
