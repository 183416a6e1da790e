//! Masters of experts: a data-parallel rank has only those of some experts, which it numbers from 0, and shares
//! them with the ranks that have the same experts.

use std::collections::BTreeMap;

use super::runs::Groups;
use super::{Opened, state_of};
use crate::Error;
use crate::pickle::Value;

/// What stands before the number of an expert in the name of a parameter.
const NUMBER_START: &str = "deepspeed_experts.";

/// Groups of parameters that the same ranks hold.
pub(super) struct Portion {
    /// The positions of the ranks that hold them, in order.
    pub(super) ranks: Vec<usize>,
    pub(super) groups: Vec<usize>,
    /// Which of the sets of experts it is; none for parameters that are not of experts.
    pub(super) expert_rank: Option<u64>,
}

/// Which ranks hold which groups, by the number of ranks over which ZeRO cut each.
pub(super) fn portions(ranks: &[Opened], shapes: &Groups) -> Result<Vec<Portion>, Error> {
    let counts: Vec<Option<u64>> =
        state_of(&ranks[0])?.get("partition_count").map(|n| n.items().map(Value::as_u64).collect()).unwrap_or_default();
    let n_ranks = ranks.len();
    let mut by_count: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (group, params) in shapes.iter().enumerate() {
        let count = counts.get(group).copied().flatten().and_then(|n| usize::try_from(n).ok());
        let is_of_experts = !params.is_empty() && params.iter().all(|(name, _)| split_number(name).is_some());
        let count = count.filter(|n| is_of_experts && *n > 0 && n_ranks.is_multiple_of(*n)).unwrap_or(n_ranks);
        by_count.entry(count).or_default().push(group);
    }
    let mut portions = Vec::new();
    for (count, groups) in by_count {
        let n_sets = n_ranks / count;
        // Neighbours have different experts. In a single set are all ranks.
        portions.extend((0..n_sets).map(|set| Portion {
            ranks: (set..n_ranks).step_by(n_sets).collect(),
            groups: groups.clone(),
            expert_rank: (n_sets > 1).then_some(set as u64),
        }));
    }
    Ok(portions)
}

/// The names of parameters of experts, numbered over all ranks.
pub(super) struct ExpertNumbers {
    /// How many experts a rank has, by what their names begin with.
    n_own: BTreeMap<String, u64>,
}

impl ExpertNumbers {
    pub(super) fn new(shapes: &Groups) -> Self {
        let mut n_own = BTreeMap::new();
        for (name, _) in shapes.iter().flatten() {
            if let Some((start, number, _)) = split_number(name) {
                let n = n_own.entry(start.to_owned()).or_insert(0);
                *n = number.saturating_add(1).max(*n);
            }
        }
        Self { n_own }
    }

    /// The name of a parameter of a set of experts.
    pub(super) fn name_of(&self, name: &str, expert_rank: Option<u64>) -> String {
        let Some(((start, number, end), set)) = split_number(name).zip(expert_rank) else { return name.to_owned() };
        let n_own = self.n_own.get(start).copied().unwrap_or(1);
        let number = number.saturating_add(n_own.saturating_mul(set));
        format!("{start}{number}{end}")
    }
}

/// Whether DeepSpeed's AutoEP cut experts over groups of ranks: these parts do not follow from `partition_count` and
/// the names, and a model's file lists the layers.
pub(super) fn has_cut_layers(model: Value<'_>) -> bool {
    let is_cut = |layer: Value<'_>| {
        let has_ranks = layer.get("ep_size").and_then(Value::as_u64).is_some_and(|n_ranks| n_ranks > 1);
        let format = layer.get("checkpoint_format").and_then(Value::as_text);
        has_ranks || format == Some("zero3_partitioned")
    };
    ["ds_autoep_layers", "autoep_layers"]
        .iter()
        .any(|key| model.get(key).is_some_and(|layers| layers.items().any(is_cut)))
}

/// The number of an expert in a name, with what stands before and behind it.
fn split_number(name: &str) -> Option<(&str, u64, &str)> {
    let at = name.find(NUMBER_START)? + NUMBER_START.len();
    let (start, rest) = name.split_at(at);
    let digits = rest.find('.')?;
    let is_number = digits > 0 && rest.as_bytes()[..digits].iter().all(u8::is_ascii_digit);
    Some((start, rest[..digits].parse().ok().filter(|_| is_number)?, &rest[digits..]))
}

#[cfg(test)]
mod tests {
    use thalweg_tensor::Shape;

    use super::*;
    use crate::pickle::{PickleLimits, parse_pickle};

    #[test]
    fn layers_that_autoep_cut_are_seen_in_a_models_file() {
        let text = |text: &str| [b"X", &u32::try_from(text.len()).unwrap().to_le_bytes()[..], text.as_bytes()].concat();
        let dict = |key: &str, value: &[u8]| [b"}", &text(key)[..], value, b"s"].concat();
        let is_cut = |list: &str, layer: &[u8]| {
            let layers = [b"]", layer, b"a"].concat();
            let bytes = [b"\x80\x02", &dict(list, &layers)[..], b"."].concat();
            let (pickle, _) = parse_pickle(&bytes, &[], &PickleLimits::default()).unwrap();
            has_cut_layers(pickle.root())
        };
        let partitioned = dict("checkpoint_format", &text("zero3_partitioned"));
        assert!(is_cut("ds_autoep_layers", &partitioned) && is_cut("autoep_layers", &partitioned));
        assert!(is_cut("ds_autoep_layers", &dict("ep_size", b"K\x02")));
        assert!(!is_cut("ds_autoep_layers", &dict("ep_size", b"K\x01")) && !is_cut("other", &partitioned));
    }

    #[test]
    fn experts_are_numbered_over_all_ranks() {
        let param = |name: &str| (name.to_owned(), Shape::new([2]));
        let layer = |layer: u32, expert: u32| format!("m.{layer}.experts.deepspeed_experts.{expert}.w");
        let shapes = vec![vec![param("gate.w")], vec![param(&layer(0, 0)), param(&layer(0, 1)), param(&layer(1, 0))]];
        let numbers = ExpertNumbers::new(&shapes);
        assert_eq!(numbers.name_of(&layer(0, 1), Some(2)), layer(0, 5));
        assert_eq!(numbers.name_of(&layer(1, 0), Some(2)), layer(1, 2));
        assert_eq!(numbers.name_of(&layer(0, 1), None), layer(0, 1));
        assert_eq!(numbers.name_of("gate.w", Some(2)), "gate.w");
        assert_eq!(split_number("deepspeed_experts.x.w"), None);
        assert_eq!(split_number("deepspeed_experts.7"), None);
    }
}
