//! Which layer and which class a tensor belongs to, by its name alone.

/// The layer that a name counts: its first part that is a number, as in `model.layers.3.mlp`.
pub(crate) fn layer_of(name: &str) -> Option<u64> {
    name.split('.').find_map(|part| part.parse().ok())
}

/// The name without numbers and without the repeated head: `mlp.up_proj.weight` of every layer.
pub(crate) fn tensor_class_of(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    let after_layer = parts.iter().position(|part| part.parse::<u64>().is_ok()).map_or(0, |i| i + 1);
    let kept: Vec<&str> = parts[after_layer..].iter().copied().filter(|part| part.parse::<u64>().is_err()).collect();
    thalweg_tensor::display_name(&kept.join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experts_and_layers_share_a_class() {
        assert_eq!(layer_of("model.layers.12.mlp.experts.3.up_proj.weight"), Some(12));
        assert_eq!(tensor_class_of("model.layers.12.mlp.experts.3.up_proj.weight"), "mlp.experts.up_proj.weight");
        assert_eq!(layer_of("lm_head.weight"), None);
        assert_eq!(tensor_class_of("lm_head.weight"), "lm_head.weight");
    }
}
