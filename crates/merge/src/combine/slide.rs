//! A worker's part in windows that move: its running sums over one piece, and whether they are in use.

use thalweg_tensor::Dtype;
use thalweg_tensor::kernel::{WeightedSum, WindowSpec, WindowSums};

use super::{CombineJob, Piece, Prepared, Worker};
use crate::context::RunContext;
use crate::merge_layout::output_dtype;
use crate::reading::Action;
use crate::tensor_class::TensorClass;
use crate::window_chain::{WindowOrder, WindowOutput, WindowStep};

/// The running sums of one worker.
#[derive(Debug, Default)]
pub(crate) struct RunningWindows {
    sums: WindowSums,
    /// Whether the piece at hand has any.
    is_running: bool,
}

impl RunningWindows {
    /// The running sums of an output that is made by `step`; `None` where it is summed by itself.
    pub(super) fn sums_for(&self, step: Option<&WindowStep>) -> Option<&WindowSums> {
        (step.is_some() && self.is_running).then_some(&self.sums)
    }
}

impl Prepared {
    /// Finds the order of the outputs for tensors of one class and element type, whose sums are prepared.
    pub(super) fn order_windows(&self, job: &CombineJob<'_>, class: TensorClass, input: Dtype) -> WindowOrder {
        let actions = self.use_of(class).map_or(&[][..], |used| &used.actions);
        let mut windows = Vec::new();
        for (output, action) in actions.iter().enumerate() {
            let dtype = output_dtype(class, input, job.combinations[output].dtype);
            let sum = self.sums.get(&(output, input, dtype)).filter(|sum| sum.is_faster_by_window());
            let weights = sum.and_then(WeightedSum::window_weights);
            if let (Action::Sum { terms }, Some(weights)) = (action, weights) {
                windows.push(WindowOutput { output, sources: terms, weights });
            }
        }
        WindowOrder::find(job.combinations.len(), &windows)
    }
}

impl Worker<'_> {
    /// Brings the running sums to the window that `step` leads to.
    pub(super) fn slide_to(
        &mut self,
        step: Option<&WindowStep>,
        terms: &[usize],
        piece: &Piece<'_>,
        run: &RunContext<'_>,
    ) {
        let Self { inputs, windows: RunningWindows { sums, is_running }, .. } = self;
        let input = |&i: &usize| inputs[i].as_slice();
        match step {
            Some(WindowStep::Start(start)) => {
                let spec = WindowSpec {
                    input: piece.entry.dtype,
                    simd: run.limits.simd,
                    n_longest: start.n_window,
                    weights: start.weights,
                };
                *is_running = sums.prepare(spec, &start.sources.iter().map(input).collect::<Vec<_>>());
                if *is_running {
                    sums.start(&terms.iter().map(input).collect::<Vec<_>>());
                }
            }
            Some(WindowStep::Move(pairs)) if *is_running => {
                let n_window = u32::try_from(terms.len()).unwrap_or(u32::MAX);
                pairs.iter().for_each(|(leaves, enters)| sums.advance(input(leaves), input(enters), n_window));
            }
            Some(WindowStep::Move(_) | WindowStep::Stay) | None => {}
        }
    }
}
