//! `config.json` of Hugging Face, in and out.
//!
//! Every key is either read, or known to change nothing, or an error: a configuration that means another function must
//! not pass for this one.

use serde_json::{Map, Value, json};

use super::{Bias, MAX_TENSORS, Mlp, ModelConfig, Moe, NormPlace, QkNorm, Residual, Rotary, RotaryScaling};
use crate::Error;
use crate::family::Family;
use crate::kernel::activation::{Activation, Gating};
use crate::kernel::moe::TopKWeights;
use crate::kernel::norm::NormKind;

/// Keys that do not change what a forward pass computes: records, generation, training only.
const HARMLESS: [&str; 56] = [
    "_attn_implementation_autoset",
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "attn_pdrop",
    "auto_map",
    "bos_token_id",
    "chunk_size_feed_forward",
    "classifier_dropout",
    "dtype",
    "embd_pdrop",
    "eos_token_id",
    "hidden_dropout",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_encoder_decoder",
    "keys_to_ignore_at_inference",
    "label2id",
    "max_window_layers",
    "model_type",
    "n_ctx",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "pad_token_id",
    "pretraining_tp",
    "problem_type",
    "reorder_and_upcast_attn",
    "resid_pdrop",
    "return_dict",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "task_specific_params",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "unsloth_fixed",
    "unsloth_version",
    "gradient_checkpointing",
    "cls_token_id",
    "sep_token_id",
    "mask_token_id",
    "decoder_start_token_id",
    "tokenizer_class",
    "prefix",
    "torchscript",
    "use_bfloat16",
    "pruned_heads",
    "finetuning_task",
    "flash_attention",
];

/// A configuration being read: remembers which keys were asked for.
struct Reader<'a> {
    map: &'a Map<String, Value>,
    family: Family,
    read: Vec<&'static str>,
}

impl<'a> Reader<'a> {
    fn value(&mut self, key: &'static str) -> Option<&'a Value> {
        self.read.push(key);
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn size(&mut self, key: &'static str) -> Result<Option<usize>, Error> {
        let Some(value) = self.value(key) else { return Ok(None) };
        match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(n) => Ok(Some(n)),
            None => Err(bad(key, value, "a count")),
        }
    }

    fn need_size(&mut self, key: &'static str) -> Result<usize, Error> {
        self.size(key)?.ok_or(Error::MissingKey { key })
    }

    fn number(&mut self, key: &'static str) -> Result<Option<f64>, Error> {
        let Some(value) = self.value(key) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| bad(key, value, "a number"))
    }

    fn flag(&mut self, key: &'static str, default: bool) -> Result<bool, Error> {
        let Some(value) = self.value(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| bad(key, value, "true or false"))
    }

    fn bias(&mut self, key: &'static str, default: bool) -> Result<Bias, Error> {
        Ok(if self.flag(key, default)? { Bias::Present } else { Bias::Absent })
    }

    /// Refuses any other value than this one.
    fn only(&mut self, key: &'static str, supported: &Value) -> Result<(), Error> {
        match self.value(key) {
            Some(value) if value != supported => Err(unsupported(key, value)),
            _ => Ok(()),
        }
    }

    fn activation(&mut self, key: &'static str, default: Activation) -> Result<Activation, Error> {
        let Some(value) = self.value(key) else { return Ok(default) };
        match value.as_str() {
            Some("silu" | "swish") => Ok(Activation::Silu),
            Some("gelu") => Ok(Activation::Gelu),
            Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_fast") => Ok(Activation::GeluTanh),
            Some("relu") => Ok(Activation::Relu),
            _ => Err(unsupported(key, value)),
        }
    }

    /// Every key must have been asked for or be harmless.
    fn finish(self) -> Result<(), Error> {
        let is_known = |key: &str| self.read.contains(&key) || HARMLESS.contains(&key);
        match self.map.iter().find(|(key, value)| !value.is_null() && !is_known(key)) {
            Some((key, _)) => Err(Error::UnknownKey { key: key.clone(), model_type: self.family.model_type() }),
            None => Ok(()),
        }
    }

    fn sliding_window(&mut self) -> Result<Option<usize>, Error> {
        let window = self.size("sliding_window")?;
        let has_switch = matches!(self.family, Family::Qwen2 | Family::Qwen3 | Family::Qwen3Moe);
        let is_on = if has_switch { self.flag("use_sliding_window", false)? } else { true };
        if let Some(types) = self.value("layer_types") {
            let is_full = |t: &Value| t.as_str() == Some("full_attention");
            match types.as_array() {
                Some(list) if list.iter().all(is_full) => return Ok(None),
                Some(list)
                    if list.iter().all(|t| is_full(t) || t.as_str() == Some("sliding_attention"))
                        && window.is_some() =>
                {
                    return Ok(window);
                }
                _ => return Err(unsupported("layer_types", types)),
            }
        }
        Ok(window.filter(|_| is_on))
    }

    /// Layers without experts: those listed, and those whose number from 1 is not a multiple of the step.
    fn dense_layers(&mut self) -> Result<Vec<usize>, Error> {
        let step = self.size("decoder_sparse_step")?.unwrap_or(1);
        let n_layers = self.need_size("num_hidden_layers")?;
        if step == 0 || n_layers as u128 > MAX_TENSORS {
            return Err(bad("decoder_sparse_step", &json!([step, n_layers]), "at least 1, for fewer layers"));
        }
        let mut dense: Vec<usize> = (0..n_layers).filter(|layer| !(layer + 1).is_multiple_of(step)).collect();
        if let Some(value) = self.value("mlp_only_layers") {
            let fault = || bad("mlp_only_layers", value, "a list of layers");
            for layer in value.as_array().ok_or_else(fault)? {
                let layer = layer.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|&n| n < n_layers);
                dense.push(layer.ok_or_else(fault)?);
            }
        }
        dense.sort_unstable();
        dense.dedup();
        Ok(dense)
    }

    /// Reads the rotary embedding. A model rotates `default_share` of each head unless its family allows another share
    /// and the configuration sets it.
    fn rotary(&mut self, default_theta: f64, default_share: f64, max_positions: usize) -> Result<Rotary, Error> {
        let old = self.value("rope_scaling");
        let new = self.value("rope_parameters");
        let base = self.number("rotary_emb_base")?;
        let theta = base.or(self.number("rope_theta")?);
        let (part, factor) = (self.number("rotary_pct")?, self.number("partial_rotary_factor")?);
        // For a GPT-NeoX, transformers reads only `rotary_pct`.
        let share = if self.family == Family::GptNeox { part } else { factor };
        let (key, parameters) = if new.is_some() { ("rope_parameters", new) } else { ("rope_scaling", old) };
        let empty = Map::new();
        let map = match parameters {
            None => &empty,
            Some(value) => value.as_object().ok_or_else(|| bad(key, value, "an object"))?,
        };
        let mut inner = Reader { map, family: self.family, read: Vec::new() };
        let theta = inner.number("rope_theta")?.or(theta).unwrap_or(default_theta);
        let share = inner.number("partial_rotary_factor")?.or(share).unwrap_or(default_share);
        let scaling = inner.scaling(max_positions)?;
        inner.finish()?;
        let share = if self.family.rotates_a_share() { share } else { self.whole_heads(share, scaling)? };
        Ok(Rotary { theta, share, scaling })
    }

    /// The share of a family that always rotates whole heads. transformers 5.24 ignores another share if frequencies
    /// are not scaled, and fails on mismatched sizes if they are.
    fn whole_heads(&self, share: f64, scaling: RotaryScaling) -> Result<f64, Error> {
        if share < 1.0 && scaling != RotaryScaling::None {
            return Err(unsupported("partial_rotary_factor", &json!(share)));
        }
        Ok(1.0)
    }

    fn scaling(&mut self, max_positions: usize) -> Result<RotaryScaling, Error> {
        let old_name = self.value("type");
        let kind = self.value("rope_type").or(old_name);
        let Some(kind) = kind else { return Ok(RotaryScaling::None) };
        let original = |reader: &mut Self| {
            Ok::<usize, Error>(reader.size("original_max_position_embeddings")?.unwrap_or(max_positions))
        };
        let need = |reader: &mut Self, key| reader.number(key)?.ok_or(Error::MissingKey { key });
        match kind.as_str() {
            Some("default") => Ok(RotaryScaling::None),
            Some("linear") => Ok(RotaryScaling::Linear { factor: need(self, "factor")? }),
            Some("llama3") => Ok(RotaryScaling::Llama3 {
                factor: need(self, "factor")?,
                low_freq_factor: need(self, "low_freq_factor")?,
                high_freq_factor: need(self, "high_freq_factor")?,
                original_positions: original(self)?,
            }),
            Some("yarn") => {
                let factor = need(self, "factor")?;
                self.only("truncate", &Value::Bool(true))?;
                let scale =
                    |factor: f64, mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
                let given = self.number("attention_factor")?;
                let attention_factor = match (given, self.number("mscale")?, self.number("mscale_all_dim")?) {
                    (Some(given), ..) => given,
                    (None, Some(m), Some(all)) if m != 0.0 && all != 0.0 => scale(factor, m) / scale(factor, all),
                    _ => scale(factor, 1.0),
                };
                Ok(RotaryScaling::Yarn {
                    factor,
                    beta_fast: self.number("beta_fast")?.unwrap_or(32.0),
                    beta_slow: self.number("beta_slow")?.unwrap_or(1.0),
                    attention_factor,
                    original_positions: original(self)?,
                })
            }
            _ => Err(unsupported("rope_type", kind)),
        }
    }
}

fn bad(key: &str, value: &Value, expected: &'static str) -> Error {
    Error::BadValue { key: key.to_owned(), value: shown(value), expected }
}

fn unsupported(key: &str, value: &Value) -> Error {
    Error::Unsupported { key: key.to_owned(), value: shown(value) }
}

/// A value as JSON, cut where it is long.
fn shown(value: &Value) -> String {
    const LONGEST: usize = 80;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

impl ModelConfig {
    /// Reads a Hugging Face `config.json`.
    ///
    /// # Errors
    /// `UnknownFamily`, `MissingKey`, `BadValue`, `TooLarge`; `Unsupported` and `UnknownKey` for what would change the
    /// function.
    ///
    /// # Example
    /// ```
    /// let config = serde_json::json!({
    ///     "model_type": "llama", "vocab_size": 512, "hidden_size": 64, "intermediate_size": 172,
    ///     "num_hidden_layers": 5,
    ///     "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 512,
    ///     "tie_word_embeddings": true,
    /// });
    /// let config = thalweg_model::ModelConfig::from_json(&config)?;
    /// assert_eq!((config.head_dim, config.layout().n_params()), (8, 260_032));
    /// # Ok::<(), thalweg_model::Error>(())
    /// ```
    pub fn from_json(config: &Value) -> Result<Self, Error> {
        let map = config.as_object().ok_or(Error::NotAnObject)?;
        let model_type =
            map.get("model_type").and_then(Value::as_str).ok_or(Error::MissingKey { key: "model_type" })?;
        let family = Family::ALL.into_iter().find(|family| family.model_type() == model_type);
        let family =
            family.ok_or_else(|| Error::UnknownFamily { model_type: model_type.chars().take(80).collect() })?;
        let mut reader = Reader { map, family, read: Vec::new() };
        let config = match family {
            Family::Gpt2 => read_gpt2(&mut reader)?,
            Family::GptNeox => read_gpt_neox(&mut reader)?,
            _ => read_llama_like(&mut reader)?,
        };
        reader.finish()?;
        config.check_sizes()?;
        Ok(config)
    }

    /// Writes a `config.json` that transformers loads (but for `thalweg_moe`, which is ours).
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        map.insert("architectures".to_owned(), json!([self.family.architecture()]));
        map.insert("model_type".to_owned(), json!(self.family.model_type()));
        let keys = match self.family {
            Family::Gpt2 => write_gpt2(self),
            Family::GptNeox => write_gpt_neox(self),
            _ => write_llama_like(self),
        };
        if let Value::Object(keys) = keys {
            map.extend(keys);
        }
        map.insert("tie_word_embeddings".to_owned(), json!(self.tied_head));
        map.insert("dtype".to_owned(), json!("float32"));
        Value::Object(map)
    }
}

fn head_dim(hidden: usize, n_heads: usize) -> Result<usize, Error> {
    match hidden.checked_div(n_heads) {
        Some(dim) if dim * n_heads == hidden => Ok(dim),
        _ => Err(bad("num_attention_heads", &json!(n_heads), "a divisor of `hidden_size`")),
    }
}

fn read_llama_like(reader: &mut Reader<'_>) -> Result<ModelConfig, Error> {
    let family = reader.family;
    let (hidden, n_heads) = (reader.need_size("hidden_size")?, reader.need_size("num_attention_heads")?);
    let has_head_dim = !matches!(family, Family::Qwen2 | Family::Olmo2 | Family::Olmoe);
    let own_head_dim = if has_head_dim { reader.size("head_dim")? } else { None };
    let head_dim = match own_head_dim {
        Some(dim) => dim,
        None => head_dim(hidden, n_heads)?,
    };
    let max_positions = reader.need_size("max_position_embeddings")?;
    let attention_bias = match family {
        Family::Qwen2 | Family::Mixtral => Bias::Absent,
        _ => reader.bias("attention_bias", false)?,
    };
    let moe = read_moe(reader)?;
    let inner_key = match family {
        Family::Qwen3Moe | Family::ThalwegMoe => "moe_intermediate_size",
        _ => "intermediate_size",
    };
    let epsilon = if matches!(family, Family::Mixtral | Family::Olmo2 | Family::Olmoe) { 1e-5 } else { 1e-6 };
    let theta = if family == Family::Mixtral { 1e6 } else { 1e4 };
    Ok(ModelConfig {
        family,
        vocab_size: reader.need_size("vocab_size")?,
        hidden,
        n_layers: reader.need_size("num_hidden_layers")?,
        n_heads,
        n_kv_heads: reader.size("num_key_value_heads")?.unwrap_or(n_heads),
        head_dim,
        max_positions,
        tied_head: reader.flag("tie_word_embeddings", false)?,
        norm: NormKind::Rms,
        norm_epsilon: reader.number("rms_norm_eps")?.unwrap_or(epsilon),
        norm_place: if family == Family::Olmo2 { NormPlace::Post } else { NormPlace::Pre },
        residual: Residual::Sequential,
        qk_norm: match family {
            Family::Qwen3 | Family::Qwen3Moe | Family::ThalwegMoe => QkNorm::PerHead,
            Family::Olmo2 | Family::Olmoe => QkNorm::Whole,
            _ => QkNorm::None,
        },
        rotary: Some(reader.rotary(theta, 1.0, max_positions)?),
        qkv_bias: if family == Family::Qwen2 { Bias::Present } else { attention_bias },
        attention_out_bias: attention_bias,
        mlp: Mlp {
            inner: reader.need_size(inner_key)?,
            activation: reader.activation("hidden_act", Activation::Silu)?,
            gating: Gating::Gated,
            bias: if family == Family::Llama { reader.bias("mlp_bias", false)? } else { Bias::Absent },
        },
        moe,
        sliding_window: reader.sliding_window()?,
    })
}

fn read_moe(reader: &mut Reader<'_>) -> Result<Option<Moe>, Error> {
    let family = reader.family;
    if !matches!(family, Family::Mixtral | Family::Qwen3Moe | Family::Olmoe | Family::ThalwegMoe) {
        return Ok(None);
    }
    let n_local = reader.size("num_local_experts")?;
    let n_experts = reader.size("num_experts")?.or(n_local).ok_or(Error::MissingKey { key: "num_experts" })?;
    let is_normalised = if family == Family::Mixtral { true } else { reader.flag("norm_topk_prob", false)? };
    let has_dense = matches!(family, Family::Qwen3Moe | Family::ThalwegMoe);
    let dense_layers = if has_dense { reader.dense_layers()? } else { Vec::new() };
    let dense_inner = if has_dense { reader.size("intermediate_size")?.unwrap_or(0) } else { 0 };
    if family == Family::Olmoe
        && let Some(clip) = reader.value("clip_qkv")
    {
        return Err(unsupported("clip_qkv", clip));
    }
    let is_ours = family == Family::ThalwegMoe;
    Ok(Some(Moe {
        n_experts,
        n_active: reader.need_size("num_experts_per_tok")?,
        weights: if is_normalised { TopKWeights::Normalised } else { TopKWeights::Raw },
        shared_inner: if is_ours { reader.size("shared_intermediate_size")?.unwrap_or(0) } else { 0 },
        balance_bias: if is_ours { reader.bias("balance_bias", false)? } else { Bias::Absent },
        dense_layers,
        dense_inner,
    }))
}

fn read_gpt_neox(reader: &mut Reader<'_>) -> Result<ModelConfig, Error> {
    let (hidden, n_heads) = (reader.need_size("hidden_size")?, reader.need_size("num_attention_heads")?);
    let max_positions = reader.need_size("max_position_embeddings")?;
    let attention_bias = reader.bias("attention_bias", true)?;
    Ok(ModelConfig {
        family: Family::GptNeox,
        vocab_size: reader.need_size("vocab_size")?,
        hidden,
        n_layers: reader.need_size("num_hidden_layers")?,
        n_heads,
        n_kv_heads: n_heads,
        head_dim: head_dim(hidden, n_heads)?,
        max_positions,
        tied_head: reader.flag("tie_word_embeddings", false)?,
        norm: NormKind::Layer,
        norm_epsilon: reader.number("layer_norm_eps")?.unwrap_or(1e-5),
        norm_place: NormPlace::Pre,
        residual: if reader.flag("use_parallel_residual", true)? { Residual::Parallel } else { Residual::Sequential },
        qk_norm: QkNorm::None,
        rotary: Some(reader.rotary(1e4, 0.25, max_positions)?),
        qkv_bias: attention_bias,
        attention_out_bias: attention_bias,
        mlp: Mlp {
            inner: reader.need_size("intermediate_size")?,
            activation: reader.activation("hidden_act", Activation::Gelu)?,
            gating: Gating::Plain,
            bias: Bias::Present,
        },
        moe: None,
        sliding_window: None,
    })
}

fn read_gpt2(reader: &mut Reader<'_>) -> Result<ModelConfig, Error> {
    let (hidden, n_heads) = (reader.need_size("n_embd")?, reader.need_size("n_head")?);
    reader.only("scale_attn_weights", &json!(true))?;
    reader.only("scale_attn_by_inverse_layer_idx", &json!(false))?;
    reader.only("add_cross_attention", &json!(false))?;
    Ok(ModelConfig {
        family: Family::Gpt2,
        vocab_size: reader.need_size("vocab_size")?,
        hidden,
        n_layers: reader.need_size("n_layer")?,
        n_heads,
        n_kv_heads: n_heads,
        head_dim: head_dim(hidden, n_heads)?,
        max_positions: reader.need_size("n_positions")?,
        tied_head: reader.flag("tie_word_embeddings", true)?,
        norm: NormKind::Layer,
        norm_epsilon: reader.number("layer_norm_epsilon")?.unwrap_or(1e-5),
        norm_place: NormPlace::Pre,
        residual: Residual::Sequential,
        qk_norm: QkNorm::None,
        rotary: None,
        qkv_bias: Bias::Present,
        attention_out_bias: Bias::Present,
        mlp: Mlp {
            inner: reader.size("n_inner")?.unwrap_or(hidden.saturating_mul(4)),
            activation: reader.activation("activation_function", Activation::GeluTanh)?,
            gating: Gating::Plain,
            bias: Bias::Present,
        },
        moe: None,
        sliding_window: None,
    })
}

fn activation_name(activation: Activation) -> &'static str {
    match activation {
        Activation::Silu => "silu",
        Activation::Gelu => "gelu",
        Activation::GeluTanh => "gelu_new",
        Activation::Relu => "relu",
    }
}

/// The rotation twice: `rope_parameters` for transformers 5, the older keys for everything before.
fn write_rotary(map: &mut Map<String, Value>, rotary: Rotary) {
    let mut inner = Map::new();
    let scaling = match rotary.scaling {
        RotaryScaling::None => json!({"rope_type": "default"}),
        RotaryScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
        RotaryScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_positions } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_positions,
        }),
        RotaryScaling::Yarn { factor, beta_fast, beta_slow, attention_factor, original_positions } => json!({
            "rope_type": "yarn",
            "factor": factor,
            "beta_fast": beta_fast,
            "beta_slow": beta_slow,
            "attention_factor": attention_factor,
            "original_max_position_embeddings": original_positions,
        }),
    };
    if rotary.scaling != RotaryScaling::None {
        map.insert("rope_scaling".to_owned(), scaling.clone());
    }
    if let Value::Object(scaling) = scaling {
        inner.extend(scaling);
    }
    inner.insert("rope_theta".to_owned(), json!(rotary.theta));
    if rotary.share < 1.0 {
        inner.insert("partial_rotary_factor".to_owned(), json!(rotary.share));
        map.insert("partial_rotary_factor".to_owned(), json!(rotary.share));
    }
    map.insert("rope_theta".to_owned(), json!(rotary.theta));
    map.insert("rope_parameters".to_owned(), Value::Object(inner));
}

fn write_llama_like(config: &ModelConfig) -> Value {
    let family = config.family;
    let mut map = Map::new();
    let mut put = |key: &str, value: Value| map.insert(key.to_owned(), value);
    put("vocab_size", json!(config.vocab_size));
    put("hidden_size", json!(config.hidden));
    put("num_hidden_layers", json!(config.n_layers));
    put("num_attention_heads", json!(config.n_heads));
    put("num_key_value_heads", json!(config.n_kv_heads));
    if !matches!(family, Family::Qwen2 | Family::Olmo2 | Family::Olmoe) {
        put("head_dim", json!(config.head_dim));
    }
    put("max_position_embeddings", json!(config.max_positions));
    put("hidden_act", json!(activation_name(config.mlp.activation)));
    put("rms_norm_eps", json!(config.norm_epsilon));
    if !matches!(family, Family::Qwen2 | Family::Mixtral) {
        put("attention_bias", json!(config.qkv_bias == Bias::Present));
    }
    if family == Family::Llama {
        put("mlp_bias", json!(config.mlp.bias == Bias::Present));
    }
    match family {
        Family::Qwen3Moe | Family::ThalwegMoe => put("moe_intermediate_size", json!(config.mlp.inner)),
        _ => put("intermediate_size", json!(config.mlp.inner)),
    };
    if let Some(window) = config.sliding_window {
        put("sliding_window", json!(window));
        if matches!(family, Family::Qwen2 | Family::Qwen3 | Family::Qwen3Moe) {
            put("use_sliding_window", json!(true));
        }
    }
    if let Some(moe) = &config.moe {
        put(if family == Family::Mixtral { "num_local_experts" } else { "num_experts" }, json!(moe.n_experts));
        put("num_experts_per_tok", json!(moe.n_active));
        if family != Family::Mixtral {
            put("norm_topk_prob", json!(moe.weights == TopKWeights::Normalised));
        }
        if matches!(family, Family::Qwen3Moe | Family::ThalwegMoe) {
            put("decoder_sparse_step", json!(1));
            put("mlp_only_layers", json!(moe.dense_layers));
            if moe.dense_inner > 0 {
                put("intermediate_size", json!(moe.dense_inner));
            }
        }
        if family == Family::ThalwegMoe {
            put("shared_intermediate_size", json!(moe.shared_inner));
            put("balance_bias", json!(moe.balance_bias == Bias::Present));
        }
    }
    if let Some(rotary) = config.rotary {
        write_rotary(&mut map, rotary);
    }
    Value::Object(map)
}

fn write_gpt_neox(config: &ModelConfig) -> Value {
    let mut map = Map::new();
    let mut put = |key: &str, value: Value| map.insert(key.to_owned(), value);
    put("vocab_size", json!(config.vocab_size));
    put("hidden_size", json!(config.hidden));
    put("num_hidden_layers", json!(config.n_layers));
    put("num_attention_heads", json!(config.n_heads));
    put("intermediate_size", json!(config.mlp.inner));
    put("hidden_act", json!(activation_name(config.mlp.activation)));
    put("max_position_embeddings", json!(config.max_positions));
    put("layer_norm_eps", json!(config.norm_epsilon));
    put("use_parallel_residual", json!(config.residual == Residual::Parallel));
    put("attention_bias", json!(config.qkv_bias == Bias::Present));
    if let Some(rotary) = config.rotary {
        put("rotary_pct", json!(rotary.share));
        put("rotary_emb_base", json!(rotary.theta));
        write_rotary(&mut map, rotary);
        if let Some(inner) = map.get_mut("rope_parameters").and_then(Value::as_object_mut) {
            // transformers takes 0.25 where nothing is said.
            inner.insert("partial_rotary_factor".to_owned(), json!(rotary.share));
        }
    }
    Value::Object(map)
}

fn write_gpt2(config: &ModelConfig) -> Value {
    json!({
        "vocab_size": config.vocab_size,
        "n_positions": config.max_positions,
        "n_embd": config.hidden,
        "n_layer": config.n_layers,
        "n_head": config.n_heads,
        "n_inner": config.mlp.inner,
        "activation_function": activation_name(config.mlp.activation),
        "layer_norm_epsilon": config.norm_epsilon,
    })
}
