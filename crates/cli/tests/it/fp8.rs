//! FP8 weights with block scales, as a user sees them: converted and merged as the values that they stand for, and
//! refused by name where these are not known.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::{Value, json};
use thalweg_tensor::Dtype;
use thalweg_testkit::{Sharding, TinyCheckpoint};

use crate::contents::{Run, Said, thalweg};
use crate::kill::{signal, wait_for_journal};
use crate::support::program;

/// A matrix of codes, its scales, and the block.
#[derive(Clone)]
struct Scaled {
    name: &'static str,
    shape: [u64; 2],
    codes: Vec<u8>,
    scales: Vec<f32>,
    block: [u64; 2],
}

impl Scaled {
    /// Codes and scales without a pattern that a wrong index would repeat; no NaN among the codes.
    fn new(name: &'static str, shape: [u64; 2], block: [u64; 2], seed: u64) -> Self {
        let numbers = |n: u64, salt: u64| (0..n).map(move |i| mixed(i, seed * 31 + salt));
        let codes = numbers(shape[0] * shape[1], 1)
            .map(|bits| bits.to_le_bytes()[0])
            .map(|code| code & !u8::from(code & 127 == 127));
        let n_scales = shape[0].div_ceil(block[0]) * shape[1].div_ceil(block[1]);
        let scales =
            numbers(n_scales, 2).map(|bits| f32::from_bits(0x3000_0000 | u32::try_from(bits & 0x07ff_ffff).unwrap()));
        Self { name, shape, codes: codes.collect(), scales: scales.collect(), block }
    }

    fn with_codes(mut self, codes: &[u8], scales: &[f32]) -> Self {
        (self.codes, self.scales) = (codes.to_vec(), scales.to_vec());
        self
    }

    fn grid(&self) -> [u64; 2] {
        [self.shape[0].div_ceil(self.block[0]), self.shape[1].div_ceil(self.block[1])]
    }

    fn scales_name(&self) -> String {
        format!("{}_scale_inv", self.name)
    }

    fn add_to(&self, made: TinyCheckpoint) -> TinyCheckpoint {
        let scales: Vec<u8> = self.scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
        made.raw_tensor(self.name, Dtype::F8E4M3, &self.shape, &self.codes).raw_tensor(
            &self.scales_name(),
            Dtype::F32,
            &self.grid(),
            &scales,
        )
    }

    /// The products, by their definition.
    fn values(&self) -> Vec<f64> {
        let [_, columns] = self.shape;
        let value = |(i, &code): (u64, &u8)| {
            let scale = i / columns / self.block[0] * self.grid()[1] + i % columns / self.block[1];
            value_of(code) * f64::from(self.scales[usize::try_from(scale).unwrap()])
        };
        (0..).zip(&self.codes).map(value).collect()
    }
}

/// Bits without a pattern.
fn mixed(i: u64, seed: u64) -> u64 {
    let mut x = (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed.wrapping_mul(0xd134_2543_de82_ef95);
    x = (x ^ x >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ x >> 32
}

fn value_of(code: u8) -> f64 {
    let (exponent, fraction) = (i32::from(code >> 3 & 15), f64::from(code & 7) / 8.0);
    let magnitude = if exponent == 0 { fraction * 2f64.powi(-6) } else { (1.0 + fraction) * 2f64.powi(exponent - 7) };
    let magnitude = if code & 127 == 127 { f64::NAN } else { magnitude };
    if code > 127 { -magnitude } else { magnitude }
}

#[expect(clippy::cast_possible_truncation, reason = "the conversion rounds to nearest even")]
fn single(value: f64) -> f32 {
    value as f32
}

/// A value rounded once, to nearest even. It is zero or normal in the type.
fn rounded(value: f64, dtype: Dtype) -> Vec<u8> {
    if dtype == Dtype::F32 {
        return single(value).to_le_bytes().to_vec();
    }
    // Seven bits of the fraction are kept.
    let (bits, cut) = (value.to_bits(), 1_u64 << 45);
    let even = (bits >> 45) & 1;
    let kept = (bits + (cut / 2 - 1) + even) & !(cut - 1);
    (single(f64::from_bits(kept)).to_bits() >> 16).to_le_bytes()[..2].to_vec()
}

fn config_of(block: [u64; 2]) -> Value {
    let quantised =
        json!({"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": block});
    json!({"model_type": "x", "torch_dtype": "bfloat16", "quantization_config": quantised, "vocab_size": 3})
}

fn checkpoint(weights: &[Scaled]) -> TinyCheckpoint {
    let made = weights.iter().fold(TinyCheckpoint::new(), |made, weight| weight.add_to(made));
    made.tensor("norm.weight", Dtype::Bf16, &[2], &[1.0, -0.5]).config(&config_of(weights[0].block))
}

/// Weights whose blocks do not divide them.
fn weights(seed: u64) -> [Scaled; 3] {
    [
        Scaled::new("a.weight", [5, 7], [2, 3], seed),
        Scaled::new("b.weight", [2, 3], [2, 3], seed + 1),
        Scaled::new("c.weight", [1, 10], [2, 3], seed + 2),
    ]
}

/// The tensors of a folder's safetensors files, with their element types.
fn tensors_of(folder: &Path) -> BTreeMap<String, (String, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.extension().is_none_or(|end| end != "safetensors") {
            continue;
        }
        let bytes = std::fs::read(entry).unwrap();
        let data = 8 + usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
        let header: serde_json::Map<String, Value> = serde_json::from_slice(&bytes[8..data]).unwrap();
        for (name, tensor) in header.into_iter().filter(|(name, _)| name != "__metadata__") {
            let offset = |i: usize| data + usize::try_from(tensor["data_offsets"][i].as_u64().unwrap()).unwrap();
            let dtype = tensor["dtype"].as_str().unwrap().to_owned();
            found.insert(name, (dtype, bytes[offset(0)..offset(1)].to_vec()));
        }
    }
    found
}

/// Checks every weight of an output against exact values, each rounded once.
#[track_caller]
fn check_output(folder: &Path, dtype: Dtype, expected: &[(&str, Vec<f64>)]) {
    let found = tensors_of(folder);
    assert!(found.keys().all(|name| !name.contains("scale")), "{:?}", found.keys());
    for (name, values) in expected {
        let bytes: Vec<u8> = values.iter().flat_map(|value| rounded(*value, dtype)).collect();
        assert_eq!(found[*name], (dtype.name().to_owned(), bytes), "{name}");
    }
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Converts the only checkpoint of a run.
fn convert(run: &Run, out: &str, options: &[&str]) -> Said {
    thalweg(&[&["convert", &run.path("run/step-1"), "-o", &run.path(out)], options].concat())
}

#[test]
fn a_conversion_writes_each_code_times_the_scale_of_its_block_rounded_once() {
    let weights = weights(1);
    let run = Run::new([checkpoint(&weights)]);
    for (word, dtype) in [("bf16", Dtype::Bf16), ("f32", Dtype::F32)] {
        convert(&run, word, &["--dtype", word]).expect(0, &["FP8 weights are dequantised (3)", "block of 2 x 3"]);
        let out = run.path(word);
        let expected: Vec<_> = weights.iter().map(|weight| (weight.name, weight.values())).collect();
        check_output(Path::new(&out), dtype, &expected);
        check_output(Path::new(&out), dtype, &[("norm.weight", vec![1.0, -0.5])]);
        thalweg(&["verify", &out, "--inputs"]).expect(0, &["its source"]);
        let receipt = read_json(&Path::new(&out).join("thalweg.json"));
        assert_eq!(receipt["sources"][0]["dequantised"], json!({"n_tensors": 3, "block": [2, 3]}));
        let marked =
            receipt["tensors"].as_array().unwrap().iter().filter(|tensor| tensor["dequantised"] == json!(true));
        assert_eq!(marked.count(), 3);
        // Codes, scales, and the norm in bf16: what is in the file.
        assert_eq!(receipt["bytes_read"], json!(35 + 6 + 10 + 4 * (9 + 1 + 4) + 4));
    }
    let text = std::fs::read_to_string(run.path("bf16/config.json")).unwrap();
    assert_eq!(text, r#"{"model_type":"x","torch_dtype":"bfloat16","vocab_size":3}"#);
    assert_eq!(read_json(Path::new(&run.path("f32/config.json")))["torch_dtype"], json!("float32"));
}

#[test]
fn a_product_next_to_a_tie_is_not_rounded_to_it_first() {
    // Above the middle of two bf16 numbers, by less than half a unit of f32: 15 s = k 2^19 + 1 .. 7 for an odd k.
    let above = |k: u32| (1..8).map(move |by| k << 19 | by).find(|whole| whole % 15 == 0).map(|whole| whole / 15);
    let scales = (257..511).step_by(2).filter_map(above).filter(|scale| scale >> 23 == 1).map(|scale| scale as f32);
    let scales: Vec<f32> = scales.collect();
    let n_rows = scales.len() as u64;
    let weight = Scaled::new("a.weight", [n_rows, 1], [1, 1], 0).with_codes(&vec![0x3f; scales.len()], &scales);
    let twice = |value: &f64| rounded(f64::from(single(*value)), Dtype::Bf16) != rounded(*value, Dtype::Bf16);
    assert!(weight.values().iter().filter(|value| twice(value)).count() > 10);
    let run = Run::new([checkpoint(std::slice::from_ref(&weight))]);
    convert(&run, "out", &["--dtype", "bf16"]).expect(0, &[]);
    check_output(Path::new(&run.path("out")), Dtype::Bf16, &[("a.weight", weight.values())]);
}

#[test]
fn a_merge_sums_exact_products() {
    // 2 x 9/8 (1 + 2^-23) - 9/8 x 2 is 9/4 x 2^-23, and 2^-22 if the first product is rounded to f32.
    let one = |scale: f32| Scaled::new("a.weight", [1, 2], [2, 2], 0).with_codes(&[0x39, 0xb9], &[scale]);
    let run = Run::new([checkpoint(&[one(1.0 + f32::EPSILON)]), checkpoint(&[one(2.0)])]);
    let sources = [format!("{}:2", run.path("run/step-1")), format!("{}:-1", run.path("run/step-2"))];
    let expected = 2.25 * f64::from(f32::EPSILON);
    for (word, dtype) in [("bf16", Dtype::Bf16), ("f32", Dtype::F32)] {
        let out = run.path(word);
        thalweg(&["merge", "-m", &sources[0], "-m", &sources[1], "-o", &out, "--dtype", word])
            .expect(0, &["each source: FP8 weights are dequantised (1)"]);
        check_output(Path::new(&out), dtype, &[("a.weight", vec![expected, -expected])]);
    }
    let run = Run::new([checkpoint(&weights(1)), checkpoint(&weights(5))]);
    run.merge(&["--dtype", "f32"]).expect(0, &[]);
    let both = weights(1).into_iter().zip(weights(5));
    // The sum of two products has few enough bits for a double here, and halving is exact.
    let mean =
        |(a, b): (Scaled, Scaled)| (a.name, a.values().iter().zip(b.values()).map(|(x, y)| (x + y) / 2.0).collect());
    let expected: Vec<(&str, Vec<f64>)> = both.map(mean).collect();
    check_output(&run.out(), Dtype::F32, &expected);
}

#[test]
fn quantised_and_plain_sources_merge_together() {
    let scaled = Scaled::new("a.weight", [2, 2], [2, 2], 0).with_codes(&[0x38, 0x3c, 0xb8, 0x01], &[0.1]);
    let values = scaled.values();
    let mut config = config_of([2, 2]);
    config.as_object_mut().unwrap().remove("quantization_config");
    let plain = TinyCheckpoint::new()
        .tensor("a.weight", Dtype::Bf16, &[2, 2], &[3.0, -1.0, 0.5, 2.0])
        .tensor("norm.weight", Dtype::Bf16, &[2], &[1.0, -0.5])
        .config(&config);
    let expected: Vec<f64> = values.iter().zip([3.0, -1.0, 0.5, 2.0]).map(|(a, b)| (a + b) / 2.0).collect();
    for sources in [[checkpoint(std::slice::from_ref(&scaled)), plain.clone()], [plain, checkpoint(&[scaled])]] {
        let run = Run::new(sources);
        run.merge(&["--dtype", "f32"]).expect(0, &["FP8 weights are dequantised (1)"]);
        check_output(&run.out(), Dtype::F32, &[("a.weight", expected.clone())]);
        let out = run.out().to_str().unwrap().to_owned();
        thalweg(&["verify", &out, "--inputs"]).expect(0, &[]);
        assert_eq!(read_json(&run.out().join("config.json")).get("quantization_config"), None);
        // The same command finds that its output is already there.
        run.merge(&["--dtype", "f32", "-o", &out]).expect(2, &[]);
        run.merge(&["--dtype", "bf16", "--take-newest", "a.weight"]).expect(0, &["taken from the newest"]);
        run.merge(&[]).expect(2, &["--dtype bf16"]);
    }
}

#[test]
fn codes_without_scales_stay_codes_and_a_note_says_so() {
    let plain = TinyCheckpoint::new()
        .raw_tensor("a.weight", Dtype::F8E5M2, &[2], &[0x38, 0x3c])
        .raw_tensor("position_ids", Dtype::U8, &[2, 2], &[0, 1, 0, 1])
        .tensor("norm.weight", Dtype::Bf16, &[2], &[1.0, -0.5]);
    let run = || Run::new([plain.clone(), plain.clone()]);
    run().merge(&["--dtype", "f32"]).expect(0, &["1 tensor is left as before (F8_E5M2): `--dtype` changes floating"]);
    let same = run().merge(&[]);
    same.expect(0, &[]);
    assert!(!same.text.contains("left as before"), "{}", same.text);
}

#[test]
fn without_an_element_type_they_are_refused_with_the_option_that_works() {
    let run = Run::new([checkpoint(&weights(1)), checkpoint(&weights(2))]);
    let said = run.merge(&[]);
    said.expect(2, &["FP8 weights", "block of 2 x 3 (3, such as `a.weight`)"]);
    run.merge_with(&said.hinted("--dtype")).expect(0, &[]);
    thalweg(&["plan", &run.path("run"), "--last", "2"]).expect(2, &["FP8 weights with a scale"]);
    let inspected = run.inspect(1);
    inspected.expect(0, &["a merge is blocked", "FP8 weights with a scale", "--dtype bf16", "F8_E4M3"]);
    assert!(!inspected.text.contains("cannot be averaged"), "{}", inspected.text);
    let document = thalweg(&["inspect", "--json", &run.path("run/step-1")]);
    document.expect(0, &["\"block_scaled\""]);
    let without = ["a", "b", "c"].map(|name| format!("{name}.weight*"));
    let options: Vec<&str> = without.iter().flat_map(|pattern| ["--drop", pattern]).collect();
    run.merge(&options).expect(2, &["quantization_config"]);
    run.merge(&[&options[..], &["--dtype", "bf16"]].concat()).expect(0, &["3 tensors are left out"]);
}

#[test]
fn a_block_size_that_nothing_states_is_written_into_the_config_as_the_hint_says() {
    // One block, which any size from 2 x 3 on would give.
    let weights = [1, 2].map(|seed| Scaled::new("a.weight", [2, 3], [2, 3], seed));
    let bare = |weight: &Scaled| weight.add_to(TinyCheckpoint::new()).config(&json!({"model_type": "x"}));
    let run = Run::new(weights.each_ref().map(bare));
    let said = run.merge(&["--dtype", "f32"]);
    said.expect(2, &["has no `weight_block_size`", "any block of 2 rows or more"]);
    let stated = said.text.split('`').find(|text| text.starts_with("{\"quantization_config\"")).unwrap();
    for step in [1, 2] {
        std::fs::write(run.path(&format!("run/step-{step}/config.json")), stated).unwrap();
    }
    run.merge(&["--dtype", "f32"]).expect(0, &["block of 128 x 128"]);
    let mean = weights[0].values().iter().zip(weights[1].values()).map(|(a, b)| (a + b) / 2.0).collect();
    check_output(&run.out(), Dtype::F32, &[("a.weight", mean)]);
}

#[test]
fn a_plan_says_what_it_dequantises_and_does_it() {
    let run = Run::new([checkpoint(&weights(1)), checkpoint(&weights(2))]);
    let (plan, out) = (run.path("plan.json"), run.path("planned"));
    thalweg(&["plan", &run.path("run"), "--last", "2", "--dtype", "bf16", "-o", &plan, "--merged", &out])
        .expect(0, &["each source: FP8 weights are dequantised (3)"]);
    assert_eq!(read_json(Path::new(&plan))["seen_sources"][1]["dequantised"]["n_tensors"], json!(3));
    thalweg(&["merge", "--plan", &plan]).expect(0, &[]);
    run.merge(&["--dtype", "bf16"]).expect(0, &[]);
    assert_eq!(tensors_of(Path::new(&out)), tensors_of(&run.out()));
    thalweg(&["explain", &run.path("run"), "--last", "2"]).expect(0, &["norm"]);
}

#[test]
fn a_copy_keeps_codes_and_scales_in_any_format() {
    let run = Run::new([checkpoint(&weights(1))]);
    convert(&run, "copy", &[]).expect(0, &[]);
    assert_eq!(tensors_of(Path::new(&run.path("copy"))), tensors_of(Path::new(&run.path("run/step-1"))));
    assert!(read_json(Path::new(&run.path("copy/config.json"))).get("quantization_config").is_some());
    convert(&run, "plain", &["--dtype", "bf16"]).expect(0, &[]);
    for format in ["torch", "dcp"] {
        convert(&run, format, &["--format", format]).expect(0, &[]);
        let out = run.path(&format!("{format}-plain"));
        thalweg(&["convert", &run.path(format), "-o", &out, "--format", "safetensors", "--dtype", "bf16"])
            .expect(0, &["FP8 weights are dequantised (3)"]);
        assert_eq!(tensors_of(Path::new(&out)), tensors_of(Path::new(&run.path("plain"))), "{format}");
    }
}

#[test]
fn a_copy_in_another_element_type_does_not_round_the_scales_of_other_codes() {
    for (codes, dtype, scales) in [
        ("l.q.weight", Dtype::I8, "l.q.SCB"),
        ("l.q.qweight", Dtype::I32, "l.q.scales"),
        ("l.q.weight", Dtype::F8E4M3, "l.q.weight_scale"),
    ] {
        let made = TinyCheckpoint::new().raw_tensor(
            codes,
            dtype,
            &[2],
            &vec![1; 2 * usize::try_from(dtype.bytes().unwrap()).unwrap()],
        );
        let run = Run::new([made.tensor(scales, Dtype::F32, &[1], &[0.1f32.into()])]);
        convert(&run, "rounded", &["--dtype", "bf16"]).expect(2, &["quantised", codes, "leave out `--dtype`"]);
        convert(&run, "copied", &[]).expect(0, &[]);
    }
}

/// Checks that a merge and a conversion with an element type, and `inspect`, say `words`.
#[track_caller]
fn check_refused(made: &TinyCheckpoint, words: &[&str]) {
    let run = Run::new([made.clone(), made.clone()]);
    run.merge(&["--dtype", "bf16"]).expect(2, words).expect(2, &["hint: "]);
    convert(&run, "converted", &["--dtype", "bf16"]).expect(2, words);
    run.inspect(1).expect(0, words).expect(0, &["a merge is blocked"]);
}

#[test]
fn what_does_not_say_its_values_is_refused_by_name() {
    let base = || TinyCheckpoint::new().raw_tensor("a.weight", Dtype::F8E4M3, &[4, 4], &[0x38; 16]);
    let with = |shape: &[u64], dtype: Dtype| {
        let n: u64 = shape.iter().product();
        base()
            .tensor("a.weight_scale_inv", dtype, shape, &vec![1.0; usize::try_from(n).unwrap()])
            .config(&config_of([2, 2]))
    };
    check_refused(
        &with(&[2, 1], Dtype::F32),
        &["`a.weight` of shape [4, 4] has scales of shape [2, 1]", "block of 2 x 2"],
    );
    check_refused(&with(&[], Dtype::F32), &["scales of shape []"]);
    check_refused(&with(&[1], Dtype::F32), &["scales of shape [1]"]);
    check_refused(&with(&[2, 2], Dtype::F16), &["`a.weight_scale_inv` is F16"]);
    let good = with(&[2, 2], Dtype::F32);
    let bare = good.clone().raw_tensor("b.weight", Dtype::F8E4M3, &[1], &[0]);
    check_refused(&bare, &["`b.weight` has no scales"]);
    let orphan = good.clone().tensor("b.weight_scale_inv", Dtype::F32, &[1, 1], &[1.0]);
    check_refused(&orphan, &["`b.weight_scale_inv` has no weight"]);
    check_refused(&good.clone().tensor("a.input_scale", Dtype::F32, &[1], &[1.0]), &["`a.input_scale`"]);
    check_refused(
        &good.clone().config(&json!({"quantization_config": {"quant_method": "fbgemm_fp8"}})),
        &["fbgemm_fp8"],
    );
    check_refused(
        &good.clone().config(&json!({"quantization_config": {"quant_method": "fp8"}})),
        &["blocks of 2 to 3 rows"],
    );
    check_refused(
        &good.config(&json!({"quantization_config": {"weight_block_size": "2x2"}})),
        &["`weight_block_size`"],
    );
}

#[test]
fn other_codes_beside_them_are_still_refused() {
    let made = checkpoint(&weights(1)).tensor("d.qweight", Dtype::I32, &[1], &[1.0]).tensor(
        "d.scales",
        Dtype::F32,
        &[1],
        &[1.0],
    );
    check_refused(&made, &["GPTQ", "`d.qweight`"]);
}

#[test]
fn values_that_are_not_finite_are_found() {
    let with = |codes: &[u8], scale: f32| {
        checkpoint(&[Scaled::new("a.weight", [1, 2], [2, 2], 0).with_codes(codes, &[scale])])
    };
    let nan = Run::new([with(&[0x38, 0x7f], 1.0), with(&[0x38, 0x38], 1.0)]);
    nan.merge(&["--dtype", "bf16"]).expect(2, &["`a.weight`", "not finite", "step-1"]);
    nan.merge(&["--dtype", "bf16", "--allow-non-finite"]).expect(0, &[]);
    assert_eq!(tensors_of(&nan.out())["a.weight"].1, [0x80, 0x3f, 0xc0, 0x7f]);
    for scale in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let run = Run::new([with(&[0x38, 0], scale), with(&[0x38, 0], 1.0)]);
        for options in [&["--dtype", "f32"][..], &["--dtype", "f32", "--allow-non-finite"]] {
            run.merge(options).expect(2, &["scale 0 of `a.weight_scale_inv`", "unknown"]);
        }
        convert(&run, "converted", &["--dtype", "bf16"]).expect(2, &["scale 0 of `a.weight_scale_inv`"]);
        assert!(!Path::new(&run.path("converted")).exists());
    }
    let large = Run::new([with(&[0x7e, 0], f32::MAX)]);
    convert(&large, "converted", &["--dtype", "bf16"]).expect(2, &["too large"]);
}

#[test]
fn diff_compares_values_and_names_what_it_cannot_compare() {
    let with = |codes: &[u8], scale: f32| {
        checkpoint(&[Scaled::new("a.weight", [1, 2], [2, 2], 0).with_codes(codes, &[scale])])
    };
    // 1 x 2 and 2 x 1; -0.5 x 2 and -1 x 1.
    let run = Run::new([with(&[0x38, 0xb0], 2.0), with(&[0x40, 0xb8], 1.0), with(&[0x40, 0xb8], 1.5)]);
    let diff = |a: &str, b: &str| thalweg(&["diff", &run.path(a), &run.path(b)]);
    diff("run/step-1", "run/step-2").expect(0, &["equal: 2 tensors"]);
    diff("run/step-2", "run/step-3").expect(1, &["a.weight", "1 of 2 tensors differ"]);
    convert(&run, "plain", &["--dtype", "bf16"]).expect(0, &[]);
    diff("run/step-1", "plain").expect(1, &["       0 ", "FP8 with block scales against BF16"]);
    // 1.5 times 2 and -1, against 2 and -1.
    diff("run/step-3", "plain").expect(1, &["1.12", "1.00          -  a.weight (FP8"]);
}

#[test]
fn a_changed_scale_is_a_changed_source() {
    let run = Run::new([checkpoint(&weights(1))]);
    convert(&run, "out", &["--dtype", "bf16"]).expect(0, &[]);
    let mut other = weights(1);
    other[0].scales[8] *= 2.0;
    checkpoint(&other).write_to_disk(Path::new(&run.path("run/step-1")));
    thalweg(&["verify", &run.path("out"), "--inputs"]).expect(1, &["differ from those that were merged"]);
}

#[test]
fn threads_memory_and_shards_change_no_bit() {
    let large = |seed| {
        [
            Scaled::new("a.weight", [300, 260], [128, 128], seed),
            Scaled::new("b.weight", [129, 1000], [128, 128], seed + 1),
        ]
    };
    let (whole, sharded) = ([large(1), large(3)], Sharding::Shards(4));
    let made = |sharding| whole.clone().map(|weights| checkpoint(&weights).sharding(sharding));
    let (run, other) = (Run::new(made(Sharding::Single)), Run::new(made(sharded)));
    run.merge(&["--dtype", "bf16", "-j", "1"]).expect(0, &[]);
    let expected = tensors_of(&run.out());
    for options in [&["-j", "3"][..], &["-j", "2", "--memory", "32MB"], &["-j", "1", "--digest", "none"]] {
        for run in [&run, &other] {
            run.merge(&[&["--dtype", "bf16"], options].concat()).expect(0, &[]);
            assert_eq!(tensors_of(&run.out()), expected, "{options:?}");
        }
    }
}

#[test]
fn a_killed_merge_resumes_with_the_same_bytes() {
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name);
    for step in 1..=3 {
        let weight = Scaled::new("a.weight", [1500, 1400], [128, 128], step);
        checkpoint(&[weight]).write_to_disk(&path(&format!("run/step-{step}")));
    }
    let merge = |out: &str| {
        let mut command = program();
        command.args(["merge", "-q", "--last", "3", "--scheme", "wma", "-j", "2", "--dtype", "bf16"]);
        command.arg(path("run")).arg("-o").arg(path(out)).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    assert!(merge("expected").status().unwrap().success());
    for n_bytes in [1, 300, 800] {
        let mut child = merge("out").spawn().unwrap();
        wait_for_journal(&mut child, &path("out"), n_bytes);
        signal(&child, Signal::KILL);
        child.wait().unwrap();
    }
    assert!(merge("out").status().unwrap().success());
    assert_eq!(tensors_of(&path("out")), tensors_of(&path("expected")));
    let verified = thalweg(&["verify", path("out").to_str().unwrap(), "--inputs"]);
    verified.expect(0, &["its 3 sources"]);
}
