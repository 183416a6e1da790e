//! Two checkpoints compared tensor by tensor: equal bytes, distance, cosine, ULPs.

use serde_json::{Value, json};
use thalweg_checkpoint::Checkpoint;
use thalweg_tensor::kernel::{difference_stats, gram_into, ulp_difference, widen_into};
use thalweg_tensor::{Dtype, DtypeClass, TensorSource, display_name, part_of, to_index};

use crate::context::{RunContext, Stage};
use crate::error::Error;
use crate::geometry::root;
use crate::memory::{Held, PieceSize};
use crate::merge_layout::MergeLayout;
use crate::plan::OutputPlan;
use crate::unit::{Part, UnitList};
use crate::workers::for_each_part;

/// How two tensors, or two checkpoints, differ.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Distance {
    /// Elements whose bytes differ.
    pub n_differing: u64,
    /// What was measured; `None` for element types that are only compared byte by byte.
    measure: Option<Measure>,
}

/// Sums and extremes of a pair of floating tensors. NaN where either holds a NaN.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Measure {
    max_abs: f64,
    /// `None` where the element types differ: one of the two has no units of the other's.
    max_ulps: Option<u64>,
    /// <a-b, a-b>, <a-b, b>, <b, b>.
    products: [f64; 3],
}

impl Distance {
    fn add(&mut self, next: &Self) {
        self.n_differing += next.n_differing;
        self.measure = match (self.measure, next.measure) {
            (Some(ours), Some(theirs)) => Some(ours.and(&theirs)),
            (ours, theirs) => ours.or(theirs),
        };
    }

    /// Euclidean distance; `None` where only bytes were compared, NaN where either holds a NaN.
    pub fn distance(&self) -> Option<f64> {
        self.measure.map(|measure| root(measure.products[0]))
    }

    /// Largest difference of an element; as [`Self::distance`].
    pub fn max_abs(&self) -> Option<f64> {
        self.measure.map(|measure| if measure.products[0].is_nan() { f64::NAN } else { measure.max_abs })
    }

    /// Largest difference in ULPs; `None` where only bytes or values of different element types
    /// were compared.
    pub fn max_ulps(&self) -> Option<u64> {
        self.measure.and_then(|measure| measure.max_ulps)
    }

    /// Whether every number that the distance is made of is finite.
    pub fn is_finite(&self) -> bool {
        self.measure.is_none_or(|measure| measure.products.iter().all(|product| product.is_finite()))
    }

    /// The numbers by name, as JSON.
    fn document(&self) -> Value {
        json!({
            "equal": self.n_differing == 0,
            "distance": self.distance(),
            "cosine": self.cosine(),
            "max_abs": self.max_abs(),
            "max_ulps": self.max_ulps(),
            "n_differing": self.n_differing,
        })
    }

    /// Cosine of the two as vectors; `None` when one has no length or is not finite.
    pub fn cosine(&self) -> Option<f64> {
        let [dd, db, bb] = self.measure?.products;
        let aa = dd + 2.0 * db + bb;
        (aa > 0.0 && bb > 0.0).then(|| ((db + bb) / (aa.sqrt() * bb.sqrt())).clamp(-1.0, 1.0)).filter(|c| !c.is_nan())
    }
}

impl Measure {
    fn and(mut self, next: &Self) -> Self {
        self.max_abs = self.max_abs.max(next.max_abs);
        // A total has units only where some tensor has.
        self.max_ulps = self.max_ulps.max(next.max_ulps);
        self.products.iter_mut().zip(next.products).for_each(|(sum, term)| *sum += term);
        self
    }
}

/// One tensor of either checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorDiff {
    /// Its name, safe to print.
    pub name: String,
    /// How the two differ, or in words why they cannot be compared.
    pub outcome: Result<Distance, String>,
    /// Both element types in words, where they differ and values were compared.
    pub types: Option<String>,
}

impl TensorDiff {
    /// Whether both are of one element type and have the same bytes.
    pub fn is_equal(&self) -> bool {
        self.types.is_none() && self.outcome.as_ref().is_ok_and(|distance| distance.n_differing == 0)
    }
}

/// How two checkpoints differ.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckpointDiff {
    /// All tensors of either, sorted by name.
    pub tensors: Vec<TensorDiff>,
    /// Over all tensors that could be compared.
    pub total: Distance,
}

impl CheckpointDiff {
    /// Whether both hold the same tensors with the same bytes.
    pub fn is_equal(&self) -> bool {
        self.tensors.iter().all(TensorDiff::is_equal)
    }

    /// The comparison as one JSON document.
    pub fn document(&self) -> Value {
        let tensor = |tensor: &TensorDiff| {
            let mut row = match &tensor.outcome {
                Ok(distance) => distance.document(),
                Err(why) => json!({"equal": false, "fault": why}),
            };
            if let Some(types) = &tensor.types {
                row["equal"] = json!(false);
                row["types"] = json!(types);
            }
            row["name"] = json!(tensor.name);
            row
        };
        let mut document = json!({"kind": "thalweg-diff", "version": 1, "equal": self.is_equal()});
        document["n_not_compared"] = json!(self.n_not_compared());
        document["remarks"] = json!(self.remarks());
        if let (Some(document), Value::Object(total)) = (document.as_object_mut(), self.total.document()) {
            document.extend(total.into_iter().filter(|(key, _)| key != "equal"));
            document.insert("tensors".to_owned(), self.tensors.iter().map(tensor).collect());
        }
        document
    }

    /// Why numbers of the total do not cover all tensors or are not finite; empty where they cover all.
    pub fn remarks(&self) -> Vec<String> {
        let apart = |tensor: &TensorDiff| tensor.outcome.as_ref().err().cloned();
        let measured = |tensor: &TensorDiff| tensor.outcome.as_ref().ok().map(|one| (one.measure.is_some(), *one));
        let bytes_only = |tensor: &TensorDiff| {
            measured(tensor).filter(|(has_distance, _)| !has_distance).map(|_| "not floating".to_owned())
        };
        let not_finite = |tensor: &TensorDiff| {
            measured(tensor).filter(|(_, one)| !one.is_finite()).map(|_| "NaN, infinity or overflow".to_owned())
        };
        let widened = |tensor: &TensorDiff| tensor.types.clone();
        let rows = [
            self.remark("not compared", apart),
            self.remark("compared as values, without ULPs", widened),
            self.remark("compared byte by byte, without a distance", bytes_only),
            self.remark("no finite distance", not_finite),
        ];
        rows.into_iter().flatten().collect()
    }

    /// How many tensors have a `reason`, and the first of them.
    fn remark(&self, what: &str, reason: impl Fn(&TensorDiff) -> Option<String>) -> Option<String> {
        let (first, why) = self.tensors.iter().find_map(|tensor| Some((tensor, reason(tensor)?)))?;
        let n = self.tensors.iter().filter(|tensor| reason(tensor).is_some()).count();
        let such_as = if n == 1 { "" } else { "such as " };
        Some(format!("{what}: {}, {such_as}`{}` ({why})", part_of(n, self.tensors.len(), "tensor"), first.name))
    }

    /// Tensors that only one of the two has, or that have other types or shapes.
    pub fn n_not_compared(&self) -> usize {
        self.tensors.iter().filter(|tensor| tensor.outcome.is_err()).count()
    }
}

/// Why no tensor of an output could be compared with `target`: the first obstacle in words, and whether the element
/// type alone is in the way. `None` where one can be.
pub fn find_obstacle(output: &OutputPlan, layout: &MergeLayout, target: &Checkpoint) -> Option<(String, bool)> {
    let mut first = None;
    for (t, entry) in layout.catalog.entries().iter().enumerate() {
        let name = display_name(&entry.name);
        let dtype = layout.output_dtype(t, output.dtype);
        let (why, only_dtype) = match target.catalog().find(&entry.name).map(|t| &target.catalog().entries()[t]) {
            None => (format!("`{name}` is only in the merge"), false),
            Some(theirs) if (theirs.dtype, &theirs.shape) == (dtype, &entry.shape) => return None,
            Some(theirs) => (
                format!("`{name}` is {dtype} {} in the merge and {} {} there", entry.shape, theirs.dtype, theirs.shape),
                theirs.shape == entry.shape,
            ),
        };
        first.get_or_insert((why, only_dtype));
    }
    first
}

/// Compares `a` with `b`; each byte of either is read once.
///
/// # Errors
/// When a tensor cannot be read whole; `Interrupted`.
pub fn diff_checkpoints(a: &Checkpoint, b: &Checkpoint, run: &RunContext<'_>) -> Result<CheckpointDiff, Error> {
    let pair = Pair { a, b, partners: partners(a, b) };
    let distances = pair.measure(run)?;
    let mut total = Distance::default();
    let mut tensors = Vec::new();
    for ((entry, partner), distance) in a.catalog().entries().iter().zip(&pair.partners).zip(distances) {
        let (outcome, types) = match partner {
            Partner::Same(_) => (Ok(distance), None),
            Partner::Widened { types, .. } => (Ok(distance), Some(types.clone())),
            Partner::Other(why) => (Err(why.clone()), None),
        };
        outcome.iter().for_each(|distance| total.add(distance));
        tensors.push(TensorDiff { name: display_name(&entry.name), outcome, types });
    }
    for entry in b.catalog().entries().iter().filter(|entry| a.catalog().find(&entry.name).is_none()) {
        let outcome = Err("only in the second".to_owned());
        tensors.push(TensorDiff { name: display_name(&entry.name), outcome, types: None });
    }
    tensors.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(CheckpointDiff { tensors, total })
}

/// The counterpart of a tensor of the first checkpoint in the second.
enum Partner {
    Same(usize),
    /// Numbers of another element type, or codes with scales: compared as the doubles that they stand for.
    Widened {
        other: usize,
        /// Both types in words.
        types: String,
    },
    Other(String),
}

impl Partner {
    /// Number of the other tensor, if the two are compared.
    fn place(&self) -> Option<usize> {
        match self {
            Self::Same(other) | Self::Widened { other, .. } => Some(*other),
            Self::Other(_) => None,
        }
    }
}

fn partners(a: &Checkpoint, b: &Checkpoint) -> Vec<Partner> {
    let dtype = |checkpoint: &Checkpoint, t: usize| match checkpoint.is_dequantised(t) {
        true => "FP8 with block scales".to_owned(),
        false => checkpoint.catalog().entries()[t].dtype.to_string(),
    };
    let partner = |(t, entry): (usize, &thalweg_tensor::TensorEntry)| {
        let Some(other) = b.catalog().find(&entry.name) else { return Partner::Other("only in the first".to_owned()) };
        let theirs = &b.catalog().entries()[other];
        let is_same_type = entry.dtype == theirs.dtype && a.is_dequantised(t) == b.is_dequantised(other);
        let are_numbers = [entry, theirs].iter().all(|one| one.dtype.class() == DtypeClass::Mergeable);
        let (ours, other_type) = (dtype(a, t), dtype(b, other));
        if theirs.shape == entry.shape && is_same_type {
            return Partner::Same(other);
        }
        if theirs.shape == entry.shape && are_numbers {
            return Partner::Widened { other, types: format!("{ours} against {other_type}") };
        }
        Partner::Other(format!("{ours} {} against {other_type} {}", entry.shape, theirs.shape))
    };
    a.catalog().entries().iter().enumerate().map(partner).collect()
}

struct Pair<'a> {
    a: &'a Checkpoint,
    b: &'a Checkpoint,
    partners: Vec<Partner>,
}

impl Pair<'_> {
    fn measure(&self, run: &RunContext<'_>) -> Result<Vec<Distance>, Error> {
        let entries = self.a.catalog().entries();
        let is_wanted = |t: usize| self.partners[t].place().is_some();
        let units = UnitList::cut(self.a.catalog(), is_wanted, |t| entries[t].dtype.bytes().unwrap_or(1));
        let wanted_bytes: u64 = (0..entries.len()).filter(|&t| is_wanted(t)).map(|t| entries[t].n_bytes()).sum();
        run.progress.begin(Stage::Verify, 2 * wanted_bytes);
        let held = Held::live(2).bytes(self.a.catalog()).saturating_add(Held::live(2).bytes(self.b.catalog()));
        // Numbers that are widened are held twice more, as doubles and as their bytes.
        let has_widened = self.partners.iter().any(|partner| matches!(partner, Partner::Widened { .. }));
        let piece = PieceSize::fit(&run.limits, if has_widened { 6 } else { 2 }, 8, held)?;
        let buffers = || [Vec::new(), Vec::new()];
        let parts = for_each_part(run, &units, &buffers, &|part, buffers| self.do_part(part, piece, buffers, run))?;
        let mut distances = vec![Distance::default(); entries.len()];
        parts.iter().for_each(|(tensor_idx, _, distance)| distances[*tensor_idx].add(distance));
        Ok(distances)
    }

    fn do_part(
        &self,
        part: &Part,
        piece: PieceSize,
        [a, b]: &mut [Vec<u8>; 2],
        run: &RunContext<'_>,
    ) -> Result<Distance, Error> {
        let entry = &self.a.catalog().entries()[part.tensor_idx];
        let Some(other_idx) = self.partners[part.tensor_idx].place() else { return Ok(Distance::default()) };
        let their_dtype = self.b.catalog().entries()[other_idx].dtype;
        let is_widened = matches!(self.partners[part.tensor_idx], Partner::Widened { .. });
        let mut distance = Distance::default();
        for elements in piece.pieces_of(part) {
            let n_bytes = to_index(entry.dtype.bytes_of(elements.end - elements.start).unwrap_or(0));
            let read = |source: &Checkpoint, tensor_idx, dtype: Dtype, buffer: &mut Vec<u8>| {
                buffer.resize(to_index(dtype.bytes_of(elements.end - elements.start).unwrap_or(0)), 0);
                source
                    .read_elements(tensor_idx, elements.clone(), buffer)
                    .map_err(|source| Error::Access { tensor: display_name(&entry.name), source })
            };
            read(self.a, part.tensor_idx, entry.dtype, a)?;
            read(self.b, other_idx, their_dtype, b)?;
            distance.add(&if is_widened {
                compare_values((entry.dtype, a), (their_dtype, b))
            } else {
                let is_code = self.a.is_dequantised(part.tensor_idx);
                without_ulps(compare_bytes(entry.dtype, a, b), is_code)
            });
            run.progress.advance(2 * n_bytes as u64);
        }
        Ok(distance)
    }
}

/// Products of codes and scales are doubles, whose units say nothing about the codes.
fn without_ulps(mut distance: Distance, is_code: bool) -> Distance {
    if let Some(measure) = distance.measure.as_mut().filter(|_| is_code) {
        measure.max_ulps = None;
    }
    distance
}

/// Compares numbers of two element types as doubles, which hold both exactly.
fn compare_values((ours, a): (Dtype, &[u8]), (theirs, b): (Dtype, &[u8])) -> Distance {
    let doubles = |dtype: Dtype, bytes: &[u8]| -> Vec<u8> {
        let mut row = vec![0.0; bytes.len() / to_index(dtype.bytes().unwrap_or(1))];
        widen_into(dtype, bytes, &mut row);
        row.into_iter().flat_map(f64::to_le_bytes).collect()
    };
    without_ulps(compare_bytes(Dtype::F64, &doubles(ours, a), &doubles(theirs, b)), true)
}

fn compare_bytes(dtype: Dtype, a: &[u8], b: &[u8]) -> Distance {
    if dtype.class() != DtypeClass::Mergeable {
        let element_bytes = to_index(dtype.bytes().unwrap_or(1));
        let pairs = a.chunks(element_bytes).zip(b.chunks(element_bytes));
        return Distance { n_differing: pairs.filter(|(a, b)| a != b).count() as u64, measure: None };
    }
    let ulps = ulp_difference(dtype, a, b);
    let mut products = [0.0; 3];
    gram_into(dtype, b, &[a], &mut products);
    let max_abs = difference_stats(dtype, a, b).max_abs_difference;
    let measure = Some(Measure { max_abs, max_ulps: Some(ulps.max_ulps), products });
    Distance { n_differing: ulps.n_differing, measure }
}
