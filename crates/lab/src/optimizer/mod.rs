//! Optimizers on flat arenas: which rule moves which range, and one step of all of them.
//!
//! Parameters, gradients and moments are slices of one length. Work is cut into blocks at fixed places, so the bits do
//! not depend on the number of threads.

pub mod adamw;
pub mod muon;

use std::ops::Range;

use rayon::prelude::*;
use thalweg_model::{ParamLayout, ParamRole};

use crate::config::{OptimizerKind, OptimizerSection};
use adamw::{AdamwStep, adamw_block};
use muon::{MuonScratch, MuonStep, muon_matrix};

/// Elements of a block: four arenas of it fit a core's second-level cache.
pub const BLOCK_ELEMENTS: usize = 1 << 14;

/// What moves a range of the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// AdamW, decayed or not.
    Adamw {
        /// Whether weight decay applies.
        decay: Decay,
    },
    /// Muon on one matrix.
    Muon {
        /// Rows, columns.
        shape: [usize; 2],
    },
    /// Nothing here: balancing biases move by the counts of tokens.
    Fixed,
}

/// Whether weight decay applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decay {
    /// Matrices, embeddings, head.
    Yes,
    /// Norms and biases.
    No,
}

/// A range of the arena with its rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuledRange {
    /// Elements.
    pub range: Range<usize>,
    /// What moves them.
    pub rule: Rule,
}

/// The rule of every parameter of a layout, in the arena's order.
pub fn rules_of(layout: &ParamLayout, kind: OptimizerKind) -> Vec<RuledRange> {
    let mut rules: Vec<RuledRange> = Vec::new();
    let mut specs: Vec<_> = layout.specs().iter().collect();
    specs.sort_by_key(|spec| spec.range.start);
    for spec in specs {
        let rule = match (spec.role, kind, spec.shape.as_slice()) {
            (ParamRole::BalanceBias, ..) => Rule::Fixed,
            (ParamRole::Matrix | ParamRole::Router, OptimizerKind::Muon, &[rows, columns]) => {
                Rule::Muon { shape: [rows, columns] }
            }
            (ParamRole::Norm | ParamRole::Bias, ..) => Rule::Adamw { decay: Decay::No },
            _ => Rule::Adamw { decay: Decay::Yes },
        };
        match rules.last_mut() {
            // Neighbours of one rule are one range; each matrix of Muon is a separate range.
            Some(last)
                if last.rule == rule && last.range.end == spec.range.start && !matches!(rule, Rule::Muon { .. }) =>
            {
                last.range.end = spec.range.end;
            }
            _ => rules.push(RuledRange { range: spec.range.clone(), rule }),
        }
    }
    rules
}

/// Parameters, gradients and moments of one step, all of one length.
#[derive(Debug)]
pub struct Arenas<'a> {
    /// Moved in place.
    pub params: &'a mut [f32],
    /// Read.
    pub gradients: &'a [f32],
    /// AdamW: mean of gradients. Muon: momentum.
    pub first_moments: &'a mut [f32],
    /// AdamW: mean of squared gradients.
    pub second_moments: &'a mut [f32],
}

/// What differs from step to step.
#[derive(Debug, Clone, Copy)]
pub struct StepScale {
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// What gradients are multiplied by first: clipping.
    pub gradient_scale: f32,
    /// Steps that the moments have seen, this one included: from 1.
    pub n_updates: u64,
}

/// The rules of a model with room for their work.
#[derive(Debug)]
pub struct Optimizer {
    section: OptimizerSection,
    rules: Vec<RuledRange>,
    scratch: MuonScratch,
}

impl Optimizer {
    /// Takes over the rules, which must be in the arena's order.
    pub fn new(section: &OptimizerSection, rules: Vec<RuledRange>) -> Self {
        let shapes = rules.iter().filter_map(|ruled| match ruled.rule {
            Rule::Muon { shape } => Some(shape),
            _ => None,
        });
        let scratch = MuonScratch::for_shapes(shapes);
        Self { section: section.clone(), rules, scratch }
    }

    /// One step of every rule, on all threads of the current pool.
    pub fn step(&mut self, arenas: Arenas<'_>, scale: StepScale) {
        let Arenas { params, gradients, first_moments, second_moments } = arenas;
        let adamw = AdamwStep::new(&self.section, scale);
        let rules = &self.rules;
        params
            .par_chunks_mut(BLOCK_ELEMENTS)
            .zip(gradients.par_chunks(BLOCK_ELEMENTS))
            .zip(first_moments.par_chunks_mut(BLOCK_ELEMENTS))
            .zip(second_moments.par_chunks_mut(BLOCK_ELEMENTS))
            .enumerate()
            .for_each(|(block, (((params, gradients), first), second))| {
                let block = block * BLOCK_ELEMENTS..block * BLOCK_ELEMENTS + params.len();
                for (range, rule) in ruled_within(rules, &block) {
                    if let Rule::Adamw { decay } = rule {
                        let (params, gradients) = (&mut params[range.clone()], &gradients[range.clone()]);
                        adamw_block(&adamw, decay, params, gradients, &mut first[range.clone()], &mut second[range]);
                    }
                }
            });
        let muon = MuonStep::new(&self.section, scale);
        for ruled in &self.rules {
            if let Rule::Muon { shape } = ruled.rule {
                let range = ruled.range.clone();
                let (params, gradients) = (&mut params[range.clone()], &gradients[range.clone()]);
                muon_matrix(&muon, shape, params, gradients, &mut first_moments[range], &mut self.scratch);
            }
        }
    }
}

/// The rules that meet a block, with their ranges counted from its start.
fn ruled_within<'a>(
    rules: &'a [RuledRange],
    block: &Range<usize>,
) -> impl Iterator<Item = (Range<usize>, Rule)> + use<'a> {
    let block = block.clone();
    let first = rules.partition_point(|ruled| ruled.range.end <= block.start);
    rules[first..].iter().take_while(move |ruled| ruled.range.start < block.end).map({
        let (start, end) = (block.start, block.end);
        move |ruled| (ruled.range.start.max(start) - start..ruled.range.end.min(end) - start, ruled.rule)
    })
}

/// Global norms of gradients, with room for their work.
#[derive(Debug, Clone, Default)]
pub struct GlobalNorm {
    block_sums: Vec<f64>,
}

impl GlobalNorm {
    /// For up to this many numbers.
    pub fn for_len(n_values: usize) -> Self {
        Self { block_sums: vec![0.0; n_values.div_ceil(BLOCK_ELEMENTS)] }
    }

    /// The root of the sum of squares, summed in doubles over fixed blocks: the same for any number of threads.
    pub fn of(&mut self, values: &[f32]) -> f64 {
        self.block_sums.resize(values.len().div_ceil(BLOCK_ELEMENTS), 0.0);
        // Kept apart first: a parallel sum would group its terms by the number of threads.
        let blocks = values.par_chunks(BLOCK_ELEMENTS);
        self.block_sums.par_iter_mut().zip(blocks).for_each(|(sum, block)| *sum = sum_of_squares(block));
        self.block_sums.iter().sum::<f64>().sqrt()
    }
}

fn sum_of_squares(block: &[f32]) -> f64 {
    /// As many partial sums as the widest vectors hold.
    const LANES: usize = 16;
    pulp::Arch::new().dispatch(|| {
        let mut lanes = [0.0_f64; LANES];
        let chunks = block.chunks_exact(LANES);
        let rest = chunks.remainder().iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>();
        for chunk in chunks {
            for (lane, &g) in lanes.iter_mut().zip(chunk) {
                let g = f64::from(g);
                *lane += g * g;
            }
        }
        lanes.iter().sum::<f64>() + rest
    })
}

/// What a gradient of this norm is multiplied by: 1, or what brings it down to the limit; a limit of 0 is none.
///
/// As `torch.nn.utils.clip_grad_norm_`: limit / (norm + 1e-6), at most 1.
#[expect(clippy::cast_possible_truncation, reason = "a factor between 0 and 1")]
pub fn clip_scale(norm: f64, limit: f64) -> f32 {
    if limit > 0.0 { (limit / (norm + 1e-6)).min(1.0) as f32 } else { 1.0 }
}
