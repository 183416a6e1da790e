//! What mergekit 0.1.5 does wrong or in silence, each reproduced there, and what happens here instead.

use std::path::{Path, PathBuf};

use crate::support::run;

/// A scratch folder with checkpoints made of one float tensor each.
struct Scene {
    scratch: tempfile::TempDir,
}

/// Header and data of a file with the tensors `(name, dtype, little-endian bytes)`, all one-dimensional.
fn safetensors(tensors: &[(&str, &str, Vec<u8>)]) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, dtype, bytes) in tensors {
        let n_elements = bytes.len() / if *dtype == "F32" { 4 } else { 2 };
        let offsets = [data.len(), data.len() + bytes.len()];
        let entry = serde_json::json!({"dtype": dtype, "shape": [n_elements], "data_offsets": offsets});
        header.insert((*name).to_owned(), entry);
        data.extend_from_slice(bytes);
    }
    let header = serde_json::to_vec(&header).unwrap();
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

impl Scene {
    fn new() -> Self {
        Self { scratch: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> String {
        self.scratch.path().join(name).to_str().unwrap().to_owned()
    }

    fn checkpoint(&self, name: &str, tensors: &[(&str, &str, Vec<u8>)], config: Option<&str>) -> String {
        let folder = self.scratch.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("model.safetensors"), safetensors(tensors)).unwrap();
        if let Some(config) = config {
            std::fs::write(folder.join("config.json"), config).unwrap();
        }
        self.path(name)
    }

    /// A checkpoint whose only tensor `w` holds `values`.
    fn simple(&self, name: &str, values: &[f32]) -> String {
        self.checkpoint(name, &[("w", "F32", f32s(values))], None)
    }

    /// Merges and must be refused with exit code 2, with these words and without an output.
    #[track_caller]
    fn check_refused(&self, arguments: &[&str], words: &[&str]) {
        let out = self.path("out");
        let output = run(&[&["merge"], arguments, &["-o", &out]].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        for word in words {
            assert!(stderr.contains(word), "`{word}` is not in: {stderr}");
        }
        assert!(!Path::new(&out).exists(), "a refused merge leaves no output");
    }

    /// Merges and reads the only shard of the output.
    #[track_caller]
    fn merge(&self, arguments: &[&str]) -> Vec<u8> {
        let out = self.path("out");
        let output = run(&[&["merge", "-q"], arguments, &["-o", &out]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::read(PathBuf::from(out).join("model.safetensors")).unwrap()
    }

    fn recipe(&self, name: &str, text: &str) -> String {
        std::fs::write(self.scratch.path().join(name), text).unwrap();
        self.path(name)
    }
}

/// The data of `tensors` as they end a file: the merge's own remarks make its header another one.
#[track_caller]
fn check_data(file: &[u8], expected: &[u8]) {
    let header = usize::try_from(u64::from_le_bytes(file[..8].try_into().unwrap())).unwrap();
    assert_eq!(&file[8 + header..], expected);
}

#[test]
fn fault_1_a_misspelt_key_is_refused_with_the_key_that_was_meant() {
    let scene = Scene::new();
    let (a, b) = (scene.simple("a", &[1.0]), scene.simple("b", &[3.0]));
    let models = format!(
        "models:\n  - {{model: {a}, parameters: {{weight: 1}}}}\n  - {{model: {b}, parameters: {{weight: 1}}}}\n"
    );
    let top = scene.recipe("top.yml", &format!("merge_method: linear\n{models}dtpye: bfloat16\n"));
    scene.check_refused(&[&top], &["unknown key `dtpye`", "`dtype`"]);
    let inner =
        scene.recipe("inner.yml", &format!("merge_method: linear\n{models}").replace("weight: 1}}\n", "wieght: 1}}\n"));
    scene.check_refused(&[&inner], &["unknown key `wieght`", "`weight`"]);
}

#[test]
fn fault_2_nan_is_refused_by_tensor_and_place() {
    let scene = Scene::new();
    let (a, b) = (scene.simple("a", &[1.0, 2.0]), scene.simple("b", &[1.0, f32::NAN]));
    scene.check_refused(&[&a, &b], &["tensor `w`", "not finite", "element 1"]);
}

#[test]
fn fault_3_a_tensor_that_no_architecture_knows_is_merged() {
    let scene = Scene::new();
    let config = Some(r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}"#);
    let tensors = |x: f32| [("lm_head.weight", "F32", f32s(&[x])), ("my.extra.thing", "F32", f32s(&[10.0 * x]))];
    let (a, b) = (scene.checkpoint("a", &tensors(1.0), config), scene.checkpoint("b", &tensors(3.0), config));
    check_data(&scene.merge(&[&a, &b]), &f32s(&[2.0, 20.0]));
}

#[test]
fn fault_4_another_rope_theta_is_refused_with_both_values() {
    let scene = Scene::new();
    let checkpoint = |name: &str, theta: &str| {
        let config = format!(r#"{{"model_type": "llama", "rope_theta": {theta}}}"#);
        scene.checkpoint(name, &[("w", "F32", f32s(&[1.0]))], Some(&config))
    };
    let (a, b) = (checkpoint("a", "10000.0"), checkpoint("b", "500000.0"));
    scene.check_refused(&[&a, &b], &["rope_theta", "10000.0", "500000.0"]);
}

#[test]
fn fault_5_bf16_beside_f32_is_refused_with_both() {
    let scene = Scene::new();
    let a = scene.checkpoint("a", &[("w", "BF16", vec![0x80, 0x3f])], None);
    let b = scene.simple("b", &[1.0]);
    scene.check_refused(&[&a, &b], &["tensor `w`", "bf16", "f32"]);
}

#[test]
fn fault_6_coefficients_that_cancel_cannot_be_normalised() {
    let scene = Scene::new();
    let (a, b) = (scene.simple("a", &[1.0]), scene.simple("b", &[3.0]));
    let (plus, minus) = (format!("{a}:1"), format!("{b}:-1"));
    scene.check_refused(&["-m", &plus, "-m", &minus, "--normalize"], &["sum"]);
    let mergekit = format!(
        "merge_method: linear\nmodels:\n  - {{model: {a}, parameters: {{weight: 1}}}}\n  - {{model: {b}, parameters: {{weight: -1}}}}\n"
    );
    let recipe = scene.recipe("cancel.yml", &mergekit);
    scene.check_refused(&[&recipe], &["sum"]);
    // Without normalisation this is a difference, which needs `--allow-sum`.
    scene.check_refused(&["-m", &plus, "-m", &minus], &["sum to 0"]);
    check_data(&scene.merge(&["-m", &plus, "-m", &minus, "--allow-sum"]), &f32s(&[-2.0]));
}

#[test]
fn fault_7_a_missing_path_is_called_missing() {
    let scene = Scene::new();
    let (a, gone) = (scene.simple("a", &[1.0]), scene.path("gone"));
    scene.check_refused(&[&a, &gone], &[&format!("`{gone}` does not exist")]);
}

#[test]
fn fault_8_tensors_merge_without_config_and_with_an_unknown_model_type() {
    let scene = Scene::new();
    let (a, b) = (scene.simple("a", &[1.0]), scene.simple("b", &[3.0]));
    check_data(&scene.merge(&[&a, &b]), &f32s(&[2.0]));
    let other = Scene::new();
    let config = r#"{"model_type": "unknown-to-all"}"#;
    let checkpoint = |name: &str, x: f32| other.checkpoint(name, &[("w", "F32", f32s(&[x]))], Some(config));
    let (a, b) = (checkpoint("a", 1.0), checkpoint("b", 3.0));
    check_data(&other.merge(&[&a, &b]), &f32s(&[2.0]));
    assert_eq!(std::fs::read_to_string(other.path("out/config.json")).unwrap(), config);
}

#[test]
fn fault_9_a_truncated_file_is_named_with_what_is_missing() {
    let scene = Scene::new();
    let (a, b) = (scene.simple("a", &[1.0, 2.0]), scene.simple("b", &[3.0, 4.0]));
    let file = format!("{b}/model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 3]).unwrap();
    scene.check_refused(&[&a, &b], &[&b, "ends inside tensor `w`"]);
}

#[test]
fn fault_10_a_checkpoint_may_be_given_twice() {
    let scene = Scene::new();
    let (a, b) = (scene.simple("a", &[1.0]), scene.simple("b", &[4.0]));
    check_data(&scene.merge(&[&a, &a, &b]), &f32s(&[2.0]));
}

#[test]
fn fault_11_a_second_merge_leaves_nothing_of_the_first() {
    let scene = Scene::new();
    let tensors = |x: f32| [("a", "F32", f32s(&[x; 400])), ("b", "F32", f32s(&[x; 400]))];
    let (a, b) = (scene.checkpoint("a", &tensors(1.0), None), scene.checkpoint("b", &tensors(3.0), None));
    let out = scene.path("out");
    let merge = |rest: &[&str]| run(&[&["merge", "-q", &a, &b, "-o", &out], rest].concat());
    assert!(merge(&["--out-shard-size", "1600"]).status.success());
    let names = || {
        let entries = std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = entries.filter(|name| name.contains("safetensors")).collect();
        names.sort();
        names
    };
    assert_eq!(names().len(), 3, "two shards and their index: {:?}", names());
    let refused = merge(&[]);
    assert_eq!(refused.status.code(), Some(2), "another plan does not replace an output by default");
    assert_eq!(names().len(), 3);
    assert!(merge(&["--force"]).status.success());
    assert_eq!(names(), ["model.safetensors"]);
}

// Fault 12, a kill that leaves shards in the output folder: see `kill.rs`, which kills at five places.

#[test]
fn fault_13_a_wrong_scheme_or_element_type_is_answered_with_those_that_exist() {
    let scene = Scene::new();
    let (a, b) = (scene.simple("a", &[1.0]), scene.simple("b", &[3.0]));
    scene
        .check_refused(&[&a, &b, "--scheme", "slerpy"], &["there is no scheme `slerpy`", "sma", "wma", "decay:cosine"]);
    scene.check_refused(&[&a, &b, "--dtype", "fp8"], &["fp8", "bf16", "f16", "f32", "same"]);
    let recipe =
        scene.recipe("method.yml", &format!("merge_method: qqqq\nmodels:\n  - {{model: {a}}}\n  - {{model: {b}}}\n"));
    scene.check_refused(&[&recipe], &["qqqq", "one of linear"]);
}

#[test]
fn fault_15_the_number_of_threads_changes_no_byte_and_is_obeyed() {
    let one = Scene::new();
    let (a, b) = (one.simple("a", &[1.0; 1000]), one.simple("b", &[2.0; 1000]));
    let expected = f32s(&[1.5; 1000]);
    check_data(&one.merge(&[&a, &b, "-j", "1"]), &expected);
    let receipt: serde_json::Value =
        serde_json::from_slice(&std::fs::read(one.path("out/thalweg.json")).unwrap()).unwrap();
    assert_eq!(receipt["n_threads"], 1);
}
