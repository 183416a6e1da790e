//! `thalweg mix check`.

use std::fmt::Write;

use thalweg_study::evaluator::Evaluator;
use thalweg_study::mix::{CheckOutcome, CheckRequest, Verdict, check_components};
use thalweg_study::text::or_dash;
use thalweg_tensor::display_name;

use super::components;
use crate::args::MixCheckArgs;
use crate::command::Outcome;
use crate::error::Error;
use crate::host::{SUMMING_MEMORY_BYTES, World};
use crate::messages::document_of;
use crate::scoring::{make_evaluator, open_suites};

pub(super) fn run(args: &MixCheckArgs, world: &World<'_>) -> Result<Outcome, Error> {
    let resolver = world.resolver();
    let request = CheckRequest {
        base: resolver.lone_model(&args.base, &args.run.options)?,
        components: components(&args.component, &args.run, &resolver)?,
    };
    let suites = open_suites(&args.scoring, None, world)?;
    let cx = world.quiet_context(SUMMING_MEMORY_BYTES);
    let scores = args.scoring.is_given();
    let mut evaluator: Option<Box<dyn Evaluator + '_>> = match scores {
        true => {
            let from = (request.base.path.as_path(), None);
            Some(make_evaluator(&args.scoring, &suites, from, (world, &cx))?)
        }
        false => None,
    };
    let evaluator = evaluator.as_mut().map(|evaluator| &mut **evaluator as &mut dyn Evaluator);
    let outcome = check_components(&request, evaluator, (&resolver, &cx))?;
    world.answer(&document_of("thalweg-mix-check", &outcome), &text(&outcome));
    if !scores {
        world.note("without `--suite`, the means of pairs are not scored");
    }
    Ok(Outcome::when(outcome.verdict != Verdict::Refuse))
}

fn text(outcome: &CheckOutcome) -> String {
    let mut text = String::new();
    let verdict = match outcome.verdict {
        Verdict::Ok => "ok: averages of these components can be trusted",
        Verdict::Risky => "risky: compare with real runs before trusting averages",
        Verdict::Refuse => "refuse: these are not components of one base",
    };
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{verdict}");
    outcome.reasons.iter().for_each(|reason| {
        let _ = writeln!(text, "  {reason}");
    });
    let _ = writeln!(text, "\n{:<16} {:>7}  largest in{:<22} cosine of deltas", "component", "delta", "");
    for one in &outcome.components {
        let largest = one.size_by_class.iter().max_by(|a, b| a.1.total_cmp(b.1));
        let largest = or_dash(largest, |(class, size)| format!("{class} {size:.3}"));
        let cosines: Vec<String> = one
            .cosines
            .iter()
            .map(|(name, cosine)| {
                format!("{} {}", display_name(name), or_dash(*cosine, |cosine| format!("{cosine:.2}")))
            })
            .collect();
        let _ =
            writeln!(text, "{:<16} {:>7.3}  {largest:<32} {}", display_name(&one.name), one.size, cosines.join(", "));
    }
    if !outcome.midpoints.is_empty() {
        let _ = writeln!(text, "\n{:<32} {:<28} {:>9} {:>19} {:>9}", "mean of", "score", "mean", "ends", "barrier");
        for row in &outcome.midpoints {
            let [a, b] = &row.between;
            let ends = format!("{:.4}, {:.4}", row.ends[0], row.ends[1]);
            let names = format!("{}, {}", display_name(a), display_name(b));
            let _ = writeln!(
                text,
                "{names:<32} {:<28} {:>9.4} {ends:>19} {:>+9.4}",
                row.measure, row.midpoint, row.barrier
            );
        }
    }
    text
}
