//! `thalweg diff`: two checkpoints, tensor by tensor.

use std::fmt::Write;

use thalweg_checkpoint::{ReadOptions, open_checkpoint_with};
use thalweg_merge::diff::{CheckpointDiff, Distance, TensorDiff, diff_checkpoints};

use crate::args::DiffArgs;
use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;
use crate::messages::Messages;

/// Tensors that are printed; all of them are in the JSON.
const MAX_ROWS: usize = 20;

pub(crate) fn run(args: &DiffArgs, world: &World<'_>, messages: &Messages) -> Result<Outcome, Error> {
    let reading = ReadOptions { dequantise: true, ..world.reading.clone() };
    let a = open_checkpoint_with(&world.storage, &world.resolve_checkpoint(&args.a)?, &reading)?;
    let b = open_checkpoint_with(&world.storage, &world.resolve_checkpoint(&args.b)?, &reading)?;
    let diff = diff_checkpoints(&a, &b, &world.context(args.memory.0));
    world.clear_progress();
    let diff = diff?;
    messages.json(&diff.document());
    messages.text(&table(&diff));
    Ok(if diff.is_equal() { Outcome::Done } else { Outcome::No })
}

fn table(diff: &CheckpointDiff) -> String {
    if diff.is_equal() {
        return format!("equal: {} tensors, byte for byte\n", diff.tensors.len());
    }
    let mut rows: Vec<&TensorDiff> = diff
        .tensors
        .iter()
        .filter(|tensor| tensor.outcome.as_ref().map_or(true, |distance| distance.n_differing > 0))
        .collect();
    // What cannot be compared comes first, then the farthest apart.
    rows.sort_by(|x, y| {
        let far = |tensor: &TensorDiff| tensor.outcome.as_ref().map_or(f64::INFINITY, Distance::distance);
        far(y).total_cmp(&far(x))
    });
    let mut text = String::from("  distance     cosine   largest       ulps  tensor\n");
    for tensor in rows.iter().take(MAX_ROWS) {
        let _ = match &tensor.outcome {
            Ok(distance) => writeln!(text, "{}  {}", columns(distance), tensor.name),
            Err(why) => writeln!(text, "{why:>40}  {}", tensor.name),
        };
    }
    if rows.len() > MAX_ROWS {
        let _ = writeln!(text, "{:>40}  and {} more (`--json` has all)", "", rows.len() - MAX_ROWS);
    }
    let _ =
        writeln!(text, "{}  in total, {} of {} tensors differ", columns(&diff.total), rows.len(), diff.tensors.len());
    text
}

fn columns(distance: &Distance) -> String {
    let cosine = distance.cosine().map_or_else(|| "-".to_owned(), |cosine| format!("{cosine:.6}"));
    format!("{:>10.4e} {cosine:>10} {:>9.2e} {:>10}", distance.distance(), distance.max_abs, distance.max_ulps)
}
