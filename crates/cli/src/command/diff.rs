//! `thalweg diff`: two checkpoints, tensor by tensor.

use std::cmp::Reverse;
use std::fmt::Write;

use thalweg_checkpoint::{ReadOptions, open_checkpoint_with};
use thalweg_merge::diff::{CheckpointDiff, Distance, TensorDiff, diff_checkpoints};
use thalweg_study::text::or_dash;
use thalweg_tensor::{counted, part_of};

use crate::args::DiffArgs;
use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;
use crate::options::show_figures;

/// Tensors that are printed; all of them are in the JSON.
const MAX_ROWS: usize = 20;

pub(crate) fn run(args: &DiffArgs, world: &World<'_>) -> Result<Outcome, Error> {
    let reading = ReadOptions { dequantise: true, ..world.reading.clone() };
    let a = open_checkpoint_with(&world.storage, &world.resolve_checkpoint(&args.a)?, &reading)?;
    let b = open_checkpoint_with(&world.storage, &world.resolve_checkpoint(&args.b)?, &reading)?;
    let diff = diff_checkpoints(&a, &b, &world.context(args.memory))?;
    world.answer(&diff.document(), &table(&diff));
    diff.remarks().iter().for_each(|remark| world.note(remark));
    Ok(Outcome::when(diff.is_equal()))
}

fn table(diff: &CheckpointDiff) -> String {
    if diff.is_equal() {
        return format!("equal: {}, byte for byte\n", counted(diff.tensors.len(), "tensor"));
    }
    let mut rows: Vec<&TensorDiff> = diff.tensors.iter().filter(|tensor| !tensor.is_equal()).collect();
    // What has no distance comes first, then the farthest apart. NaN, whatever its sign, is above infinity.
    rows.sort_by_key(|tensor| {
        let far = tensor.outcome.as_ref().ok().and_then(Distance::distance);
        Reverse(far.map_or(u64::MAX, |far| far.abs().to_bits()))
    });
    let mut text = String::from("  distance     cosine   largest       ulps  tensor\n");
    for tensor in rows.iter().take(MAX_ROWS) {
        let _ = match &tensor.outcome {
            Ok(distance) => {
                let types = tensor.types.as_ref().map_or_else(String::new, |types| format!(" ({types})"));
                writeln!(text, "{}  {}{types}", columns(distance), tensor.name)
            }
            Err(why) => writeln!(text, "{why:>40}  {}", tensor.name),
        };
    }
    if rows.len() > MAX_ROWS {
        let _ = writeln!(text, "{:>40}  and {} more (`--json` has all)", "", rows.len() - MAX_ROWS);
    }
    let differ = if rows.len() == 1 { "differs" } else { "differ" };
    let part = part_of(rows.len(), diff.tensors.len(), "tensor");
    let _ = writeln!(text, "{}  in total, {part} {differ}", columns(&diff.total));
    text
}

fn columns(distance: &Distance) -> String {
    let far = or_dash(distance.distance(), show_figures);
    let cosine = or_dash(distance.cosine(), |cosine| format!("{cosine:.6}"));
    let largest = or_dash(distance.max_abs(), show_figures);
    let ulps = or_dash(distance.max_ulps(), |ulps| ulps.to_string());
    format!("{far:>10} {cosine:>10} {largest:>9} {ulps:>10}")
}
