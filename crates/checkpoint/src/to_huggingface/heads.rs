//! The attention heads of a Llama.

use serde::{Deserialize, Serialize};

/// The attention heads of a Llama, which decide the order of the rows of its queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LlamaHeads {
    /// Heads of the queries.
    pub num_attention_heads: u64,
    /// Heads of the keys and of the values.
    pub num_key_value_heads: u64,
    /// Rows of a head, an even number.
    pub head_dim: u64,
}
