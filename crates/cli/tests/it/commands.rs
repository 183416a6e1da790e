//! One success, one mistake and the JSON of each command, as a person reads them.

use serde_json::Value;

use crate::support::{root, run, transcript};

const RUN: &str = "examples/runs/hybridstories";

fn json(arguments: &[&str]) -> (i32, Value) {
    let output = run(arguments);
    let document = serde_json::from_slice(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), document.unwrap_or_else(|error| panic!("{error}: {stderr}")))
}

#[test]
fn merge_says_what_it_did() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("merged");
    let out = out.to_str().unwrap();
    let first = ["merge", RUN, "--count", "3", "--interval-steps", "2000", "--end-step", "16000", "-o", out];
    insta::assert_snapshot!(transcript(&first, scratch.path()), @"
    exit 0
    --- stdout
    merged 3 checkpoints (steps 12000, 14000, 16000) by sma into `[OUT]/merged`
    read 2.97 MB, [MEASURED]
    distance to the newest checkpoint: 15.2 % of its norm, 44.6 in all, at most 1.73 in one element
    next: `thalweg verify [OUT]/merged --inputs` checks it
    --- stderr
    ");
    insta::assert_snapshot!(transcript(&first, scratch.path()), @"
    exit 0
    --- stdout
    `[OUT]/merged` already holds the result of this plan (compared: every byte of the output, sizes and times of the sources)
    --- stderr
    ");
}

#[test]
fn merge_shows_what_exists_where_a_request_cannot_be_met() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("merged");
    let out = out.to_str().unwrap();
    insta::assert_snapshot!(transcript(&["merge", RUN, "--last", "30", "-o", out], scratch.path()), @"
    exit 2
    --- stdout
    --- stderr
    error: the window needs 30 finished checkpoints, but there are 10
      there are 10 finished checkpoints, steps 2000 to 20000, every 2000
    hint: choose at most 10 checkpoints
    ");
    insta::assert_snapshot!(
        transcript(&["merge", RUN, "--count", "3", "--interval-tokens", "4B", "-o", out], scratch.path()), @"
    exit 2
    --- stdout
    --- stderr
    error: the window is given in tokens, but the tokens of step 2000 are unknown
    hint: give `--tokens-per-step`, or select by steps; tokens are also read from folder names, `trainer_state.json`, a step log or `thalweg.toml`
    ");
    insta::assert_snapshot!(transcript(&["merge", RUN, "-o", out], scratch.path()), @"
    exit 2
    --- stdout
    --- stderr
    error: which checkpoints of the run?
    hint: for example `--last 10`, or `--count 10 --interval-tokens 8B`; `--every 1` takes all
    ");
    insta::assert_snapshot!(transcript(&["merge", "no/such/run", "--last", "3", "-o", out], scratch.path()), @"
    exit 2
    --- stdout
    --- stderr
    error: `no/such/run` does not exist
    ");
    insta::assert_snapshot!(
        transcript(&["merge", RUN, "--last", "3", "--scheme", "wmaa", "-o", out], scratch.path()), @"
    exit 2
    --- stdout
    --- stderr
    error: there is no scheme `wmaa`
    hint: did you mean `wma`?
    ");
}

#[test]
fn merge_takes_signed_coefficients_and_divides_them_only_when_asked() {
    let scratch = tempfile::tempdir().unwrap();
    let (a, b) = (format!("{RUN}/step_14000.safetensors"), format!("{RUN}/step_16000.safetensors"));
    let (a, b) = (format!("{a}:-0.5"), format!("{b}:1.5"));
    let out = scratch.path().join("out");
    let (code, document) = json(&["merge", "-m", &a, "-m", &b, "-o", out.to_str().unwrap(), "--json"]);
    assert_eq!(code, 0);
    let output = &document["outputs"][0];
    assert_eq!((output["divisor"].as_str(), output["scheme"].as_str()), (Some("2"), Some("custom")));
    assert_eq!(output["sources"][0]["numerator"], "-1");
    assert_eq!(output["sources"][1]["coefficient"], 1.5);
    let mixed = ["merge", "-m", &a, "-m", &format!("{RUN}/step_16000.safetensors"), "-o", "x"];
    insta::assert_snapshot!(transcript(&mixed, scratch.path()), @"
    exit 2
    --- stdout
    --- stderr
    error: 1 of 2 checkpoints has a coefficient
    hint: give one to all of them (`-m CKPT:COEF`), or to none
    ");
}

#[test]
fn a_plan_is_a_document_that_merge_executes() {
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name).to_str().unwrap().to_owned();
    let (plan, direct, planned) = (path("plan.json"), path("direct"), path("planned"));
    let what = [RUN, "--last", "4", "--scheme", "decay:1-sqrt", "-q"];
    let made = |command: &[&str], rest: &[&str]| run(&[command, &what, rest].concat()).status.success();
    assert!(made(&["plan"], &["-o", &plan]));
    assert!(made(&["merge"], &["-o", &direct]));
    assert!(run(&["merge", "--plan", &plan, "-o", &planned, "-q"]).status.success());
    let bytes = |folder: &str| std::fs::read(format!("{folder}/model.safetensors")).unwrap();
    assert!(bytes(&direct) == bytes(&planned), "the plan gives the bytes of the command");
    insta::assert_snapshot!(transcript(&["plan", RUN, "--last", "3"], scratch.path()), @"
    exit 0
    --- stdout
    sma of 3 checkpoints into `merged`
            step     tokens    coefficient  checkpoint
           16000          -    0.333333333  [ROOT]/examples/runs/hybridstories/step_16000.safetensors
           18000          -    0.333333333  [ROOT]/examples/runs/hybridstories/step_18000.safetensors
           20000          -    0.333333333  [ROOT]/examples/runs/hybridstories/step_20000.safetensors
             sum                         1

    165 tensors, 247.65k parameters; reads 2.97 MB, writes 1.01 MB in 1 file
    memory, [MEASURED]
    --- stderr
    note: the window crosses the end of the stable phase at step 17000
    note: no output was named, so the plan says `merged`: `--merged OUT` names another; `thalweg merge ... -o OUT` makes the merge
    ");
}

#[test]
fn inspect_shows_runs_and_checkpoints() {
    let scratch = tempfile::tempdir().unwrap();
    insta::assert_snapshot!(transcript(&["inspect", RUN], scratch.path()), @"
    exit 0
    --- stdout
    `[ROOT]/examples/runs/hybridstories`: a run of 10 checkpoints, 10 finished; format: safetensors
            step     tokens  phase   checkpoint
            2000          -  stable  step_02000.safetensors
            4000          -  stable  step_04000.safetensors
            6000          -  stable  step_06000.safetensors
            8000          -  stable  step_08000.safetensors
           10000          -  stable  step_10000.safetensors
           12000          -  stable  step_12000.safetensors
           14000          -  stable  step_14000.safetensors
           16000          -  stable  step_16000.safetensors
           18000          -  anneal  step_18000.safetensors
           20000          -  anneal  step_20000.safetensors
    --- stderr
    ");
    insta::assert_snapshot!(transcript(&["inspect", "fixtures/hf-sharded/step-20"], scratch.path()), @r#"
    exit 0
    --- stdout
    `fixtures/hf-sharded/step-20`: safetensors checkpoint
    26.23k parameters (26.23k BF16) in 21 tensors, 52.46 kB in 4 files
    config: model_type "llama", hidden_size 24, num_hidden_layers 2, vocab_size 256, tie_word_embeddings false
    beside the tensors: config.json, generation_config.json, tokenizer.json, tokenizer_config.json
      BF16   [256, 24]          lm_head.weight
      BF16   [256, 24]          model.embed_tokens.weight
      BF16   [24]               model.layers.0.input_layernorm.weight
      BF16   [24, 64]           model.layers.0.mlp.down_proj.weight
      BF16   [64, 24]           model.layers.0.mlp.gate_proj.weight
      BF16   [64, 24]           model.layers.0.mlp.up_proj.weight
      BF16   [24]               model.layers.0.post_attention_layernorm.weight
      BF16   [24, 24]           model.layers.0.self_attn.k_proj.weight
      BF16   [24, 24]           model.layers.0.self_attn.o_proj.weight
      BF16   [24, 24]           model.layers.0.self_attn.q_proj.weight
      BF16   [24, 24]           model.layers.0.self_attn.v_proj.weight
      BF16   [24]               model.layers.1.input_layernorm.weight
      and 9 more (`-v` shows all)
    nothing blocks a merge
    --- stderr
    "#);
    insta::assert_snapshot!(transcript(&["inspect", "Cargo.toml"], scratch.path()), @"
    exit 2
    --- stdout
    --- stderr
    error: `Cargo.toml` holds no readable checkpoint: neither its name nor its first bytes match a known checkpoint format
    hint: give a folder with `model.safetensors`, `pytorch_model.bin` or an index of one of them, or a file
    ");
    let (code, document) = json(&["inspect", "fixtures/hf-moe/step-20", "--json"]);
    assert_eq!((code, document["format"].as_str()), (0, Some("safetensors")));
    assert_eq!(document["n_params"].as_u64(), Some(35_264));
    assert_eq!(document["blocks_merge"], Value::Array(vec![]));
}

#[test]
fn verify_and_diff_answer_with_their_exit_codes() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("merged");
    let out = out.to_str().unwrap();
    assert!(run(&["merge", RUN, "--last", "2", "-o", out, "-q"]).status.success());
    insta::assert_snapshot!(transcript(&["verify", out, "--inputs"], scratch.path()), @"
    exit 0
    --- stdout
    `[OUT]/merged` matches its receipt: 2 files, and so do its 2 sources
    --- stderr
    ");
    let shard = format!("{out}/model.safetensors");
    let mut bytes = std::fs::read(&shard).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&shard, bytes).unwrap();
    insta::assert_snapshot!(transcript(&["verify", out], scratch.path()), @"
    exit 1
    --- stdout
    tok_emb.weight: the bytes differ
    `[OUT]/merged` does not match its receipt
    --- stderr
    ");
    insta::assert_snapshot!(transcript(&["verify", RUN], scratch.path()), @"
    exit 2
    --- stdout
    --- stderr
    error: `examples/runs/hybridstories` holds no `thalweg.json`
    hint: only outputs of `merge` and `sweep` can be verified; `inspect` shows any checkpoint
    ");
    let (a, b) = (format!("{RUN}/step_18000.safetensors"), format!("{RUN}/step_20000.safetensors"));
    let (code, document) = json(&["diff", &a, &b, "--json"]);
    assert_eq!((code, document["equal"].as_bool()), (1, Some(false)));
    let (code, document) = json(&["diff", &a, &a, "--json"]);
    assert_eq!((code, document["equal"].as_bool(), document["distance"].as_f64()), (0, Some(true), Some(0.0)));
}

#[test]
fn what_explain_writes_does_not_land_in_a_merge() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("merged");
    let merged = folder.to_str().unwrap();
    assert!(run(&["merge", RUN, "--last", "3", "-o", merged, "-q"]).status.success());
    let output = run(&["explain", RUN, "--last", "3", "-o", merged]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("anything written there would become part of the checkpoint"), "{said}");
    assert!(!folder.join("study.json").exists());
}

#[test]
fn explain_puts_components_beside_their_null_values() {
    let scratch = tempfile::tempdir().unwrap();
    let svg = scratch.path().join("run.svg");
    let svg = svg.to_str().unwrap();
    insta::assert_snapshot!(
        transcript(&["explain", RUN, "--steps", "8000,10000,12000", "--svg", svg], scratch.path()), @"
        exit 0
        --- stdout
        The run has no consistent direction from checkpoint to checkpoint. Each displacement is nearly at right angles to the one before it: the mean cosine is -0.00 (n = 1). The first principal component explains 76 % of the movement; in a random walk of the same length it explains 75 %: the shape of the path says nothing about this run. The plain mean of all 3 checkpoints is 16.8 % of the norm away from the newest one.

        checkpoint                     norm    to newest  from before     cosine
        step 8000                  281.9478      95.9212            -          -
        step 10000                 286.2694      63.2260      72.2682          -
        step 12000                 289.2103       0.0000      63.2260     -0.002

        variance on the leading components      0.756 0.244
          of a random walk of this length       0.750 0.250
          of noise about a fixed point          0.500 0.500
        drift along the first, per interval     47.8601
        lag of the plain mean, in intervals     1
        distance of the plain mean to newest    48.5044

        layer                                    norm      moved  mean cosine        PC1
        0                                     74.0025    22.8097       -0.022      0.746
        1                                     79.9409    27.4992       -0.020      0.747
        2                                     74.1072    28.1116       -0.017      0.746
        3                                     76.3988    28.5348       -0.012      0.751
        4                                     77.1350    29.4803       -0.012      0.751
        5                                     79.2553    30.4231        0.040      0.772
        6                                     88.5311    29.6053        0.027      0.767
        7                                     81.5823    30.7702        0.033      0.769
        8                                     84.5928    31.2966        0.014      0.762

        tensor class                             norm      moved  mean cosine        PC1
        attn.Wk.weight                        34.1075    18.1242       -0.206      0.668
        attn.Wo.weight                        54.2132    15.8784       -0.106      0.715
        attn.Wq.weight                        34.5702    18.4690       -0.204      0.668
        attn.Wv.weight                        68.9537    18.8009        0.013      0.760
        meta_tokens                            0.2310     0.0413        0.511      0.903
        mlp.w1.weight                         97.2199    31.2227        0.049      0.774
        mlp.w2.weight                        106.3476    40.5805        0.114      0.796
        mlp.w3.weight                         61.4548    21.7597        0.075      0.783
        norm1.weight                          13.9695     0.7624        0.991      0.998
        norm2.weight                          15.8369     0.4052        0.964      0.994
        norm_f.weight                          5.9446     0.1011        0.943      0.990
        ssm.A_log                             70.3081    25.7501       -0.030      0.744
        ssm.D                                 24.9221     1.1027        0.897      0.982
        ssm.conv1d.bias                        7.2494     0.4616        0.922      0.987
        ssm.conv1d.weight                      9.9391     1.8154        0.850      0.975
        ssm.dt_proj.bias                       2.5575     0.7991        0.909      0.984
        ssm.dt_proj.weight                    29.7948    11.1420       -0.204      0.666
        ssm.in_proj.weight                   105.5788    41.0015        0.012      0.760
        ssm.out_proj.weight                   62.4254    23.3014        0.043      0.773
        ssm.x_proj.weight                     19.6496     9.5226        0.022      0.762
        tok_emb.weight                       162.8836    41.5026       -0.034      0.748
        --- stderr
        note: the trajectory is drawn in `[OUT]/run.svg`
        ");
    assert!(std::fs::read_to_string(svg).unwrap().starts_with("<svg"));
    let (code, document) = json(&["explain", RUN, "--last", "5", "--json"]);
    assert_eq!((code, document["model"]["norms"].as_array().map(Vec::len)), (0, Some(5)));
    insta::assert_snapshot!(transcript(&["explain", RUN, "--last", "1"], scratch.path()), @"
    exit 2
    --- stdout
    --- stderr
    error: geometry needs at least two checkpoints
    hint: name a run with a window of two or more, such as `--last 10`, or several checkpoints
    ");
}

#[test]
fn sweep_makes_every_combination_in_one_reading() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("sweep");
    let out = out.to_str().unwrap();
    let (code, document) = json(&["sweep", RUN, "--counts", "2,3", "--schemes", "sma,ema:0.2", "-o", out, "--json"]);
    assert_eq!(code, 0);
    let trials = document["trials"].as_array().unwrap();
    assert_eq!(trials.len(), 4);
    assert!(trials.iter().all(|trial| trial["path"].as_str().is_some_and(|path| std::fs::metadata(path).is_ok())));
    let one = std::fs::metadata(root().join(RUN).join("step_20000.safetensors")).unwrap().len();
    assert!(document["bytes_read"].as_u64().unwrap() < 3 * one, "three checkpoints, each read once");
    insta::assert_snapshot!(
        transcript(&["sweep", RUN, "--schemes", "sma,best", "-o", out], scratch.path()), @"
    exit 2
    --- stdout
    --- stderr
    error: there is no scheme `best`
    hint: one of sma, wma, ema, ema-normalised, decay:linear, decay:cosine, decay:1-sqrt, power-ema, custom
    ");
}

#[test]
fn recipes_are_read_and_their_mistakes_are_shown() {
    let scratch = tempfile::tempdir().unwrap();
    let recipe = scratch.path().join("recipe.yml");
    let out = scratch.path().join("out");
    let (recipe_path, out) = (recipe.to_str().unwrap(), out.to_str().unwrap());
    std::fs::write(&recipe, format!("run: {RUN}\nlast: 3\nscheme: ema:0.2\n")).unwrap();
    assert!(run(&["merge", recipe_path, out, "-q"]).status.success());
    std::fs::write(&recipe, format!("run: {RUN}\nlats: 3\n")).unwrap();
    insta::assert_snapshot!(transcript(&["merge", recipe_path, out], scratch.path()), @"
    exit 2
    --- stdout
    --- stderr
    error: recipe `[OUT]/recipe.yml`: line 2, column 1: unknown key `lats` at the top level
      2 | lats: 3
        | ^^^^
    hint: did you mean `last`?
    ");
}

#[test]
fn every_command_has_help() {
    let commands = [
        "",
        "inspect",
        "plan",
        "merge",
        "convert",
        "sweep",
        "verify",
        "diff",
        "eval",
        "explain",
        "forecast",
        "recover",
        "init",
        "train",
        "demo",
        "report",
        "clean",
        "fetch",
        "law",
        "extrapolate",
        "law merge",
        "law curve",
        "mix",
        "mix plan",
        "mix check",
        "mix search",
        "mix validate",
        "forget",
        "forget entities",
        "forget build",
        "forget score",
        "forget curve",
        "forget replay",
        "launch",
        "launch slurm",
        "launch ray",
        "launch kubernetes",
        "watch",
        "serve",
    ];
    for command in commands {
        let arguments: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
        let output = run(&arguments);
        assert!(output.status.success());
        insta::assert_snapshot!(format!("help-{}", command.replace(' ', "-")), String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn the_help_of_the_program_fits_one_screen() {
    let output = run(&["--help"]);
    let help = String::from_utf8_lossy(&output.stdout);
    assert!(help.lines().count() <= 50, "{} lines", help.lines().count());
    let longest = help.lines().max_by_key(|line| line.len()).unwrap();
    assert!(longest.len() <= 100, "{longest}");
}

#[test]
fn completions_and_man_pages_are_made_from_the_same_description() {
    let completions = run(&["generate", "completions", "bash"]);
    assert!(String::from_utf8_lossy(&completions.stdout).contains("_thalweg"));
    let page = run(&["generate", "man", "merge"]);
    assert!(String::from_utf8_lossy(&page.stdout).contains(".TH thalweg-merge 1"));
    let page = run(&["generate", "man", "law", "curve"]);
    assert!(String::from_utf8_lossy(&page.stdout).contains("\\-\\-newest"));
    let missing = run(&["generate", "man", "law", "nope"]);
    assert!(String::from_utf8_lossy(&missing.stderr).contains("`law` has no command `nope`"));
}

#[test]
fn a_path_cannot_steer_the_terminal() {
    let scratch = tempfile::tempdir().unwrap();
    insta::assert_snapshot!(transcript(&["inspect", "no\u{1b}[2J\rsuch", "--color", "never"], scratch.path()), @r"
    exit 2
    --- stdout
    --- stderr
    error: `no\u{1b}[2J\u{d}such` does not exist
    ");
    let run_folder = scratch.path().join("run\u{1b}[2J");
    let step = run_folder.join("step_2000.safetensors");
    std::fs::create_dir(&run_folder).unwrap();
    std::fs::copy(root().join(RUN).join("step_02000.safetensors"), step).unwrap();
    let output = run(&["inspect", run_folder.to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("run\\u{1b}[2J`: a run of 1 checkpoint,"), "{text}");
}

#[test]
fn usage_mistakes_exit_with_2() {
    assert_eq!(run(&["merge", "--no-such-option"]).status.code(), Some(2));
    assert_eq!(run(&["merge", RUN, "--last", "3"]).status.code(), Some(2));
}
