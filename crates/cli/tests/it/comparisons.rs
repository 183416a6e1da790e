//! Numbers of comparisons, where there is nothing to measure: `diff`, `explain`, `merge --against`.

use serde_json::Value;
use thalweg_tensor::Dtype;
use thalweg_testkit::TinyCheckpoint;

use crate::contents::{Run, thalweg};
use crate::support::run;

fn json(arguments: &[&str]) -> Value {
    serde_json::from_slice(&run(&[arguments, &["--json", "-q"]].concat()).stdout).unwrap()
}

fn of(dtype: Dtype, values: [f64; 2]) -> TinyCheckpoint {
    TinyCheckpoint::new().tensor("a.weight", dtype, &[2], &values).tensor("b.weight", dtype, &[2], &[3.0, 4.0])
}

fn plain() -> TinyCheckpoint {
    of(Dtype::F32, [1.0, 2.0])
}

#[test]
fn diff_prints_no_distance_where_none_was_measured() {
    let run =
        Run::new([plain(), of(Dtype::F32, [f64::NAN, 2.0]), of(Dtype::Bf16, [1.0, 2.0]), of(Dtype::F32, [4.0, 6.0])]);
    let (a, nan, bf16, far) =
        (run.path("run/step-1"), run.path("run/step-2"), run.path("run/step-3"), run.path("run/step-4"));
    let said = thalweg(&["diff", &a, &nan]);
    said.expect(1, &["NaN", "no finite distance: 1 of 2 tensors, `a.weight`", "1 of 2 tensors differs"]);
    assert!(!said.text.contains("       0 "), "{}", said.text);
    assert_eq!(json(&["diff", &a, &nan])["distance"], Value::Null);
    let said = thalweg(&["diff", &a, &bf16]);
    said.expect(1, &["compared as values, without ULPs: 2 of 2 tensors, such as `a.weight` (F32 against BF16)"]);
    let document = json(&["diff", &a, &bf16]);
    assert_eq!((&document["distance"], &document["n_not_compared"]), (&Value::from(0.0), &Value::from(0)));
    assert_eq!((&document["equal"], &document["max_ulps"]), (&Value::Bool(false), &Value::Null));
    // Other shapes have no distance.
    let other = Run::new([plain(), TinyCheckpoint::new().tensor("a.weight", Dtype::F32, &[1, 2], &[1.0, 2.0])]);
    let said = thalweg(&["diff", &other.path("run/step-1"), &other.path("run/step-2")]);
    said.expect(1, &["not compared: 2 of 2 tensors, such as `a.weight` (F32 [2] against F32 [1, 2])"]);
    // 3-4-5.
    assert_eq!(json(&["diff", &a, &far])["distance"], Value::from(5.0));
}

#[test]
fn integers_and_infinities_have_no_distance() {
    let with = |step: u8, value: f64| {
        let bytes = [u64::from(step).to_le_bytes()].concat();
        plain().raw_tensor("n", Dtype::I64, &[1], &bytes).tensor("c.weight", Dtype::F32, &[1], &[value])
    };
    let run = Run::new([with(1, 0.0), with(2, 0.0), with(1, f64::INFINITY)]);
    let [a, counted, infinite] = [1, 2, 3].map(|step| run.path(&format!("run/step-{step}")));
    let said = thalweg(&["diff", &a, &counted]);
    said.expect(1, &["without a distance: 1 of 4 tensors, `n` (not floating)", "-          -         -          -  n"]);
    let document = json(&["diff", &a, &counted]);
    assert_eq!(document["distance"], Value::from(0.0));
    let row = document["tensors"].as_array().unwrap().iter().find(|row| row["name"] == "n").unwrap();
    assert_eq!(row["distance"], Value::Null);
    thalweg(&["diff", &a, &infinite]).expect(1, &["no finite distance: 1 of 4 tensors, `c.weight`"]);
}

#[test]
fn explain_prints_nan_and_names_the_checkpoint() {
    let checkpoints = |at: u8| {
        [1, 2, 3].map(|step: u8| of(Dtype::F32, [if at == step { f64::NAN } else { step.into() }, step.into()]))
    };
    let inner = Run::new(checkpoints(2));
    let said = thalweg(&["explain", &inner.path("run"), "--every", "1"]);
    said.expect(0, &["cannot be measured", "step 2                          NaN", "`step 2` holds NaN"]);
    // sqrt(1 + 1 + 9 + 16)
    said.expect(0, &["step 1                       5.1962"]);
    let last = Run::new(checkpoints(3));
    thalweg(&["explain", &last.path("run"), "--every", "1"])
        .expect(0, &["`step 3` holds NaN", "all distances are measured from it"]);
    assert_eq!(json(&["explain", &last.path("run"), "--every", "1"])["model"]["norms"][2], Value::Null);
    for option in ["--svg", "-o"] {
        let said = thalweg(&["explain", &inner.path("run"), "--every", "1", option, &inner.path("drawn")]);
        said.expect(2, &["cannot be drawn", "`step 2` holds NaN"]);
    }
}

#[test]
fn against_something_that_cannot_be_compared_is_refused_before_the_merge() {
    let other = TinyCheckpoint::new().tensor("z", Dtype::F32, &[2], &[1.0, 2.0]);
    let shape = TinyCheckpoint::new().tensor("a.weight", Dtype::F32, &[1, 2], &[1.0, 2.0]);
    let part = TinyCheckpoint::new().tensor("a.weight", Dtype::F32, &[2], &[1.0, 2.0]);
    let run = Run::new([plain(), of(Dtype::F32, [3.0, 2.0])]);
    let write = |name: &str, checkpoint: &TinyCheckpoint| {
        checkpoint.write_to_disk(std::path::Path::new(&run.path(name)));
        run.path(name)
    };
    let bf16 = write("bf16", &of(Dtype::Bf16, [1.0, 2.0]));
    let out = run.path("out");
    let merge = |target: &str| thalweg(&["merge", &run.path("run"), "--last", "2", "-o", &out, "--against", target]);
    merge(&write("other", &other))
        .expect(2, &["no tensor of the merge can be compared", "`a.weight` is only in the merge"]);
    merge(&write("shape", &shape)).expect(2, &["`a.weight` is F32 [2] in the merge and F32 [1, 2] there"]);
    let said = merge(&bf16);
    said.expect(2, &["`a.weight` is F32 [2] in the merge and BF16 [2] there"]);
    assert!(!std::path::Path::new(&out).exists());
    let copy = run.path("copy");
    let hinted: Vec<String> = said.hinted("thalweg convert").into_iter().skip(1).collect();
    let hinted: Vec<&str> = hinted.iter().map(|word| if word == "COPY" { &copy } else { word.as_str() }).collect();
    thalweg(&hinted).expect(0, &[]);
    merge(&copy).expect(0, &["distance 1.0000 from the merge, 2.0000 from the newest source"]);
    std::fs::remove_dir_all(&out).unwrap();
    merge(&write("part", &part))
        .expect(0, &["distance 1.0000", "the merge and `", "not compared: 1 of 2 tensors, `b.weight`"]);
}
