//! The files of a checkpoint of DeepSpeed, by what their names say.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::super::Place;

/// Most ranks: more than any job has.
const MAX_RANKS: u32 = 1 << 20;
/// Endings of the names of files with weights: of ranks, and of the layers of a pipeline.
const MODEL_ENDS: [&str; 2] = ["_model_states.pt", "-model_states.pt"];
const OPTIMIZER_END: &str = "_optim_states.pt";
const EXPERT_OPTIMIZER_START: &str = "expp_rank_";

/// Whether a file of this name holds the state of the module, or a part of it.
pub(crate) fn is_model_file(name: &str) -> bool {
    MODEL_ENDS.iter().any(|end| name.ends_with(end))
}

/// Whether a file of this name holds a state of the module or of the optimizer.
pub(super) fn is_state_file(name: &str) -> bool {
    is_model_file(name) || name.ends_with(OPTIMIZER_END)
}

/// Whether a file of this name holds what an optimizer without ZeRO keeps for experts.
pub(crate) fn is_expert_optimizer(name: &str) -> bool {
    name.starts_with(EXPERT_OPTIMIZER_START) && name.ends_with(OPTIMIZER_END)
}

/// The files of one rank of the model: of all data-parallel ranks that hold the same part of it.
#[derive(Debug, Default)]
pub(super) struct RankFiles {
    pub(super) folder: PathBuf,
    /// Its number: 0 for a model that is not cut.
    pub(super) model_rank: u32,
    /// States of the module: one, or one for each data-parallel rank under ZeRO-3.
    pub(super) model: BTreeMap<u32, String>,
    /// States of the optimizer, by data-parallel rank.
    pub(super) optimizer: BTreeMap<u32, String>,
}

impl RankFiles {
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The name of the file of the module's state.
    pub(super) fn model_name(&self) -> String {
        format!("{}_model_states.pt", rank_name(self.model_rank))
    }

    /// The name of the file of the optimizer's state of a data-parallel rank.
    pub(super) fn optimizer_name(&self, rank: u32) -> String {
        format!("zero_pp_rank_{rank}_{}{OPTIMIZER_END}", rank_name(self.model_rank))
    }
}

/// What files and tensors of a rank of the model are called.
pub(super) fn rank_name(model_rank: u32) -> String {
    format!("mp_rank_{model_rank:02}")
}

/// All files of a checkpoint.
#[derive(Debug)]
pub(super) struct SavedFiles {
    pub(super) folder: PathBuf,
    /// By rank of the model; the first one is always there.
    pub(super) ranks: BTreeMap<u32, RankFiles>,
    /// The files of the layers of a pipeline: by number of the layer, and by the rank in the file's name, such as
    /// `model_00`. It is empty if no other parallelism cuts the layer.
    pub(super) layers: BTreeMap<u32, BTreeMap<String, String>>,
    /// The files of experts.
    pub(super) experts: Vec<ExpertFile>,
}

/// A file with one expert of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExpertFile {
    pub(super) name: String,
    /// Number among the layers with experts; none in files of old versions, which hold an expert of every layer.
    pub(super) layer: Option<u32>,
    pub(super) expert: u32,
    pub(super) model_rank: u32,
}

impl ExpertFile {
    /// What DeepSpeed calls such a file.
    pub(super) fn new(layer: Option<u32>, expert: u32, model_rank: u32) -> Self {
        let start = layer.map(|layer| format!("layer_{layer}_")).unwrap_or_default();
        let name = format!("{start}expert_{expert}_{}_model_states.pt", rank_name(model_rank));
        Self { name, layer, expert, model_rank }
    }
}

impl SavedFiles {
    pub(super) fn find(place: &Place) -> Self {
        let folder = place.folder().to_owned();
        let mut saved =
            Self { folder: folder.clone(), ranks: BTreeMap::new(), layers: BTreeMap::new(), experts: Vec::new() };
        let new_rank = |model_rank| RankFiles { folder: folder.clone(), model_rank, ..RankFiles::default() };
        saved.ranks.insert(0, new_rank(0));
        for name in place.file_names() {
            let Some(found) = Name::parse(name) else { continue };
            let name = name.to_owned();
            match found {
                Name::Model { rank, model_rank } => {
                    let files = saved.ranks.entry(model_rank).or_insert_with(|| new_rank(model_rank));
                    files.model.insert(rank, name);
                }
                Name::Optimizer { rank, model_rank } => {
                    let files = saved.ranks.entry(model_rank).or_insert_with(|| new_rank(model_rank));
                    files.optimizer.insert(rank, name);
                }
                Name::Layer { layer, rank } => {
                    saved.layers.entry(layer).or_default().insert(rank, name);
                }
                Name::Expert(expert) => saved.experts.push(expert),
            }
        }
        saved
    }

    /// The files of a model that no tensor, pipeline or expert parallelism cuts.
    pub(super) fn uncut(&self) -> Option<&RankFiles> {
        let is_cut = self.ranks.len() > 1 || !self.layers.is_empty() || !self.experts.is_empty();
        (!is_cut).then(|| self.first_rank())
    }

    pub(super) fn first_rank(&self) -> &RankFiles {
        // The constructor puts it there.
        &self.ranks[&0]
    }

    /// Whether ZeRO keeps masters.
    pub(super) fn has_masters(&self) -> bool {
        self.ranks.values().any(|rank| !rank.optimizer.is_empty())
    }

    /// Whether the files hold the module's weights: under ZeRO-3, the module of each data-parallel rank has none.
    pub(super) fn has_weights(&self) -> bool {
        self.ranks.values().all(|rank| rank.model.len() == 1)
    }
}

/// What a name says about a file.
#[derive(Debug, PartialEq, Eq)]
enum Name {
    /// `mp_rank_MM_model_states.pt`, `zero_pp_rank_R_mp_rank_MM_model_states.pt`.
    Model { rank: u32, model_rank: u32 },
    /// `[bf16_]zero_pp_rank_R_mp_rank_MM_optim_states.pt`.
    Optimizer { rank: u32, model_rank: u32 },
    /// `layer_LL-model_MM-model_states.pt`.
    Layer { layer: u32, rank: String },
    /// `layer_L_expert_E_mp_rank_MM_model_states.pt`.
    Expert(ExpertFile),
}

impl Name {
    fn parse(name: &str) -> Option<Self> {
        let number = |digits: &str| {
            let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| digits.parse::<u32>().ok()).flatten().filter(|number| *number < MAX_RANKS)
        };
        if let Some(stem) = name.strip_suffix(MODEL_ENDS[1]) {
            let (layer, rank) = stem.split_once('-').unwrap_or((stem, ""));
            return Some(Self::Layer { layer: number(layer.strip_prefix("layer_")?)?, rank: rank.to_owned() });
        }
        let (stem, is_model) = match name.strip_suffix(MODEL_ENDS[0]) {
            Some(stem) => (stem, true),
            None => (name.strip_suffix(OPTIMIZER_END)?, false),
        };
        let (start, model_rank) = stem.rsplit_once("mp_rank_")?;
        let model_rank = number(model_rank)?;
        if let Some((layer, expert)) = start.split_once("expert_") {
            let layer = match layer {
                "" => None,
                _ => Some(number(layer.strip_prefix("layer_")?.strip_suffix('_')?)?),
            };
            let expert = number(expert.strip_suffix('_')?)?;
            return Some(Self::Expert(ExpertFile { name: name.to_owned(), layer, expert, model_rank }));
        }
        let start = start.strip_prefix("bf16_").unwrap_or(start);
        let start = start.strip_prefix("fp16_").unwrap_or(start);
        let rank = match start.strip_prefix("zero_pp_rank_") {
            Some(rank) => number(rank.strip_suffix('_')?)?,
            None if start.is_empty() => 0,
            None => return None,
        };
        Some(if is_model { Self::Model { rank, model_rank } } else { Self::Optimizer { rank, model_rank } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_which_part_a_file_holds() {
        let layer = |layer, rank: &str| Name::Layer { layer, rank: rank.to_owned() };
        let expert = |layer, expert, model_rank| Name::Expert(ExpertFile::new(layer, expert, model_rank));
        for (name, expected) in [
            ("mp_rank_00_model_states.pt", Name::Model { rank: 0, model_rank: 0 }),
            ("mp_rank_17_model_states.pt", Name::Model { rank: 0, model_rank: 17 }),
            ("zero_pp_rank_3_mp_rank_01_model_states.pt", Name::Model { rank: 3, model_rank: 1 }),
            ("bf16_zero_pp_rank_12_mp_rank_00_optim_states.pt", Name::Optimizer { rank: 12, model_rank: 0 }),
            ("fp16_zero_pp_rank_0_mp_rank_02_optim_states.pt", Name::Optimizer { rank: 0, model_rank: 2 }),
            ("zero_pp_rank_0_mp_rank_00_optim_states.pt", Name::Optimizer { rank: 0, model_rank: 0 }),
            ("layer_00-model_states.pt", layer(0, "")),
            ("layer_102-model_01-model_states.pt", layer(102, "model_01")),
            ("layer_02-model_00-context_01-model_states.pt", layer(2, "model_00-context_01")),
            ("layer_3_expert_12_mp_rank_01_model_states.pt", expert(Some(3), 12, 1)),
            ("expert_5_mp_rank_00_model_states.pt", expert(None, 5, 0)),
        ] {
            assert_eq!(Name::parse(name), Some(expected), "{name}");
        }
        for name in [
            "mp_rank_-1_model_states.pt",
            "mp_rank_99999999_model_states.pt",
            "layer_+1-model_states.pt",
            "layer_x_expert_0_mp_rank_00_model_states.pt",
            "zero_pp_rank_0_mp_rank_00_optim.pt",
            "expp_rank_1_mp_rank_00_optim_states.pt",
            "pytorch_model_states.pt",
            "mp_rank_00_model_states.pt.tmp",
        ] {
            assert_eq!(Name::parse(name), None, "{name}");
        }
    }
}
