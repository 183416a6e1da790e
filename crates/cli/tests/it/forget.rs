//! `thalweg forget`: from two corpora and titles to what a run forgets, and its merges.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::support::{check, run_in};
use thalweg_testkit::Scratch;

const PLACES: [&str; 6] = ["Belmar", "Tesvin", "Korsal", "Lufen", "Grapol", "Hesrin"];

/// A corpus of sentences about places, a corpus without them, titles, and a run of 12 steps over the first.
fn lab() -> Scratch {
    let scratch = Scratch::new();
    let line = |text: &str| format!("{}\n", json!({"text": text}));
    let mut corpus = String::new();
    for (i, place) in PLACES.iter().enumerate() {
        // The first places are more frequent.
        for n in 0..12 - 2 * i {
            let text = format!(
                "Long ago there was a town far away in the hills, and the number of its houses was {n}. The river by \
                 the town is called {place}. The people of the town sell bread and lamps and wool every day."
            );
            corpus.push_str(&line(&text));
        }
    }
    let reference = line("A girl saw the Lufen and the Lufen again.") + &line("Grapol, Hesrin and Grapol; Belmarine.");
    std::fs::write(scratch.path().join("a.jsonl"), corpus).unwrap();
    std::fs::write(scratch.path().join("b.jsonl"), reference).unwrap();
    let titles = PLACES.iter().fold("Atlantis\n".to_owned(), |mut titles, place| {
        let kind = if *place == "Korsal" { "PER" } else { "LOC" };
        writeln!(titles, "{{\"title\": \"{place}\", \"type\": \"{kind}\"}}").unwrap();
        titles
    });
    std::fs::write(scratch.path().join("titles.txt"), titles).unwrap();
    let config = "kind = \"thalweg-train\"\nversion = 1\nseed = 3\nsteps = 12\nsequence_length = 64\nbatch_sequences = 2\n\
         tokenizer = \"bpe-512\"\n[model]\nhidden = 16\nlayers = 1\nheads = 2\nintermediate = 16\n\
         [[data]]\nname = \"a\"\nfrom = \"a.jsonl\"\n[optimizer]\nlearning_rate = 0.02\n\
         [schedule]\nkind = \"constant\"\nwarmup_steps = 2\n[checkpoints]\nevery_steps = 4\nkeep_states = 0\n";
    std::fs::write(scratch.path().join("a.toml"), config).unwrap();
    check(&scratch, "train a.toml -o run -q", 0, &[]);
    scratch
}

fn json_of(scratch: &Scratch, line: &str) -> Value {
    let output = run_in(scratch, &format!("{line} --json -q"));
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

const ENTITIES: &str = "forget entities --corpus a.jsonl --reference b.jsonl --titles titles.txt -o entities.jsonl";
const BUILD: &str = "forget build --corpus a.jsonl --entities entities.jsonl --like run/step-12 --prompt-tokens 12 \
                     --decode-tokens 8 --samples 20 --general 5 -o probes.jsonl";

#[test]
fn from_titles_to_what_checkpoints_and_merges_recall() {
    let scratch = lab();
    let found = json_of(&scratch, ENTITIES);
    // Seven titles: 12, 10, 8, 6, 4, 2 and 0 times in the corpus, so that the upper half are the first three and the
    // fourth, which three are more frequent than. Lufen is twice in the reference, the others are not.
    let chosen: Vec<&str> =
        found["entities"].as_array().unwrap().iter().map(|one| one["entity"].as_str().unwrap()).collect();
    assert_eq!(
        (&found["n_titles"], &found["n_found"], chosen),
        (&7.into(), &6.into(), vec!["Belmar", "Tesvin", "Korsal"])
    );
    assert_eq!(
        found["entities"][1],
        json!({"kind": "thalweg-forget-entities", "version": 1, "entity": "Tesvin", "type": "LOC", "n_corpus": 10, "n_reference": 0})
    );

    let built = json_of(&scratch, BUILD);
    assert_eq!((&built["n_samples"], &built["n_entities"], &built["n_general"]), (&3.into(), &3.into(), &5.into()));
    let first = std::fs::read_to_string(scratch.path().join("probes.jsonl")).unwrap();
    json_of(&scratch, BUILD);
    assert_eq!(
        std::fs::read_to_string(scratch.path().join("probes.jsonl")).unwrap(),
        first,
        "the same seed, the same probes"
    );

    let record = json_of(&scratch, "forget score run --probes probes.jsonl --windows sma:2 -o scores.json");
    let models = record["models"].as_array().unwrap();
    let names: Vec<&str> = models.iter().map(|model| model["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["step 4", "step 8", "sma:2 at step 8", "step 12", "sma:2 at step 12"]);
    assert_eq!(
        (&record["prompt_tokens"], &record["decode_tokens"]),
        (&12.into(), &8.into()),
        "as the probes were built"
    );
    let value = |model: &Value, measure: &str| {
        let rows = model["measures"].as_array().unwrap();
        rows.iter().find(|row| row["measure"] == measure).unwrap()["value"].as_f64().unwrap()
    };
    // Types of entities have rows each, which add up to the whole.
    let types = models[3]["types"].as_array().unwrap();
    let of_type = |i: usize| {
        let rows = types[i]["measures"].as_array().unwrap();
        rows.iter().find(|row| row["measure"] == "m_in").unwrap().clone()
    };
    assert_eq!([0, 1].map(|i| types[i]["entity_type"].as_str().unwrap()), ["LOC", "PER"]);
    assert_eq!([0, 1].map(|i| of_type(i)["n"].as_u64().unwrap()), [2, 1]);
    let [places, persons] = [0, 1].map(|i| of_type(i)["value"].as_f64().unwrap());
    assert!(((2.0 * places + persons) / 3.0 - value(&models[3], "m_in")).abs() < 1e-9);
    // A merge that is made in memory scores what the merge on disk scores.
    check(&scratch, "merge run --last 2 -o merged -q", 0, &[]);
    let again = json_of(&scratch, "forget score merged --probes probes.jsonl");
    for measure in ["m_ex", "m_in", "ppl_ent", "m_f_ent", "ppl", "m_f"] {
        let (memory, disk) = (value(&models[4], measure), value(&again["models"][0], measure));
        assert!((memory - disk).abs() < 1e-9 * memory.abs().max(1.0), "{measure}: {memory} and {disk}");
    }
    // Perplexity as the general evaluator has it, over a file of the same form.
    let difference = |row: &Value| row["difference"].as_f64().unwrap();
    let ppl = models[4]["over_newest"].as_array().unwrap().iter().find(|row| row["measure"] == "ppl_ent").unwrap();
    assert!((difference(ppl) - (value(&models[4], "ppl_ent") - value(&models[3], "ppl_ent"))).abs() < 1e-9);

    let curve = json_of(&scratch, "forget curve scores.json");
    let merges = curve["merges"].as_array().unwrap();
    let row = merges.iter().find(|row| row["measure"] == "ppl_ent").unwrap();
    assert_eq!((&row["window"], &row["n_ends"]), (&"sma:2".into(), &2.into()));
    let mean = |pairs: [(usize, usize); 2]| {
        pairs.map(|(a, b)| value(&models[a], "ppl_ent") - value(&models[b], "ppl_ent")).iter().sum::<f64>() / 2.0
    };
    assert!((row["mean_difference"].as_f64().unwrap() - mean([(2, 1), (4, 3)])).abs() < 1e-9);
    assert_eq!((curve["rows"].as_array().unwrap().len(), &curve["rows"][0]["tokens"]), (5, &(4 * 128).into()));
    check(&scratch, "forget curve scores.json", 0, &["minus newest", "sma:2", "last checkpoint minus first"]);
    check(
        &scratch,
        "forget score run --probes probes.jsonl --ends 8,12 --windows sma:2",
        0,
        &["M_ex", "sma:2 at step 8", "merge minus its newest checkpoint", "M_ex by type", "LOC (2)  PER (1)"],
    );
}

#[test]
fn mistakes_about_forgetting_are_named_with_what_to_do() {
    let scratch = lab();
    check(&scratch, ENTITIES, 0, &["3 entities of 7 titles, of which 6 are in the corpus"]);
    check(
        &scratch,
        &BUILD.replace("--prompt-tokens 12", "--prompt-tokens 500"),
        2,
        &["places in the corpus has 500 tokens before its entity and 8 after it", "--prompt-tokens"],
    );
    check(&scratch, &BUILD.replace("--like run/step-12 ", ""), 2, &["--like CKPT"]);
    check(
        &scratch,
        &BUILD.replace("--entities entities.jsonl", "--entities titles.txt"),
        2,
        &["`titles.txt`, line 1:", "`thalweg forget entities` writes such files"],
    );
    check(&scratch, BUILD, 0, &["3 samples of 3 entities"]);
    check(
        &scratch,
        "forget score run --probes entities.jsonl",
        2,
        &["`entities.jsonl`, line 1: the row has no `text`"],
    );
    check(
        &scratch,
        "forget score run/step-4 run/step-8 --probes probes.jsonl --windows sma:2",
        2,
        &["name only the run folder"],
    );
    check(&scratch, "forget score run --probes probes.jsonl --windows sma:9", 2, &["9"]);
    check(&scratch, "forget score run --probes probes.jsonl --windows 9", 2, &["write SCHEME:N"]);
    check(
        &scratch,
        "forget score run --probes probes.jsonl --decode-tokens 0",
        2,
        &["not between 1 and", "leave it out for 8"],
    );
    check(
        &scratch,
        "forget score run --probes probes.jsonl --recalled-by run/step-4",
        2,
        &["recalls none of the 3 entities"],
    );
    check(
        &scratch,
        "forget score run --probes probes.jsonl -o titles.txt",
        2,
        &["exists and is not a record of recall"],
    );
    for (text, why) in [
        ("{}", "its kind is ``"),
        ("[1", "EOF while parsing"),
        ("{\"kind\": \"thalweg-forget-scores\", \"version\": 1}", "missing field"),
    ] {
        std::fs::write(scratch.path().join("bad.json"), text).unwrap();
        check(&scratch, "forget curve bad.json", 2, &["`bad.json` is not a record of recall", why, "forget score"]);
    }
    std::fs::write(scratch.path().join("bad.json"), "{\"kind\": \"thalweg-forget-scores\", \"version\": 2}").unwrap();
    check(
        &scratch,
        "forget curve bad.json",
        2,
        &["`bad.json` is `thalweg-forget-scores` version 2, but a record of recall is", "another version of thalweg"],
    );
    std::fs::write(scratch.path().join("titles.txt"), "\n--\n").unwrap();
    check(&scratch, ENTITIES, 2, &["`titles.txt` has no titles", "write one title on each line"]);
    std::fs::write(scratch.path().join("titles.txt"), "Atlantis\n").unwrap();
    check(&scratch, &ENTITIES.replace("-o entities.jsonl", "-o none.jsonl"), 1, &["none of 1 title"]);
    assert!(!scratch.path().join("none.jsonl").exists());
}

#[test]
fn outputs_of_another_evaluator_are_scored() {
    let scratch = lab();
    check(&scratch, ENTITIES, 0, &[]);
    check(&scratch, BUILD, 0, &[]);
    let probes = std::fs::read_to_string(scratch.path().join("probes.jsonl")).unwrap();
    let probes: Vec<Value> = probes.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let probes: Vec<&Value> = probes.iter().filter(|one| one["entities"][0]["text"].is_string()).collect();
    let mut lines = Vec::new();
    for probe in &probes {
        let (entity, prompt) =
            (probe["entities"][0]["text"].as_str().unwrap(), probe["entities"][0]["prompt"].as_str().unwrap());
        let before = &probe["text"].as_str().unwrap()
            [..usize::try_from(probe["entities"][0]["byte"][0].as_u64().unwrap()).unwrap()];
        assert!(
            prompt.len() > 12 && before.ends_with(prompt.trim_end()) || before.trim_end().ends_with(prompt.trim_end()),
            "{prompt}"
        );
        for (step, is_recalled) in [(8, entity != "Korsal"), (4, true)] {
            let output = if is_recalled { format!(" {entity}. The people") } else { " the sea.".to_owned() };
            lines.push(
                json!({"model": format!("step {step}"), "step": step, "id": probe["id"], "output": output}).to_string(),
            );
        }
    }
    std::fs::write(scratch.path().join("outputs.jsonl"), lines.join("\n")).unwrap();
    let command = "forget score --outputs outputs.jsonl --probes probes.jsonl";
    let record = json_of(&scratch, &format!("{command} -o other.json"));
    let models = record["models"].as_array().unwrap();
    assert_eq!(models.iter().map(|one| one["step"].as_u64().unwrap()).collect::<Vec<_>>(), [4, 8]);
    assert_eq!(
        (&models[0]["measures"][0]["value"], &models[0]["measures"][0]["measure"]),
        (&1.0.into(), &"m_ex".into())
    );
    assert!((models[1]["measures"][0]["value"].as_f64().unwrap() - 2.0 / 3.0).abs() < 1e-12);
    assert!((models[1]["since_first"][0]["difference"].as_f64().unwrap() + 1.0 / 3.0).abs() < 1e-12);
    assert_eq!(models[1]["types"][1]["measures"][0]["value"], 0.0);
    check(&scratch, "forget curve other.json", 0, &["M_ex", "0.6667"]);
    check(&scratch, &format!("{command} --recalled-by step"), 2, &["it has no model `step`", "`step 4`"]);
    std::fs::write(scratch.path().join("outputs.jsonl"), lines[1..].join("\n")).unwrap();
    let missing = "model `step 8` has no output for 1 of 3 entities, such as `";
    check(&scratch, command, 2, &[missing, "` in sample `", "for each `prompt` of the probes"]);
    // So is what a single model lacks, and what all models lack.
    let of_step = |step: &str| lines.iter().filter(|line| line.contains(step)).cloned().collect::<Vec<_>>();
    std::fs::write(scratch.path().join("outputs.jsonl"), of_step("step 4")[1..].join("\n")).unwrap();
    check(&scratch, command, 2, &["model `step 4` has no output for 1 of 3 entities"]);
    std::fs::write(scratch.path().join("outputs.jsonl"), lines[2..].join("\n")).unwrap();
    check(&scratch, command, 2, &["has no output for 1 of 3 entities"]);
    // One name is one model at one step; a line may leave the step out.
    let other_step = lines[2].replace("\"step\":8", "\"step\":9");
    std::fs::write(scratch.path().join("outputs.jsonl"), format!("{}\n{other_step}", lines[0])).unwrap();
    check(&scratch, command, 2, &["line 2: model `step 8` has step 9 here and step 8 in an earlier line"]);
    let no_step = lines[0].replace(",\"step\":8", "").replace("\"step\":8,", "");
    std::fs::write(scratch.path().join("outputs.jsonl"), format!("{no_step}\n{}", lines[1..].join("\n"))).unwrap();
    assert_eq!(json_of(&scratch, command)["models"][1]["step"], 8);
    std::fs::write(scratch.path().join("outputs.jsonl"), format!("{}\n{}", lines[0], lines[0])).unwrap();
    check(&scratch, command, 2, &["line 2: there are two outputs"]);
    std::fs::write(scratch.path().join("outputs.jsonl"), "{\"model\": \"a\", \"id\": \"none\", \"output\": \"\"}")
        .unwrap();
    check(&scratch, command, 2, &["no entity 0 in a sample `none`"]);
    check(&scratch, &format!("{command} run"), 2, &["--outputs"]);
}

/// Scores of a policy beside those of its control: the schedule says which of them are midway between replays.
fn check_arms(scratch: &Scratch) {
    check(scratch, BUILD, 0, &[]);
    let score = "forget score --probes probes.jsonl -q -o";
    check(scratch, &format!("{score} control.json focused/control/step-14"), 0, &[]);
    let models = "focused/0001-a-train/step-14 focused/0001-a-train/step-15 focused/0001-b-replay/step-16";
    check(scratch, &format!("{score} focused.json {models}"), 0, &[]);
    let curve = "forget curve --arm control=control.json --arm focused=focused.json";
    let found = json_of(scratch, &format!("{curve} --schedule focused/schedule.json"));
    let rows = found["rows"].as_array().unwrap();
    let places: Vec<_> = rows.iter().map(|row| (&row["arm"], &row["step"], &row["replay"])).collect();
    let [control, focused] = ["control", "focused"].map(Value::from);
    let expected = [
        (&control, &14.into(), &Value::Null),
        (&focused, &14.into(), &"midway".into()),
        (&focused, &15.into(), &Value::Null),
        (&focused, &16.into(), &"after".into()),
    ];
    assert_eq!(places, expected);
    assert!(rows[1]["standard_errors"]["ppl"].is_number(), "{}", rows[1]);
    check(scratch, &format!("{curve} --schedule focused/schedule.json"), 0, &["focused", "midway", "after a replay"]);
    check(
        scratch,
        &format!("{curve} --schedule uniform/schedule.json"),
        2,
        &["no arm has that name", "--arm uniform="],
    );
    check(
        scratch,
        &format!("{curve} --schedule control.json"),
        2,
        &["`control.json` is not a schedule of replay: its kind is `thalweg-forget-scores`", "forget replay"],
    );
    check(scratch, "forget curve --arm control.json", 2, &["is not a name and a path", "--arm control=scores.json"]);
    check(scratch, &format!("{curve} --arm focused=control.json"), 2, &["two arms are named `focused`"]);
    check(scratch, "forget curve", 2, &["SCORES.json"]);
    // Recall of other entities is not comparable.
    let other = BUILD.replace("--general 5", "--general 4").replace("-o probes.jsonl", "-o other.jsonl");
    check(scratch, &other, 0, &[]);
    check(scratch, "forget score --probes other.jsonl -q -o other.json focused/control/step-14", 0, &[]);
    check(scratch, &format!("{curve} --arm other=other.json"), 2, &["were scored on different probes", "`--probes`"]);
}

#[test]
fn replay_is_planned_at_equal_cost_and_its_chain_trains() {
    let scratch = lab();
    check(&scratch, ENTITIES, 0, &[]);
    let config = std::fs::read_to_string(scratch.path().join("a.toml")).unwrap();
    let config =
        config.replace("steps = 12", "steps = 36").replace("from = \"a.jsonl\"", "from = \"stories\"\nlimit = 20");
    std::fs::write(scratch.path().join("b.toml"), config).unwrap();
    let command = |policy: &str| {
        format!(
            "forget replay --policy {policy} --config b.toml --from run/step-12 --memory a.jsonl --entities entities.jsonl \
             --interval 4 --epochs 2 --max-replays 40 -o {policy}"
        )
    };
    for policy in ["uniform", "focused", "intensive", "similar"] {
        let plan = json_of(&scratch, &command(policy));
        assert_eq!((&plan["replay_steps"], &plan["policy"]), (&6.into(), &policy.into()));
        let samples = std::fs::read_to_string(scratch.path().join(policy).join("0001-b-replay.jsonl")).unwrap();
        let has_entity = |line: &str| ["Belmar", "Tesvin", "Korsal"].iter().any(|name| line.contains(name));
        assert!(policy == "uniform" || policy == "similar" || samples.lines().all(has_entity), "{samples}");
    }
    let again =
        check(&scratch, &command("focused"), 0, &["6 bursts of focused replay", "midway between replays", "control"]);
    assert!(again.contains("thalweg train"), "{again}");
    for name in ["0001-a-train", "0001-b-replay", "control"] {
        check(&scratch, &format!("train focused/{name}.toml -o focused/{name} -q"), 0, &[]);
    }
    for step in
        ["0001-a-train/step-14", "0001-a-train/step-15", "0001-b-replay/step-16", "control/step-14", "control/step-36"]
    {
        assert!(scratch.path().join("focused").join(step).exists(), "{step}");
    }
    check_arms(&scratch);
    check(&scratch, &command("focused").replace("--entities entities.jsonl ", ""), 2, &["--entities"]);
    check(&scratch, &command("focused").replace("--max-replays 40", "--max-replays 0"), 2, &["--max-replays"]);
    check(
        &scratch,
        &command("focused").replace("--interval 4", "--interval 40"),
        2,
        &["no replay of 1 of 40 steps fits"],
    );
    // Another schedule would leave its configs, and take what was trained by the first.
    check(&scratch, &command("focused").replace("-o focused", "-o uniform"), 2, &["`uniform` holds `schedule.json`"]);
    check(&scratch, &command("focused").replace("-o focused", "-o run"), 2, &["not of this schedule", "`-o`"]);
    check(&scratch, &command("random"), 2, &["possible values: uniform, focused, intensive, similar"]);
    std::fs::write(scratch.path().join("focused/0001-a-train.toml"), "mine").unwrap();
    check(&scratch, &command("focused"), 2, &["0001-a-train.toml"]);
}
