//! What cannot be averaged in one checkpoint: quantised codes, factors of an update, training state, tensors without
//! elements. Reads only names, headers and the config.
//!
//! Each kind has one rule, whatever the library. `align` refuses by it before a merge, and `inspect` shows it.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;
use thalweg_checkpoint::format::Findings;
use thalweg_checkpoint::{
    BlockScaled, Checkpoint, KeyKind, MOMENT_NAMES, ScaledFault, is_optimizer_state, quantisation_of,
};
use thalweg_tensor::{DtypeClass, TensorCatalog, TensorEntry, counted_are, display_name, part_of_are};

use crate::pattern::name_fits;

/// Something inside a checkpoint that keeps it from being averaged.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Obstacle {
    /// Factors whose product is the update: the product of means is not the mean of products.
    Factored {
        /// The first such tensor.
        tensor: String,
        /// The method that uses such factors, such as `LoRA`.
        scheme: &'static str,
        /// How many there are.
        n_tensors: usize,
    },
    /// The file of an adapter.
    Adapter {
        /// Its name.
        file: String,
    },
    /// Parameters without elements.
    Empty {
        /// The first such tensor.
        tensor: String,
        /// How many there are.
        n_empty: usize,
        /// How many floating tensors there are in all.
        n_tensors: usize,
    },
    /// Codes that mean nothing without their scales.
    Quantised {
        /// The first tensor of codes.
        codes: String,
        /// Its scales, or other companion, where there is one.
        scales: Option<String>,
        /// The library or format that writes such tensors.
        by: &'static str,
    },
    /// FP8 codes with scales, which are merged as the numbers that they stand for if the output has another element
    /// type.
    BlockScaled {
        /// The first weight.
        weight: String,
        /// How many there are.
        n_weights: usize,
        /// Rows and columns of a block.
        block: [u64; 2],
    },
    /// FP8 codes with scales that do not say which numbers they stand for.
    UnknownScales {
        /// Why not.
        fault: ScaledFault,
    },
    /// A config that declares the weights quantised.
    QuantisationConfig {
        /// Its `quant_method`, or `-` where it has none.
        method: String,
    },
    /// Tensors of an optimizer or of other training state among the parameters.
    TrainingState {
        /// The first such tensor.
        tensor: String,
        /// How many there are.
        n_tensors: usize,
        /// Patterns for `--drop` that cover all of them and no parameter.
        patterns: Vec<String>,
    },
    /// Rows of queries and keys in the order of llama.cpp, beside sources in another.
    RowOrder {
        /// What llama.cpp calls the model.
        architecture: String,
    },
    /// Tensors that were read under a key of training state.
    StateKey {
        /// The key.
        key: String,
    },
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Factored { tensor, scheme, n_tensors } => {
                let what =
                    if *n_tensors == 1 { "1 tensor is a factor" } else { &*format!("{n_tensors} tensors are factors") };
                let tensor = display_name(tensor);
                write!(
                    f,
                    "{what} of an update ({scheme}), such as `{tensor}`: the product of averaged factors is not the average \
                     of the updates"
                )
            }
            Self::Adapter { file } => {
                write!(f, "`{}` is an adapter: it only updates a base model, which is not here", display_name(file))
            }
            Self::Empty { tensor, n_empty, n_tensors } => write!(
                f,
                "{} empty, such as `{}`: their elements were never saved, which happens when ZeRO stage 3 saves without gathering",
                part_of_are(*n_empty, *n_tensors, "floating tensor"),
                display_name(tensor)
            ),
            Self::Quantised { codes, scales, by } => {
                write!(f, "the weights are quantised ({by}): `{}` holds codes", display_name(codes))?;
                if let Some(scales) = scales {
                    write!(f, " whose scales are in `{}`", display_name(scales))?;
                }
                write!(f, ", and codes cannot be averaged")
            }
            Self::BlockScaled { weight, n_weights, block: [rows, columns] } => write!(
                f,
                "FP8 weights with a scale for each block of {rows} x {columns} ({n_weights}, such as `{}`): an output of that type \
                 would need new codes",
                display_name(weight)
            ),
            Self::UnknownScales { fault } => {
                write!(
                    f,
                    "the weights are quantised (FP8 with block scales), but not all of their values are known: {fault}"
                )
            }
            Self::QuantisationConfig { method } => {
                write!(f, "`config.json` has a `quantization_config` (method {method}): the weights are quantised")
            }
            Self::TrainingState { tensor, n_tensors: 1, .. } => write!(
                f,
                "tensor `{}` is training state: it is not a parameter and is not averaged",
                display_name(tensor)
            ),
            Self::RowOrder { architecture } => write!(
                f,
                "it is a GGUF file of `{}`, in which llama.cpp permuted the rows of queries and keys, and other sources are not \
                 GGUF files",
                display_name(architecture)
            ),
            Self::StateKey { key } => write!(
                f,
                "the key `{}` leads to training state, not to a model: counters and schedules cannot be averaged",
                display_name(key)
            ),
            Self::TrainingState { tensor, n_tensors, .. } => write!(
                f,
                "{} training state, such as `{}`, which is not averaged",
                counted_are(*n_tensors, "tensor"),
                display_name(tensor)
            ),
        }
    }
}

impl Obstacle {
    /// Whether it is about codes, whose scales must keep their bits.
    pub(crate) fn is_codes(&self) -> bool {
        matches!(self, Self::Quantised { .. } | Self::BlockScaled { .. } | Self::UnknownScales { .. })
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Factored { .. } | Self::Adapter { .. } => {
                "merge each adapter into its base model first (`merge_and_unload()` in PEFT), save those, and average them"
                    .to_owned()
            }
            Self::Empty { .. } => "save again with the parameters gathered \
                 (`stage3_gather_16bit_weights_on_model_save`), or convert with DeepSpeed's \
                 `zero_to_fp32.py --safe_serialization`"
                .to_owned(),
            Self::BlockScaled { .. } => {
                "`--dtype bf16` (or `f32` or `f16`) uses the values that the codes stand for, exactly, and rounds once".to_owned()
            }
            Self::UnknownScales { fault: ScaledFault::Ambiguous { .. } } => {
                "write the block size that the weights were quantised with into the `config.json` of each source, such as \
                 `{\"quantization_config\": {\"quant_method\": \"fp8\", \"weight_block_size\": [128, 128]}}`"
                    .to_owned()
            }
            Self::Quantised { .. } | Self::UnknownScales { .. } | Self::QuantisationConfig { .. } => {
                "average the checkpoints from before quantisation and quantise the result, or dequantise each checkpoint first"
                    .to_owned()
            }
            Self::TrainingState { patterns, .. } => {
                let options: Vec<String> =
                    patterns.iter().map(|pattern| format!("--drop {}", thalweg_tensor::shell_word(pattern))).collect();
                format!("leave them out with `{}`", options.join(" "))
            }
            Self::RowOrder { .. } => {
                "merge files of one kind: the checkpoints that it was converted from, or GGUF files alone".to_owned()
            }
            Self::StateKey { .. } => {
                "leave out `--key`: then the model is merged, and `--optimizer` decides what happens to the optimizer state"
                    .to_owned()
            }
        }
    }
}

/// Everything inside a checkpoint that keeps it from being averaged. `is_averaged` is given the name of each tensor;
/// tensors for which it is false are skipped.
pub fn find_obstacles(checkpoint: &Checkpoint, is_averaged: &dyn Fn(&str) -> bool) -> Vec<Obstacle> {
    let (scaled, others) = find_scaled(checkpoint, is_averaged);
    let mut found = find_in_catalog(checkpoint.catalog(), &|name| is_averaged(name) && !others.contains(name));
    let is_factored = found.iter().any(|obstacle| matches!(obstacle, Obstacle::Factored { .. }));
    let adapter = checkpoint.files().iter().find(|file| file.name.starts_with("adapter_model"));
    if let Some(file) = adapter.filter(|_| !is_factored) {
        found.push(Obstacle::Adapter { file: file.name.clone() });
    }
    match scaled {
        Some(scaled) => {
            // The rule for all codes would tell the same tensors with less.
            found.retain(|obstacle| {
                !matches!((obstacle, &scaled), (Obstacle::Quantised { .. }, Obstacle::UnknownScales { .. }))
            });
            found.push(scaled);
        }
        None => found.extend(checkpoint.config().and_then(quantisation_config)),
    }
    // Names lack the key that leads to them. Masters have a key of the optimizer, and are parameters.
    let Findings { key, params, .. } = checkpoint.findings();
    if let Some(key) = key.as_ref().filter(|key| params.is_none() && KeyKind::of(key) == KeyKind::State) {
        found.retain(|obstacle| !matches!(obstacle, Obstacle::TrainingState { .. }));
        found.push(Obstacle::StateKey { key: key.clone() });
    }
    found
}

/// Block-scaled weights that are seen as they are stored, and the names of all that this is about: codes and scales.
fn find_scaled<'a>(
    checkpoint: &'a Checkpoint,
    is_averaged: &dyn Fn(&str) -> bool,
) -> (Option<Obstacle>, BTreeSet<&'a str>) {
    let entries = checkpoint.stored_catalog().entries();
    let is_stored = checkpoint.dequantised_weights().is_none();
    match checkpoint.block_scaled().filter(|_| is_stored) {
        None => (None, BTreeSet::new()),
        Some(Err(fault)) => {
            let is_it = |entry: &&TensorEntry| entry.name.ends_with("_scale_inv") && is_averaged(&entry.name);
            (entries.iter().any(|entry| is_it(&entry)).then_some(Obstacle::UnknownScales { fault }), BTreeSet::new())
        }
        Some(Ok(BlockScaled { block, weights })) => {
            let names: Vec<[&str; 2]> =
                weights.iter().map(|weight| [weight.codes, weight.scales].map(|i| &*entries[i].name)).collect();
            let averaged: Vec<&[&str; 2]> =
                names.iter().filter(|names| names.iter().any(|name| is_averaged(name))).collect();
            let first = averaged.first().map(|[weight, _]| (*weight).to_owned());
            let found = first.map(|weight| Obstacle::BlockScaled { weight, n_weights: averaged.len(), block });
            (found, names.into_iter().flatten().collect())
        }
    }
}

/// Obstacles that names, element types and shapes reveal.
pub(crate) fn find_in_catalog(catalog: &TensorCatalog, is_averaged: &dyn Fn(&str) -> bool) -> Vec<Obstacle> {
    let entries: Vec<&TensorEntry> = catalog.entries().iter().filter(|entry| is_averaged(&entry.name)).collect();
    let found = [training_state(&entries), factored(&entries), quantised(&entries, catalog), empty(&entries)];
    found.into_iter().flatten().collect()
}

/// Beginnings of parts of names of factors, with the method that writes them.
const FACTORS: [(&str, &str); 22] = [
    ("lora_", "LoRA"),
    ("loraA", "LoRA"),
    ("loraB", "LoRA"),
    ("hada_", "LoHa"),
    ("lokr_", "LoKr"),
    ("vera_lambda_", "VeRA"),
    ("oft_", "OFT"),
    ("boft_", "BOFT"),
    ("ia3_", "IA3"),
    ("fourierft_", "FourierFT"),
    ("vblora_", "VB-LoRA"),
    ("randlora_", "RandLoRA"),
    ("gralora_", "GraLoRA"),
    ("delora_", "DeLoRA"),
    ("poly_lora_", "Poly"),
    ("hra_u", "HRA"),
    ("bone_block", "Bone"),
    ("miss_block", "MiSS"),
    ("c3a_kernel", "C3A"),
    ("waveft_spectrum", "WaveFT"),
    ("road_theta", "RoAd"),
    ("road_alpha", "RoAd"),
];
/// What NeMo and Megatron-Bridge call the two factors, in a module whose name begins with `adapter`.
const ADAPTER_LINEARS: [&str; 2] = ["linear_in", "linear_out"];

/// The method whose factor a tensor of this name is.
fn factor_scheme(name: &str) -> Option<&'static str> {
    let mut before = "";
    name.split('.').find_map(|part| {
        let is_linear = before.starts_with("adapter") && ADAPTER_LINEARS.contains(&part);
        before = part;
        let by_start = FACTORS.iter().find(|(start, _)| part.starts_with(start)).map(|(_, scheme)| *scheme);
        by_start.or(is_linear.then_some("LoRA"))
    })
}

fn factored(entries: &[&TensorEntry]) -> Option<Obstacle> {
    let found: Vec<(&TensorEntry, &'static str)> =
        entries.iter().filter_map(|entry| Some((*entry, factor_scheme(&entry.name)?))).collect();
    let (first, scheme) = found.first()?;
    Some(Obstacle::Factored { tensor: first.name.to_string(), scheme, n_tensors: found.len() })
}

/// Reports weights and biases without elements. Other tensors may be buffers that are empty on
/// purpose, unless every floating tensor is empty.
fn empty(entries: &[&TensorEntry]) -> Option<Obstacle> {
    let floats: Vec<&&TensorEntry> = entries
        .iter()
        .filter(|entry| entry.dtype.class() == DtypeClass::Mergeable && !entry.name.ends_with("_extra_state"))
        .collect();
    let is_empty = |entry: &&&&TensorEntry| entry.n_elements() == 0;
    let n_empty = floats.iter().filter(is_empty).count();
    let is_parameter = |name: &str| matches!(name.rsplit('.').next(), Some("weight" | "bias"));
    let first = floats.iter().filter(is_empty).find(|entry| n_empty == floats.len() || is_parameter(&entry.name))?;
    Some(Obstacle::Empty { tensor: first.name.to_string(), n_empty, n_tensors: floats.len() })
}

/// Endings of names that only quantised checkpoints have, with the library or format that writes them.
const CODE_ENDS: [(&str, &str); 11] = [
    ("_weight_qdata", "torchao"),
    (".qweight", "GPTQ or AWQ"),
    (".qzeros", "GPTQ or AWQ"),
    (".SCB", "bitsandbytes"),
    (".absmax", "bitsandbytes"),
    (".quant_map", "bitsandbytes"),
    (".weight_packed", "compressed-tensors"),
    (".W_q", "HQQ"),
    (".Qidxs", "QuIP"),
    (".codebooks", "AQLM"),
    (".weight_scale_inv", "FP8 with block scales"),
];
/// Endings of names of scales, zero points and the like.
const SCALE_ENDS: [&str; 14] = [
    "_scale",
    "_scales",
    ".scale",
    ".scales",
    "_scale_inv",
    ".scale_inv",
    "_scale_2",
    "_zero_point",
    ".zero_point",
    "_zeros",
    ".zeros",
    "_absmax",
    ".SCB",
    ".absmax",
];
/// Endings of names of codes, after the stem that they share with their scales.
const STEM_ENDS: [&str; 12] = [
    "",
    "_qdata",
    "_blocks",
    ".blocks",
    "_packed",
    ".qweight",
    ".weight",
    ".codes",
    "_q",
    ".W_q",
    ".int_data",
    "_quantized",
];

fn quantised(entries: &[&TensorEntry], catalog: &TensorCatalog) -> Option<Obstacle> {
    let is_code = |entry: &TensorEntry| entry.dtype.class() != DtypeClass::Mergeable && entry.n_elements() > 0;
    let partner_of = |entry: &TensorEntry| {
        let stems = SCALE_ENDS.iter().filter_map(|end| entry.name.strip_suffix(end));
        let mut names = stems.flat_map(|stem| STEM_ENDS.iter().map(move |end| format!("{stem}{end}")));
        names.find_map(|name| {
            let partner = &catalog.entries()[catalog.find(&name)?];
            (partner.name != entry.name && is_code(partner)).then(|| partner.name.to_string())
        })
    };
    for entry in entries {
        let by = CODE_ENDS.iter().find(|(end, _)| entry.name.ends_with(end)).map(|(_, by)| *by);
        let by = by.or_else(|| entry.name.contains(".quant_state.").then_some("bitsandbytes"));
        let partner = partner_of(entry);
        if let Some(codes) = &partner {
            let scales = Some(entry.name.to_string());
            return Some(Obstacle::Quantised { codes: codes.clone(), scales, by: by.unwrap_or("codes with scales") });
        }
        if let Some(by) = by {
            return Some(Obstacle::Quantised { codes: entry.name.to_string(), scales: None, by });
        }
    }
    // Names and companions tell more about the library, so they are tried first.
    let is_weight = |name: &str| name.rsplit('.').next() == Some("weight");
    let mut whole = entries.iter().filter(|entry| entry.dtype.class() == DtypeClass::Discrete && is_code(entry));
    let codes = whole.find(|entry| is_weight(&entry.name))?.name.to_string();
    Some(Obstacle::Quantised { codes, scales: None, by: "whole numbers as weights" })
}

fn quantisation_config(config: &Value) -> Option<Obstacle> {
    let method = quantisation_of(config)?.get("quant_method").and_then(Value::as_str).unwrap_or("-");
    Some(Obstacle::QuantisationConfig { method: display_name(method) })
}

/// First parts of names of tensors that belong to a trainer's state.
const STATE_ROOTS: [&str; 13] = [
    "dataloader",
    "grad_scaler",
    "lr_scheduler",
    "opt_state",
    "optim",
    "optimizer",
    "optimizer_state",
    "optimizer_state_dict",
    "optimizers",
    "rng_state",
    "scheduler",
    "train_state",
    "trainer_state",
];
/// What separates the parts of a name: JAX's trainers write `opt_state/0/mu/w`.
const SEPARATORS: [char; 2] = ['.', '/'];

/// Whether the name of a tensor shows that it belongs to a trainer, not to the model.
pub(crate) fn is_training_state(name: &str) -> bool {
    let is_root = |root: &str| STATE_ROOTS.contains(&root);
    // `l.weight.exp_avg`, `exp_avg.l.weight` and `l.weight_exp_avg`: a whole part, or the end of one.
    let is_moment = |part: &str| {
        let ends = |moment: &str| part.strip_suffix(moment).is_some_and(|rest| rest.is_empty() || rest.ends_with('_'));
        MOMENT_NAMES.iter().any(|moment| ends(moment))
    };
    name.split_once(SEPARATORS).is_some_and(|(root, _)| is_root(root) || name.split(SEPARATORS).any(is_moment))
}

fn training_state(entries: &[&TensorEntry]) -> Option<Obstacle> {
    let found: Vec<&str> = entries.iter().filter(|entry| is_training_state(&entry.name)).map(|e| &*e.name).collect();
    let first = found.first()?;
    let others = |pattern: &str| {
        let is_parameter = |entry: &&&TensorEntry| !is_training_state(&entry.name);
        entries.iter().filter(is_parameter).any(|entry| name_fits(pattern, &entry.name))
    };
    let mut patterns: Vec<String> = Vec::new();
    for name in &found {
        if patterns.iter().any(|pattern| name_fits(pattern, name)) {
            continue;
        }
        let after = |part: &str| name.get(part.len()..).and_then(|rest| rest.chars().next()).unwrap_or('.');
        let head = name.split(SEPARATORS).next().unwrap_or(name);
        let last_at = name.rfind(SEPARATORS).unwrap_or(0);
        let wide = [format!("{head}{}*", after(head)), format!("*{}", &name[last_at..])];
        let pattern = wide.into_iter().find(|pattern| name_fits(pattern, name) && !others(pattern));
        patterns.push(pattern.unwrap_or_else(|| (*name).to_owned()));
    }
    Some(Obstacle::TrainingState { tensor: (*first).to_owned(), n_tensors: found.len(), patterns })
}

/// Positions in `catalog` of the output head and the embedding, if the config ties them and both are stored.
///
/// `None` too where their shapes or element types differ.
pub fn tied_pair(catalog: &TensorCatalog, config: &Value) -> Option<(usize, usize)> {
    const EMBEDDINGS: [&str; 5] =
        ["embed_tokens.weight", "wte.weight", "embed_in.weight", "tok_embeddings.weight", "word_embeddings.weight"];
    if !says_tied(config) {
        return None;
    }
    // Moments have the names of parameters at their end.
    let position = |is_it: &dyn Fn(&str) -> bool| {
        catalog.entries().iter().position(|entry| is_it(&entry.name) && !is_optimizer_state(&entry.name))
    };
    let is_embedding = |name: &str| {
        EMBEDDINGS.iter().any(|end| name.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
    };
    let (head, embedding) = (position(&crate::contents::is_output_head)?, position(&is_embedding)?);
    let (a, b) = (&catalog.entries()[head], &catalog.entries()[embedding]);
    ((a.dtype, &a.shape) == (b.dtype, &b.shape)).then_some((head, embedding))
}

fn says_tied(config: &Value) -> bool {
    let Some(object) = config.as_object() else { return false };
    match object.get("tie_word_embeddings").and_then(Value::as_bool) {
        Some(says) => says,
        None => object.get("text_config").is_some_and(says_tied),
    }
}

/// The note about a checkpoint whose config ties a head and an embedding that are not equal.
pub fn untied_note(catalog: &TensorCatalog, (head, embedding): (usize, usize)) -> String {
    let name = |t: usize| display_name(&catalog.entries()[t].name);
    format!(
        "`config.json` ties the output head to the embedding, but `{}` and `{}` are not equal: the checkpoint loads untied, \
         which is a different architecture",
        name(head),
        name(embedding)
    )
}

pub(crate) fn is_output_head(name: &str) -> bool {
    matches!(name, "lm_head.weight" | "embed_out.weight" | "output.weight") || name.ends_with(".lm_head.weight")
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use thalweg_tensor::{Dtype, Piece, Shape};

    use super::*;

    fn check(tensors: &[(&str, Dtype, &[u64])], expected: &str) {
        let entry = |(name, dtype, shape): &(&str, Dtype, &[u64])| TensorEntry {
            name: (*name).into(),
            dtype: *dtype,
            shape: Shape::new(*shape),
            pieces: [Piece::whole(0, 0)].into(),
        };
        let catalog = TensorCatalog::new(tensors.iter().map(entry).collect()).unwrap();
        let found: Vec<String> = find_in_catalog(&catalog, &|_| true).iter().map(ToString::to_string).collect();
        let found = found.join("; ");
        match expected {
            "" => assert_eq!(found, ""),
            _ => assert!(found.contains(expected), "{tensors:?}: {found:?}"),
        }
    }

    const W: (&str, Dtype, &[u64]) = ("l.w.weight", Dtype::Bf16, &[2, 2]);

    #[test]
    fn quantised_weights_are_known_by_names_and_by_scales() {
        check(&[("l.q_weight_qdata", Dtype::I8, &[2, 2]), ("l.q_weight_scale", Dtype::Bf16, &[2])], "torchao");
        check(&[("l.q.qweight", Dtype::I32, &[2]), ("l.q.scales", Dtype::F16, &[2])], "GPTQ");
        check(&[("l.q.qzeros", Dtype::I32, &[2]), W], "AWQ");
        check(&[("l.q.weight", Dtype::I8, &[2, 2]), ("l.q.SCB", Dtype::F32, &[2])], "bitsandbytes");
        check(&[("l.q.weight", Dtype::U8, &[2, 1]), ("l.q.weight.absmax", Dtype::F32, &[2])], "bitsandbytes");
        check(&[("l.q.weight", Dtype::F8E4M3, &[2, 2]), ("l.q.weight_scale_inv", Dtype::F32, &[1])], "FP8");
        check(
            &[("e.gate_up_proj_blocks", Dtype::U8, &[4]), ("e.gate_up_proj_scales", Dtype::Bf16, &[1])],
            "codes with",
        );
        check(&[("l.q.weight", Dtype::F8E4M3, &[2]), ("l.q.weight_scale", Dtype::F32, &[1])], "codes with scales");
        check(&[("l.q.weight", Dtype::I8, &[2, 2])], "whole numbers");
        // A scale beside floats is a parameter, and a counter of integers is a buffer.
        check(&[W, ("l.w.scale", Dtype::F32, &[1]), ("l.n.num_batches_tracked", Dtype::I64, &[])], "");
    }

    #[test]
    fn factors_of_updates_are_known_by_name() {
        for name in [
            "base_model.model.l.q.lora_A.weight",
            "l.q.lora_b.default.weight",
            "l.q.lora_embedding_A",
            "l.q.lora_magnitude_vector.weight",
            "lora_unet_q.lora_down.weight",
            "l.q.hada_w1_a",
            "l.q.lokr_w2",
            "l.q.oft_r",
            "decoder.layers.0.self_attention.linear_qkv.adapter.linear_in.weight",
            "layers.0.linear_qkv.adapter_q.linear_out.weight",
            "l.q.hra_u",
            "l.q.poly_lora_A",
            "l.q.road_theta",
        ] {
            check(&[(name, Dtype::F32, &[2, 2])], " of an update (");
        }
        check(&[("l.explorations.weight", Dtype::F32, &[2]), ("l.flora.weight", Dtype::F32, &[2])], "");
        check(&[("l.mlp.linear_in.weight", Dtype::F32, &[2]), ("l.adapter.down.weight", Dtype::F32, &[2])], "");
    }

    #[test]
    fn parameters_without_elements_are_reported_and_empty_buffers_are_not() {
        check(&[("l.a", Dtype::F32, &[0]), ("l.b", Dtype::F32, &[0])], "2 of 2");
        check(&[("l.q.weight", Dtype::Bf16, &[0]), ("l.norm.weight", Dtype::Bf16, &[4])], "1 of 2");
        check(&[("l.q.bias", Dtype::F16, &[0, 4]), W], "empty");
        check(&[("l.cache", Dtype::F32, &[0]), W], "");
        check(&[("l._extra_state", Dtype::U8, &[0]), W], "");
    }

    fn check_patterns(names: &[&str], expected: &[&str]) {
        let entry = |name: &&str| TensorEntry {
            name: (*name).into(),
            dtype: Dtype::F32,
            shape: Shape::new([1]),
            pieces: [Piece::whole(0, 0)].into(),
        };
        let catalog = TensorCatalog::new(names.iter().map(entry).collect()).unwrap();
        let found = find_in_catalog(&catalog, &|_| true);
        let [Obstacle::TrainingState { patterns, .. }] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(patterns, expected);
    }

    #[test]
    fn optimizer_tensors_are_reported_with_patterns_that_reach_nothing_else() {
        check_patterns(&["l.weight", "optimizer.state.0.exp_avg", "optimizer.state.0.step"], &["optimizer.*"]);
        check_patterns(&["l.weight", "l.weight.exp_avg", "l.weight.exp_avg_sq"], &["*.exp_avg", "*.exp_avg_sq"]);
        check_patterns(&["l.weight", "optim.state.l.weight.exp_avg"], &["optim.*"]);
        check_patterns(&["l.weight", "l.weight.momentum_buffer"], &["*.momentum_buffer"]);
        check_patterns(&["w", "opt_state/0/mu/w", "opt_state/0/nu/w"], &["opt_state/*"]);
        check_patterns(&["l/w", "l/w/exp_avg"], &["*/exp_avg"]);
        check_patterns(&["l.w", "exp_avg_sq.l.w", "exp_avg.l.w"], &["exp_avg.*", "exp_avg_sq.*"]);
        check_patterns(&["l.weight", "l.weight_exp_avg"], &["*.weight_exp_avg"]);
        check_patterns(&["l.w", "max_exp_avg_sq.l.w"], &["max_exp_avg_sq.*"]);
        check_patterns(&["w", "trainer_state.opt_state.w"], &["trainer_state.*"]);
        check(&[("optimizer", Dtype::F32, &[1])], "");
        check(&[("exp_avg_pool.weight", Dtype::F32, &[1]), ("l.optim_gate.weight", Dtype::F32, &[1])], "");
    }

    #[test]
    fn a_quantisation_config_is_found_at_any_depth() {
        for config in [
            json!({"quantization_config": {"quant_method": "gptq", "bits": 4}}),
            json!({"text_config": {"quantization_config": {"quant_method": "fp8"}}}),
            json!({"compression_config": {"format": "pack-quantized"}}),
        ] {
            assert!(quantisation_config(&config).is_some(), "{config}");
        }
        assert_eq!(quantisation_config(&json!({"quantization_config": null, "vision_config": {}})), None);
    }

    #[test]
    fn a_tied_pair_needs_a_config_that_ties() {
        let entry = |name: &str| TensorEntry {
            name: name.into(),
            dtype: Dtype::F32,
            shape: Shape::new([2, 2]),
            pieces: [Piece::whole(0, 0)].into(),
        };
        let entries = vec![entry("lm_head.weight"), entry("model.embed_tokens.weight")];
        let catalog = TensorCatalog::new(entries).unwrap();
        assert_eq!(tied_pair(&catalog, &json!({"tie_word_embeddings": true})), Some((0, 1)));
        assert_eq!(tied_pair(&catalog, &json!({"text_config": {"tie_word_embeddings": true}})), Some((0, 1)));
        assert_eq!(tied_pair(&catalog, &json!({"tie_word_embeddings": false})), None);
        assert_eq!(tied_pair(&catalog, &json!({})), None);
    }
}
