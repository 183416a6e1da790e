//! Names of a rank's tensors as an uncut model has them: layers and experts are counted from 0 in each file.

use thalweg_tensor::TensorEntry;

/// Splits a name at the number after `mark`.
fn split_number<'a>(name: &'a str, mark: &str) -> Option<(&'a str, u64, &'a str)> {
    let at = name.find(mark)? + mark.len();
    let digits = name[at..].bytes().take_while(u8::is_ascii_digit).count();
    let number = name[at..at + digits].parse().ok()?;
    Some((&name[..at], number, &name[at + digits..]))
}

/// The layer of a tensor. Layers that predict further tokens are only in the last stage and are numbered separately.
fn layer(name: &str) -> Option<(&str, u64, &str)> {
    let (before, number, after) = split_number(name, "layers.")?;
    let is_counted = after.starts_with('.') && !before.contains("mtp.");
    is_counted.then_some((before, number, after))
}

/// Continues the numbers of layers from stage to stage.
#[derive(Debug, Default)]
pub(super) struct LayerNames {
    n_before: u64,
    n_here: u64,
}

impl LayerNames {
    /// Begins the next stage, which holds these tensors.
    pub(super) fn begin_stage(&mut self, entries: &[TensorEntry]) {
        let last = entries.iter().filter_map(|entry| layer(&entry.name)).map(|(_, number, _)| number).max();
        self.n_before = self.n_before.saturating_add(self.n_here);
        self.n_here = last.map_or(0, |last| last.saturating_add(1));
    }

    pub(super) fn rename(&self, name: &str) -> String {
        layer(name).map_or_else(
            || name.to_owned(),
            |(before, number, after)| format!("{before}{}{after}", number.saturating_add(self.n_before)),
        )
    }
}

/// What comes before the number of an expert: each expert is a module, or a matrix in one module.
const EXPERT_MARKS: [&str; 3] = [".experts.local_experts.", ".experts.linear_fc1.weight", ".experts.linear_fc2.weight"];

/// Continues the numbers of experts from rank to rank.
#[derive(Debug)]
pub(super) struct ExpertNames {
    n_before: u64,
}

impl ExpertNames {
    /// For the expert rank `rank`, which holds these tensors; all ranks hold the same number of experts.
    pub(super) fn new(rank: u32, entries: &[TensorEntry]) -> Self {
        let last = entries.iter().filter_map(|entry| Self::expert(&entry.name)).map(|(_, number, _)| number).max();
        Self { n_before: last.map_or(0, |last| last.saturating_add(1)).saturating_mul(rank.into()) }
    }

    pub(super) fn is_expert(name: &str) -> bool {
        name.contains(".experts.")
    }

    fn expert(name: &str) -> Option<(&str, u64, &str)> {
        EXPERT_MARKS.iter().find_map(|mark| split_number(name, mark))
    }

    pub(super) fn rename(&self, name: &str) -> String {
        Self::expert(name).map_or_else(
            || name.to_owned(),
            |(before, number, after)| format!("{before}{}{after}", number.saturating_add(self.n_before)),
        )
    }
}

#[cfg(test)]
mod tests {
    use thalweg_tensor::{Dtype, Shape};

    use super::*;

    fn entries(names: &[&str]) -> Vec<TensorEntry> {
        let entry = |name: &&str| TensorEntry {
            name: (*name).into(),
            dtype: Dtype::F32,
            shape: Shape::new([]),
            pieces: Box::default(),
        };
        names.iter().map(entry).collect()
    }

    #[test]
    fn layers_count_on_through_the_stages() {
        let mut layers = LayerNames::default();
        layers.begin_stage(&entries(&["decoder.layers.0.a", "decoder.layers.2.a", "embedding.w"]));
        assert_eq!(layers.rename("decoder.layers.1.a"), "decoder.layers.1.a");
        layers.begin_stage(&entries(&["decoder.layers.0.a"]));
        assert_eq!(layers.rename("decoder.layers.0.mlp.w"), "decoder.layers.3.mlp.w");
        assert_eq!(layers.rename("mtp.layers.0.w"), "mtp.layers.0.w");
        assert_eq!(layers.rename("decoder.final_layernorm.weight"), "decoder.final_layernorm.weight");
        layers.begin_stage(&entries(&["output_layer.weight"]));
        assert_eq!(layers.rename("language_model.encoder.layers.0.x"), "language_model.encoder.layers.4.x");
    }

    #[test]
    fn experts_count_on_through_the_ranks() {
        let held = entries(&["l.mlp.experts.local_experts.0.w", "l.mlp.experts.local_experts.1.w"]);
        let names = ExpertNames::new(2, &held);
        assert_eq!(names.rename("l.mlp.experts.local_experts.1.w"), "l.mlp.experts.local_experts.5.w");
        let grouped = ExpertNames::new(1, &entries(&["l.mlp.experts.linear_fc1.weight3"]));
        assert_eq!(grouped.rename("l.mlp.experts.linear_fc2.weight0"), "l.mlp.experts.linear_fc2.weight4");
        assert_eq!(grouped.rename("l.mlp.shared_experts.linear_fc1.weight"), "l.mlp.shared_experts.linear_fc1.weight");
        assert!(!ExpertNames::is_expert("l.mlp.shared_experts.linear_fc1.weight"));
    }
}
