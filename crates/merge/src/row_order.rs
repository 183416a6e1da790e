//! Whether some sources have the rows of queries and keys in another order than the rest.
//!
//! llama.cpp's converter permutes them. Averaged with rows in the order of Hugging Face, they make a broken model.

use crate::contents::Obstacle;
use crate::difference::Difference;
use crate::open_source::OpenSource;
use crate::output_kind::OutputFormat;
use crate::plan::MergePlan;

const GGUF: &str = "gguf";
/// Where GGUF says which model it is.
const ARCHITECTURE: &str = "general.architecture";
/// Architectures whose queries and keys `convert_hf_to_gguf.py` permutes (`LlamaModel.permute`), as llama.cpp calls
/// them. Mistral and Mixtral are `llama` there.
const PERMUTED: [&str; 14] = [
    "apertus",
    "arcee",
    "baichuan",
    "deci",
    "granite",
    "granitemoe",
    "internlm2",
    "llama",
    "minicpm",
    "mistral3",
    "olmo",
    "orion",
    "smollm3",
    "xverse",
];

/// The architecture of a source whose rows llama.cpp permuted.
fn permuted(source: &OpenSource) -> Option<&str> {
    let says = source.checkpoint.metadata().get(ARCHITECTURE).map(String::as_str);
    says.filter(|name| source.checkpoint.format_name() == GGUF && PERMUTED.contains(name))
}

/// Sources in llama.cpp's order beside sources in another.
pub(crate) fn find_row_order(sources: &[OpenSource], plan: &MergePlan) -> Option<Difference> {
    let architecture = sources.iter().find_map(permuted)?.to_owned();
    if plan.is_copy() || sources.iter().all(|source| source.checkpoint.format_name() == GGUF) {
        return None;
    }
    let labels = sources.iter().filter(|source| permuted(source).is_some()).map(OpenSource::label).collect();
    Some(Difference::Contents { sources: labels, obstacle: Obstacle::RowOrder { architecture } })
}

/// A note where such rows leave the format that says so.
pub(crate) fn row_order_note(sources: &[OpenSource], plan: &MergePlan) -> Option<String> {
    let architecture = sources.iter().find_map(permuted)?;
    let leaves = plan.outputs.iter().any(|output| output.format != OutputFormat::Gguf);
    leaves.then(|| {
        format!(
            "the rows of queries and keys stay in the order of llama.cpp, which permutes those of `{architecture}`: the \
             output is not what Hugging Face's or another trainer's code expects"
        )
    })
}
