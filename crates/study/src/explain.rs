//! The geometry of a trajectory, of the whole model and by groups of tensors, and what it says in sentences.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use thalweg_merge::align::align_sources;
use thalweg_merge::context::RunContext;
use thalweg_merge::engine::open_sources;
use thalweg_merge::geometry::{Geometry, describe_geometry};
use thalweg_merge::gram::{Gram, gram};
use thalweg_merge::plan::{MergePlan, SourceRef};
use thalweg_merge::points::{PointGeometry, describe_points, disjoint_windows};
use thalweg_tensor::TensorSource;

use crate::Error;
use crate::extrapolate::{LEAST_POINTS, default_window};
use crate::record::{GeometryRow, GroupRow};
use crate::request::label;
use crate::tensor_groups::{layer_of, tensor_class_of};
use crate::values::mean;

/// The geometry of a model, of its layers and of classes of tensors.
#[derive(Debug, Clone)]
pub struct TrajectoryGeometry {
    /// Of all parameters together.
    pub whole: Geometry,
    /// Of the means of disjoint windows, where there are three.
    pub points: Option<PointGeometry>,
    /// By layer.
    pub layers: BTreeMap<u64, Geometry>,
    /// By class of tensor, such as `mlp.up_proj.weight`.
    pub classes: BTreeMap<String, Geometry>,
}

/// Takes the inner products of a plan's sources in one reading; see [`crate::request::Resolver::geometry_plan`].
///
/// # Errors
/// `Merge` where the sources cannot be opened, compared or read.
pub fn measure_geometry(plan: &MergePlan, cx: &RunContext<'_>) -> Result<TrajectoryGeometry, Error> {
    let (n_checkpoints, tensors) = tensor_grams(plan, cx)?;
    let zero = || Gram::zero(n_checkpoints);
    let (mut whole, mut layers, mut classes) = (zero(), BTreeMap::new(), BTreeMap::new());
    for (name, gram) in &tensors {
        whole.add(gram);
        classes.entry(tensor_class_of(name)).or_insert_with(zero).add(gram);
        if let Some(layer) = layer_of(name) {
            layers.entry(layer).or_insert_with(zero).add(gram);
        }
    }
    let windows = disjoint_windows(n_checkpoints, default_window(n_checkpoints));
    Ok(TrajectoryGeometry {
        points: (windows.len() >= LEAST_POINTS).then(|| describe_points(&whole, &windows)),
        whole: describe_geometry(&whole),
        layers: layers.into_iter().map(|(layer, gram)| (layer, describe_geometry(&gram))).collect(),
        classes: classes.into_iter().map(|(class, gram)| (class, describe_geometry(&gram))).collect(),
    })
}

/// The inner products of whole models, in one reading.
///
/// # Errors
/// As [`measure_geometry`].
pub(crate) fn measure_gram(plan: &MergePlan, cx: &RunContext<'_>) -> Result<Gram, Error> {
    let (n_checkpoints, tensors) = tensor_grams(plan, cx)?;
    let mut whole = Gram::zero(n_checkpoints);
    tensors.iter().for_each(|(_, gram)| whole.add(gram));
    Ok(whole)
}

/// How many checkpoints there are, and the inner products of each tensor that is averaged.
fn tensor_grams(plan: &MergePlan, cx: &RunContext<'_>) -> Result<(usize, Vec<(String, Gram)>), Error> {
    let sources = open_sources(plan, cx)?;
    let layout = align_sources(&sources, plan, &*cx.storage)?;
    let views = layout.views(&sources);
    let refs: Vec<&dyn TensorSource> = views.iter().map(|view| view as &dyn TensorSource).collect();
    let grams = gram(&refs, &layout, cx)?;
    let names = layout.catalog.entries().iter().map(|entry| entry.name.to_string());
    let averaged = names.zip(grams).filter_map(|(name, gram)| Some((name, gram?)));
    Ok((refs.len(), averaged.collect()))
}

impl TrajectoryGeometry {
    /// Which checkpoints cannot be measured, in words; `None` if all can.
    pub fn fault(&self, chosen: &[SourceRef]) -> Option<String> {
        let not_finite = self.whole.not_finite();
        let what = "NaN, infinity or values too large to square";
        match (not_finite.as_slice(), chosen.last()) {
            ([], _) => None,
            // All products are taken about the newest checkpoint.
            ([.., last], Some(newest)) if last + 1 == chosen.len() => {
                Some(format!("`{}` holds {what}, and all distances are measured from it", label(newest)))
            }
            (some, _) => {
                let labels: Vec<String> = some.iter().map(|&i| format!("`{}`", label(&chosen[i]))).collect();
                let hold = if some.len() == 1 { "holds" } else { "hold" };
                Some(format!("{} {hold} {what}", labels.join(", ")))
            }
        }
    }

    /// The document of `thalweg explain --json`.
    pub fn document(&self, chosen: &[SourceRef]) -> Value {
        let checkpoint =
            |one: &SourceRef| json!({"path": one.path.display().to_string(), "step": one.step, "tokens": one.tokens});
        json!({
            "kind": "thalweg-geometry",
            "version": 1,
            "checkpoints": chosen.iter().map(checkpoint).collect::<Vec<_>>(),
            "model": self.whole,
            "merged_points": self.points.as_ref().map(point_numbers),
            "layers": self.layers,
            "tensor_classes": self.classes,
        })
    }

    /// The same as a part of a study.
    pub fn row(&self, chosen: &[SourceRef]) -> GeometryRow {
        let group = |name: String, geometry: &Geometry| {
            let norm = geometry.norms.last().copied().unwrap_or(0.0);
            let cosines: Vec<f64> = geometry.displacement_cosines.iter().flatten().copied().collect();
            GroupRow {
                name,
                relative_displacement: if norm > 0.0 { mean(&geometry.displacements) / norm } else { 0.0 },
                mean_cosine: (!cosines.is_empty()).then(|| mean(&cosines)),
            }
        };
        let layers = self.layers.iter().map(|(layer, geometry)| group(format!("layer {layer}"), geometry));
        let classes = self.classes.iter().map(|(class, geometry)| group(class.clone(), geometry));
        GeometryRow {
            steps: chosen.iter().enumerate().map(|(i, one)| one.step.unwrap_or(i as u64)).collect(),
            displacements: self.whole.displacements.clone(),
            displacement_cosines: self.whole.displacement_cosines.clone(),
            component_shares: self.whole.component_shares.clone(),
            random_walk_shares: self.whole.random_walk_shares.clone(),
            plane: self.whole.plane.clone(),
            groups: layers.chain(classes).collect(),
            newest_norm: self.whole.norms.last().copied(),
            mean_to_newest: Some(self.whole.mean_to_newest),
        }
    }
}

fn point_numbers(points: &PointGeometry) -> Value {
    let mut numbers = json!(points);
    numbers["verdict"] = json!(if points.is_line() { "line" } else { "no line" });
    numbers["n_points"] = json!(points.leading.len());
    numbers
}

/// The title of a study of the geometry of a run or checkpoint at `path`.
pub fn geometry_title(path: &str) -> String {
    format!("Geometry of {path}")
}

/// What a geometry says: a few words, and sentences with numbers.
pub fn geometry_answer(geometry: &GeometryRow) -> (String, Vec<String>) {
    let is_measured =
        geometry.newest_norm.is_none_or(f64::is_finite) && geometry.displacements.iter().all(|d| d.is_finite());
    if !is_measured {
        let why = "The parameters of a checkpoint are not all finite, so it has no distance to the others.";
        return ("The movement cannot be measured".to_owned(), vec![why.to_owned()]);
    }
    let cosines: Vec<f64> = geometry.displacement_cosines.iter().flatten().copied().collect();
    let mut sentences = Vec::new();
    let mut word = "The run moved".to_owned();
    if !cosines.is_empty() {
        let cosine = mean(&cosines);
        let (is, what) = match cosine {
            c if c > 0.3 => ("The run moves in a straight line", "points in the same direction as the one before it"),
            c if c < -0.3 => ("The run swings", "points back against the one before it"),
            _ => (
                "The run has no consistent direction from checkpoint to checkpoint",
                "is nearly at right angles to the one before it",
            ),
        };
        is.clone_into(&mut word);
        sentences.push(format!("Each displacement {what}: the mean cosine is {cosine:.2} (n = {}).", cosines.len()));
    }
    if let (Some(share), Some(null)) = (geometry.component_shares.first(), geometry.random_walk_shares.first()) {
        /// Closer to a random walk than this, the path shows nothing.
        const ALIKE: f64 = 0.05;
        let so = match share - null {
            more if more > ALIKE => "over the whole window the run drifts along one direction",
            less if less < -ALIKE => "the run moves around a point more than a random walk would",
            _ => "the shape of the path says nothing about this run",
        };
        sentences.push(format!(
            "The first principal component explains {:.0} % of the movement; in a random walk of the same length it \
             explains {:.0} %: {so}.",
            share * 100.0,
            null * 100.0
        ));
    }
    if let (Some(norm), Some(distance)) = (geometry.newest_norm.filter(|norm| *norm > 0.0), geometry.mean_to_newest) {
        sentences.push(format!(
            "The plain mean of all {} checkpoints is {:.1} % of the norm away from the newest one.",
            geometry.steps.len(),
            distance / norm * 100.0
        ));
    }
    (word, sentences)
}

/// Whether the means of disjoint windows lie on a line, in one sentence with its numbers.
pub fn line_answer(points: &PointGeometry) -> Option<String> {
    let (share, walk_share) = (points.component_shares.first()?, points.random_walk_shares.first()?);
    let (cosine, walk_cosine) = (points.mean_cosine()?, points.random_walk_cosine);
    let (m, n) = (points.leading.len(), points.window);
    let (verdict, then) = match points.is_line() {
        true => ("the means lie on a line", "; `thalweg extrapolate` tries steps along it"),
        false => ("the means do not lie on a line", ""),
    };
    Some(format!(
        "{verdict}: for {m} means of {n} checkpoints each, the first component explains {:.0} % (a random walk: {:.0} %), \
         and the mean cosine of successive displacements is {cosine:.2} (a random walk: {walk_cosine:.2}){then}",
        share * 100.0,
        walk_share * 100.0
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cosine: f64, share: f64) -> GeometryRow {
        GeometryRow {
            steps: vec![1, 2, 3, 4],
            displacements: vec![1.0; 3],
            displacement_cosines: vec![Some(cosine); 2],
            component_shares: vec![share],
            random_walk_shares: vec![0.6],
            plane: Vec::new(),
            groups: Vec::new(),
            newest_norm: Some(20.0),
            mean_to_newest: Some(3.0),
        }
    }

    #[test]
    fn the_words_follow_the_numbers() {
        let word = |cosine| geometry_answer(&row(cosine, 0.6)).0;
        assert_eq!(word(0.9), "The run moves in a straight line");
        assert_eq!(word(-0.5), "The run swings");
        assert_eq!(word(-0.08), "The run has no consistent direction from checkpoint to checkpoint");
        let walk = |share| geometry_answer(&row(0.0, share)).1[1].clone();
        assert!(walk(0.62).ends_with("says nothing about this run."));
        assert!(walk(0.9).ends_with("drifts along one direction."));
        assert!(walk(0.3).ends_with("more than a random walk would."));
        assert!(geometry_answer(&row(0.0, 0.6)).1[2].contains("15.0 % of the norm"));
    }
}
