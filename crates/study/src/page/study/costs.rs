//! What it took, where everything is, and the lines that make each trial again.

use thalweg_tensor::{counted, show_size};

use crate::markup::Markup;
use crate::record::StudyRecord;
use crate::study_view::{MAX_METRICS, StudyView, merge_command, window_words};
use crate::text::show_whole;

/// Trials whose command is on the page.
const MAX_COMMANDS: usize = 200;
/// Digests of raw and annealed checkpoints that are listed.
const MAX_DIGESTS: usize = 200;
/// Both, where the page changes as one looks at it, and each merge has its command and digest where it is opened.
const MAX_WATCHED: usize = 20;

pub(super) fn write_limits(page: &mut Markup, view: &StudyView<'_>) {
    if view.chosen().is_none() {
        return;
    }
    page.element("h2").filled("What these numbers do not say");
    let runs = "This is one run with one seed. The intervals cover the choice of items, not the choice of seed: the difference \
                between two models of this run could be smaller or larger in another run.";
    page.element("p").filled(runs);
    if view.record.anneal.is_some() {
        let anneal = "The annealed fork has trained on as many tokens as the newest raw checkpoint if both \
                      end at the same step; the merge was not trained further.";
        page.element("p").filled(anneal);
    }
}

/// The same on the reader's checkpoints.
pub(super) fn write_own_commands(page: &mut Markup, record: &StudyRecord) {
    if record.commands.is_empty() {
        return;
    }
    page.element("h2").filled("The same on your checkpoints");
    for command in &record.commands {
        page.element("p").attr("class", "command").filled(&command.what);
        page.element("pre").filled(&command.line);
    }
}

pub(super) fn write_costs(page: &mut Markup, view: &StudyView<'_>) {
    let record = view.record;
    page.element("h2").filled("What was run");
    page.element("p").attr("class", "command").filled("The study");
    page.element("pre").filled(&record.command);
    write_commands(page, view);
    let cost = record.cost;
    let stages: Vec<String> =
        record.stages.iter().map(|stage| format!("{} {:.1} s", stage.stage, stage.seconds)).collect();
    let stages = if stages.is_empty() { String::new() } else { format!(": {}", stages.join(", ")) };
    let mut facts = vec![("run folder", record.run_path.clone())];
    if !record.checkpoints.is_empty() {
        facts.push(("checkpoints there", record.checkpoints.len().to_string()));
    }
    facts.push(("program", record.tool.clone()));
    if cost.bytes_read > 0 {
        facts.push(("read", show_size(cost.bytes_read)));
    }
    if cost.n_evaluations > 0 {
        facts.extend([("models scored", cost.n_evaluations.to_string()), ("tokens scored", show_whole(cost.n_tokens))]);
    }
    if cost.seconds > 0.0 {
        facts.push(("time", format!("{:.1} s{stages}", cost.seconds)));
    }
    if let Some(trial) = view.chosen() {
        facts.push(("chosen", trial.path.clone().unwrap_or_else(|| trial.name.clone())));
        facts.push(("digest of its plan", trial.plan_digest.clone()));
        facts.extend(trial.params_digest.iter().map(|digest| ("digest of its parameters", digest.clone())));
    }
    if let Some(proposal) = &record.proposal {
        facts.push(("proposal is based on", proposal.rests_on.clone()));
    }
    if view.metrics.len() > MAX_METRICS {
        facts.push(("measures", format!("{}; {MAX_METRICS} are shown, study.csv has all", view.metrics.len())));
    }
    page.element("dl").open();
    let own = record.facts.iter().map(|fact| (fact.name.as_str(), fact.value.clone()));
    for (name, value) in own.chain(facts) {
        page.element("dt").filled(name);
        page.element("dd").filled(value);
    }
    page.close();
    write_digests(page, view);
}

fn write_commands(page: &mut Markup, view: &StudyView<'_>) {
    let record = view.record;
    if let Some(trial) = view.chosen() {
        page.element("p").attr("class", "command").filled(format!("The chosen merge: {}", window_words(trial)));
        page.element("pre").filled(merge_command(&record.run_path, trial));
    }
    if record.trials.is_empty() {
        return;
    }
    let trials: Vec<_> = match view.metrics.first() {
        Some(metric) => view.ranked(*metric).into_iter().map(|row| row.1).collect(),
        None => record.trials.iter().collect(),
    };
    let n_shown = trials.len().min(if record.is_watched { MAX_WATCHED } else { MAX_COMMANDS });
    page.element("details").open();
    let left = trials.len() - n_shown;
    let more = if left > 0 { format!("; {left} more are made in the same way") } else { String::new() };
    page.element("summary").filled(format!("The commands of {}, in their order{more}", counted(n_shown, "merge")));
    let lines: Vec<String> = trials.iter().take(n_shown).map(|trial| merge_command(&record.run_path, trial)).collect();
    // Many commands scroll, which needs the focus.
    let scroller = page.element("pre").attr("tabindex", "0").attr("role", "group");
    scroller.attr("aria-label", "Commands").filled(lines.join("\n"));
    page.close();
}

fn write_digests(page: &mut Markup, view: &StudyView<'_>) {
    let record = view.record;
    let models = record.raws.iter().map(|raw| ("raw", raw)).chain(record.annealed.iter().map(|raw| ("annealed", raw)));
    let rows: Vec<_> = models.filter_map(|(what, raw)| Some((what, raw, raw.params_digest.as_deref()?))).collect();
    // The newest come last.
    let most = if record.is_watched { MAX_WATCHED } else { MAX_DIGESTS };
    let rows = if record.is_watched { &rows[rows.len().saturating_sub(most)..] } else { &rows[..rows.len().min(most)] };
    if rows.is_empty() {
        return;
    }
    page.element("details").open();
    page.element("summary").filled("Digests of the scored checkpoints");
    page.element("dl").open();
    for (what, raw, digest) in rows {
        page.element("dt").filled(format!("{what}, step {}", raw.step));
        page.element("dd").open();
        page.element("code").attr("title", &raw.path).filled(digest);
        page.close();
    }
    page.close();
    page.close();
}
