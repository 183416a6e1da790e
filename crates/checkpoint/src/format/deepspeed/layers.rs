//! The layers of a pipeline: a file for each layer and each rank that holds a part of it. Masters are elsewhere, under
//! names that begin with the number of the layer, and get the names that their weights have in the files of layers.

use std::collections::{BTreeMap, BTreeSet};

use thalweg_tensor::{Shape, TensorEntry, display_name};

use super::files::rank_name;
use crate::error::UnfinishedFault;

/// How the names of parameters begin that several layers share.
const TIED_START: &str = "tied_modules.";

/// The weights in the files of layers: by number of the layer, one list for each rank of it, in their order.
#[derive(Debug, Default)]
pub(super) struct LayerWeights(pub(super) BTreeMap<u32, Vec<LayerFile>>);

/// The weights in one file.
#[derive(Debug)]
pub(super) struct LayerFile {
    /// What its tensors begin with: `layer_02.model_01.`.
    pub(super) prefix: String,
    /// The names of the tensors in the file.
    pub(super) weights: BTreeMap<Box<str>, Shape>,
}

/// A parameter of a rank of the model, under its name there.
#[derive(Debug, Clone, Copy)]
pub(super) struct RankParam<'a> {
    pub(super) model_rank: u32,
    pub(super) name: &'a str,
    pub(super) shape: &'a Shape,
}

/// What parameters are called.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct LayerNames {
    /// By rank of the model, and name in it.
    names: BTreeMap<(u32, String), String>,
    /// Names of tensors with the values of another one, whose name follows: tied weights.
    pub(super) same: Vec<(String, String)>,
}

/// Why parameters have no names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NameFault {
    /// Files of layers are missing.
    Missing(Vec<UnfinishedFault>),
    /// They do not fit the files of layers.
    Misfit(String),
}

impl LayerNames {
    pub(super) fn find(layers: &LayerWeights, params: &[RankParam<'_>]) -> Result<Self, NameFault> {
        let mut found = Self::default();
        let holders = holders_of_layers(layers, params)?;
        let mut claimed = BTreeSet::new();
        for param in params {
            let Some((layer, key)) = split_number(param.name) else { continue };
            // Every layer has as many files as holders.
            let position = holders[&layer].iter().position(|holder| *holder == param.model_rank).unwrap_or(0);
            let name = name_in(&layers.0[&layer][position], key, param)?;
            claimed.insert(name.clone());
            found.names.insert((param.model_rank, param.name.to_owned()), name);
        }
        found.add_tied(layers, params, &positions(layers, &holders), &claimed)?;
        Ok(found)
    }

    /// What a parameter is called: as the weight that is rounded from it, or by its rank if no file of a layer has it.
    pub(super) fn name_of(&self, model_rank: u32, name: &str) -> String {
        let known = self.names.get(&(model_rank, name.to_owned()));
        known.cloned().unwrap_or_else(|| format!("{}.{name}", rank_name(model_rank)))
    }

    /// Names parameters that several layers share. Each stage of the pipeline with such a layer has a copy with equal
    /// values; only some of the layers have files.
    fn add_tied(
        &mut self,
        layers: &LayerWeights,
        params: &[RankParam<'_>],
        positions: &BTreeMap<u32, usize>,
        claimed: &BTreeSet<String>,
    ) -> Result<(), NameFault> {
        let n_files = layers.0.values().map(Vec::len).max().unwrap_or(1).max(1);
        let mut tied: BTreeMap<(&str, usize), Vec<&RankParam<'_>>> = BTreeMap::new();
        for param in params.iter().filter(|param| param.name.starts_with(TIED_START)) {
            // A stage with tied layers only: ranks count the parts of a layer before the stages.
            let by_order = thalweg_tensor::to_index(param.model_rank.into()) % n_files;
            let position = positions.get(&param.model_rank).copied().unwrap_or(by_order);
            tied.entry((param.name, position)).or_default().push(param);
        }
        let mut taken: BTreeMap<String, &str> = BTreeMap::new();
        for ((name, position), holders) in tied {
            if let Some(other) = holders.iter().find(|holder| holder.shape != holders[0].shape) {
                return Err(NameFault::Misfit(format!(
                    "the tied parameter `{}` has shape {} in `{}`, but {} in `{}`",
                    display_name(name),
                    holders[0].shape,
                    rank_name(holders[0].model_rank),
                    other.shape,
                    rank_name(other.model_rank)
                )));
            }
            let key = name[TIED_START.len()..].split_once('.').map_or("", |(_, key)| key);
            let file = |files: &Vec<LayerFile>| -> Option<String> {
                let file = files.get(position)?;
                let is_it = file.weights.get(key).is_some_and(|shape| shape == holders[0].shape);
                let weight = format!("{}{key}", file.prefix);
                (is_it && !claimed.contains(&weight)).then_some(weight)
            };
            let weights: Vec<String> = layers.0.values().filter_map(file).collect();
            for weight in &weights {
                if let Some(other) = taken.insert(weight.clone(), name) {
                    return Err(NameFault::Misfit(format!(
                        "the tied parameters `{}` and `{}` both fit `{}`",
                        display_name(other),
                        display_name(name),
                        display_name(weight)
                    )));
                }
            }
            let Some(last) = weights.last() else { continue };
            for (i, holder) in holders.iter().enumerate() {
                match weights.get(i) {
                    Some(weight) => {
                        drop(self.names.insert((holder.model_rank, name.to_owned()), weight.clone()));
                    }
                    None => self.same.push((self.name_of(holder.model_rank, name), last.clone())),
                }
            }
            let rest = weights.iter().skip(holders.len());
            self.same.extend(rest.map(|weight| (weight.clone(), weights[holders.len() - 1].clone())));
        }
        Ok(())
    }
}

/// Adds the tensors that have the values of another one and are not there themselves.
pub(super) fn add_same(entries: &mut Vec<TensorEntry>, same: &[(String, String)]) {
    let positions: BTreeMap<Box<str>, usize> =
        entries.iter().enumerate().map(|(position, entry)| (entry.name.clone(), position)).collect();
    for (name, source) in same.iter().filter(|(name, _)| !positions.contains_key(name.as_str())) {
        let source = positions.get(source.as_str()).map(|position| entries[*position].clone());
        entries.extend(source.map(|entry| TensorEntry { name: name.as_str().into(), ..entry }));
    }
}

/// The number of the layer in the name of a parameter, and the rest.
fn split_number(name: &str) -> Option<(u32, &str)> {
    let (number, key) = name.split_once('.')?;
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    Some((number.parse().ok().filter(|_| is_number)?, key))
}

/// The ranks of the model with parameters of each layer, in order.
fn holders_of_layers(
    layers: &LayerWeights,
    params: &[RankParam<'_>],
) -> Result<BTreeMap<u32, BTreeSet<u32>>, NameFault> {
    let mut holders: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    for param in params {
        if let Some((layer, _)) = split_number(param.name) {
            holders.entry(layer).or_default().insert(param.model_rank);
        }
    }
    // What the file of this rank would be called, by those of another layer.
    let file_end = |position: usize| {
        let known = layers.0.values().find_map(|files| files.get(position));
        let known = known.and_then(|file| file.prefix.trim_end_matches('.').split_once('.'));
        known.map_or_else(|| format!("-model_{position:02}"), |(_, rank)| format!("-{rank}"))
    };
    let is_bare =
        layers.0.values().all(|files| files.len() == 1 && !files[0].prefix.trim_end_matches('.').contains('.'));
    let mut missing = Vec::new();
    for (layer, ranks) in &holders {
        let n_files = layers.0.get(layer).map_or(0, Vec::len);
        if n_files > ranks.len() {
            return Err(NameFault::Misfit(format!(
                "layer {layer} has {n_files} files, but {} of the `mp_rank` files have parameters of it",
                ranks.len()
            )));
        }
        let ends = (n_files..ranks.len()).map(|position| if is_bare { String::new() } else { file_end(position) });
        missing.extend(
            ends.map(|end| UnfinishedFault::MissingShard { file: format!("layer_{layer:02}{end}-model_states.pt") }),
        );
    }
    if missing.is_empty() { Ok(holders) } else { Err(NameFault::Missing(missing)) }
}

/// Which of the files of each of its layers a rank of the model has.
fn positions(layers: &LayerWeights, holders: &BTreeMap<u32, BTreeSet<u32>>) -> BTreeMap<u32, usize> {
    let known = holders.iter().filter(|(layer, _)| layers.0.contains_key(layer));
    known.flat_map(|(_, ranks)| ranks.iter().enumerate().map(|(position, rank)| (*rank, position))).collect()
}

/// The name of the weight of a parameter, which must have its shape.
fn name_in(file: &LayerFile, key: &str, param: &RankParam<'_>) -> Result<String, NameFault> {
    let name = format!("{}{key}", file.prefix);
    let rank = rank_name(param.model_rank);
    match file.weights.get(key) {
        Some(shape) if shape == param.shape => Ok(name),
        Some(shape) => Err(NameFault::Misfit(format!(
            "`{}` has shape {shape}, but `{}` of `{rank}` has shape {}",
            display_name(&name),
            display_name(param.name),
            param.shape
        ))),
        None => Err(NameFault::Misfit(format!(
            "no file of a layer holds `{}`, the weight of `{}` of `{rank}`",
            display_name(&name),
            display_name(param.name)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names and sizes of weights.
    type Sizes<'a> = &'a [(&'a str, u64)];
    /// The files of a layer, by rank.
    type Ranks<'a> = &'a [(&'a str, Sizes<'a>)];
    /// By layer.
    type Files<'a> = &'a [(u32, Ranks<'a>)];
    /// What parameters are called, and which tensors have the values of others.
    type Named = (Vec<String>, Vec<(String, String)>);

    fn weights(files: Files<'_>) -> LayerWeights {
        let file = |layer: u32, (rank, weights): &(&str, Sizes<'_>)| LayerFile {
            prefix: format!("layer_{layer:02}.{rank}"),
            weights: weights.iter().map(|(name, n)| ((*name).into(), Shape::new([*n]))).collect(),
        };
        LayerWeights(
            files.iter().map(|(layer, files)| (*layer, files.iter().map(|f| file(*layer, f)).collect())).collect(),
        )
    }

    /// The names of parameters given as rank, name and size; and those that have the values of others.
    fn names(files: Files<'_>, params: &[(u32, &str, u64)]) -> Result<Named, NameFault> {
        let shapes: Vec<Shape> = params.iter().map(|(_, _, n)| Shape::new([*n])).collect();
        let zipped = params.iter().zip(&shapes);
        let all: Vec<RankParam<'_>> =
            zipped.map(|((model_rank, name, _), shape)| RankParam { model_rank: *model_rank, name, shape }).collect();
        let found = LayerNames::find(&weights(files), &all)?;
        Ok((params.iter().map(|(rank, name, _)| found.name_of(*rank, name)).collect(), found.same))
    }

    #[test]
    fn the_ranks_of_a_layer_are_those_of_its_files_in_order() {
        let both: Ranks<'_> = &[("model_00.", &[("w", 4)]), ("model_01.", &[("w", 4)])];
        // Stages vary slower than the parts of a layer, or faster.
        for ranks in [[0, 1, 2, 3], [0, 2, 1, 3]] {
            let params = [(ranks[0], "0.w", 4), (ranks[1], "0.w", 4), (ranks[2], "2.w", 4), (ranks[3], "2.w", 4)];
            let (names, same) = names(&[(0, both), (2, both)], &params).unwrap();
            assert_eq!(
                names,
                ["layer_00.model_00.w", "layer_00.model_01.w", "layer_02.model_00.w", "layer_02.model_01.w"]
            );
            assert_eq!(same, []);
        }
    }

    #[test]
    fn tied_parameters_are_the_weights_of_their_layers_or_stand_beside_them() {
        let embed: Ranks<'_> = &[("", &[("e", 4)])];
        let layer: Ranks<'_> = &[("", &[("w", 4)])];
        let tied = "tied_modules.embed.e";
        let params = [(0, tied, 4), (0, "1.w", 4), (1, "2.w", 4), (1, tied, 4)];
        // The last stage uses the embedding, and has no file of it.
        let (found, same) = names(&[(0, embed), (1, layer), (2, layer)], &params).unwrap();
        assert_eq!(found, ["layer_00.e", "layer_01.w", "layer_02.w", "mp_rank_01.tied_modules.embed.e"]);
        assert_eq!(same, [("mp_rank_01.tied_modules.embed.e".to_owned(), "layer_00.e".to_owned())]);
        // It has one.
        let (found, same) = names(&[(0, embed), (1, layer), (2, layer), (3, embed)], &params).unwrap();
        assert_eq!((found[3].as_str(), same.len()), ("layer_03.e", 0));
        // One stage has both layers.
        let (found, same) = names(&[(0, embed), (1, layer), (3, embed)], &params[..2]).unwrap();
        assert_eq!(
            (found[0].as_str(), &same[..]),
            ("layer_00.e", &[("layer_03.e".to_owned(), "layer_00.e".to_owned())][..])
        );
        // No layer has a file of it.
        let (found, same) = names(&[(1, layer)], &params[..2]).unwrap();
        assert_eq!((found[0].as_str(), same.len()), ("mp_rank_00.tied_modules.embed.e", 0));
        // The stages disagree.
        let fault = names(&[(0, embed), (1, layer), (2, layer)], &[params[0], params[1], params[2], (1, tied, 5)]);
        assert!(
            matches!(&fault, Err(NameFault::Misfit(reason)) if reason.contains("[4] in `mp_rank_00`")),
            "{fault:?}"
        );
        // Another one has the same shape.
        let two = [(0, tied, 4), (0, "tied_modules.head.e", 4)];
        let fault = names(&[(0, embed)], &two).unwrap_err();
        assert!(matches!(&fault, NameFault::Misfit(reason) if reason.contains("both fit")), "{fault:?}");
    }

    #[test]
    fn files_and_parameters_that_do_not_fit_are_refused() {
        let one: Ranks<'_> = &[("model_00.", &[("w", 4)])];
        let two: Ranks<'_> = &[("model_00.", &[("w", 4)]), ("model_01.", &[("w", 4)])];
        let bare: Ranks<'_> = &[("", &[("w", 4)])];
        let missing = |file: &str| NameFault::Missing(vec![UnfinishedFault::MissingShard { file: file.to_owned() }]);
        let of_both = [(0, "0.w", 4), (1, "0.w", 4)];
        assert_eq!(names(&[(0, one)], &of_both).unwrap_err(), missing("layer_00-model_01-model_states.pt"));
        let more = [&of_both[..], &[(0, "3.w", 4)]].concat();
        assert_eq!(names(&[(0, two)], &more).unwrap_err(), missing("layer_03-model_00-model_states.pt"));
        let plain = [(0, "0.w", 4), (1, "3.w", 4)];
        assert_eq!(names(&[(0, bare)], &plain).unwrap_err(), missing("layer_03-model_states.pt"));
        for (params, fact) in [
            (&of_both[..1], "layer 0 has 2 files, but 1 of"),
            (&[(0, "0.w", 5), (1, "0.w", 4)], "`layer_00.model_00.w` has shape [4], but `0.w` of `mp_rank_00` has"),
            (&[(0, "0.v", 4), (1, "0.w", 4)], "no file of a layer holds `layer_00.model_00.v`"),
        ] {
            let fault = names(&[(0, two)], params).unwrap_err();
            assert!(matches!(&fault, NameFault::Misfit(reason) if reason.contains(fact)), "{fault:?}");
        }
    }
}
