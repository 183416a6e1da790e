//! Which weights of a checkpoint are FP8 codes with a scale for each block, and the blocks. Reads names, element types,
//! shapes and the config, and no bytes.
//!
//! One convention, that of `weight_scale_inv`: the weight is the code times the scale of its block, despite the
//! name.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;
use thalweg_tensor::block_scale::block_lengths;
use thalweg_tensor::{BlockGrid, Dtype, Shape, TensorCatalog, TensorEntry, display_name};

use crate::config::quantisation_of;

/// What follows the name of a tensor of codes in the name of its scales.
const SCALES_END: &str = "_scale_inv";
/// Parts of names of the scales of activations, which only a quantised model uses.
const ACTIVATION_SCALES: [&str; 2] = ["input_scale", "activation_scale"];

/// Weights that are FP8 codes with scales.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockScaled {
    /// Rows and columns of a block.
    pub block: [u64; 2],
    /// The weights, sorted by name.
    pub weights: Vec<ScaledWeight>,
}

/// A tensor of codes and its scales, by their positions in the stored catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScaledWeight {
    /// The codes, of type F8_E4M3.
    pub codes: usize,
    /// The scales, of type F32 or BF16.
    pub scales: usize,
    pub(crate) grid: BlockGrid,
}

/// Why codes with scales cannot be turned into numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScaledFault {
    /// The config names another method of quantisation.
    Config {
        /// Its key.
        key: &'static str,
        /// Its value, safe to print.
        found: String,
        /// The value that is known.
        expected: &'static str,
    },
    /// Scales without codes.
    NoCodes {
        /// The scales.
        scales: String,
    },
    /// Codes without scales, in a checkpoint whose other codes have some.
    NoScales {
        /// The codes.
        codes: String,
    },
    /// An element type that is not known in this place.
    Dtype {
        /// The tensor.
        tensor: String,
        /// What it has.
        found: Dtype,
        /// What is known.
        expected: &'static str,
    },
    /// Scales that are not one for each block.
    Shape {
        /// The codes.
        codes: String,
        /// Their shape.
        shape: Shape,
        /// The shape of the scales.
        scales: Shape,
        /// The block, if the config states it.
        block: Option<[u64; 2]>,
    },
    /// Shapes to which several block sizes fit, and a config that names none.
    Ambiguous {
        /// `rows` or `columns`.
        of: &'static str,
        /// The least and the greatest that fit.
        between: (u64, u64),
    },
    /// A config from which what it says of the quantisation cannot be removed.
    ConfigText {
        /// Why not.
        reason: String,
    },
    /// Scales of activations beside the codes.
    ActivationScales {
        /// The first.
        tensor: String,
    },
}

impl fmt::Display for ScaledFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config { key, found, expected } => {
                write!(f, "`{key}` in `config.json` is {found}, but only {expected} is supported")
            }
            Self::NoCodes { scales } => {
                let codes = scales.strip_suffix(SCALES_END).unwrap_or(scales);
                write!(f, "`{}` has no weight `{}`", display_name(scales), display_name(codes))
            }
            Self::NoScales { codes } => write!(f, "`{}` has no scales", display_name(codes)),
            Self::Dtype { tensor, found, expected } => {
                write!(f, "`{}` is {found}, but only {expected} is supported", display_name(tensor))
            }
            Self::Shape { codes, shape, scales, block } => {
                write!(
                    f,
                    "`{}` of shape {shape} has scales of shape {scales}, which are not one for ",
                    display_name(codes)
                )?;
                match block {
                    Some([rows, columns]) => write!(f, "each block of {rows} x {columns}"),
                    None => f.write_str("each block of any one size"),
                }
            }
            Self::Ambiguous { of, between: (least, u64::MAX) } => {
                write!(
                    f,
                    "`config.json` has no `weight_block_size`, and any block of {least} {of} or more fits the shapes"
                )
            }
            Self::Ambiguous { of, between: (least, greatest) } => write!(
                f,
                "`config.json` has no `weight_block_size`, and blocks of {least} to {greatest} {of} fit the shapes"
            ),
            Self::ConfigText { reason } => write!(f, "an output needs another `config.json`: {}", display_name(reason)),
            Self::ActivationScales { tensor } => write!(
                f,
                "`{}` scales activations, which a model that is not quantised does not use",
                display_name(tensor)
            ),
        }
    }
}

/// The weights that are codes with scales; `None` if there are no scales of that name.
///
/// # Errors
/// The first thing by which some weight's numbers are not known.
pub(crate) fn find_block_scaled(
    catalog: &TensorCatalog,
    config: Option<&Value>,
) -> Option<Result<BlockScaled, ScaledFault>> {
    let entries = catalog.entries();
    let scales: Vec<(usize, &str)> =
        entries.iter().enumerate().filter_map(|(i, entry)| Some((i, entry.name.strip_suffix(SCALES_END)?))).collect();
    (!scales.is_empty()).then(|| pair_up(catalog, &scales, config))
}

fn pair_up(
    catalog: &TensorCatalog,
    scales: &[(usize, &str)],
    config: Option<&Value>,
) -> Result<BlockScaled, ScaledFault> {
    let stated = config.and_then(quantisation_of).map(stated_block).transpose()?.flatten();
    let entries = catalog.entries();
    let mut pairs = Vec::with_capacity(scales.len());
    for &(scales, codes) in scales {
        let found = &entries[scales];
        let Some(codes) = catalog.find(codes) else {
            return Err(ScaledFault::NoCodes { scales: found.name.to_string() });
        };
        check_dtype(&entries[codes], &[Dtype::F8E4M3], "F8_E4M3")?;
        check_dtype(found, &[Dtype::F32, Dtype::Bf16], "F32 or BF16")?;
        pairs.push((codes, scales));
    }
    pairs.sort_unstable();
    let with_scales: BTreeSet<usize> = pairs.iter().map(|(codes, _)| *codes).collect();
    let is_bare = |(i, entry): &(usize, &TensorEntry)| entry.dtype == Dtype::F8E4M3 && !with_scales.contains(i);
    if let Some((_, bare)) = entries.iter().enumerate().find(is_bare) {
        return Err(ScaledFault::NoScales { codes: bare.name.to_string() });
    }
    if let Some(entry) = entries.iter().find(|entry| is_activation_scale(entry, catalog, &with_scales)) {
        return Err(ScaledFault::ActivationScales { tensor: entry.name.to_string() });
    }
    let block = match stated {
        Some(block) => block,
        None => [derive_length(entries, &pairs, 2, "rows")?, derive_length(entries, &pairs, 1, "columns")?],
    };
    let weights = pairs.into_iter().map(|(codes, scales)| {
        let grid = BlockGrid::new(&entries[codes].shape, &entries[scales].shape, block)
            // As doubles, codes take eight times their bytes.
            .filter(|_| Dtype::F64.bytes_of(entries[codes].n_elements()).is_some());
        let fault = || misfit(&entries[codes], &entries[scales], stated);
        Ok(ScaledWeight { codes, scales, grid: grid.ok_or_else(fault)? })
    });
    Ok(BlockScaled { block, weights: weights.collect::<Result<_, _>>()? })
}

fn check_dtype(entry: &TensorEntry, known: &[Dtype], expected: &'static str) -> Result<(), ScaledFault> {
    if known.contains(&entry.dtype) {
        return Ok(());
    }
    Err(ScaledFault::Dtype { tensor: entry.name.to_string(), found: entry.dtype, expected })
}

fn is_activation_scale(entry: &TensorEntry, catalog: &TensorCatalog, with_scales: &BTreeSet<usize>) -> bool {
    let mut stems = ACTIVATION_SCALES.iter().filter_map(|end| entry.name.strip_suffix(end));
    let weight = stems.next().and_then(|stem| catalog.find(&format!("{stem}weight")));
    weight.is_some_and(|weight| with_scales.contains(&weight))
}

fn misfit(codes: &TensorEntry, scales: &TensorEntry, block: Option<[u64; 2]>) -> ScaledFault {
    ScaledFault::Shape {
        codes: codes.name.to_string(),
        shape: codes.shape.clone(),
        scales: scales.shape.clone(),
        block,
    }
}

/// The block that a config states, if any; checks that it speaks of codes that are known.
fn stated_block(quantisation: &Value) -> Result<Option<[u64; 2]>, ScaledFault> {
    let check = |key: &'static str, expected: &'static str| match quantisation.get(key) {
        Some(found) if found != expected => {
            Err(ScaledFault::Config { key, found: display_name(&found.to_string()), expected })
        }
        _ => Ok(()),
    };
    check("quant_method", "fp8")?;
    check("fmt", "e4m3")?;
    let Some(stated) = quantisation.get("weight_block_size").filter(|stated| !stated.is_null()) else {
        return Ok(None);
    };
    let lengths: Option<Vec<u64>> = stated.as_array().and_then(|list| list.iter().map(Value::as_u64).collect());
    match lengths.as_deref() {
        Some(&[rows, columns]) if rows > 0 && columns > 0 => Ok(Some([rows, columns])),
        _ => Err(ScaledFault::Config {
            key: "weight_block_size",
            found: display_name(&stated.to_string()),
            expected: "a pair of whole numbers such as [128, 128]",
        }),
    }
}

/// The one length of blocks that fits all shapes, in the dimension `from_end` before the end.
fn derive_length(
    entries: &[TensorEntry],
    pairs: &[(usize, usize)],
    from_end: usize,
    of: &'static str,
) -> Result<u64, ScaledFault> {
    let (mut least, mut greatest) = (1, u64::MAX);
    for &(codes, scales) in pairs {
        let length = |entry: &TensorEntry| entry.shape.0.iter().rev().nth(from_end - 1).copied();
        let fitting =
            length(&entries[codes]).zip(length(&entries[scales])).and_then(|(n, n_blocks)| block_lengths(n, n_blocks));
        let Some((low, high)) = fitting else { return Err(misfit(&entries[codes], &entries[scales], None)) };
        (least, greatest) = (least.max(low), greatest.min(high));
        if least > greatest {
            return Err(misfit(&entries[codes], &entries[scales], None));
        }
    }
    if least == greatest { Ok(least) } else { Err(ScaledFault::Ambiguous { of, between: (least, greatest) }) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use thalweg_tensor::Piece;

    use super::*;

    type Tensor<'a> = (&'a str, Dtype, &'a [u64]);

    fn find(tensors: &[Tensor<'_>], config: Option<Value>) -> Option<Result<BlockScaled, ScaledFault>> {
        let entry = |(name, dtype, shape): &Tensor<'_>| TensorEntry {
            name: (*name).into(),
            dtype: *dtype,
            shape: Shape::new(*shape),
            pieces: [Piece::whole(0, 0)].into(),
        };
        let catalog = TensorCatalog::new(tensors.iter().map(entry).collect()).unwrap();
        find_block_scaled(&catalog, config.as_ref())
    }

    fn stated(block: Value) -> Option<Value> {
        Some(json!({"quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": block}}))
    }

    const CODES: Tensor<'_> = ("a.weight", Dtype::F8E4M3, &[300, 200]);
    const SCALES: Tensor<'_> = ("a.weight_scale_inv", Dtype::F32, &[3, 2]);
    const NORM: Tensor<'_> = ("norm.weight", Dtype::Bf16, &[200]);

    #[track_caller]
    fn check_fault(tensors: &[Tensor<'_>], config: Option<Value>, expected: &str) {
        let fault = find(tensors, config).unwrap().unwrap_err().to_string();
        assert!(fault.contains(expected), "{fault}");
    }

    #[test]
    fn weights_are_paired_with_their_scales_by_name() {
        let found = find(&[CODES, SCALES, NORM], stated(json!([128, 128]))).unwrap().unwrap();
        let pairs: Vec<_> = found.weights.iter().map(|weight| (weight.codes, weight.scales)).collect();
        assert_eq!((found.block, pairs), ([128, 128], vec![(0, 1)]));
        let stack: [Tensor<'_>; 2] =
            [("e.gate_up_proj", Dtype::F8E4M3, &[4, 256, 128]), ("e.gate_up_proj_scale_inv", Dtype::Bf16, &[4, 2, 1])];
        assert_eq!(find(&stack, stated(json!([128, 128]))).unwrap().unwrap().weights.len(), 1);
        assert_eq!(find(&[CODES, NORM], stated(json!([128, 128]))), None);
        assert_eq!(find(&[CODES, ("a.weight_scale", Dtype::F32, &[1])], None), None);
        let nested =
            json!({"text_config": {"quantization_config": {"quant_method": "fp8", "weight_block_size": [100, 100]}}});
        assert_eq!(find(&[CODES, SCALES], Some(nested)).unwrap().unwrap().block, [100, 100]);
    }

    #[test]
    fn a_block_size_is_derived_only_where_one_alone_fits() {
        // 300 rows in 3 blocks are 100 to 149 rows each, 1290 rows in 11 blocks 118 to 128, and 1020 in 8 at least 128.
        let more: [Tensor<'_>; 4] = [
            ("b.weight", Dtype::F8E4M3, &[1290, 1290]),
            ("b.weight_scale_inv", Dtype::F32, &[11, 11]),
            ("c.weight", Dtype::F8E4M3, &[1020, 1020]),
            ("c.weight_scale_inv", Dtype::F32, &[8, 8]),
        ];
        let tensors = [&[CODES, SCALES], &more[..]].concat();
        assert_eq!(find(&tensors, None).unwrap().unwrap().block, [128, 128]);
        assert_eq!(find(&tensors, stated(json!(null))).unwrap().unwrap().block, [128, 128]);
        check_fault(&[CODES, SCALES], None, "blocks of 100 to 149 rows fit");
        check_fault(
            &[("a.weight", Dtype::F8E4M3, &[300, 9]), ("a.weight_scale_inv", Dtype::F32, &[300, 1])],
            None,
            "any block of 9 columns",
        );
        check_fault(&[CODES, ("a.weight_scale_inv", Dtype::F32, &[301, 2])], None, "of any one size");
        let apart: [Tensor<'_>; 2] =
            [("b.weight", Dtype::F8E4M3, &[30, 20]), ("b.weight_scale_inv", Dtype::F32, &[3, 2])];
        check_fault(
            &[&[CODES, SCALES], &apart[..]].concat(),
            None,
            "`b.weight` of shape [30, 20] has scales of shape [3, 2]",
        );
    }

    #[test]
    fn what_is_not_known_is_a_fault_by_name() {
        let block = || stated(json!([128, 128]));
        check_fault(&[SCALES], block(), "`a.weight_scale_inv` has no weight `a.weight`");
        check_fault(&[CODES, SCALES, ("b.weight", Dtype::F8E4M3, &[1, 1])], block(), "`b.weight` has no scales");
        check_fault(&[("a.weight", Dtype::F8E5M2, &[300, 200]), SCALES], block(), "`a.weight` is F8_E5M2");
        check_fault(&[("a.weight", Dtype::Bf16, &[300, 200]), SCALES], block(), "`a.weight` is BF16");
        check_fault(&[CODES, ("a.weight_scale_inv", Dtype::F8E8M0, &[3, 2])], block(), "only F32 or BF16");
        for shape in [&[3, 3][..], &[2, 3], &[6], &[], &[1, 3, 2]] {
            check_fault(&[CODES, ("a.weight_scale_inv", Dtype::F32, shape)], block(), "each block of 128 x 128");
        }
        check_fault(
            &[CODES, SCALES, ("a.input_scale", Dtype::F32, &[])],
            block(),
            "`a.input_scale` scales activations",
        );
        check_fault(&[CODES, SCALES, ("a.activation_scale", Dtype::F32, &[1])], block(), "scales activations");
    }

    #[test]
    fn a_config_of_another_method_is_a_fault() {
        for (config, expected) in [
            (json!({"quant_method": "gptq"}), "`quant_method`"),
            (json!({"quant_method": "fp8", "fmt": "e5m2"}), "`fmt`"),
            (json!({"quant_method": "fp8", "weight_block_size": [128]}), "`weight_block_size`"),
            (json!({"quant_method": "fp8", "weight_block_size": [0, 128]}), "`weight_block_size`"),
            (json!({"quant_method": "fp8", "weight_block_size": 128}), "`weight_block_size`"),
            (json!({"quant_method": "fp8", "weight_block_size": [1.5, 128]}), "`weight_block_size`"),
        ] {
            check_fault(&[CODES, SCALES], Some(json!({"quantization_config": config})), expected);
        }
    }

    #[test]
    fn hostile_shapes_are_faults_and_not_overflows() {
        let huge = u64::MAX / 4;
        check_fault(
            &[("a.weight", Dtype::F8E4M3, &[huge, 1]), ("a.weight_scale_inv", Dtype::F32, &[huge.div_ceil(128), 1])],
            stated(json!([128, 128])),
            "which are not one for",
        );
        check_fault(
            &[("a.weight", Dtype::F8E4M3, &[1, 1]), ("a.weight_scale_inv", Dtype::F32, &[u64::MAX, u64::MAX])],
            stated(json!([u64::MAX, u64::MAX])),
            "which are not one for",
        );
        let empty: [Tensor<'_>; 2] =
            [("a.weight", Dtype::F8E4M3, &[0, 5]), ("a.weight_scale_inv", Dtype::F32, &[0, 1])];
        assert_eq!(find(&empty, stated(json!([128, 128]))).unwrap().unwrap().weights.len(), 1);
    }
}
