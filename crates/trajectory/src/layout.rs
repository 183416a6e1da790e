//! Which names in a run folder are checkpoints, and which step each name says.
//!
//! Names only: nothing here looks at files.

use thalweg_checkpoint::strip_file_end;
use thalweg_storage::FileKind;
use thalweg_storage::publish::is_stage_name;

pub use crate::checkpoint_name::{CheckpointName, NameCount, NameTokens};
use crate::{NamePattern, Step, Tokens};

/// Suffixes that trainers and converters add to the name of a step.
const SUFFIXES: [&str; 12] = [
    "-hf",
    "_hf",
    "-unsharded",
    "_unsharded",
    "-consolidated",
    "_consolidated",
    "-safetensors",
    "_safetensors",
    "_universal",
    // fms-fsdp, TinyLlama.
    "_ckp",
    "_ckpt",
    "-ckpt",
];

/// Whether a name says that something is not finished: hidden, `tmp-...`, `....tmp`, or a stage of ours.
pub fn is_temporary_name(name: &str) -> bool {
    const STARTS: [&str; 4] = [".", "tmp-", "tmp_", "_tmp"];
    const ENDS: [&str; 3] = [".tmp", "-tmp", "_tmp"];
    STARTS.iter().any(|start| name.starts_with(start))
        || ENDS.iter().any(|end| name.ends_with(end))
        || is_stage_name(name)
        || name.contains(".orbax-checkpoint-tmp")
}

/// Reads the name of a folder: `checkpoint-N`, `checkpoint_N`, `stepN`, `step-N`, `step_N`, `global_stepN`,
/// `global_step_N`, `iter_N`, `epN-baN`, `baN`, `N`, `stepN-tokensXB` with or without a stage before it, `epoch_N`,
/// `epoch_N_step_N` and the like, and names of `KEY=VALUE` parts with a `step=N`. Each may have a suffix of a trainer
/// or converter (`-hf`, `-unsharded`, `_ckp`), and after a word the number may have a unit (`checkpoint-1.5k`,
/// `step1M`). Only whole names match: `step_10` is never part of `step_100`.
///
/// # Example
/// ```
/// use thalweg_trajectory::{Step, layout::parse_folder_name};
///
/// assert_eq!(parse_folder_name("iter_0001000").map(|name| name.step), Some(Step(1000)));
/// assert_eq!(parse_folder_name("epoch=3-step=1000").map(|name| name.step), Some(Step(1000)));
/// assert_eq!(parse_folder_name("step_100_old"), None);
/// ```
pub fn parse_folder_name(name: &str) -> Option<CheckpointName> {
    parse_digits(strip_suffixes(name)).map(CheckpointName::plain).or_else(|| parse_worded_name(name))
}

/// Reads the name of a file: a folder's name with at least one word in it, then the ending of a checkpoint file; or
/// nanochat's `model_001000.pt` and modded-nanogpt's `state_step001000.pt`.
pub(crate) fn parse_file_name(name: &str) -> Option<CheckpointName> {
    /// Fewer digits are those of a rank or a shard.
    const MIN_DIGITS: usize = 6;
    let stem = strip_file_end(name)?;
    let padded = stem.strip_prefix("model_").filter(|digits| digits.len() >= MIN_DIGITS).and_then(parse_digits);
    padded.map(CheckpointName::plain).or_else(|| parse_worded_name(stem.strip_prefix("state_").unwrap_or(stem)))
}

/// Reads the name of an entry of a run folder, by the pattern if there is one, else by the known names. `None` for a
/// temporary name and for a name without a step.
pub fn parse_entry_name(name: &str, kind: FileKind, pattern: Option<&NamePattern>) -> Option<CheckpointName> {
    if is_temporary_name(name) {
        return None;
    }
    let known = match (kind, pattern) {
        // Lightning names a folder of shards like a file.
        (FileKind::Folder, None) => parse_file_name(name).or_else(|| parse_folder_name(name)),
        (FileKind::File, None) => parse_file_name(name),
        (FileKind::Folder, Some(pattern)) => by_pattern(name, pattern),
        (FileKind::File, Some(pattern)) => by_pattern(strip_file_end(name)?, pattern),
        (FileKind::Other, _) => None,
    };
    let epoch = if pattern.is_none() { epoch_in_name(name) } else { None };
    known.map(|said| CheckpointName { epoch, ..said })
}

/// The step by the pattern, and the tokens that a known name has beside it.
fn by_pattern(name: &str, pattern: &NamePattern) -> Option<CheckpointName> {
    let said = pattern.parse_name(name)?;
    let tokens = parse_worded_name(name).filter(|known| known.step == said.step).and_then(|known| known.tokens);
    Some(CheckpointName { tokens, ..said })
}

/// The epoch in a name, such as `epoch=3-step=1000`, `epoch_3_step_1000` or `ep3-ba1000`.
fn epoch_in_name(name: &str) -> Option<u64> {
    let at = name.find("epoch").map(|at| at + "epoch".len()).or_else(|| name.starts_with("ep").then_some(2))?;
    let rest = name.get(at..)?;
    let rest = rest.strip_prefix(['=', '-', '_']).unwrap_or(rest);
    let n_digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    rest.get(..n_digits)?.parse().ok()
}

fn strip_suffixes(name: &str) -> &str {
    let mut name = name;
    while let Some(shorter) = SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix)) {
        name = shorter;
    }
    name
}

fn parse_worded_name(name: &str) -> Option<CheckpointName> {
    let name = strip_suffixes(name);
    for start in ["checkpoint-", "checkpoint_", "ckpt-", "ckpt_", "global_step_", "global_step", "iter_", "iter-"] {
        let Some(rest) = name.strip_prefix(start) else { continue };
        if let Some(step) = parse_count(rest) {
            return Some(CheckpointName::plain(step));
        }
        // Only `checkpoint` and `ckpt` also come before a name that another trainer uses alone, as in
        // `checkpoint_epoch_1_step_100`.
        if !start.starts_with(['c']) {
            continue;
        }
        if let Some(inner) = parse_step_name(rest).or_else(|| parse_epoch_name(rest)) {
            return Some(inner);
        }
    }
    parse_epoch_batch(name)
        .map(CheckpointName::plain)
        .or_else(|| parse_step_name(name))
        .or_else(|| parse_epoch_name(name))
        .or_else(|| parse_keyed_name(name))
}

/// `ep0-ba1000`: batches count on through the epochs. A file with the whole model is called `ep0-ba1000-rank0`, and
/// what LLM Foundry exports for Hugging Face `ba1000`.
fn parse_epoch_batch(name: &str) -> Option<Step> {
    if let Some(batch) = name.strip_prefix("ba") {
        return parse_digits(batch);
    }
    let (epoch, batch) = name.strip_prefix("ep")?.split_once("-ba")?;
    parse_digits(epoch)?;
    parse_digits(batch.strip_suffix("-rank0").unwrap_or(batch))
}

/// `epoch3`, `epoch_3`, or `epoch_3_step_1000`, in which the step counts.
fn parse_epoch_name(name: &str) -> Option<CheckpointName> {
    let rest = name.strip_prefix("epoch")?;
    let rest = rest.strip_prefix(['-', '_']).unwrap_or(rest);
    let n_digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, rest) = rest.split_at_checked(n_digits)?;
    let step = parse_digits(digits)?;
    match rest.strip_prefix(['-', '_']) {
        Some(behind) => parse_step_name(behind),
        None if rest.is_empty() => Some(CheckpointName { counts: NameCount::Epochs, ..CheckpointName::plain(step) }),
        None => None,
    }
}

/// `KEY=VALUE` parts between dashes or underscores, as Lightning and NeMo write them. A single `step=N` counts, or else
/// a single `epoch=N`.
fn parse_keyed_name(name: &str) -> Option<CheckpointName> {
    let only = |key: &str, separators: &[char]| {
        let mut found = name.split(separators).filter_map(|part| part.strip_prefix(key)?.strip_prefix('='));
        found.next().filter(|_| found.next().is_none()).and_then(parse_digits)
    };
    // A key may contain underscores, as `max_step` does, so the name is first split at dashes alone.
    let find = |key| only(key, &['-']).or_else(|| only(key, &['-', '_']));
    let by_epoch = |step| CheckpointName { counts: NameCount::Epochs, ..CheckpointName::plain(step) };
    find("step").map(CheckpointName::plain).or_else(|| find("epoch").map(by_epoch))
}

/// `[stageN-][ingredientN-]step[-_]N[-tokensX]`, or with an epoch after the step: `step_1000_epoch_3`.
fn parse_step_name(name: &str) -> Option<CheckpointName> {
    let (stage, rest) = split_stage(name);
    let rest = rest.strip_prefix("step")?;
    let rest = rest.strip_prefix(['-', '_']).unwrap_or(rest);
    let rest = match rest.split_once("-epoch").or_else(|| rest.split_once("_epoch")) {
        Some((step, epoch)) => {
            parse_digits(epoch.strip_prefix(['-', '_']).unwrap_or(epoch))?;
            step
        }
        None => rest,
    };
    let (digits, tokens) = match rest.split_once("-tokens") {
        Some((digits, tokens)) => (digits, Some(parse_name_tokens(tokens)?)),
        None => (rest, None),
    };
    let plain = CheckpointName::plain(parse_count(digits)?);
    Some(CheckpointName { tokens, stage: stage.map(str::to_owned), ..plain })
}

fn split_stage(name: &str) -> (Option<&str>, &str) {
    let mut rest = name;
    for word in ["stage", "ingredient"] {
        let next = rest.strip_prefix(word).and_then(|tail| tail.split_once('-'));
        if let Some((_, tail)) = next.filter(|(number, _)| parse_digits(number).is_some()) {
            rest = tail;
        }
    }
    let cut = name.len() - rest.len();
    (name.get(..cut.saturating_sub(1)).filter(|_| cut > 0), rest)
}

fn parse_name_tokens(text: &str) -> Option<NameTokens> {
    let text = text.to_ascii_uppercase();
    let number = text.trim_end_matches(['K', 'M', 'B', 'T']);
    let suffix = text.get(number.len()..)?;
    let n_decimals = number.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    let power: usize = match suffix {
        "" => 0,
        "K" => 3,
        "M" => 6,
        "B" => 9,
        "T" => 12,
        _ => return None,
    };
    let tokens: Tokens = text.parse().ok()?;
    let unit = 10u64.checked_pow(u32::try_from(power.saturating_sub(n_decimals)).ok()?)?;
    // A count without a suffix is exact.
    Some(NameTokens { tokens, unit: if power == 0 { 0 } else { unit } })
}

/// A number of steps: digits, or thousands or millions as in `1.5k` and `1M`. A small `m` is not read:
/// `checkpoint-70m` is a size of a model.
fn parse_count(text: &str) -> Option<Step> {
    let scaled = || {
        let (number, unit) = match text.strip_suffix(['k', 'K']) {
            Some(number) => (number, 'K'),
            None => (text.strip_suffix('M')?, 'M'),
        };
        number.starts_with(|c: char| c.is_ascii_digit()).then(|| format!("{number}{unit}").parse().ok()).flatten()
    };
    parse_digits(text).or_else(scaled)
}

fn parse_digits(text: &str) -> Option<Step> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok().map(Step)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_folder(name: &str, step: u64) {
        assert_eq!(parse_folder_name(name).map(|name| name.step), Some(Step(step)), "{name}");
    }

    #[test]
    fn every_layout_gives_its_number() {
        check_folder("checkpoint-500", 500);
        check_folder("step1000", 1000);
        check_folder("step-1000", 1000);
        check_folder("step_1000", 1000);
        check_folder("step_001000", 1000);
        check_folder("global_step64", 64);
        check_folder("global_step64_universal", 64);
        check_folder("iter_0001000", 1000);
        check_folder("ep0-ba1000", 1000);
        check_folder("ep12-ba7", 7);
        assert_eq!(parse_file_name("ep0-ba1000-rank0.pt").map(|name| name.step), Some(Step(1000)));
        assert_eq!(parse_file_name("ep0-ba1000-rank1.pt"), None);
        check_folder("000300", 300);
        check_folder("0", 0);
        check_folder("step1000-tokens4B", 1000);
        check_folder("stage1-step1000-tokens2098B", 1000);
        check_folder("stage2-ingredient3-step77-tokens1B", 77);
        check_folder("checkpoint_7", 7);
        check_folder("checkpoint-1.5k", 1500);
        check_folder("step-20K", 20_000);
        check_folder("step1M", 1_000_000);
        check_folder("checkpoint-1.5M", 1_500_000);
        check_folder("ckpt_2.25k-hf", 2250);
        check_folder("step3k-tokens4B", 3000);
        for end in [".safetensors", ".pt", ".pth", ".pth.tar", ".bin", ".ckpt", ".npz", ".gguf"] {
            let found = parse_file_name(&format!("step_02000{end}"));
            assert_eq!(found.map(|name| name.step), Some(Step(2000)), "{end}");
        }
    }

    #[test]
    fn what_converters_and_other_trainers_write_is_known() {
        check_folder("step1000-unsharded", 1000);
        check_folder("step1000-unsharded-hf", 1000);
        check_folder("iter_0001000_hf", 1000);
        check_folder("stage1-step1000-tokens4B-hf", 1000);
        check_folder("500-hf", 500);
        check_folder("gpt--val_loss=2.10-step=1000-consumed_samples=64000.0", 1000);
        check_folder("gpt--reward=-1.5-step=1000-consumed_samples=64000.0-last", 1000);
        check_folder("epoch=3-step=1000", 1000);
        check_folder("epoch_3_step_1000", 1000);
        check_folder("epoch3-step1000", 1000);
        check_folder("step_1000_epoch_3", 1000);
        check_folder("checkpoint_epoch_3_step_1000", 1000);
        check_folder("checkpoint-step-1000", 1000);
        check_folder("ba1000", 1000);
        check_folder("global_step_1000", 1000);
        check_folder("step_1000_ckp", 1000);
        for name in ["iter-001000-ckpt.pth", "model_001000.pt", "state_step001000.pt", "step_1000_ckp.pth"] {
            assert_eq!(parse_file_name(name).map(|name| name.step), Some(Step(1000)), "{name}");
        }
        assert_eq!(parse_file_name("epoch=0-step=10.safetensors").map(|name| name.step), Some(Step(10)));
    }

    #[test]
    fn an_epoch_counts_only_where_there_is_no_step() {
        for (name, counts) in [
            ("epoch_3", NameCount::Epochs),
            ("epoch3-hf", NameCount::Epochs),
            ("epoch=3", NameCount::Epochs),
            ("checkpoint-epoch-3", NameCount::Epochs),
            ("epoch=3-val_loss=2.1", NameCount::Epochs),
            ("epoch=3-step=1000", NameCount::Steps),
            ("checkpoint_3", NameCount::Steps),
        ] {
            assert_eq!(parse_folder_name(name).map(|name| name.counts), Some(counts), "{name}");
        }
    }

    #[test]
    fn only_whole_numbers_and_whole_names_match() {
        let strangers = [
            "step_10_old",
            "step_",
            "step",
            "step--1",
            "step_-1",
            "step1.5",
            "step1e3",
            "my-step1000",
            "checkpoint-500.tmp",
            "checkpoint-best",
            "iter_",
            "ba",
            "bar1",
            "ep-ba1",
            "ep1-ba",
            "release",
            "steps1000",
            "step1000-merged",
            "step10-tokens",
            "step10-tokensB",
            "step10-tokens4BB",
            "99999999999999999999",
            "step_１０",
            "stage1-",
            "stage-step1",
            "stage1",
            "epoch",
            "epoch_3_old",
            "epoch3_step",
            "step=",
            "step=1-step=2",
            "last_step=x",
            "val_loss=2.10",
            "checkpoint_best",
            "step_1000_epoch",
            "-hf",
            "",
        ];
        for name in strangers {
            assert_eq!(parse_folder_name(name), None, "{name}");
        }
        let files = ["2000.safetensors", "model.safetensors", "model-00001-of-00002.safetensors", "step_10"];
        for name in files.into_iter().chain(["model_1.pt", "model_1000.pt", "optim_001000_rank0.pt"]) {
            assert_eq!(parse_file_name(name), None, "{name}");
        }
    }

    #[test]
    fn names_carry_tokens_and_stage() {
        let name = parse_folder_name("stage1-step1000-tokens2098B").unwrap();
        assert_eq!(name.stage.as_deref(), Some("stage1"));
        assert_eq!(name.tokens, Some(NameTokens { tokens: Tokens(2_098_000_000_000), unit: 1_000_000_000 }));
        let name = parse_folder_name("stage2-ingredient3-step77-tokens1.5b").unwrap();
        assert_eq!(name.stage.as_deref(), Some("stage2-ingredient3"));
        assert_eq!(name.tokens, Some(NameTokens { tokens: Tokens(1_500_000_000), unit: 100_000_000 }));
        let exact = parse_folder_name("step5-tokens4194304").unwrap().tokens.unwrap();
        assert!(exact.agrees_with(Tokens(4_194_304)) && !exact.agrees_with(Tokens(4_194_305)));
        assert!(parse_folder_name("step1000-tokens4B").unwrap().tokens.unwrap().agrees_with(Tokens(4_194_304_000)));
    }

    #[test]
    fn temporary_names_are_known() {
        for name in
            ["tmp-checkpoint-500", ".hidden", "step_10.tmp", "step_n10.thalweg-partial", "5.orbax-checkpoint-tmp-17"]
        {
            assert!(is_temporary_name(name), "{name}");
        }
        assert!(!is_temporary_name("step_10") && !is_temporary_name("tmpl"));
    }
}
