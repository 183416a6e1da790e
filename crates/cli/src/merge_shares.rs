//! `--shard` and `--finish` of `merge` and `sweep`: one plan by many processes.

use std::fmt::Write;
use std::path::PathBuf;

use serde_json::json;
use thalweg_merge::plan::MergePlan;
use thalweg_merge::share::{
    Finished, MissingShares, Share, ShareOutcome, ShareState, array_expression, execute_share, finish_shares,
};
use thalweg_storage::Storage;
use thalweg_tensor::{part_of_are, shell_word};

use crate::args::{ExecutionArgs, ShardChoice};
use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;
use crate::merged::{describe, document, execute_options};
use crate::messages::with_fields;
use crate::options::show_bytes;
use crate::share_env::share_of_environment;

/// Does one share of a plan.
pub(crate) fn run_share(
    execution: &ExecutionArgs,
    (choice, plan): (ShardChoice, &MergePlan),
    world: &World<'_>,
) -> Result<Outcome, Error> {
    let share = match choice {
        ShardChoice::Given(share) => share,
        ShardChoice::Auto(count) => share_of_environment(count, &|name| std::env::var(name).ok())?,
    };
    let run = world.context(execution.memory);
    let outcomes = execute_share(plan, share, execute_options(execution), &run)?;
    let mut text: String = outcomes.iter().map(|outcome| describe_share(share, outcome)).collect();
    text.push_str(&next_step(share, &outcomes));
    Ok(world.answer(&share_document(share, &outcomes, &*world.storage), &text))
}

/// Publishes a plan whose shares are done.
pub(crate) fn run_finish(execution: &ExecutionArgs, plan: &MergePlan, world: &World<'_>) -> Result<Outcome, Error> {
    let run = world.context(execution.memory);
    let kind = "thalweg-merge-finish";
    match finish_shares(plan, execute_options(execution), &run)? {
        Finished::Merged { outcomes, count } => {
            let mut document = document(kind, plan, &outcomes);
            add_shares(&mut document, count, &[]);
            Ok(world.answer(&document, &outcomes.iter().map(describe).collect::<String>()))
        }
        Finished::Missing(missing) => {
            let mut document = document(kind, plan, &[]);
            add_shares(&mut document, Some(missing.count), &missing.missing);
            let row = |(path, missing): &(PathBuf, Vec<usize>)| json!({ "path": path, "missing": missing });
            document["incomplete"] = missing.outputs.iter().map(row).collect();
            world.messages.json(&document);
            let n_outputs = plan.outputs.len();
            Err(shares_missing(&missing, n_outputs))
        }
    }
}

fn add_shares(document: &mut serde_json::Value, count: Option<usize>, missing: &[usize]) {
    let done: Vec<usize> = (0..count.unwrap_or(0)).filter(|share| missing.binary_search(share).is_err()).collect();
    document["shards"] = json!(count);
    document["done"] = json!(done);
    document["skipped"] = json!([]);
    document["missing"] = json!(missing);
    document["rerun"] = rerun(missing);
}

fn rerun(missing: &[usize]) -> serde_json::Value {
    if missing.is_empty() { serde_json::Value::Null } else { json!(array_expression(missing)) }
}

fn share_document(share: Share, outcomes: &[ShareOutcome], storage: &dyn Storage) -> serde_json::Value {
    let is_done = outcomes.iter().any(|outcome| outcome.state == ShareState::Done);
    let (done, skipped): (Vec<usize>, Vec<usize>) =
        if is_done { (vec![share.index()], Vec::new()) } else { (Vec::new(), vec![share.index()]) };
    let missing = missing_of(outcomes);
    let row = |outcome: &ShareOutcome| {
        with_fields(json!({"path": outcome.path, "stage": storage.stage_path(&outcome.path)}), outcome)
    };
    json!({
        "kind": "thalweg-merge-share",
        "version": 1,
        "shard": share.index(),
        "shards": share.count(),
        "done": done,
        "skipped": skipped,
        "missing": missing,
        "rerun": rerun(&missing),
        "outputs": outcomes.iter().map(row).collect::<Vec<_>>(),
    })
}

/// Shares that some output lacks.
fn missing_of(outcomes: &[ShareOutcome]) -> Vec<usize> {
    let mut missing: Vec<usize> = outcomes.iter().flat_map(|outcome| outcome.missing.iter().copied()).collect();
    missing.sort_unstable();
    missing.dedup();
    missing
}

fn describe_share(share: Share, outcome: &ShareOutcome) -> String {
    let path = outcome.path.display();
    match outcome.state {
        ShareState::Published => format!("`{path}` already exists: nothing to do for share {share}\n"),
        ShareState::Skipped => format!("share {share} of `{path}` was already done\n"),
        ShareState::Done => {
            let (read, wrote) = (show_bytes(outcome.bytes_read), show_bytes(outcome.bytes_written));
            let mut text = format!("did share {share} of `{path}`: read {read}");
            if outcome.bytes_resumed > 0 {
                // Writing to a String cannot fail.
                let _ = write!(text, ", of which {} by an earlier run", show_bytes(outcome.bytes_resumed));
            }
            let _ = writeln!(text, ", wrote {wrote}, {:.2} s", outcome.seconds);
            text
        }
    }
}

fn next_step(share: Share, outcomes: &[ShareOutcome]) -> String {
    if outcomes.iter().all(|outcome| outcome.state == ShareState::Published) {
        return String::new();
    }
    let missing = missing_of(outcomes);
    match missing.len() {
        0 => format!("next: all shares are done; `{}` publishes\n", shared_command("--finish")),
        n => {
            let are_missing = part_of_are(n, share.count(), "share");
            format!("next: {are_missing} missing: {}\n", array_expression(&missing))
        }
    }
}

/// The command as it was typed, with other options in place of what this process alone was asked.
fn shared_command(own: &str) -> String {
    let typed = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    with_own(typed, own)
}

fn with_own(mut typed: impl Iterator<Item = String>, own: &str) -> String {
    const OWN_FLAGS: [&str; 3] = ["--finish", "--discard-partial", "--json"];
    let mut words = vec!["thalweg".to_owned()];
    let mut rest = Vec::new();
    while let Some(word) = typed.next() {
        match &*word {
            "--shard" => drop(typed.next()),
            // What follows is not an option, whatever it looks like.
            "--" => rest = std::iter::once(word).chain(typed.by_ref()).collect(),
            flag if OWN_FLAGS.contains(&flag) || flag.starts_with("--shard=") => {}
            other => words.push(shell_word(other)),
        }
    }
    words.push(own.to_owned());
    words.extend(rest.iter().map(|word| shell_word(word)));
    words.join(" ")
}

fn shares_missing(missing: &MissingShares, n_outputs: usize) -> Error {
    /// Outputs that a message lists.
    const MAX_LISTED: usize = 8;
    let (count, expression) = (missing.count, missing.array_expression());
    let what = match &*missing.missing {
        [one] => format!("share {one} of {count} is missing"),
        many => format!("{} of {count} shares are missing: {expression}", many.len()),
    };
    let again = match &*missing.missing {
        [one] => format!("`{}`", shared_command(&format!("--shard {one}/{count}"))),
        many => {
            let numbers: Vec<String> = many.iter().map(usize::to_string).collect();
            let numbers = numbers.join(" ");
            let command = shared_command(&format!("--shard $i/{count}"));
            format!("`for i in {numbers}; do {command}; done`, or an array job with `--array={expression}`")
        }
    };
    let hint = format!("run the missing shares with {again}, then finish again");
    let mut details = Vec::new();
    // With one output it is clear which one lacks them.
    if n_outputs > 1 {
        let line = |(path, missing): &(PathBuf, Vec<usize>)| {
            format!("`{}` lacks {}", path.display(), array_expression(missing))
        };
        details.extend(missing.outputs.iter().take(MAX_LISTED).map(line));
        if missing.outputs.len() > MAX_LISTED {
            details.push(format!("and {} more", missing.outputs.len() - MAX_LISTED));
        }
    }
    Error::Usage { what, hint: Some(hint), details }
}

#[cfg(test)]
mod tests {
    use super::with_own;

    #[test]
    fn options_of_this_process_are_replaced_before_a_double_dash() {
        let shown = |typed: &str| with_own(typed.split(' ').map(str::to_owned), "--finish");
        assert_eq!(shown("merge --plan p.json --shard 0/2 --json"), "thalweg merge --plan p.json --finish");
        assert_eq!(shown("sweep --shard=0/2 -o out -- run"), "thalweg sweep -o out --finish -- run");
        assert_eq!(shown("sweep --shard 0/2 -o out -- --json"), "thalweg sweep -o out --finish -- --json");
    }
}
