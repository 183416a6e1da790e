//! Words of messages: number and noun, units, tips that work.

use crate::selection::Scene;

#[test]
fn a_folder_of_merges_is_verified_whole_and_led_out_of() {
    let scene = Scene::new(&[1000, 2000, 3000, 4000]);
    scene.run("sweep run --counts 2,3 --interval-steps 1000 -o sweep").done(&[]);
    let merges: Vec<String> = ["n2", "n3"].map(|n| format!("sweep/step0004000-{n}-every1000-sma")).to_vec();
    let said = scene.run("verify sweep");
    said.done(&[&format!("`{}` matches its receipt", merges[0]), &format!("`{}` matches", merges[1])]);
    assert_eq!(said.stdout.lines().count(), 2, "{said:?}");
    scene.run("verify sweep --inputs").done(&["and so do its 2 sources", "and so do its 3 sources"]);
    for command in ["inspect sweep", "merge sweep --last 2 -o out", "plan sweep"] {
        let said = scene.run(command);
        said.refused(&["it holds 2 merges, such as `step0004000-n2-every1000-sma`", "name one of them"]);
        let named = said.stderr.split('`').find(|word| word.contains("sweep/step")).unwrap().to_owned();
        scene.run(&format!("inspect {named}")).done(&["a merge of 2 checkpoints"]);
    }
    let shard = scene.path(&merges[1]).join("model.safetensors");
    let mut bytes = std::fs::read(&shard).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&shard, bytes).unwrap();
    let said = scene.run("verify sweep");
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stdout.contains("does not match its receipt"), "{said:?}");
    // One that cannot be read does not hide the others, and its error is the exit code.
    std::fs::write(scene.path(&merges[0]).join("thalweg.json"), "{}").unwrap();
    let said = scene.run("verify sweep");
    said.refused(&["thalweg.json"]);
    assert!(said.stdout.contains("cannot be verified") && said.stdout.contains("does not match its"), "{said:?}");
}

#[test]
fn the_tip_for_a_value_that_begins_with_a_dash_works() {
    let scene = Scene::new(&[1, 2]);
    for (command, option) in [
        ("merge run --last 2 -o --dash", "-o"),
        ("merge run --last 2 --out --dash", "--out"),
        ("convert run/checkpoint-1 -o --dash", "-o"),
    ] {
        let said = scene.run(command);
        let tip = format!("{option}=--dash");
        said.refused(&[&format!("use '{tip}'")]);
        assert!(!said.stderr.contains("-- --dash"), "{said:?}");
        scene.run(&command.replace(&format!("{option} --dash"), &tip)).done(&[]);
        std::fs::remove_dir_all(scene.path("--dash")).unwrap();
    }
    for command in [
        "plan run --last -1",
        "plan run --count -2",
        "plan run --every -1",
        "inspect run --log-every -1",
        "law merge run --predict -3",
        "launch slurm plan.json -n -3",
    ] {
        let said = scene.run(command);
        said.refused(&["invalid value '-"]);
        assert!(!said.stderr.contains("'-- -"), "{said:?}");
    }
}

#[test]
fn checkpoints_that_are_named_one_by_one_are_not_selected_from() {
    let scene = Scene::new(&[1, 2]);
    let named = "-m run/checkpoint-1 -m run/checkpoint-2";
    for selection in ["--last 1", "--end-step 1", "--from-step 2", "--every 1", "--steps 1"] {
        for command in ["plan", "merge -o out"] {
            scene.run(&format!("{command} {named} {selection}")).refused(&["given one by one"]);
        }
    }
}

#[test]
fn files_that_travel_belong_to_the_sources() {
    let scene = Scene::new(&[1, 2]);
    for step in [1, 2] {
        scene.write(
            &format!("run/checkpoint-{step}/config.json"),
            "{\"model_type\": \"llama\", \"dtype\": \"float32\"}",
        );
        scene.write(&format!("run/checkpoint-{step}/generation_config.json"), "{\"temperature\": 1.0}");
    }
    let merge = |more: &str| scene.run(&format!("merge run --last 2 -o out{more}"));
    merge("").done(&["merged 2"]);
    merge("").done(&["already holds"]);
    // Another source's files do not travel.
    scene.write("run/checkpoint-1/generation_config.json", "{\"temperature\": 0.5}");
    merge("").done(&["already holds"]);
    for (name, old, new) in [
        ("generation_config.json", "{\"temperature\": 1.0}", "{\"temperature\": 0.7}"),
        (
            "config.json",
            "{\"model_type\": \"llama\", \"dtype\": \"float32\"}",
            "{\"model_type\": \"llama\", \"dtype\": \"float32\", \"bos_token_id\": 1}",
        ),
    ] {
        let path = format!("run/checkpoint-2/{name}");
        scene.write(&path, new);
        merge("").refused(&["its sources have changed since"]);
        let verified = scene.run("verify out --inputs");
        assert_eq!(verified.code, 1, "{name}: {verified:?}");
        scene.write(&path, old);
        merge("").done(&["already holds"]);
        scene.run("verify out --inputs").done(&[]);
    }
    merge(" --dtype bf16 --force").done(&["merged 2"]);
    merge(" --dtype bf16").done(&["already holds"]);
}

#[test]
fn commands_in_notes_can_be_copied_whatever_the_path() {
    let scene = Scene::new(&[1, 2]);
    for (path, shown) in
        [("my plan.json", "'my plan.json'"), ("it's.json", "'it'\\''s.json'"), ("-p.json", "./-p.json")]
    {
        let said = scene.run_words(&["plan", "run", "--last", "2", &format!("--out={path}")]);
        said.done(&[]);
        assert!(said.stderr.contains(&format!("`thalweg merge --plan {shown}`")), "{said:?}");
    }
}

#[test]
fn a_hint_for_options_that_a_command_lacks_says_which_command_has_them() {
    let scene = Scene::new(&[1, 2]);
    scene.write("run/checkpoint-2/config.json", "{\"rope_theta\": 5.0, \"model_type\": \"llama\"}");
    scene.write("run/checkpoint-1/config.json", "{\"rope_theta\": 6.0, \"model_type\": \"llama\"}");
    scene
        .run("explain run --last 2")
        .refused(&["--allow-config", "`explain` has no `--allow-config`: `thalweg merge`"]);
    let merged = scene.run("merge run --last 2 -o out");
    merged.refused(&["--allow-config"]);
    assert!(!merged.stderr.contains("has no"), "{merged:?}");
}

#[test]
fn all_counts_are_read_by_one_grammar() {
    let scene = Scene::new(&[1000, 2000]);
    scene.run("plan run --last 2e0").done(&["checkpoint-2000"]);
    scene.run("plan run --last 2K").refused(&["needs 2000 finished checkpoints, but there are 2"]);
    scene.run("plan run --every 0.001k").done(&["checkpoint-1000"]);
    scene.run("sweep run --counts 0.002K --interval-steps 1k --dry-run -o out").done(&[]);
    scene.run("plan run --last 2 -j 1e0").done(&[]);
    scene.run("plan run --last two").refused(&["`two`: a number is digits"]);
    scene.run("plan run --every 0").refused(&["`0` is not above zero"]);
}

#[test]
fn one_thing_is_in_the_singular() {
    let scene = Scene::new(&[1, 2]);
    scene.run("convert run/checkpoint-1 -o one").done(&[]);
    scene.run("verify one --inputs").done(&[": 5 files, and so does its source"]);
    scene.run("merge run --last 2 -o two").done(&[]);
    std::fs::rename(scene.path("run/checkpoint-2"), scene.path("away")).unwrap();
    let said = scene.run("verify two --inputs");
    assert!(said.stdout.contains("1 of its 2 sources does not match"), "{said:?}");
    scene.run("plan run --last 2").refused(&["but there is 1", "choose at most 1 checkpoint\n"]);
    scene
        .run("plan run --last 1 --scheme custom --coefficients 0.5,0.5")
        .refused(&["2 coefficients are given for 1 checkpoint\n"]);
}

#[test]
fn outputs_named_like_files_of_other_formats_are_refused() {
    let scene = Scene::new(&[1, 2]);
    for end in ["gguf", "GGUF", "onnx", "npz", "zip"] {
        let said = scene.run(&format!("convert run/checkpoint-1 -o x.{end}"));
        said.refused(&["an output is a folder", "-o x`"]);
    }
}
