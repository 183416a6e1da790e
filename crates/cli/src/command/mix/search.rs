//! `thalweg mix search`.

use std::fmt::Write;

use thalweg_study::mix::{MixSpace, SearchOptions, SearchOutcome, read_trials, search_mixtures};
use thalweg_study::text::or_dash;
use thalweg_tensor::shell_path;
use thalweg_tensor::{counted, display_name};

use super::components;
use crate::args::MixSearchArgs;
use crate::command::Outcome;
use crate::error::Error;
use crate::host::{SUMMING_MEMORY_BYTES, World};
use crate::messages::document_of;
use crate::meter::ScoringMeter;
use crate::options::{show_cost, show_gain};
use crate::scoring::{check_scoring, make_evaluator, open_suites};

pub(super) fn run(args: &MixSearchArgs, world: &World<'_>) -> Result<Outcome, Error> {
    check_scoring(&args.scoring, "which suite should score the merges?")?;
    let resolver = world.resolver();
    let components = components(&args.component, &args.run, &resolver)?;
    let names: Vec<String> = components.iter().map(|one| one.name.clone()).collect();
    let space = MixSpace::new(&names, &args.general, args.beta)?;
    let given = args.mixtures.as_deref().map(|path| read_trials(&*world.storage, path)).transpose()?;
    let suites = open_suites(&args.scoring, None, world)?;
    let cx = world.quiet_context(SUMMING_MEMORY_BYTES);
    let from = (components[0].source.path.as_path(), None);
    let mut evaluator = make_evaluator(&args.scoring, &suites, from, (world, &cx))?;
    let n_given = given.as_ref().map(Vec::len);
    let mut options = SearchOptions {
        n: args.n,
        rounds: args.rounds,
        seed: args.seed,
        objective: args.objective,
        given,
        by: args.scoring.by.clone(),
        path: args.out.clone(),
        on_score: &mut |_| {},
    };
    // The region's mean and what it is compared with come last.
    let n_models = n_given.unwrap_or_else(|| options.n_mixtures()).saturating_add(1);
    let meter = ScoringMeter::new(world.messages, n_models, "mixtures");
    let mut on_score = |n_done: usize| meter.show(n_done, None);
    options.on_score = &mut on_score;
    let outcome = search_mixtures((&components, &space), &mut *evaluator, options, (&resolver, &cx))?;
    Ok(world.answer(&document_of("thalweg-mix-search", &outcome), &text(&outcome)))
}

fn text(outcome: &SearchOutcome) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{:<16} {:>12} {:>18} {:>12} {:>18}",
        "region", "coefficient", "10 to 90 %", "data share", "10 to 90 %"
    );
    for row in &outcome.region {
        let range = |[low, _, high]: [f64; 3]| format!("{low:.3} to {high:.3}");
        let _ = writeln!(
            text,
            "{:<16} {:>12.3} {:>18} {:>12.3} {:>18}",
            display_name(&row.component),
            row.coefficient,
            range(row.coefficient_quantiles),
            row.data_share,
            range(row.data_share_quantiles)
        );
    }
    let _ = writeln!(
        text,
        "data shares: what a run trains on, with {:.0} % `{}` in every other component",
        outcome.beta * 100.0,
        display_name(&outcome.general)
    );
    let measures: Vec<&String> = outcome.models.first().into_iter().flat_map(|one| one.measures.keys()).collect();
    for measure in measures {
        let predictor = outcome.predictor.iter().find(|row| row.measure == *measure);
        let rho = or_dash(predictor.and_then(|row| row.left_out_spearman), |rho| format!("{rho:.2}"));
        let error = or_dash(predictor, |row| format!("{:.4}", row.left_out_error));
        let _ = writeln!(text, "\n{measure}: leave-one-out error of the predictor {error}, rank correlation {rho}");
        for model in &outcome.models {
            let value = or_dash(model.measures.get(measure), |value| format!("{value:.4}"));
            let gain = model
                .gains_of_region
                .get(measure)
                .map_or_else(String::new, |gain| format!("  the region's mean gains {}", show_gain(*gain)));
            let _ = writeln!(text, "  {:<14} {value:>9}{gain}", model.name);
        }
    }
    let cost = show_cost(&counted(outcome.n_trials, "mixture"), &outcome.cost);
    let _ = writeln!(text, "\nscored {cost}, into `{}`", outcome.path.display());
    let path = shell_path(&outcome.path);
    let _ = writeln!(text, "next: train a few mixtures, and `thalweg mix validate --trials {path} --references FILE`");
    text
}
