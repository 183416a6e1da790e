//! `thalweg explain`: the geometry of a trajectory, from inner products alone.

use std::fmt::Write;

use thalweg_merge::geometry::Geometry;
use thalweg_merge::plan::SourceRef;
use thalweg_storage::publish::publish_file;
use thalweg_study::explain::{TrajectoryGeometry, geometry_answer, geometry_title, line_answer, measure_geometry};
use thalweg_study::record::StudyRecord;
use thalweg_study::request::{SourceOrder, choose_checkpoints, label};
use thalweg_study::text::or_dash;
use thalweg_study::values::mean;
use thalweg_study::write_study::{check_study_folder, write_study};
use thalweg_trajectory::check_new_document;

use crate::args::ExplainArgs;
use crate::command::Outcome;
use crate::error::Error;
use crate::host::{World, command_line};
use crate::svg::{PLANE_FILE, draw_plane};

pub(crate) fn run(args: &ExplainArgs, world: &World<'_>) -> Result<Outcome, Error> {
    let resolver = world.resolver();
    let from = (&args.selection, &args.run.options);
    let chosen = choose_checkpoints(&args.inputs, from, SourceOrder::BySteps { keep_option: None }, &resolver)?;
    let plan = resolver.geometry_plan(&chosen)?;
    if let Some(path) = &args.svg {
        check_new_document(&world.storage, path, PLANE_FILE)?;
    }
    if let Some(folder) = &args.out {
        check_study_folder(&world.storage, folder)?;
    }
    let run = world.context(args.memory);
    let report = Report(measure_geometry(&plan, &run)?);
    let fault = report.0.fault(&chosen);
    if let Some(fault) = fault.as_ref().filter(|_| args.svg.is_some() || args.out.is_some()) {
        return Err(Error::usage_with_hint(
            format!("the trajectory cannot be drawn: {fault}"),
            "leave out `--svg` and `-o` to print the part that can be measured, or choose other checkpoints",
        ));
    }
    if let Some(path) = &args.svg {
        let labels: Vec<String> = chosen.iter().map(label).collect();
        let svg = draw_plane(&report.0.whole, &labels);
        publish_file(&*world.storage, path, svg.as_bytes(), PLANE_FILE)?;
        world.note(format!("the trajectory is drawn in `{}`", path.display()));
    }
    if let Some(folder) = &args.out {
        let run_path = args.inputs.first().map_or_else(String::new, |path| path.display().to_string());
        let mut record = StudyRecord::new(geometry_title(&run_path), run_path, command_line());
        record.geometry = Some(report.0.row(&chosen));
        world.storage.create_folder(folder)?;
        let page = write_study(&*world.storage, folder, &record)?;
        world.note(format!("the page is `{}`", page.display()));
    }
    // The document has each tensor class and layer, so it is not built in vain.
    if world.messages.wants_json() {
        world.messages.json(&report.0.document(&chosen));
    }
    world.messages.text(&report.text(&chosen));
    fault.iter().for_each(|fault| world.note(fault));
    Ok(Outcome::Done)
}

/// The geometry as it is printed.
struct Report(TrajectoryGeometry);

impl Report {
    fn text(&self, chosen: &[SourceRef]) -> String {
        let (word, sentences) = geometry_answer(&self.0.row(chosen));
        let mut text = format!("{word}. {}\n\n", sentences.join(" "));
        let whole = &self.0.whole;
        let _ = writeln!(
            text,
            "{:<22} {:>12} {:>12} {:>12} {:>10}",
            "checkpoint", "norm", "to newest", "from before", "cosine"
        );
        for (i, one) in chosen.iter().enumerate() {
            let to_newest = whole.distances[i].last().copied().unwrap_or(0.0);
            let before = if i == 0 { "-".to_owned() } else { format!("{:.4}", whole.displacements[i - 1]) };
            let cosine = i.checked_sub(2).and_then(|k| whole.displacement_cosines[k]);
            let cosine = or_dash(cosine, |cosine| format!("{cosine:.3}"));
            let (label, norm) = (label(one), whole.norms[i]);
            let _ = writeln!(text, "{label:<22} {norm:>12.4} {to_newest:>12.4} {before:>12} {cosine:>10}");
        }
        let shares = |shares: &[f64]| shares.iter().map(|share| format!("{share:.3}")).collect::<Vec<_>>().join(" ");
        let _ = writeln!(text, "\nvariance on the leading components      {}", shares(&whole.component_shares));
        let _ = writeln!(text, "  of a random walk of this length       {}", shares(&whole.random_walk_shares));
        let _ = writeln!(text, "  of noise about a fixed point          {}", shares(&whole.white_noise_shares));
        let _ = writeln!(text, "drift along the first, per interval     {:.4}", whole.drift_per_interval);
        let _ = writeln!(text, "lag of the plain mean, in intervals     {}", whole.averaging_lag);
        let _ = writeln!(text, "distance of the plain mean to newest    {:.4}", whole.mean_to_newest);
        if let Some(answer) = self.0.points.as_ref().and_then(line_answer) {
            let _ = writeln!(text, "\n{answer}");
        }
        group_table(&mut text, "layer", self.0.layers.iter().map(|(layer, geometry)| (layer.to_string(), geometry)));
        group_table(
            &mut text,
            "tensor class",
            self.0.classes.iter().map(|(class, geometry)| (class.clone(), geometry)),
        );
        text
    }
}

fn group_table<'a>(text: &mut String, title: &str, rows: impl Iterator<Item = (String, &'a Geometry)>) {
    let mut rows = rows.peekable();
    if rows.peek().is_none() {
        return;
    }
    let _ = writeln!(text, "\n{title:<34} {:>10} {:>10} {:>12} {:>10}", "norm", "moved", "mean cosine", "PC1");
    for (name, geometry) in rows {
        let norm = geometry.norms.last().copied().unwrap_or(0.0);
        let moved = geometry.distances.first().and_then(|row| row.last()).copied().unwrap_or(0.0);
        let cosines: Vec<f64> = geometry.displacement_cosines.iter().flatten().copied().collect();
        let mean = or_dash((!cosines.is_empty()).then(|| mean(&cosines)), |mean| format!("{mean:.3}"));
        let first = geometry.component_shares.first().copied().unwrap_or(0.0);
        let _ = writeln!(text, "{name:<34} {norm:>10.4} {moved:>10.4} {mean:>12} {first:>10.3}");
    }
}
