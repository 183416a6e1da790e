//! Files of ranks, each with its part of a model that is cut: which of them belong together, by the numbers in their
//! names.
//!
//! Only the trainer knows how the parts fit together. A merge is element by element and does not need it: each part is
//! merged with the same part of the other checkpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use super::file_names::strip_end;
use crate::Error;
use crate::error::UnfinishedFault;

/// Most ranks: more than any model is cut over.
const MAX_RANKS: u64 = 1 << 16;
/// Most missing files that an error lists: one file with a damaged number has thousands.
const MAX_MISSING: usize = 32;
/// What fairseq2 calls the dimensions over which a model is cut, before the number of the rank.
const AXES: [&str; 4] = ["pp_", "tp_", "sdp_", "dp_"];
/// What Megatron calls the folders of ranks, before one number for each way in which the model is cut.
const MEGATRON_START: &str = "mp_rank_";
/// How Meta's files of ranks begin and end.
const META_START: &str = "consolidated.";
const META_END: &str = ".pth";
/// The folder in which some trainers keep the files of the model, beside those of the optimizer.
pub(super) const MODEL_FOLDER: &str = "model";

/// A number of a rank in a name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Number {
    at: Range<usize>,
    rank: u64,
    /// How many ranks there are, where the name says so.
    size: Option<u64>,
}

/// The numbers of ranks in the name of a file or folder: `rank3.pt`, `model_world_size_8_rank_3.pt`,
/// `weights_tp_rank_world_size=0_2_pp_rank_world_size=0_1.pth`, `consolidated.03.pth`, `pp_00/tp_01/sdp_00.pt`,
/// `mp_rank_01_000`.
fn numbers_in(name: &str) -> Vec<Number> {
    let mut numbers = Vec::new();
    let mut start = 0;
    for part in name.split('/') {
        numbers.extend(numbers_in_part(part).into_iter().map(|number| {
            let at = start + number.at.start..start + number.at.end;
            Number { at, ..number }
        }));
        start += part.len() + 1;
    }
    numbers
}

/// The number that a text begins with, and how many digits it has.
fn leading_number(text: &str) -> Option<(u64, usize)> {
    let n_digits = text.bytes().take_while(u8::is_ascii_digit).count();
    Some((text.get(..n_digits)?.parse().ok()?, n_digits))
}

fn numbers_in_part(part: &str) -> Vec<Number> {
    let only = |start: usize, end: &str| {
        let (rank, n_digits) = leading_number(part.get(start..)?)?;
        (part.get(start + n_digits..) == Some(end)).then_some(Number { at: start..start + n_digits, rank, size: None })
    };
    let axis = AXES.iter().find(|axis| part.starts_with(**axis));
    let end = strip_end(part).and_then(|stem| part.get(stem.len()..)).unwrap_or_default();
    if let Some(number) = axis.and_then(|axis| only(axis.len(), end)) {
        return vec![number];
    }
    if part.starts_with(META_START)
        && let Some(number) = only(META_START.len(), META_END)
    {
        return vec![number];
    }
    if let Some(numbers) = numbers_of_megatron(part) {
        return numbers;
    }
    part.match_indices("rank").filter_map(|(at, _)| number_after(part, at)).collect()
}

/// All numbers of `mp_rank_TT[_PPP[_EEE]]`; `None` for other names.
fn numbers_of_megatron(part: &str) -> Option<Vec<Number>> {
    let mut start = MEGATRON_START.len();
    let read = |text: &str| {
        let (rank, n_digits) = leading_number(text).filter(|(_, n_digits)| *n_digits == text.len())?;
        let at = start..start + n_digits;
        start = at.end + 1;
        Some(Number { at, rank, size: None })
    };
    part.strip_prefix(MEGATRON_START)?.split('_').map(read).collect()
}

/// The number after the word `rank` at this position, which begins a word.
fn number_after(part: &str, at: usize) -> Option<Number> {
    const SEPARATORS: [char; 4] = ['_', '-', '=', '.'];
    let (before, rest) = part.split_at_checked(at)?;
    if before.ends_with(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    let rest = rest.get("rank".len()..)?;
    let with_size = rest.strip_prefix("_world_size");
    let rest = with_size.unwrap_or(rest).trim_start_matches(SEPARATORS);
    let (rank, n_digits) = leading_number(rest)?;
    let start = part.len() - rest.len();
    let size = match with_size {
        // picotron writes `rank_world_size=RANK_SIZE`.
        Some(_) => rest.get(n_digits..)?.strip_prefix('_').and_then(leading_number).map(|(size, _)| size),
        // verl writes `world_size_SIZE_rank_RANK`.
        None => before.strip_suffix('_').and_then(|before| before.rsplit_once("world_size_")).and_then(|(_, size)| {
            leading_number(size).filter(|(_, n_digits)| *n_digits == size.len()).map(|(size, _)| size)
        }),
    };
    Some(Number { at: start..start + n_digits, rank, size })
}

/// Whether a name is that of one rank's part, where it is one of several.
pub(super) fn is_rank_name(name: &str) -> bool {
    !numbers_in(name).is_empty()
}

/// Whether a file is that of one rank, by its name or that of its folder.
pub(super) fn is_rank_path(path: &Path) -> bool {
    let names = [path.file_name(), path.parent().and_then(Path::file_name)];
    names.into_iter().flatten().filter_map(|name| name.to_str()).any(is_rank_name)
}

/// Files that differ in the numbers of their ranks alone, by these numbers.
#[derive(Debug, Default)]
pub(super) struct RankFiles {
    files: BTreeMap<Vec<u64>, String>,
    numbers: Vec<Number>,
}

impl RankFiles {
    /// The files of a checkpoint that belong together: all that are given are files of ranks, and those of the model
    /// can be told from others.
    pub(super) fn find<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let mut groups: BTreeMap<String, Self> = BTreeMap::new();
        for name in names {
            let numbers = numbers_in(name);
            let last = numbers.last()?;
            let mut key = String::new();
            let mut start = 0;
            for number in &numbers {
                key.push_str(name.get(start..number.at.start)?);
                key.push('#');
                start = number.at.end;
            }
            key.push_str(name.get(last.at.end..)?);
            let group = groups.entry(key).or_default();
            let ranks = numbers.iter().map(|number| number.rank).collect();
            // `rank0.pt` and `rank00.pt`.
            if group.files.insert(ranks, name.to_owned()).is_some() {
                return None;
            }
            group.numbers = numbers;
        }
        if groups.len() > 1 {
            groups.retain(|key, _| key.starts_with(MODEL_FOLDER));
        }
        let (_, only) = groups.pop_first()?;
        (groups.is_empty() && only.is_cut()).then_some(only)
    }

    /// Whether several ranks hold parts, or the names have a place for it.
    fn is_cut(&self) -> bool {
        let states_size = |number: &Number| number.size.is_some();
        self.files.len() > 1 || self.numbers.len() > 1 || self.numbers.iter().any(states_size)
    }

    /// The names of the files, in the order of their ranks.
    ///
    /// # Errors
    /// `Unfinished` if the file of a rank is missing; `Layout` if there are more ranks than any model has.
    pub(super) fn complete(self, path: &Path) -> Result<Vec<String>, Error> {
        let size_of = |(axis, number): (usize, &Number)| {
            let last = self.files.keys().filter_map(|ranks| ranks.get(axis)).max().copied().unwrap_or(0);
            number.size.unwrap_or(0).max(last.saturating_add(1))
        };
        let sizes: Vec<u64> = self.numbers.iter().enumerate().map(size_of).collect();
        let n_all = sizes.iter().try_fold(1_u64, |n, size| n.checked_mul(*size)).filter(|n| *n <= MAX_RANKS);
        let Some(n_all) = n_all else {
            let first = self.files.values().next().map(|name| thalweg_tensor::display_name(name)).unwrap_or_default();
            let reason = format!("files such as `{first}` number more than {MAX_RANKS} ranks");
            return Err(Error::Layout { path: path.to_owned(), reason });
        };
        if n_all == self.files.len() as u64 {
            return Ok(self.files.into_values().collect());
        }
        let missing = (0..n_all).map(|position| ranks_at(position, &sizes));
        let missing = missing.filter(|ranks| !self.files.contains_key(ranks)).take(MAX_MISSING);
        let faults: BTreeSet<String> = missing.map(|ranks| self.name_of(&ranks)).collect();
        let faults = faults.into_iter().map(|file| UnfinishedFault::MissingShard { file }).collect();
        Err(Error::Unfinished { path: path.to_owned(), faults })
    }

    /// What the file of other ranks is called.
    fn name_of(&self, ranks: &[u64]) -> String {
        let like = self.files.values().next_back().map(String::as_str).unwrap_or_default();
        let (mut name, mut start) = (String::new(), 0);
        for (axis, (number, rank)) in numbers_in(like).iter().zip(ranks).enumerate() {
            name.push_str(like.get(start..number.at.start).unwrap_or_default());
            name.push_str(&format!("{rank:0width$}", width = self.width_of(axis)));
            start = number.at.end;
        }
        name + like.get(start..).unwrap_or_default()
    }

    /// How many digits the numbers of an axis have at least: more than one only if one begins with 0.
    fn width_of(&self, axis: usize) -> usize {
        let padded = self.files.values().filter_map(|name| {
            let at = numbers_in(name).get(axis)?.at.clone();
            name.get(at.clone())?.starts_with('0').then_some(at.len())
        });
        padded.max().unwrap_or(1)
    }
}

/// The ranks at a position of a grid of these sizes, of which the last counts first.
fn ranks_at(position: u64, sizes: &[u64]) -> Vec<u64> {
    let mut rest = position;
    let mut ranks: Vec<u64> = sizes
        .iter()
        .rev()
        .map(|size| {
            let rank = rest % size;
            rest /= size;
            rank
        })
        .collect();
    ranks.reverse();
    ranks
}

/// What the names of the tensors in a file of a rank begin with: the name of the file, without its ending.
pub(super) fn part_name(file: &str) -> String {
    let name = file.strip_prefix(MODEL_FOLDER).and_then(|rest| rest.strip_prefix('/')).unwrap_or(file);
    strip_end(name).unwrap_or(name).replace('/', ".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranks(name: &str) -> Vec<(u64, Option<u64>)> {
        numbers_in(name).into_iter().map(|number| (number.rank, number.size)).collect()
    }

    #[test]
    fn names_say_which_rank_wrote_a_file_and_some_how_many_there_are() {
        for (name, expected) in [
            ("rank3.pt", &[(3, None)][..]),
            ("ep0-ba100-rank12.pt", &[(12, None)]),
            ("consolidated.03.pth", &[(3, None)]),
            ("model_world_size_8_rank_3.pt", &[(3, Some(8))]),
            ("pytorch_model_fsdp_0_rank1.bin", &[(1, None)]),
            ("weights_tp_rank_world_size=1_2_pp_rank_world_size=0_4.pth", &[(1, Some(2)), (0, Some(4))]),
            ("pp_00/tp_01/sdp_02.pt", &[(0, None), (1, None), (2, None)]),
            ("tp_rank_01_pp_rank_002/model_weights.ckpt", &[(1, None), (2, None)]),
            ("mp_rank_01/model_optim_rng.pt", &[(1, None)]),
            ("mp_rank_01_002_003/model_optim_rng.pt", &[(1, None), (2, None), (3, None)]),
            ("mp_rank_01_model_states.pt", &[(1, None)]),
            ("pytorch_model.bin", &[]),
            ("consolidated.pth", &[]),
            ("consolidated.00.safetensors", &[]),
            ("frank1.pt", &[]),
            ("rank.pt", &[]),
            ("tp_x.pt", &[]),
            ("tp_01_more.pt", &[]),
            ("rank99999999999999999999.pt", &[]),
        ] {
            assert_eq!(ranks(name), expected, "{name}");
        }
    }

    #[test]
    fn parts_are_complete_or_the_missing_ones_are_named() {
        let found = |names: &[&str]| {
            let files = RankFiles::find(names.iter().copied())?;
            Some(files.complete(Path::new("x")).map_err(|error| format!("{error}, {}", error.details().join(", "))))
        };
        let whole = |names: &[&str]| Some(Ok(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()));
        let lacks = |names: &[&str], file: &str| {
            let error = found(names).and_then(Result::err).unwrap_or_default();
            assert!(error.contains(file), "{names:?}: {error}");
        };
        assert_eq!(found(&["rank1.pt", "rank0.pt"]), whole(&["rank0.pt", "rank1.pt"]));
        assert_eq!(found(&["pp_00/tp_00/sdp_00.pt"]), whole(&["pp_00/tp_00/sdp_00.pt"]));
        let pairs = ["model_rank0.pt", "model_rank1.pt", "ema_rank0.pt", "ema_rank1.pt"];
        assert_eq!(found(&pairs), whole(&pairs[..2]));
        assert_eq!(found(&pairs[..3]), whole(&pairs[..2]));
        assert_eq!(found(&["model_world_size_1_rank_0.pt"]), whole(&["model_world_size_1_rank_0.pt"]));
        lacks(&["rank10.pt", "rank9.pt", "rank0.pt"], "`rank5.pt`");
        lacks(&["consolidated.00.pth", "consolidated.10.pth"], "`consolidated.01.pth`");
        lacks(&["mp_rank_00_000/m.pt", "mp_rank_01_001/m.pt"], "`mp_rank_01_000/m.pt`");
        lacks(&["model_world_size_2_rank_0.pt"], "model_world_size_2_rank_1.pt");
        lacks(&["pp_00/tp_00/sdp_00.pt", "pp_00/tp_01/sdp_00.pt", "pp_01/tp_01/sdp_00.pt"], "pp_01/tp_00/sdp_00.pt");
        lacks(&["w_tp_rank_world_size=0_2_pp_rank_world_size=0_1.pth"], "w_tp_rank_world_size=1_2_pp");
        lacks(&["rank0.pt", "rank4294967295.pt"], "more than 65536 ranks");
        // One file of a rank may be the whole model, and files of several steps are not parts of one.
        for names in [&["rank0.pt"][..], &["ba1-rank0.pt", "ba2-rank0.pt"], &["rank0.pt", "rank1.pt", "other.pt"]] {
            assert_eq!(found(names), None, "{names:?}");
        }
        assert_eq!(found(&["rank0.pt", "rank00.pt", "rank1.pt"]), None);
        assert_eq!(found(&["model_rank0.pt", "trainer_rank0.pt", "trainer_rank1.pt"]), None);
        assert_eq!(found(&["ba1-rank0.pt", "ba1-rank1.pt", "ba2-rank0.pt"]), None);
        let two = ["a_rank0.pt", "a_rank1.pt", "b_rank0.pt", "b_rank1.pt"];
        assert_eq!(found(&two), None);
    }
}
