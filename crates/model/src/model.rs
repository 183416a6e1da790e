//! `Model`: a configuration, its layout and one flat arena of parameters.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use thalweg_tensor::{Dtype, TensorSource, to_index};

use crate::Error;
use crate::config::ModelConfig;
use crate::kernel::Real;
use crate::kernel::rotary::RotaryTable;
use crate::layout::{ParamLayout, ParamRole, ParamSpec, is_ignored};

/// Standard deviation of fresh matrices and embeddings, as GPT-2 and Llama have it.
const INITIAL_DEVIATION: f64 = 0.02;
/// Bytes read from a source at once.
const READ_BYTES: usize = 1 << 20;

/// A decoder transformer with its parameters.
#[derive(Debug, Clone)]
pub struct Model<T: Real = f32> {
    pub(crate) config: ModelConfig,
    pub(crate) layout: ParamLayout,
    pub(crate) params: Vec<T>,
}

impl<T: Real> Model<T> {
    /// Fresh parameters: matrices and embeddings normal with deviation 0.02, those that write into the residual stream
    /// divided by `sqrt(2 n_layers)` (GPT-2), norms 1, biases 0.
    ///
    /// The same seed gives the same bits on every machine: each tensor has its own stream of ChaCha8, numbered by its
    /// place in the layout.
    ///
    /// # Panics
    /// When the configuration would not pass [`ModelConfig::validate`].
    ///
    /// # Example
    /// ```
    /// # let config = serde_json::json!({
    /// #     "model_type": "llama", "vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
    /// #     "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 8,
    /// # });
    /// # let config = thalweg_model::ModelConfig::from_json(&config)?;
    /// let model = thalweg_model::Model::<f32>::init(config.clone(), 7);
    /// assert_eq!(model.params(), thalweg_model::Model::<f32>::init(config, 7).params());
    /// # Ok::<(), thalweg_model::Error>(())
    /// ```
    pub fn init(config: ModelConfig, seed: u64) -> Self {
        let layout = config.layout();
        let mut params = vec![T::ZERO; layout.n_params()];
        let n_layers = f64::from(u32::try_from(config.n_layers).unwrap_or(u32::MAX));
        for (stream, spec) in (0_u64..).zip(layout.specs()) {
            let out = &mut params[spec.range.clone()];
            match spec.role {
                ParamRole::Norm => out.fill(T::ONE),
                ParamRole::Bias | ParamRole::BalanceBias => {}
                ParamRole::Embedding | ParamRole::Head | ParamRole::Matrix | ParamRole::Router => {
                    let scale = if writes_residual(spec) { 1.0 / (2.0 * n_layers).sqrt() } else { 1.0 };
                    let mut rng = ChaCha8Rng::seed_from_u64(seed);
                    rng.set_stream(stream);
                    fill_normal(out, &mut rng, INITIAL_DEVIATION * scale);
                }
            }
        }
        Self { config, layout, params }
    }

    /// A model over parameters in the order of the layout.
    ///
    /// # Errors
    /// Those of [`ModelConfig::validate`]; `ParamCount` if the arena is shorter or longer than the layout.
    pub fn from_params(config: ModelConfig, params: Vec<T>) -> Result<Self, Error> {
        config.validate()?;
        let layout = config.layout();
        if layout.n_params() != params.len() {
            return Err(Error::ParamCount { expected: layout.n_params(), found: params.len() });
        }
        Ok(Self { config, layout, params })
    }

    /// The description.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where each parameter is.
    pub fn layout(&self) -> &ParamLayout {
        &self.layout
    }

    /// The arena.
    pub fn params(&self) -> &[T] {
        &self.params
    }

    /// The arena alone.
    pub fn into_params(self) -> Vec<T> {
        self.params
    }

    /// The arena, to be changed.
    pub fn params_mut(&mut self) -> &mut [T] {
        &mut self.params
    }
}

impl Model<f32> {
    /// Reads the parameters from tensors with Hugging Face names; F64 is rounded, F16 and BF16 are widened.
    ///
    /// Nothing is allocated before every name, shape and dtype has been checked. A stored head is left out where the
    /// configuration ties it, and so are buffers that older files carry.
    ///
    /// # Errors
    /// Those of [`ModelConfig::validate`]; `ParamsMismatch` with every missing, extra and misshaped tensor; `Access`
    /// when bytes cannot be had.
    pub fn load(config: ModelConfig, source: &dyn TensorSource) -> Result<Self, Error> {
        config.validate()?;
        let layout = config.layout();
        let places = match_tensors(&config, &layout, source)?;
        let mut params = vec![0.0; layout.n_params()];
        let mut bytes = vec![0; READ_BYTES];
        for (spec, tensor_idx) in layout.specs().iter().zip(places) {
            let dtype = source.catalog().entries()[tensor_idx].dtype;
            let width = dtype.bytes().map_or(1, to_index);
            let mut first = 0_u64;
            for out in params[spec.range.clone()].chunks_mut(READ_BYTES / width) {
                let bytes = &mut bytes[..out.len() * width];
                let end = first + out.len() as u64;
                source.read_elements(tensor_idx, first..end, bytes)?;
                widen(out, bytes, dtype);
                first = end;
            }
        }
        Ok(Self { config, layout, params })
    }
}

/// The tensor of each parameter, in the order of the layout.
fn match_tensors(config: &ModelConfig, layout: &ParamLayout, source: &dyn TensorSource) -> Result<Vec<usize>, Error> {
    let entries = source.catalog().entries();
    let is_extra = |name: &str| layout.find(name).is_none() && !is_ignored(config, name);
    let extra: Vec<_> =
        entries.iter().filter(|entry| is_extra(&entry.name)).map(|entry| entry.name.to_string()).collect();
    let (mut missing, mut misfit, mut places) = (Vec::new(), Vec::new(), Vec::new());
    for spec in layout.specs() {
        let Some(tensor_idx) = source.catalog().find(&spec.name) else {
            missing.push(spec.name.clone());
            continue;
        };
        let entry = &entries[tensor_idx];
        let is_same_shape = entry.shape.0.len() == spec.shape.len()
            && entry.shape.0.iter().zip(&spec.shape).all(|(&a, &b)| a == b as u64);
        let is_float = matches!(entry.dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::Bf16);
        if !is_same_shape || !is_float {
            misfit.push(format!("{} ({} {}, expected {:?})", spec.name, entry.dtype, entry.shape, spec.shape));
        }
        places.push(tensor_idx);
    }
    if missing.is_empty() && extra.is_empty() && misfit.is_empty() {
        return Ok(places);
    }
    Err(Error::ParamsMismatch { missing, extra, misfit })
}

#[expect(clippy::cast_possible_truncation, reason = "F64 is rounded to the nearest F32")]
fn widen(out: &mut [f32], bytes: &[u8], dtype: Dtype) {
    let (twos, fours, eights) = (bytes.as_chunks::<2>().0, bytes.as_chunks::<4>().0, bytes.as_chunks::<8>().0);
    match dtype {
        Dtype::F64 => out.iter_mut().zip(eights).for_each(|(out, &b)| *out = f64::from_le_bytes(b) as f32),
        Dtype::F32 => out.iter_mut().zip(fours).for_each(|(out, &b)| *out = f32::from_le_bytes(b)),
        Dtype::F16 => out.iter_mut().zip(twos).for_each(|(out, &b)| *out = half::f16::from_le_bytes(b).to_f32()),
        _ => out.iter_mut().zip(twos).for_each(|(out, &b)| *out = half::bf16::from_le_bytes(b).to_f32()),
    }
}

/// Whether a matrix is the last of attention or of an MLP.
fn writes_residual(spec: &ParamSpec) -> bool {
    const LAST: [&str; 7] =
        ["o_proj", "down_proj", "attention.dense", "dense_4h_to_h", "attn.c_proj", "mlp.c_proj", "w2"];
    spec.role == ParamRole::Matrix
        && spec.name.strip_suffix(".weight").is_some_and(|name| LAST.iter().any(|end| name.ends_with(end)))
}

/// Box and Muller's two normal numbers from two uniform ones, by `libm`, whose bits are the same everywhere.
fn fill_normal<T: Real>(out: &mut [T], rng: &mut ChaCha8Rng, deviation: f64) {
    for pair in out.chunks_mut(2) {
        // Half a unit off both ends: the logarithm of zero never comes up.
        let mut uniform = || (f64::from(rng.next_u32()) + 0.5) / 4_294_967_296.0;
        let (a, b) = (uniform(), uniform());
        let radius = deviation * libm::sqrt(-2.0 * libm::log(a));
        let angle = std::f64::consts::TAU * b;
        for (out, x) in pair.iter_mut().zip([libm::cos(angle), libm::sin(angle)]) {
            *out = T::from_f64(radius * x);
        }
    }
}

/// The rotary table for this many positions; empty where positions are learned.
pub(crate) fn rotary_table<T: Real>(config: &ModelConfig, n_positions: usize) -> Option<RotaryTable<T>> {
    let rotary = config.rotary?;
    Some(RotaryTable::new(&rotary.frequencies(config.head_dim), n_positions, rotary.table_scale()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_of_every_width_are_widened_or_rounded() {
        let mut out = [0.0; 2];
        widen(&mut out, &[0x80, 0x3f, 0x01, 0x00], Dtype::Bf16);
        assert_eq!(out.map(f32::to_bits), [0x3f80_0000, 0x0001_0000]);
        widen(&mut out, &[0x00, 0x3c, 0x01, 0x80], Dtype::F16);
        assert_eq!(out.map(f32::to_bits), [1.0_f32.to_bits(), (-(2.0_f32.powi(-24))).to_bits()]);
        let near_one: Vec<u8> = [1.0 + 2.0_f64.powi(-25), -0.1].iter().flat_map(|x| x.to_le_bytes()).collect();
        widen(&mut out, &near_one, Dtype::F64);
        assert_eq!(out.map(f32::to_bits), [1.0_f32.to_bits(), (-0.1_f32).to_bits()]);
    }

    /// The sample deviation of n normal numbers is off by about 1 / sqrt(2 n): four such steps of the 8,192 here are
    /// 3.2%.
    #[test]
    fn fresh_matrices_have_the_deviation_that_is_stated() {
        let config = serde_json::json!({
            "model_type": "llama", "vocab_size": 128, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 8,
            "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 8, "head_dim": 64,
        });
        let model = Model::<f64>::init(ModelConfig::from_json(&config).unwrap(), 1);
        for (name, want) in [
            ("model.embed_tokens.weight", 0.02),
            ("model.layers.3.mlp.up_proj.weight", 0.02),
            ("model.layers.3.mlp.down_proj.weight", 0.005),
            ("model.layers.7.self_attn.o_proj.weight", 0.005),
        ] {
            let values = &model.params()[model.layout().find(name).unwrap().range.clone()];
            let n = f64::from(u32::try_from(values.len()).unwrap());
            let mean = values.iter().sum::<f64>() / n;
            let deviation = (values.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n).sqrt();
            assert!(
                (deviation / want - 1.0).abs() < 0.032 && mean.abs() < 0.05 * want,
                "{name}: {mean} and {deviation}"
            );
        }
        let norm = model.layout().find("model.norm.weight").unwrap();
        assert!(model.params()[norm.range.clone()].iter().all(|x| (x - 1.0).abs() < f64::EPSILON));
    }
}
