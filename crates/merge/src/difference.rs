//! Why sources cannot be merged, in messages for people: each reason, and the next step.

use std::fmt;

use serde_json::Value;
use thalweg_checkpoint::huggingface_name;
use thalweg_tensor::{Dtype, DtypeClass, Shape, display_name, shell_word};

use crate::contents::Obstacle;
use crate::contents::is_output_head;
use crate::format_error::NEWEST_HINT;
use crate::name_rule::replacing_rule;
use crate::pattern::{name_fits, patterns_for};
use crate::waiver::ConfigWaiver;

/// One thing that keeps the sources from being merged.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Difference {
    /// A tensor that some sources have and others lack.
    Presence {
        /// Its name.
        tensor: String,
        /// Sources that have it.
        present: Vec<String>,
        /// Sources that lack it.
        absent: Vec<String>,
        /// Whether the newest source is among those that have it.
        newest: NewestHas,
    },
    /// The models are cut over ranks in different ways, each of which saved a part.
    Cut {
        /// First source of each kind: label, number of files of ranks (0 for a whole model), name of the last one.
        rows: Vec<(String, usize, String)>,
    },
    /// All names of some sources contain a word that those of the others lack.
    Prefix {
        /// The word with its dot, such as `_orig_mod.`.
        prefix: String,
        /// Sources whose names have it.
        with: Vec<String>,
        /// Sources whose names lack it.
        without: Vec<String>,
        /// How many names differ by it.
        n_tensors: usize,
        /// The rule of `--rename` that removes it, if one does.
        rule: Option<String>,
    },
    /// Shape or element type differ.
    Tensor {
        /// Its name.
        tensor: String,
        /// First source of each kind: label, shape, dtype, file.
        rows: Vec<(String, Shape, Dtype, String)>,
    },
    /// Codes that cannot be averaged and are not equal in all sources.
    Refused {
        /// The tensor's name.
        tensor: String,
        /// Its element type.
        dtype: Dtype,
    },
    /// A tensor that a source holds in a way that cannot be read.
    Unreadable {
        /// The tensor's name.
        tensor: String,
        /// The source.
        source: String,
        /// Why not, to follow a colon.
        reason: String,
    },
    /// A config key that changes the model's function.
    Config {
        /// The key, nested ones with dots.
        key: String,
        /// First source of each value: label, value (`None` where it is missing).
        rows: Vec<(String, Option<Value>)>,
    },
    /// Tokenizers that split a text into different tokens.
    Tokenizer {
        /// What differs, as a waiver names it, such as `tokenizer.vocabulary`.
        key: String,
        /// First source of each kind: label, value.
        rows: Vec<(String, Option<Value>)>,
    },
    /// Something inside sources that cannot be averaged.
    Contents {
        /// The sources.
        sources: Vec<String>,
        /// What it is.
        obstacle: Obstacle,
    },
    /// A copy in another element type of a source that holds codes: their scales would be rounded.
    CopiedCodes {
        /// The sources.
        sources: Vec<String>,
        /// What they hold.
        obstacle: Obstacle,
    },
    /// A pattern that matches no tensor.
    IdlePattern {
        /// The option that gave it, such as `--drop`.
        option: &'static str,
        /// The pattern.
        pattern: String,
    },
    /// A tensor that outputs of one plan take from different newest sources, in which its shape or element type
    /// differs.
    NewestDiffer {
        /// Its name.
        tensor: String,
    },
    /// Sources whose optimizer has no moments that can be averaged.
    NoMoments {
        /// The sources.
        sources: Vec<String>,
        /// Whether the newest source has any state of an optimizer.
        newest: NewestHas,
    },
    /// The state of the optimizer, which is to be averaged, differs.
    OptimizerState {
        /// The first difference.
        first: Box<Difference>,
        /// How many there are.
        n_tensors: usize,
    },
}

impl Difference {
    /// The tensor that differs.
    pub(crate) fn tensor(&self) -> Option<&str> {
        match self {
            Self::Presence { tensor, .. }
            | Self::Tensor { tensor, .. }
            | Self::Refused { tensor, .. }
            | Self::Unreadable { tensor, .. }
            | Self::NewestDiffer { tensor } => Some(tensor),
            _ => None,
        }
    }

    /// Whether two tensors differ in the same way: between the same sources, by presence or by the same element types.
    pub(crate) fn is_alike(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Presence { present, absent, .. }, Self::Presence { present: theirs, absent: lack, .. }) => {
                present == theirs && absent == lack
            }
            (Self::Tensor { rows, .. }, Self::Tensor { rows: theirs, .. }) => {
                let has_one_shape =
                    |rows: &[(String, Shape, Dtype, String)]| rows.windows(2).all(|pair| pair[0].1 == pair[1].1);
                let mut pairs = rows.iter().zip(theirs);
                rows.len() == theirs.len()
                    && has_one_shape(rows)
                    && has_one_shape(theirs)
                    && pairs.all(|(a, b)| a.0 == b.0 && a.2 == b.2)
            }
            _ => false,
        }
    }
}

/// Whether the newest source has something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewestHas {
    /// It does.
    Yes,
    /// It does not.
    No,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Presence { tensor, present, absent, .. } => {
                write!(f, "tensor `{}` is not in every source", display_name(tensor))?;
                write!(f, "\n  missing in  {}", shorten(absent))?;
                write!(f, "\n  present in  {}", shorten(present))
            }
            Self::Cut { rows } => write_cut(f, rows),
            Self::Prefix { prefix, with, without, n_tensors, .. } => {
                let prefix = display_name(prefix);
                write!(f, "{} between sources by `{prefix}` alone", names_differ(*n_tensors))?;
                write!(f, "\n  with it     {}", shorten(with))?;
                write!(f, "\n  without it  {}", shorten(without))
            }
            Self::Tensor { tensor, rows } => {
                write!(f, "tensor `{}` differs between sources", display_name(tensor))?;
                rows.iter().try_for_each(|(label, shape, dtype, file)| {
                    write!(f, "\n  {label}  {shape} {}  {file}", dtype.name().to_lowercase())
                })
            }
            Self::Refused { tensor, dtype: Dtype::C64 } => {
                write!(f, "tensor `{}` holds complex numbers (C64), which cannot be averaged", display_name(tensor))
            }
            Self::Refused { tensor, dtype } => write!(
                f,
                "tensor `{}` is {dtype} and differs between sources: such codes have separate scales, so they can \
                 be neither averaged nor taken from the newest source",
                display_name(tensor)
            ),
            Self::Unreadable { tensor, source, reason } => {
                write!(f, "tensor `{}` of {source} cannot be read: {reason}", display_name(tensor))
            }
            Self::Config { key, rows } => {
                write!(f, "config key `{}` differs between sources", display_name(key))?;
                write_values(f, rows)
            }
            Self::Tokenizer { key, rows } => {
                write!(f, "the tokenizers differ between sources: `{}`", display_name(key))?;
                write_values(f, rows)
            }
            Self::Contents { sources, obstacle } => write!(f, "{}: {obstacle}", shorten(sources)),
            Self::CopiedCodes { sources, obstacle } => {
                write!(f, "{}: {obstacle}; a different element type would round their scales", shorten(sources))
            }
            Self::IdlePattern { option: "--rename", pattern } => {
                write!(f, "the rule `{}` of `--rename` matches no tensor of the sources", display_name(pattern))
            }
            Self::IdlePattern { option, pattern } => {
                write!(f, "`{option} {}` matches no tensor of the sources", display_name(pattern))
            }
            Self::NewestDiffer { tensor } => write!(
                f,
                "tensor `{}` is taken from the newest source, but it differs between the newest sources of the outputs",
                display_name(tensor)
            ),
            Self::NoMoments { sources, .. } => {
                write!(f, "{}: no optimizer moments that could be averaged", shorten(sources))
            }
            Self::OptimizerState { first, n_tensors } => {
                write!(f, "the state of the optimizer cannot be averaged: {first}")?;
                if *n_tensors > 1 {
                    write!(f, "\n  and {} more of its tensors", n_tensors - 1)?;
                }
                Ok(())
            }
        }
    }
}

fn write_cut(f: &mut fmt::Formatter<'_>, rows: &[(String, usize, String)]) -> fmt::Result {
    f.write_str("the sources are cut into different files of ranks")?;
    rows.iter().try_for_each(|(label, n_ranks, last)| match n_ranks {
        0 => write!(f, "\n  {label}  a whole model"),
        _ => write!(f, "\n  {label}  {n_ranks} files, the last one `{}`", display_name(last)),
    })
}

fn write_values(f: &mut fmt::Formatter<'_>, rows: &[(String, Option<Value>)]) -> fmt::Result {
    rows.iter().try_for_each(|(label, value)| {
        let value = value.as_ref().map_or_else(|| "-".to_owned(), Value::to_string);
        write!(f, "\n  {label}  {}", display_name(&value))
    })
}

fn names_differ(n_tensors: usize) -> String {
    if n_tensors == 1 {
        "the name of 1 tensor differs".to_owned()
    } else {
        format!("the names of {n_tensors} tensors differ")
    }
}

fn shorten(labels: &[String]) -> String {
    const MAX_LABELS: usize = 6;
    let mut text = labels.iter().take(MAX_LABELS).map(String::as_str).collect::<Vec<_>>().join(", ");
    if labels.len() > MAX_LABELS {
        text.push_str(&format!(" and {} more", labels.len() - MAX_LABELS));
    }
    text
}

/// Keys whose difference means a different model, whatever the values.
const ARCHITECTURE_KEYS: [&str; 6] =
    ["architectures", "hidden_size", "model_type", "num_attention_heads", "num_hidden_layers", "vocab_size"];

/// What the sources of a merge are to each other: a window can be moved, and experts are what they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// Checkpoints of one run.
    Checkpoints,
    /// Models that a rule merges.
    Experts,
}

impl Relation {
    /// A hint in words that fit. The base counts as the newest source where experts are merged.
    fn adapt(self, hint: String) -> String {
        match self {
            Self::Checkpoints => hint,
            Self::Experts => hint.replace("the newest source's", "the base's"),
        }
    }
}

/// The next step for a set of differences: what to do about the one that must be fixed first.
pub(crate) fn hint_for(differences: &[Difference], relation: Relation) -> Option<String> {
    let first = |wanted: &dyn Fn(&Difference) -> Option<String>| differences.iter().find_map(wanted);
    let hint = first(&hint_for_contents)
        .or_else(|| first(&hint_for_prefix))
        .or_else(|| hint_for_names(differences, relation))
        .or_else(|| first(&|difference| hint_for_shape(difference, relation)))
        .or_else(|| hint_for_waivers(differences));
    hint.map(|hint| relation.adapt(hint))
}

fn hint_for_contents(difference: &Difference) -> Option<String> {
    match difference {
        Difference::Cut { .. } => Some(
            "merge checkpoints saved by the same number of ranks, with the same file names; or first join the parts of each \
             with the trainer's own tool"
                .to_owned(),
        ),
        Difference::Unreadable { .. } => {
            Some("save these tensors as plain ones, or name another key with `--key`".to_owned())
        }
        Difference::Contents { obstacle, .. } => Some(obstacle.hint()),
        Difference::CopiedCodes { .. } => {
            Some("leave out `--dtype`: codes and scales are then copied as they are".to_owned())
        }
        Difference::IdlePattern { option: "--rename", .. } => {
            Some("`thalweg inspect CKPT -v` lists the names; in a rule a `*` matches anything".to_owned())
        }
        Difference::IdlePattern { option, .. } => {
            Some(format!("`thalweg inspect CKPT -v` lists the names; in `{option} NAME` a `*` matches anything"))
        }
        Difference::NoMoments { newest: NewestHas::No, .. } => {
            Some("leave out `--optimizer average`: the newest checkpoint has no optimizer state tensors".to_owned())
        }
        Difference::NoMoments { .. } | Difference::OptimizerState { .. } => Some(NEWEST_HINT.to_owned()),
        Difference::NewestDiffer { .. } => Some("make the outputs one by one, with `thalweg merge`".to_owned()),
        _ => None,
    }
}

fn hint_for_prefix(difference: &Difference) -> Option<String> {
    let Difference::Prefix { prefix, rule, .. } = difference else { return None };
    let origin = match prefix.as_str() {
        "_orig_mod." => "`torch.compile` adds it: save `model._orig_mod.state_dict()`",
        "module." => "`DistributedDataParallel` adds it: save `model.module.state_dict()`",
        _ => "a wrapper adds it: save the model inside the wrapper",
    };
    Some(match rule {
        Some(rule) => format!("{origin}, or {}", rename_with(rule)),
        None => format!(
            "{origin}, or rename the tensors of those sources, so that either all names or none have the prefix `{prefix}`"
        ),
    })
}

/// How a rule that renames tensors is given.
fn rename_with(rule: &str) -> String {
    format!("write the rule `{}` to a file and pass it with `--rename FILE`", display_name(rule))
}

/// For sources that are one Llama under torchtitan's names and under Hugging Face's.
const TORCHTITAN_HINT: &str = "some sources have torchtitan's names and others Hugging Face's: `--to-huggingface` gives all of \
     them Hugging Face's, by the `config.json` beside the newest one's tensors or that of `--hf-assets DIR`";

fn hint_for_names(differences: &[Difference], relation: Relation) -> Option<String> {
    let missing: Vec<(&str, NewestHas)> = differences
        .iter()
        .filter_map(|difference| match difference {
            Difference::Presence { tensor, newest, .. } => Some((tensor.as_str(), *newest)),
            _ => None,
        })
        .collect();
    if missing.is_empty() {
        return None;
    }
    let fused = |name: &str| name.contains("experts.gate_up_proj") || name.contains("experts.down_proj");
    if missing.iter().any(|(name, _)| fused(name)) && missing.iter().any(|(name, _)| name.contains("experts.0.")) {
        return Some(
            "some sources hold the experts fused, others one by one: save them in the same form first".to_owned(),
        );
    }
    if missing.iter().all(|(name, _)| is_output_head(name)) {
        let text = "an output head is tied in some sources and stored in others: save them in the same form first";
        return Some(text.to_owned());
    }
    let architecture = differences.iter().find_map(|difference| match difference {
        Difference::Config { key, .. } if ARCHITECTURE_KEYS.contains(&key.as_str()) => Some(key),
        _ => None,
    });
    if let Some(key) = architecture {
        let choose = match relation {
            Relation::Checkpoints => "choose checkpoints of one run",
            Relation::Experts => "choose experts of one base, and name that base",
        };
        return Some(format!("these are different models (`{key}`): {choose}"));
    }
    let is_missing = |name: &str| missing.iter().any(|(other, _)| *other == name);
    if missing.iter().any(|(name, _)| huggingface_name(name).is_some_and(|name| is_missing(&name))) {
        return Some(TORCHTITAN_HINT.to_owned());
    }
    let presence = differences.iter().filter_map(|difference| match difference {
        Difference::Presence { tensor, present, absent, .. } => Some((tensor.as_str(), &present[..], &absent[..])),
        _ => None,
    });
    if let Some(rule) = replacing_rule(presence) {
        return Some(rename_with(&rule));
    }
    if missing.iter().all(|(name, _)| is_known_buffer(name)) {
        return Some(hint_for_buffers(&missing));
    }
    if are_named_differently(differences) {
        return Some(
            "the sources have different names for their tensors: merge models of the same kind in the same format, \
             or rename the tensors of some of them with `--rename FILE`"
                .to_owned(),
        );
    }
    let names: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
    if relation == Relation::Experts {
        let drop = options_for("--drop", &names);
        return Some(format!(
            "leave them out with `{drop}`, if the model works without them, or choose experts of one base"
        ));
    }
    differences.iter().find_map(|difference| match difference {
        Difference::Presence { absent, .. } => absent.last().map(|label| hint_without(label)),
        _ => None,
    })
}

/// Whether each of two sources has tensors that the other lacks.
fn are_named_differently(differences: &[Difference]) -> bool {
    let sides = || {
        differences.iter().filter_map(|difference| match difference {
            Difference::Presence { present, absent, .. } => Some((present, absent)),
            _ => None,
        })
    };
    sides().any(|(present, absent)| {
        sides().any(|(others, lack)| {
            present.iter().any(|one| lack.contains(one)) && absent.iter().any(|one| others.contains(one))
        })
    })
}

/// What to do about a source that does not fit: one with a step may be in a window, any other was named.
fn hint_without(label: &str) -> String {
    match label.starts_with("step ") {
        true => format!("choose a window without {label}, or that starts after it"),
        false => format!("leave out {label}"),
    }
}

/// The options to copy that fit these tensors.
fn options_for(option: &str, names: &[&str]) -> String {
    let patterns = patterns_for(names, &|_| false);
    let all: Vec<String> = patterns.iter().map(|pattern| format!("{option} {}", shell_word(pattern))).collect();
    all.join(" ")
}

/// Whether a name is that of a buffer which a model computes anew, or which means nothing to it: what may be left out.
///
/// Anything else may be a parameter, whatever its name: without it there would be another model.
fn is_known_buffer(name: &str) -> bool {
    const BUFFERS: [&str; 20] = [
        "_extra_state",
        "attn_mask",
        "attention_mask",
        "causal_mask",
        "cos_cached",
        "freqs_cis",
        "inv_freq",
        "mask",
        "masked_bias",
        "num_batches_tracked",
        "original_inv_freq",
        "position_ids",
        "relative_position_index",
        "rotary_emb",
        "running_mean",
        "running_var",
        "sin_cached",
        "tokens_per_expert",
        "token_type_ids",
        "tril",
    ];
    name.rsplit('.').next().is_some_and(|last| BUFFERS.contains(&last))
}

/// Buffers can be left out, or taken from the newest source if it has them. The hint has the options to copy.
fn hint_for_buffers(missing: &[(&str, NewestHas)]) -> String {
    let names: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
    let mut text = format!("leave such buffers out with `{}`", options_for("--drop", &names));
    if missing.iter().all(|(_, newest)| *newest == NewestHas::Yes) {
        text.push_str(&format!(", or take the newest source's with `{}`", options_for("--take-newest", &names)));
    }
    text
}

fn hint_for_shape(difference: &Difference, relation: Relation) -> Option<String> {
    match difference {
        Difference::Tensor { rows, tensor } => {
            let (label, shape, ..) = rows.last()?;
            if rows.iter().all(|row| row.1 == *shape) {
                let others = rows.iter().filter(|row| row.2 != Dtype::F32);
                let others: Vec<&str> = others.map(|(label, ..)| label.as_str()).collect();
                // `convert` reads such codes only by their scales, and keeps all else as it is.
                if let Some(codes) = rows.iter().find(|row| row.2.class() != DtypeClass::Mergeable) {
                    return Some(format!(
                        "{} is {}, which cannot be averaged: merge checkpoints in a floating-point type, or leave the tensor out with \
                         `{}`; `thalweg convert SOURCE -o OUT --dtype f32` converts FP8 that has block scales",
                        codes.0,
                        codes.2,
                        options_for("--drop", &[tensor])
                    ));
                }
                return Some(format!(
                    "bring all sources to one element type with `thalweg convert SOURCE -o OUT --dtype f32`, then name each of them \
                     with `-m`; not f32 yet: {}",
                    others.join(", ")
                ));
            }
            Some(match relation {
                Relation::Experts => format!(
                    "name the base that the experts were trained from, or leave the tensor out with `{}`",
                    options_for("--drop", &[tensor])
                ),
                Relation::Checkpoints if label.starts_with("step ") => {
                    format!("choose a window on one side of {label}")
                }
                Relation::Checkpoints => format!("leave out {label}"),
            })
        }
        Difference::Refused { tensor, dtype } if *dtype == Dtype::C64 => {
            Some(format!("take the newest source's with `--take-newest {}`", shell_word(tensor)))
        }
        Difference::Refused { .. } => Some("merge the checkpoints as they were in a wider element type".to_owned()),
        _ => None,
    }
}

/// All waivers at once, as options to copy. They cover the values that were found and no others.
fn hint_for_waivers(differences: &[Difference]) -> Option<String> {
    let waiver = |difference: &Difference| match difference {
        Difference::Config { key, rows } | Difference::Tokenizer { key, rows } => {
            let values = rows.iter().map(|(_, value)| value.clone().unwrap_or(Value::Null)).collect();
            Some(ConfigWaiver { key: key.clone(), values }.as_option())
        }
        _ => None,
    };
    let options: Vec<String> = differences.iter().filter_map(waiver).collect();
    (!options.is_empty()).then(|| format!("if this is intended, waive these values with `{}`", options.join(" ")))
}

/// Words that wrappers insert into all names of a model.
const WRAPPERS: [&str; 5] = ["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "module.", "model."];

/// The word by which the names of two sets differ: a wrapper's word anywhere in the names, or a common prefix.
///
/// Names of `a` have it, names of `b` lack it. Neither set has a name of the other.
pub(crate) fn common_prefix_difference(a: &[&str], b: &[&str]) -> Option<String> {
    if a.len() != b.len() || a.is_empty() {
        return None;
    }
    let is_match = |rename: &dyn Fn(&str) -> Option<String>| {
        let renamed: Option<std::collections::BTreeSet<String>> = a.iter().map(|name| rename(name)).collect();
        renamed.is_some_and(|names| names.len() == b.len() && b.iter().all(|name| names.contains(*name)))
    };
    let wrapper = WRAPPERS.iter().find(|word| {
        is_match(&|name: &str| {
            let shorter = remove_part(name, word);
            (shorter.len() < name.len()).then_some(shorter)
        })
    });
    if let Some(word) = wrapper {
        return Some((*word).to_owned());
    }
    // Without its prefix, the first name of `a` may be any name of `b`.
    let prefix = b.iter().find_map(|name| a[0].strip_suffix(name)).filter(|prefix| prefix.ends_with('.'))?;
    is_match(&|name: &str| name.strip_prefix(prefix).map(str::to_owned)).then(|| prefix.to_owned())
}

/// The name without `word`, wherever it is at the beginning or after a dot.
fn remove_part(name: &str, word: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find(word) {
        let is_part = at == 0 && (out.is_empty() || out.ends_with('.')) || rest[..at].ends_with('.');
        out.push_str(&rest[..at]);
        if !is_part {
            out.push_str(word);
        }
        rest = &rest[at + word.len()..];
    }
    out.push_str(rest);
    out
}

/// The patterns that match none of the names.
pub(crate) fn idle_patterns<'a>(
    option: &'static str,
    patterns: &'a [String],
    names: &'a [&'a str],
) -> impl Iterator<Item = Difference> + 'a {
    let is_idle = |pattern: &&String| !names.iter().any(|name| name_fits(pattern, name));
    patterns.iter().filter(is_idle).map(move |pattern| Difference::IdlePattern { option, pattern: pattern.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversion_is_proposed_only_where_it_changes_the_element_type() {
        let hint = |dtype| {
            let row = |label: &str, dtype| (label.to_owned(), Shape::new([4]), dtype, "model.safetensors".to_owned());
            let rows = vec![row("`a`", dtype), row("`b`", Dtype::Bf16)];
            hint_for(&[Difference::Tensor { tensor: "w".to_owned(), rows }], Relation::Checkpoints).unwrap()
        };
        assert!(hint(Dtype::F32).starts_with("bring all sources to one element type with `thalweg convert"));
        for dtype in [Dtype::F8E4M3, Dtype::I64] {
            let said = hint(dtype);
            assert!(
                said.starts_with(&format!(
                    "`a` is {dtype}, which cannot be averaged: merge checkpoints in a floating-point type"
                )),
                "{said}"
            );
            assert!(said.contains("`--drop w`"), "{said}");
        }
    }

    #[test]
    fn a_word_that_a_wrapper_adds_is_found_anywhere() {
        for (a, b, word) in [
            (vec!["_orig_mod.a.weight", "_orig_mod.b.weight"], vec!["a.weight", "b.weight"], Some("_orig_mod.")),
            (vec!["l.0._orig_mod.a", "l.1._orig_mod.a"], vec!["l.0.a", "l.1.a"], Some("_orig_mod.")),
            (vec!["module.a"], vec!["a"], Some("module.")),
            (vec!["net.a", "net.b"], vec!["a", "b"], Some("net.")),
            (vec!["_fsdp_wrapped_module.l._fsdp_wrapped_module.a"], vec!["l.a"], Some("_fsdp_wrapped_module.")),
            (vec!["my_module.a"], vec!["my_a"], None),
            (vec!["a", "b"], vec!["c", "d"], None),
            (vec!["x.a", "y.b"], vec!["a", "b"], None),
            (vec!["x.a"], vec!["a", "b"], None),
        ] {
            assert_eq!(common_prefix_difference(&a, &b).as_deref(), word, "{a:?}");
        }
    }
}
