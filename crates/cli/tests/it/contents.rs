//! What is inside a checkpoint, as a user sees it: what is refused and why, which files travel, and hints.
//!
//! Each hint is taken from the error and followed; it must succeed.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use thalweg_tensor::Dtype;
use thalweg_testkit::TinyCheckpoint;

use crate::support::run;

/// The exit code and messages of a command.
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) text: String,
}

impl Said {
    #[track_caller]
    pub(crate) fn expect(&self, code: i32, words: &[&str]) -> &Self {
        assert_eq!(self.code, code, "{}", self.text);
        words.iter().for_each(|word| assert!(self.text.contains(word), "`{word}` is not in:\n{}", self.text));
        self
    }

    /// The words of the first back-ticked part of the hint that begins with `option`, as a shell reads them.
    #[track_caller]
    pub(crate) fn hinted(&self, option: &str) -> Vec<String> {
        let hint = self.text.lines().find(|line| line.starts_with("hint: ")).unwrap_or_else(|| panic!("{}", self.text));
        let quoted = hint.split('`').skip(1).step_by(2).find(|part| part.starts_with(option));
        shell_words(quoted.unwrap_or_else(|| panic!("no `{option}` in {hint}")))
    }
}

fn shell_words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut is_quoted) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        match c {
            '\'' => is_quoted = !is_quoted,
            ' ' if !is_quoted => words.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }
    words.push(word);
    words
}

pub(crate) fn thalweg(arguments: &[&str]) -> Said {
    let output = run(arguments);
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    Said { code: output.status.code().unwrap(), text: String::from_utf8_lossy(&text).into_owned() }
}

/// A run of checkpoints with steps 1, 2, ...
pub(crate) struct Run {
    scratch: tempfile::TempDir,
    n_merges: std::cell::Cell<usize>,
}

impl Run {
    pub(crate) fn new<const N: usize>(checkpoints: [TinyCheckpoint; N]) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        for (checkpoint, step) in checkpoints.iter().zip(1..) {
            checkpoint.write_to_disk(&scratch.path().join(format!("run/step-{step}")));
        }
        Self { scratch, n_merges: std::cell::Cell::new(0) }
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.scratch.path().join(name).to_str().unwrap().to_owned()
    }

    /// Merges all checkpoints into a new folder.
    pub(crate) fn merge(&self, options: &[&str]) -> Said {
        self.n_merges.set(self.n_merges.get() + 1);
        let (run, out) = (self.path("run"), self.out().to_str().unwrap().to_owned());
        thalweg(&[&["merge", &run, "--every", "1", "-o", &out], options].concat())
    }

    pub(crate) fn merge_with(&self, options: &[String]) -> Said {
        self.merge(&options.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The folder of the last merge.
    pub(crate) fn out(&self) -> PathBuf {
        self.scratch.path().join(format!("out{}", self.n_merges.get()))
    }

    pub(crate) fn inspect(&self, step: u64) -> Said {
        thalweg(&["inspect", &self.path(&format!("run/step-{step}"))])
    }

    fn tensors(&self) -> Vec<String> {
        let bytes = std::fs::read(self.out().join("model.safetensors")).unwrap();
        let n_bytes = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
        let header: serde_json::Map<String, Value> = serde_json::from_slice(&bytes[8..8 + n_bytes]).unwrap();
        header.into_iter().map(|(name, _)| name).filter(|name| name != "__metadata__").collect()
    }
}

fn llama(value: f64) -> TinyCheckpoint {
    TinyCheckpoint::llama(Dtype::F32, value)
}

fn bare(value: f64) -> TinyCheckpoint {
    TinyCheckpoint::new().tensor("l.w.weight", Dtype::F32, &[2], &[value, value])
}

fn pair(make: impl Fn(f64) -> TinyCheckpoint) -> Run {
    Run::new([make(1.0), make(2.0)])
}

#[test]
fn files_that_are_neither_weights_nor_training_state_travel() {
    let names =
        ["vocab.txt", "spiece.model", "qwen.tiktoken", "tekken.json", "processor_config.json", "NOTICE", "x.yaml"];
    let left = ["optimizer.pt", "trainer_state.json", "README.md", "modeling_x.py"];
    let run = pair(|value| {
        let add = |made: TinyCheckpoint, name: &&str| made.side_file(name, b"{}");
        names.iter().chain(&left).fold(llama(value), add)
    });
    let said = run.merge(&[]);
    said.expect(0, &left).expect(0, &["`--code`"]);
    names.iter().for_each(|name| assert!(run.out().join(name).exists(), "{name}"));
    assert!(left[..2].iter().all(|name| !run.out().join(name).exists()));
    assert!(!run.out().join("modeling_x.py").exists());
    run.merge(&["--code"]).expect(0, &["optimizer.pt"]);
    assert!(run.out().join("modeling_x.py").exists());
    thalweg(&["plan", &run.path("run"), "--last", "2"]).expect(0, &["modeling_x.py"]);
}

#[test]
fn quantised_weights_are_refused_by_name_and_shown_by_inspect() {
    let kinds: [(&str, Dtype, &str); 4] = [
        ("l.q_weight_qdata", Dtype::I8, "l.q_weight_scale"),
        ("l.q.qweight", Dtype::I32, "l.q.scales"),
        ("l.q.weight", Dtype::I8, "l.q.SCB"),
        ("l.q.weight", Dtype::U8, "l.q.weight.absmax"),
    ];
    for (codes, dtype, scales) in kinds {
        let run = pair(|value| {
            bare(value).tensor(codes, dtype, &[2], &[value, value]).tensor(scales, Dtype::F32, &[1], &[value])
        });
        run.merge(&[]).expect(2, &["quantised", codes, "hint: "]);
        run.merge(&["--non-float", "newest"]).expect(2, &["quantised", codes]);
        run.inspect(1).expect(0, &["a merge is blocked", "quantised", codes]);
    }
    let config = json!({"model_type": "llama", "quantization_config": {"quant_method": "fp8"}});
    let run = pair(|value| bare(value).config(&config));
    run.merge(&[]).expect(2, &["quantization_config", "fp8"]);
    run.inspect(1).expect(0, &["a merge is blocked", "fp8"]);
}

#[test]
fn factors_of_updates_are_refused_with_what_to_do() {
    for (a, b) in [
        ("q.lora_A.weight", "q.lora_B.weight"),
        ("q.lora_down.weight", "q.lora_up.weight"),
        ("q.hada_w1_a", "q.hada_w1_b"),
    ] {
        let run = pair(|value| {
            TinyCheckpoint::new().tensor(a, Dtype::F32, &[1, 2], &[value, value]).tensor(
                b,
                Dtype::F32,
                &[2, 1],
                &[value, value],
            )
        });
        run.merge(&[]).expect(2, &["factors of an update", "merge_and_unload"]);
        run.inspect(2).expect(0, &["a merge is blocked"]);
    }
}

#[test]
fn parameters_that_were_never_saved_are_refused() {
    let empty = |name: &str| TinyCheckpoint::new().raw_tensor(name, Dtype::Bf16, &[0], &[]);
    pair(|_| empty("l.q.weight")).merge(&[]).expect(2, &["1 of 1 floating tensor is empty", "gathered"]);
    let run = pair(|value| empty("l.q.weight").tensor("l.norm.weight", Dtype::Bf16, &[1], &[value]));
    run.merge(&[]).expect(2, &["1 of 2 floating tensors is empty"]);
    run.inspect(1).expect(0, &["a merge is blocked", "empty"]);
    pair(|value| bare(value).raw_tensor("l.w.bias", Dtype::F32, &[0, 4], &[])).merge(&[]).expect(2, &["`l.w.bias`"]);
}

#[test]
fn training_state_among_the_parameters_is_left_out_as_hinted() {
    for names in [
        &["optimizer.state.0.exp_avg", "optimizer.state.0.step"][..],
        &["l.w.weight.exp_avg", "l.w.weight.exp_avg_sq"],
        &["l.w.weight.momentum_buffer"],
    ] {
        let add = |made: TinyCheckpoint, name: &&str| made.tensor(name, Dtype::F32, &[1], &[1.0]);
        let run = pair(|value| names.iter().fold(bare(value), add));
        let said = run.merge(&[]);
        run.merge_with(&said.expect(2, &["training state"]).hinted("--drop")).expect(0, &["left out"]);
        assert_eq!(run.tensors(), ["l.w.weight"]);
    }
}

fn with_config(value: f64, config: &Value) -> TinyCheckpoint {
    bare(value).config(config)
}

#[test]
fn a_waiver_is_hinted_whole_and_covers_the_values_that_were_seen() {
    let config = |theta: f64, window: Value| json!({"model_type": "x", "rope_theta": theta, "sliding_window": window});
    let run = |a: &Value, b: &Value| Run::new([with_config(1.0, a), with_config(2.0, b)]);
    let (old, new) = (config(1e4, json!(null)), config(5e5, json!(4096)));
    let first = run(&old, &new);
    let options = first.merge(&[]).expect(2, &["`rope_theta`", "`sliding_window`"]).hinted("--allow-config");
    assert_eq!(options.len(), 4, "{options:?}");
    first.merge_with(&options).expect(0, &[]);
    run(&old, &config(1e6, json!(4096))).merge_with(&options).expect(2, &["`rope_theta`", "1000000"]);
    run(&old, &config(5e5, json!(512))).merge_with(&options).expect(2, &["`sliding_window`", "512"]);
    first.merge(&["--allow-config", "rope_theta"]).expect(2, &["does not say which values"]);
    // The plan holds the waiver with its values.
    let plan = thalweg(
        &[
            &["plan", &first.path("run"), "--last", "2", "--json"],
            &options.iter().map(String::as_str).collect::<Vec<_>>()[..],
        ]
        .concat(),
    );
    plan.expect(0, &["\"allow_config\"", "500000.0"]);
}

#[test]
fn one_value_in_two_spellings_and_explicit_defaults_are_not_obstacles() {
    let old = json!({"model_type": "llama", "rope_theta": 10000.0});
    let new = json!({"model_type": "llama", "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}});
    Run::new([with_config(1.0, &old), with_config(2.0, &new)]).merge(&[]).expect(0, &[]);
    let other = json!({"model_type": "llama", "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}});
    Run::new([with_config(1.0, &old), with_config(2.0, &other)]).merge(&[]).expect(2, &["`rope_theta`"]);
    for (key, value) in [("attention_bias", json!(false)), ("mlp_bias", json!(false)), ("pretraining_tp", json!(1))] {
        let mut newer = old.clone();
        newer[key] = value;
        Run::new([with_config(1.0, &old), with_config(2.0, &newer)]).merge(&[]).expect(0, &["note: ", key]);
    }
}

#[test]
fn tokenizers_that_differ_in_meaning_are_refused_until_waived() {
    let tokenizer = |vocab: &str| format!(r#"{{"model":{{"type":"WordLevel","vocab":{vocab}}}}}"#);
    let with = |value: f64, name: &str, text: &str| bare(value).side_file(name, text.as_bytes());
    for (name, a, b, c, part) in [
        (
            "tokenizer.json",
            tokenizer(r#"{"a":0,"b":1}"#),
            tokenizer(r#"{"a":1,"b":0}"#),
            tokenizer(r#"{"a":0,"c":1}"#),
            "tokenizer.vocabulary",
        ),
        ("vocab.txt", "a\nb\n".to_owned(), "b\na\n".to_owned(), "c\n".to_owned(), "tokenizer.vocab.txt"),
        ("spiece.model", "x".to_owned(), "y".to_owned(), "z".to_owned(), "tokenizer.spiece.model"),
    ] {
        let run = Run::new([with(1.0, name, &a), with(2.0, name, &b)]);
        let options = run.merge(&[]).expect(2, &[part]).hinted("--allow-config");
        run.merge_with(&options).expect(0, &[]);
        Run::new([with(1.0, name, &a), with(2.0, name, &c)]).merge_with(&options).expect(2, &[part]);
    }
    // The same tokens listed in another order are the same tokenizer.
    let (a, b) = (tokenizer(r#"{"a":0,"b":1}"#), tokenizer(r#"{"b":1, "a":0}"#));
    Run::new([with(1.0, "tokenizer.json", &a), with(2.0, "tokenizer.json", &b)]).merge(&[]).expect(0, &[]);
}

#[test]
fn files_that_only_another_source_has_are_named_with_how_to_take_them() {
    for name in ["tokenizer.json", "config.json"] {
        let run = Run::new([bare(1.0).side_file(name, b"{}"), bare(2.0)]);
        run.merge(&[]).expect(0, &[&format!("lacks `{name}` of"), "`--side-files-from`"]);
        let older = run.path("run/step-1");
        let said = run.merge(&["--side-files-from", &older]);
        assert!(said.code == 0 && !said.text.contains("lacks"), "{}", said.text);
        assert!(run.out().join(name).exists());
    }
}

#[test]
fn files_that_differ_between_sources_are_named_with_the_source_that_decides() {
    for (name, a, b) in [
        ("generation_config.json", r#"{"temperature":0.6}"#, r#"{"temperature":0.7}"#),
        ("special_tokens_map.json", r#"{"eos_token":"</s>"}"#, r#"{"eos_token":"<|end|>"}"#),
        ("chat_template.jinja", "{{ a }}", "{{ b }}"),
        ("tokenizer_config.json", r#"{"chat_template":"x"}"#, r#"{"chat_template":"y"}"#),
    ] {
        let run = Run::new([bare(1.0).side_file(name, a.as_bytes()), bare(2.0).side_file(name, b.as_bytes())]);
        let newest = run.path("run/step-2");
        let note = format!("`{name}` differs between the sources: copying that of `{newest}`");
        run.merge(&[]).expect(0, &[&note, "--side-files-from"]);
        assert_eq!(std::fs::read(run.out().join(name)).unwrap(), b.as_bytes());
    }
    // The same values, written by another version.
    let name = "generation_config.json";
    let with = |value: f64, text: &str| bare(value).side_file(name, text.as_bytes());
    let (a, b) = (r#"{"top_p":1,"transformers_version":"4"}"#, "{\"transformers_version\": \"5\",\n \"top_p\": 1}");
    let said = Run::new([with(1.0, a), with(2.0, b)]).merge(&[]);
    said.expect(0, &[]);
    assert!(!said.text.contains(name), "{}", said.text);
}

#[test]
fn tensors_taken_from_the_newest_source_are_named_if_they_are_not_finite() {
    let with = |value: f64, buffer: f64| bare(value).tensor("x.buffer", Dtype::F32, &[2], &[buffer, 1.0]);
    for (buffer, word) in [(f64::NAN, "NaN"), (f64::INFINITY, "infinity")] {
        let run = Run::new([with(1.0, 0.5), with(2.0, buffer)]);
        let note = format!("`x.buffer` ({word}), taken from step 2, holds values that are not finite");
        run.merge(&["--take-newest", "x.buffer"]).expect(0, &[&note]);
    }
    // A mask is meant so.
    let said = Run::new([with(1.0, 0.5), bare(2.0).tensor("x.buffer", Dtype::F32, &[2], &[f64::NEG_INFINITY, 0.0])])
        .merge(&["--take-newest", "x.buffer"]);
    said.expect(0, &[]);
    assert!(!said.text.contains("not finite"), "{}", said.text);
}

#[test]
fn names_that_differ_by_a_wrapper_are_reported_in_one_line() {
    for prefix in ["_orig_mod.", "module.", "net."] {
        let named = |prefix: &str, value: f64| {
            let name = |last: &str| format!("{prefix}{last}");
            TinyCheckpoint::new().tensor(&name("l.w.weight"), Dtype::F32, &[1], &[value]).tensor(
                &name("lm_head.weight"),
                Dtype::F32,
                &[1],
                &[value],
            )
        };
        let said = Run::new([named("", 1.0), named(prefix, 2.0)]).merge(&[]);
        said.expect(2, &[&format!("differ between sources by `{prefix}` alone"), "2 tensors"]);
        assert!(said.text.lines().count() <= 5, "{}", said.text);
        assert!(!said.text.contains("tied"), "{}", said.text);
    }
}

#[test]
fn names_that_begin_otherwise_are_renamed_by_the_rule_of_the_hint() {
    let named = |prefix: &str, value: f64| {
        let tensor =
            |made: TinyCheckpoint, name: &str| made.tensor(&format!("{prefix}{name}"), Dtype::F32, &[1], &[value]);
        let shared = TinyCheckpoint::new().tensor("lm_head.weight", Dtype::F32, &[1], &[value]);
        ["layers.0.w.weight", "layers.1.w.weight", "norm.weight", "rope"].into_iter().fold(shared, tensor)
    };
    for (first, second) in [
        ("module.", "_orig_mod."),
        ("model.", "transformer."),
        ("module.encoder.", "model."),
        ("", "_orig_mod."),
        ("model.", ""),
    ] {
        let run = Run::new([named(first, 1.0), named(second, 2.0)]);
        let said = run.merge(&[]);
        let hint = said.expect(2, &["--rename FILE"]).text.lines().last().unwrap().to_owned();
        let rule = hint.split('`').find(|part| part.contains(" -> ")).unwrap();
        let rules = run.path("rules.txt");
        std::fs::write(&rules, rule).unwrap();
        run.merge(&["--rename", &rules]).expect(0, &[]);
    }
}

#[test]
fn a_tied_head_is_hinted_only_where_nothing_else_is_missing() {
    let head = |value: f64| bare(value).tensor("lm_head.weight", Dtype::F32, &[1], &[value]);
    Run::new([bare(1.0), head(2.0)]).merge(&[]).expect(2, &["hint: an output head is tied"]);
    let other = head(2.0).tensor("l.extra.weight", Dtype::F32, &[1], &[1.0]);
    let said = Run::new([bare(1.0), other]).merge(&[]);
    assert!(!said.expect(2, &["`l.extra.weight`"]).text.contains("tied"), "{}", said.text);
    let config = |size: u64| json!({"model_type": "llama", "hidden_size": size});
    let other = head(2.0).tensor("l.extra.weight", Dtype::F32, &[1], &[1.0]).config(&config(16));
    Run::new([bare(1.0).config(&config(8)), other]).merge(&[]).expect(2, &["hint: these are different models"]);
}

fn mask(made: TinyCheckpoint, dtype: Dtype, bytes: &[u8]) -> TinyCheckpoint {
    let n_elements = bytes.len() as u64 * 8 / u64::from(dtype.bits());
    made.raw_tensor("l.mask", dtype, &[n_elements], bytes)
}

/// Whether the output holds these bytes, which are those of `l.mask`.
fn output_holds(run: &Run, bytes: &[u8]) -> bool {
    let file = std::fs::read(run.out().join("model.safetensors")).unwrap();
    file.windows(bytes.len()).any(|window| window == bytes)
}

#[test]
fn buffers_that_are_equal_everywhere_are_copied_whatever_they_hold() {
    let f32s: Vec<u8> = [0.0, f32::NEG_INFINITY, 1.5].iter().flat_map(|x: &f32| x.to_le_bytes()).collect();
    let nan: Vec<u8> = [f32::NAN, -2.5].iter().flat_map(|x: &f32| x.to_le_bytes()).collect();
    for (dtype, bytes) in [(Dtype::F32, &f32s), (Dtype::F32, &nan), (Dtype::C64, &nan), (Dtype::F8E4M3, &f32s)] {
        let run = pair(|value| mask(bare(value), dtype, bytes));
        run.merge(&[]).expect(0, &[]);
        assert!(output_holds(&run, bytes), "{dtype}");
    }
    let run = pair(|value| mask(bare(value), Dtype::F32, &f32s));
    run.merge(&["--dtype", "bf16", "--scheme", "wma"]).expect(0, &["equal in all sources"]);
    assert!(output_holds(&run, &[0, 0, 0x80, 0xff, 0xc0, 0x3f]));
}

#[test]
fn the_guard_on_values_that_are_not_finite_stays_for_the_rest() {
    let inf = |value: f32| [f32::INFINITY, value].iter().flat_map(|x: &f32| x.to_le_bytes()).collect::<Vec<u8>>();
    let run = Run::new([mask(bare(1.0), Dtype::F32, &inf(1.0)), mask(bare(2.0), Dtype::F32, &inf(2.0))]);
    let said = run.merge(&[]);
    run.merge_with(&said.expect(2, &["`l.mask`", "not finite"]).hinted("--take-newest"))
        .expect(0, &["taken from the newest"]);
    assert!(output_holds(&run, &inf(2.0)));
    let run = Run::new([mask(bare(1.0), Dtype::F32, &inf(1.0))]);
    run.merge(&[]).expect(2, &["not finite"]);
    let run = Run::new([mask(bare(1.0), Dtype::C64, &inf(1.0)), mask(bare(2.0), Dtype::C64, &inf(2.0))]);
    let said = run.merge(&[]);
    run.merge_with(&said.expect(2, &["`l.mask`", "complex numbers (C64)"]).hinted("--take-newest")).expect(0, &[]);
    let codes = |byte: u8| mask(bare(1.0), Dtype::F8E4M3, &[byte; 4]);
    Run::new([codes(1), codes(2)]).merge(&[]).expect(2, &["F8_E4M3"]);
}

#[test]
fn what_is_taken_from_the_newest_need_not_agree_in_shape() {
    let state = |value: f64, n: usize| bare(value).raw_tensor("l._extra_state", Dtype::U8, &[n as u64], &vec![7; n]);
    for (older, newer) in [(0, 12), (12, 3), (5, 0)] {
        let run = Run::new([state(1.0, older), state(2.0, newer)]);
        run.merge(&[]).expect(0, &[]);
        thalweg(&["verify", run.out().to_str().unwrap(), "--inputs"]).expect(0, &[]);
    }
    let ids = |value: f64, n: usize| bare(value).raw_tensor("l.ids", Dtype::I64, &[n as u64], &vec![7; 8 * n]);
    Run::new([ids(1.0, 2), ids(2.0, 3)]).merge(&["--non-float", "newest"]).expect(0, &[]);
    let integer = |value: f64| bare(value).tensor("l.ids", Dtype::I32, &[1], &[value]);
    let float = |value: f64| bare(value).tensor("l.ids", Dtype::F32, &[1], &[value]);
    for run in [Run::new([integer(1.0), float(2.0)]), Run::new([float(1.0), integer(2.0)])] {
        run.merge(&["--non-float", "newest"]).expect(2, &["`l.ids` differs"]);
    }
    let mask_of = |value: f64, n: usize| bare(value).raw_tensor("l.mask", Dtype::F32, &[n as u64], &vec![0; 4 * n]);
    let run = Run::new([mask_of(1.0, 2), mask_of(2.0, 3)]);
    run.merge(&[]).expect(2, &["`l.mask` differs"]);
    run.merge(&["--take-newest", "*.mask"]).expect(0, &["taken from the newest"]);
}

#[test]
fn a_buffer_that_some_sources_lack_is_left_out_or_taken_by_name() {
    let buffers = |value: f64| {
        let add = |made: TinyCheckpoint, name: &str| made.tensor(name, Dtype::F32, &[1], &[value]);
        add(add(bare(value), "l.0.inv_freq"), "l.1.inv_freq")
    };
    let run = Run::new([bare(1.0), buffers(2.0)]);
    let said = run.merge(&[]);
    said.expect(2, &["`l.0.inv_freq`"]);
    run.merge_with(&said.hinted("--drop")).expect(0, &["2 tensors are left out"]);
    assert_eq!(run.tensors(), ["l.w.weight"]);
    let receipt = std::fs::read_to_string(run.out().join("thalweg.json")).unwrap();
    assert!(receipt.contains("*.inv_freq"), "{receipt}");
    thalweg(&["verify", run.out().to_str().unwrap(), "--inputs"]).expect(0, &[]);
    run.merge_with(&said.hinted("--take-newest")).expect(0, &["2 tensors are taken"]);
    assert_eq!(run.tensors().len(), 3);
    // The newest source lacks them, so the hint proposes only to leave them out.
    let run = Run::new([buffers(1.0), bare(2.0)]);
    let said = run.merge(&[]);
    assert!(!said.expect(2, &["--drop"]).text.contains("--take-newest"), "{}", said.text);
    run.merge_with(&said.hinted("--drop")).expect(0, &[]);
    run.merge(&["--take-newest", "*.inv_freq"]).expect(2, &["is not in every source"]);
    run.merge(&["--drop", "nothing.like.it"]).expect(2, &["matches no tensor"]);
}

#[test]
fn a_tied_config_over_an_unequal_head_is_noted() {
    let tied = |value: f64, head: f64, says: bool| {
        TinyCheckpoint::new()
            .tensor("model.embed_tokens.weight", Dtype::F32, &[1, 1], &[value])
            .tensor("lm_head.weight", Dtype::F32, &[1, 1], &[head])
            .config(&json!({"model_type": "llama", "tie_word_embeddings": says}))
    };
    let run = Run::new([tied(1.0, 1.0, true), tied(2.0, 3.0, true)]);
    run.merge(&[]).expect(0, &["loads untied"]);
    run.inspect(2).expect(0, &["loads untied"]);
    for run in [
        Run::new([tied(1.0, 1.0, true), tied(2.0, 2.0, true)]),
        Run::new([tied(1.0, 2.0, false), tied(2.0, 3.0, false)]),
    ] {
        let said = run.merge(&[]);
        assert!(!said.expect(0, &[]).text.contains("untied"), "{}", said.text);
    }
}

#[test]
fn each_kind_of_unreadable_checkpoint_is_reported_separately() {
    let scratch = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| {
        let path = scratch.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    let whole = bare(1.0).single_file();
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 123456\n";
    put("run/step-1/model.safetensors", pointer);
    put("run/step-2/a.safetensors", &whole);
    put("run/step-2/b.safetensors", &whole);
    put("run/step-3/model.safetensors.index.json", br#"{"weight_map":{"x":"model-00001-of-00001.safetensors"}}"#);
    put("run/step-3/model-00001-of-00001.safetensors", &whole);
    put("run/step-4/model.onnx", b"ONNX");
    put("run/step-5/model.safetensors", &whole[..whole.len() - 1]);
    put("run/step-6/model.safetensors", b"<!DOCTYPE html><html>not found</html>");
    let listed = scratch.path().join("run");
    let shown = thalweg(&["inspect", listed.to_str().unwrap()]);
    let words = ["pointer file", "ambiguous", "damaged", "another format", "unfinished", "another format"];
    for (step, word) in (1..).zip(words) {
        let line = shown.text.lines().find(|line| line.contains(&format!("step-{step}"))).unwrap();
        assert!(line.contains(word), "{line}");
    }
    let one = |step: u64| thalweg(&["inspect", listed.join(format!("step-{step}")).to_str().unwrap()]);
    one(1).expect(2, &["Git LFS pointer", "git lfs pull"]);
    one(2).expect(2, &["any of which could be the checkpoint", "a.safetensors"]);
    one(3).expect(2, &["`x`"]);
    one(4).expect(2, &["a file of another framework"]);
    one(6).expect(2, &["HTML"]);
    let said = merge_only(scratch.path(), 3);
    assert!(!said.text.contains("wait until a save"), "{}", said.text);
    merge_only(scratch.path(), 1).expect(2, &["git lfs pull"]);
    merge_only(scratch.path(), 5).expect(2, &["wait until a save has finished"]);
}

/// Merges a run that holds only one of the checkpoints.
fn merge_only(scratch: &Path, step: u64) -> Said {
    let (run, name) = (scratch.join(format!("only{step}")), format!("step-{step}"));
    std::fs::create_dir_all(run.join(&name)).unwrap();
    for entry in std::fs::read_dir(scratch.join("run").join(&name)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, run.join(&name).join(path.file_name().unwrap())).unwrap();
    }
    let out = scratch.join("out");
    thalweg(&["merge", run.to_str().unwrap(), "--last", "1", "-o", out.to_str().unwrap()])
}
