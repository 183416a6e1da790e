//! Which checkpoints a run folder has, and which of them can be used.

use std::fs;
use std::path::Path;

use thalweg_trajectory::{
    CheckpointState, Error, Extent, Fault, PathKind, Phase, PhaseSource, RunDir, Step, Tokens, TokensPerStep,
    TokensSource, Trajectory, TrajectoryNote, TrajectoryOptions, WindowEnd, WindowSpec, look_at_path,
    resolve_checkpoint_reference, resolve_reference,
};

use crate::support::{TestRun, disk, finished_steps, fixture, tiny_safetensors, write};

fn check_names(names: &[&str], steps: &[u64]) {
    let run = TestRun::new(names).open().unwrap();
    assert_eq!(finished_steps(&run), steps, "{names:?}");
}

#[test]
fn every_layout_is_found_and_sorted_by_number() {
    check_names(&["checkpoint-1000", "checkpoint-500", "checkpoint-10000"], &[500, 1000, 10000]);
    check_names(&["step100", "step20"], &[20, 100]);
    check_names(&["step-100", "step-20"], &[20, 100]);
    check_names(&["step_100", "step_20", "step_10"], &[10, 20, 100]);
    check_names(&["global_step100", "global_step20"], &[20, 100]);
    check_names(&["iter_0001000", "iter_0000200"], &[200, 1000]);
    check_names(&["ep0-ba100", "ep1-ba200"], &[100, 200]);
    check_names(&["step1000-tokens4B", "step20000-tokens80B"], &[1000, 20000]);
    check_names(&["stage1-step1000-tokens2B", "stage1-step20000-tokens2098B"], &[1000, 20000]);
    check_names(&["100", "20", "0003"], &[3, 20, 100]);
    check_names(&["step_02000.safetensors", "step_10000.safetensors"], &[2000, 10000]);
}

#[test]
fn temporary_and_other_names_are_ignored() {
    let names = [
        "step_10",
        "step_100",
        "tmp-step_20",
        "step_30.tmp",
        "step_40.thalweg-partial",
        ".step_50",
        "best",
        "step_60_old",
    ];
    let run = TestRun::new(names).write("notes.txt", "hello").open().unwrap();
    assert_eq!(finished_steps(&run), [10, 100]);
    assert_eq!(run.checkpoints().len(), 2);
    let ignored =
        [".step_50", "best", "notes.txt", "step_30.tmp", "step_40.thalweg-partial", "step_60_old", "tmp-step_20"];
    assert_eq!(run.ignored(), ignored);
}

fn state_of(run: &RunDir, step: u64) -> CheckpointState {
    run.checkpoints().iter().find(|checkpoint| checkpoint.step == Step(step)).unwrap().state.clone()
}

fn check_unfinished(run: &RunDir, step: u64, word: &str) {
    match state_of(run, step) {
        CheckpointState::Unusable { fault: Fault::Unfinished, reason, .. } => {
            assert!(reason.contains(word), "step {step}: {reason}");
        }
        other => panic!("step {step}: {other:?}"),
    }
}

fn check_fault(run: &RunDir, step: u64, fault: Fault, word: &str) {
    let state = state_of(run, step);
    assert_eq!(state.fault(), Some(fault), "step {step}: {state:?}");
    assert!(state.reason().unwrap().contains(word), "step {step}: {state:?}");
}

#[test]
fn unfinished_checkpoints_are_reported_with_the_reason() {
    let whole = tiny_safetensors();
    let index = r#"{"metadata":{},"weight_map":{"w":"model-00001-of-00002.safetensors","v":"model-00002-of-00002.safetensors"}}"#;
    let run = TestRun::new(["step-1"])
        .write("step-2/model.safetensors", &whole[..whole.len() - 1])
        .write("step-3/model-00001-of-00002.safetensors", &whole)
        .write("step-4/model-00001-of-00002.safetensors", &whole)
        .write("step-4/model.safetensors.index.json", index)
        .write("step-5/__0_0.distcp", "x")
        .write("step-6/model_and_optim/__0_0.distcp", "x")
        .write("step-6/config.json", "{}")
        .write("step-7/pytorch_model.bin", "x")
        .write("step-9.safetensors", &whole[..20])
        .write("step-10/model.safetensors", "");
    fs::create_dir(run.path().join("step-8")).unwrap();
    let run = run.open().unwrap();
    assert_eq!(finished_steps(&run), [1]);
    check_unfinished(&run, 2, "");
    check_unfinished(&run, 3, "no `model.safetensors.index.json`");
    check_unfinished(&run, 4, "`model-00002-of-00002.safetensors` is missing");
    check_unfinished(&run, 5, "no `.metadata`");
    check_unfinished(&run, 6, "no `.metadata`");
    check_unfinished(&run, 8, "empty");
    check_unfinished(&run, 9, "");
    check_unfinished(&run, 10, "");
    check_fault(&run, 7, Fault::Damaged, ".bin");
}

#[test]
fn a_header_that_breaks_the_rules_is_damaged_and_not_unfinished() {
    let mut bytes = tiny_safetensors();
    bytes[8] = b'[';
    let run = TestRun::new(["step-1"]).write("step-2/model.safetensors", bytes).open().unwrap();
    check_fault(&run, 2, Fault::Damaged, "");
}

#[test]
fn trackers_decide_about_the_folders_of_their_trainers() {
    let run = TestRun::new(["iter_0000300"])
        .write("iter_0000100/mp_rank_00/model_optim_rng.pt", "x")
        .write("iter_0000200/mp_rank_00/model_optim_rng.pt", "x")
        .write("latest_checkpointed_iteration.txt", "100\n")
        .open()
        .unwrap();
    // safetensors are judged by themselves; the tracker speaks for what Megatron wrote.
    assert_eq!(finished_steps(&run), [300]);
    check_fault(&run, 100, Fault::Damaged, "");
    check_unfinished(&run, 200, "step 100 is the last finished one");
    let run = TestRun::new(["global_step1"]).write("global_step2/zero.pt", "x").open().unwrap();
    check_unfinished(&run, 2, "no `latest`");
}

#[test]
fn a_path_that_is_no_run_is_refused_with_a_helpful_error() {
    let folder = TestRun::new(["step-1"]);
    let error = |path: &std::path::Path| RunDir::open(&disk(), path, None).unwrap_err();
    let inside = error(&folder.path().join("step-1"));
    assert!(matches!(inside, Error::IsCheckpoint { .. }), "{inside}");
    assert!(inside.hint().unwrap().contains("folder above"));
    assert!(matches!(error(&folder.path().join("step-1/model.safetensors")), Error::IsCheckpoint { .. }));
    assert!(matches!(error(&folder.path().join("nothing")), Error::NotFound { .. }));
    let empty = tempfile::tempdir().unwrap();
    assert!(error(empty.path()).to_string().ends_with("is not a run folder: it is empty"));
    write(&empty.path().join("readme.txt"), "x");
    assert!(error(empty.path()).to_string().ends_with("it holds `readme.txt`"));
    assert!(matches!(error(&empty.path().join("readme.txt")), Error::NotARun { .. }));
}

#[test]
fn a_run_whose_trainer_left_the_final_model_beside_the_checkpoints_is_a_run() {
    let run = TestRun::new(["checkpoint-500"]).write("model.safetensors", tiny_safetensors()).open().unwrap();
    assert_eq!(finished_steps(&run), [500]);
}

#[test]
fn what_thalweg_wrote_is_not_a_checkpoint_of_the_run() {
    let receipt = r#"{"kind":"thalweg-receipt","version":1,"plan":{"sources":[{},{},{}]},"files":[]}"#;
    let run = TestRun::new(["checkpoint-1", "checkpoint-2", "checkpoint-3", "checkpoint-4", "checkpoint-5"])
        .write("checkpoint-3/thalweg.json", receipt)
        .write("checkpoint-4/thalweg.json", "not JSON")
        .write("checkpoint-5/thalweg-journal", "x")
        .open()
        .unwrap();
    assert_eq!(finished_steps(&run), [1, 2]);
    check_fault(&run, 3, Fault::Merge, "merge of 3, not part of the run");
    check_fault(&run, 4, Fault::Merge, "merge, not part of the run");
    check_fault(&run, 5, Fault::Merge, "interrupted merge, not part of the run");
}

#[test]
fn candidates_that_could_be_meant_are_all_named() {
    let run = TestRun::new(["step-1"])
        .write("step-2/a.safetensors", tiny_safetensors())
        .write("step-2/b.safetensors", tiny_safetensors())
        .open()
        .unwrap();
    check_fault(&run, 2, Fault::Ambiguous, "a.safetensors; b.safetensors");
}

#[test]
fn epochs_are_steps_only_if_no_name_has_a_step() {
    let run = TestRun::new(["epoch_1", "epoch_10", "epoch_2"]);
    assert_eq!(finished_steps(&run.open().unwrap()), [1, 2, 10]);
    assert_eq!(run.trajectory().notes(), [TrajectoryNote::EpochsForSteps]);
    // Tokens per step say nothing about an epoch.
    let run = run.write("thalweg.toml", "tokens_per_step = 1000\n");
    assert!(run.trajectory().checkpoints().iter().all(|one| one.tokens.is_none()));
    let in_tokens = WindowSpec::Last { n_checkpoints: 1, end: WindowEnd::At(Extent::Tokens(Tokens(1))) };
    assert!(run.select(&in_tokens).unwrap_err().to_string().contains("the names count epochs"));
    let run = TestRun::new(["epoch_1", "epoch_2", "step_500", "step_1000"]);
    assert_eq!(finished_steps(&run.open().unwrap()), [500, 1000]);
    assert_eq!(run.open().unwrap().ignored(), ["epoch_1", "epoch_2"]);
    assert_eq!(run.trajectory().notes(), [epochs_ignored(&["epoch_1", "epoch_2"])]);
    let run = TestRun::new(["epoch=1-step=500", "epoch=2-step=1000", "epoch=3"]);
    assert_eq!(finished_steps(&run.open().unwrap()), [500, 1000]);
    assert_eq!(run.trajectory().notes(), [epochs_ignored(&["epoch=3"])]);
    // Without names by epoch there is nothing to say.
    assert!(TestRun::new(["epoch=1-step=500", "latest"]).trajectory().notes().is_empty());
}

fn epochs_ignored(names: &[&str]) -> TrajectoryNote {
    TrajectoryNote::EpochsIgnored { names: names.iter().map(|name| (*name).to_owned()).collect() }
}

#[test]
fn a_note_on_many_epochs_names_the_first_of_them() {
    let names: Vec<String> = (0..12).map(|n| format!("epoch_{n}")).collect();
    let note = TrajectoryNote::EpochsIgnored { names }.to_string();
    assert!(note.starts_with("checkpoints named by epoch are ignored because others are named by step: `epoch_0`, "));
    assert!(note.ends_with("`epoch_9`, and 2 more"), "{note}");
}

#[test]
fn a_pattern_says_which_names_are_checkpoints() {
    let run = TestRun::new(["step1000", "step1000-hf", "step2000-hf", "w-3-of-9"]);
    let open = |pattern: &str| RunDir::open(&disk(), run.path(), Some(&pattern.parse().unwrap()));
    assert_eq!(finished_steps(&open("step{step}-hf").unwrap()), [1000, 2000]);
    assert_eq!(finished_steps(&open("step{step}").unwrap()), [1000]);
    assert_eq!(finished_steps(&open("w-{step}-of-*").unwrap()), [3]);
    assert!(matches!(open("other-{step}"), Err(Error::NoMatch { .. })));
    let run = run.write("thalweg.toml", "checkpoint_pattern = \"step{step}-hf\"\n");
    let steps: Vec<u64> = run.trajectory().finished().map(|one| one.step.0).collect();
    assert_eq!(steps, [1000, 2000]);
}

#[test]
fn a_hub_cache_without_refs_is_read_by_its_commits() {
    let cache = tempfile::tempdir().unwrap();
    let repository = cache.path().join("models--org--small");
    let snapshots = repository.join("snapshots");
    write(&snapshots.join(COMMIT_A).join("model.safetensors"), tiny_safetensors());
    let one = |text: &str| resolve_checkpoint_reference(&disk(), text, Some(cache.path()));
    assert_eq!(one("org/small").unwrap(), snapshots.join(COMMIT_A));
    write(&snapshots.join(COMMIT_B).join("model.safetensors"), tiny_safetensors());
    let unclear = one("org/small").unwrap_err();
    assert!(matches!(unclear, Error::RevisionUnclear { .. }), "{unclear}");
    assert!(unclear.details()[0].contains(COMMIT_A), "{:?}", unclear.details());
    assert_eq!(one(&format!("org/small@{COMMIT_B}")).unwrap(), snapshots.join(COMMIT_B));
    assert_eq!(one("org/small@0123456789").unwrap(), snapshots.join(COMMIT_A));
    assert_eq!(one(&format!("{}@fedcba9", repository.display())).unwrap(), snapshots.join(COMMIT_B));
    write(&repository.join("refs/main"), COMMIT_B);
    assert_eq!(one("org/small").unwrap(), snapshots.join(COMMIT_B));
    // Snapshots whose folders have names of steps make a run.
    write(&snapshots.join("step10").join("model.safetensors"), tiny_safetensors());
    write(&snapshots.join("step20").join("model.safetensors"), tiny_safetensors());
    assert_eq!(finished_steps(&RunDir::open(&disk(), &repository, None).unwrap()), [10, 20]);
    assert_eq!(look_at_path(&disk(), &repository, None).unwrap(), PathKind::Run);
}

#[test]
fn a_glance_tells_a_run_from_a_checkpoint() {
    let look = |run: &TestRun| look_at_path(&disk(), run.path(), None).unwrap();
    assert_eq!(look(&TestRun::new(["step-1"])), PathKind::Run);
    assert_eq!(look(&TestRun::new(["step_1.safetensors", "step_2.safetensors"])), PathKind::Run);
    let trainer = TestRun::new(["checkpoint-1"]).write("model.safetensors", tiny_safetensors());
    assert_eq!(look(&trainer), PathKind::RunWithCheckpoint);
    let trainer = trainer.write("training_args.bin", "x");
    assert_eq!(look(&trainer), PathKind::RunWithCheckpoint);
    // DeepSpeed's state in a checkpoint of the Trainer is not a checkpoint of a run.
    let checkpoint = TestRun::new::<&str>([])
        .write("model.safetensors", tiny_safetensors())
        .write("global_step500/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", "x");
    assert_eq!(look(&checkpoint), PathKind::Checkpoint);
    let checkpoint = checkpoint.write("global_step500/mp_rank_00_model_states.pt", "x");
    assert_eq!(look(&checkpoint), PathKind::Checkpoint);
}

/// A final model beside the checkpoints of a run, each of which consists of these files.
fn check_run_with_final_model(files: &[&str]) {
    let write_all =
        |run: TestRun, step| files.iter().fold(run, |run, name| run.write(&format!("checkpoint-{step}/{name}"), "x"));
    let run = TestRun::new::<&str>([]).write("model.safetensors", tiny_safetensors());
    let run = write_all(write_all(run, 10), 20);
    assert_eq!(look_at_path(&disk(), run.path(), None).unwrap(), PathKind::RunWithCheckpoint, "{files:?}");
}

#[test]
fn checkpoints_of_each_format_beside_a_final_model_are_a_run() {
    check_run_with_final_model(&["model.safetensors"]);
    check_run_with_final_model(&[".metadata", "__0_0.distcp", "__1_0.distcp"]);
    check_run_with_final_model(&["pytorch_model.bin"]);
    check_run_with_final_model(&["pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"]);
    check_run_with_final_model(&["mp_rank_00/model_optim_rng.pt"]);
    check_run_with_final_model(&["mp_rank_00_model_states.pt"]);
    check_run_with_final_model(&["lit_model.pth"]);
    // Folders whose names say steps and that hold no checkpoint are part of the model beside them.
    let state = TestRun::new::<&str>([])
        .write("model.safetensors", tiny_safetensors())
        .write("checkpoint-10/optimizer.pt", "x")
        .write("step-10/notes.txt", "x");
    assert_eq!(look_at_path(&disk(), state.path(), None).unwrap(), PathKind::Checkpoint);
}

#[test]
fn a_step_that_appears_twice_is_reported() {
    let run = TestRun::new(["step_100", "checkpoint-100", "step_200"]).write("step-200/model.safetensors", "");
    let opened = run.open().unwrap();
    assert_eq!(opened.duplicates(), [(Step(100), vec!["checkpoint-100", "step_100"])]);
    let notes = run.trajectory();
    assert!(matches!(notes.notes(), [TrajectoryNote::DuplicateStep { step: Step(100), .. }]), "{:?}", notes.notes());
}

#[test]
fn a_pattern_is_hinted_only_where_it_fits_one_of_the_names() {
    let hint = |names: [&str; 2]| {
        let names = names.map(str::to_owned).to_vec();
        thalweg_trajectory::Error::DuplicateStep { step: Step(100), names }.hint().unwrap()
    };
    assert!(hint(["checkpoint-100", "step_100"]).contains("--checkpoint-pattern 'checkpoint-{step}'"));
    let hint = hint(["checkpoint-0100", "checkpoint-100"]);
    assert!(!hint.contains("--checkpoint-pattern") && hint.contains("move all but one"), "{hint}");
}

const COMMIT_A: &str = "0123456789abcdef0123456789abcdef01234567";
const COMMIT_B: &str = "fedcba9876543210fedcba9876543210fedcba98";

#[test]
fn revisions_of_a_local_hub_cache_are_found() {
    let cache = tempfile::tempdir().unwrap();
    let repository = cache.path().join("models--org--small-model");
    for (name, commit) in
        [("step1000", COMMIT_A), ("step2000-tokens4B", COMMIT_B), ("main", COMMIT_B), ("step3000", "beef")]
    {
        write(&repository.join("refs").join(name), commit);
    }
    write(&repository.join("refs/pr/1"), COMMIT_A);
    write(&repository.join("refs/evil"), "../../../etc");
    write(&repository.join("snapshots").join(COMMIT_A).join("model.safetensors"), tiny_safetensors());
    write(&repository.join("snapshots").join(COMMIT_B).join("model.safetensors"), tiny_safetensors());
    let root = Some(cache.path());
    let resolve = |text: &str| resolve_reference(&disk(), text, root);
    let snapshot_a = repository.join("snapshots").join(COMMIT_A);
    assert_eq!(resolve("org/small-model@step1000").unwrap(), snapshot_a);
    assert_eq!(resolve("org/small-model@pr/1").unwrap(), snapshot_a);
    assert_eq!(resolve(&format!("org/small-model@{COMMIT_A}")).unwrap(), snapshot_a);
    assert_eq!(resolve(&format!("{}@step1000", repository.display())).unwrap(), snapshot_a);
    let missing = resolve("org/small-model@step10").unwrap_err();
    assert!(matches!(missing, Error::RevisionNotFound { .. }));
    assert!(missing.details()[0].contains("`step1000`"), "{:?}", missing.details());
    assert!(matches!(resolve("org/small-model@../../x"), Err(Error::BadRevision { .. })));
    assert!(matches!(resolve("org/small-model@evil"), Err(Error::RevisionNotFound { .. })));
    assert!(matches!(resolve("org/other"), Err(Error::NotCached { .. })));
    assert!(matches!(resolve("/no/such/path@main"), Err(Error::NotFound { .. })));
    // A run of revisions: those whose names say a step, and whose snapshot is there.
    let run = RunDir::open(&disk(), &resolve("org/small-model").unwrap(), None).unwrap();
    assert_eq!(finished_steps(&run), [1000, 2000]);
    assert_eq!(run.ignored(), ["main", "pr/1"]);
}

#[test]
fn a_path_with_an_at_sign_is_a_path_first() {
    let run = TestRun::new(["step1", "a@b"]);
    let root = run.path().display();
    let resolve = |text: String| resolve_reference(&disk(), &text, None);
    assert_eq!(resolve(format!("{root}/a@b")).unwrap(), run.path().join("a@b"));
    assert_eq!(resolve(format!("{root}@step1")).unwrap(), run.path().join("step1"));
    let error = resolve(format!("{root}@step")).unwrap_err();
    assert_eq!(error.details(), ["there are `step1`"]);
    assert!(matches!(resolve(format!("{root}@..")), Err(Error::BadRevision { .. })));
}

fn tokens_of(run: &TestRun) -> Vec<(Option<u64>, Option<TokensSource>)> {
    let trajectory = run.trajectory();
    trajectory.checkpoints().iter().map(|c| (c.tokens.map(|t| t.0), c.tokens_source)).collect()
}

#[test]
fn tokens_come_from_names() {
    let run = TestRun::new(["step1000-tokens4B", "step2000-tokens8B"]);
    let source = Some(TokensSource::Name);
    assert_eq!(tokens_of(&run), [(Some(4_000_000_000), source), (Some(8_000_000_000), source)]);
}

#[test]
fn tokens_come_from_trainer_states() {
    let run = TestRun::new(["checkpoint-10", "checkpoint-20", "checkpoint-30", "checkpoint-40"])
        .write(
            "checkpoint-10/trainer_state.json",
            r#"{"global_step": 10, "num_input_tokens_seen": 5120, "log_history": []}"#,
        )
        .write(
            "checkpoint-20/trainer_state.json",
            r#"{"global_step": 20, "num_input_tokens_seen": 0, "best_metric": NaN}"#,
        )
        .write("checkpoint-30/trainer_state.json", r#"{"global_step": 29, "num_input_tokens_seen": 7}"#)
        .write("checkpoint-40/trainer_state.json", r#"{"global_step": 40, "#);
    let found = tokens_of(&run);
    assert_eq!(found[0], (Some(5120), Some(TokensSource::TrainerState)));
    assert_eq!(found[1..], [(None, None), (None, None), (None, None)]);
    let trajectory = run.trajectory();
    let notes = trajectory.notes();
    let other =
        TrajectoryNote::StateOfOtherStep { name: "checkpoint-30".to_owned(), step: Step(30), state_step: Step(29) };
    assert!(notes.contains(&other), "{notes:?}");
    assert!(notes.iter().any(|n| matches!(n, TrajectoryNote::StateUnreadable { name, .. } if name == "checkpoint-40")));
}

#[test]
fn tokens_come_from_the_log_at_the_step_or_between_equal_rates() {
    let run = TestRun::with_steps([5, 10, 15, 25, 40]).write(
        "log.jsonl",
        "{\"step\":10,\"loss\":3,\"tokens\":1000}\n{\"step\":20,\"loss\":3,\"tokens\":2000}\n{\"step\":30,\"loss\":3,\"tokens\":5000}\n",
    );
    let (log, between) = (Some(TokensSource::Log), Some(TokensSource::LogInterpolated));
    // Step 25 is where the rate changes, step 40 beyond the log.
    let expected = [(Some(500), between), (Some(1000), log), (Some(1500), between), (None, None), (None, None)];
    assert_eq!(tokens_of(&run), expected);
}

#[test]
fn the_users_word_wins_and_conflicts_are_noted() {
    let names = ["step1000-tokens4B", "step2000-tokens8B", "step3000-tokens9B"];
    let mut run = TestRun::new(names).write("thalweg.toml", "tokens_per_step = 4_194_304\n");
    let found = run.trajectory();
    assert_eq!(found.checkpoints()[1].tokens, Some(Tokens(8_388_608_000)));
    assert_eq!(found.checkpoints()[1].tokens_source, Some(TokensSource::RunConfig));
    // 4.19B and 8.39B are what 4B and 8B may round; 12.6B is not 9B.
    let note = TrajectoryNote::TokensDiffer {
        step: Step(3000),
        used: (TokensSource::RunConfig, Tokens(12_582_912_000)),
        unused: (TokensSource::Name, Tokens(9_000_000_000)),
        n_more: 0,
    };
    assert_eq!(found.notes(), [note]);
    run.options.tokens_per_step = Some(TokensPerStep(1_000_000));
    let found = run.trajectory();
    assert_eq!(found.checkpoints()[0].tokens, Some(Tokens(1_000_000_000)));
    assert_eq!(found.notes().len(), 2);
    assert!(found.notes()[0].to_string().contains("2 more steps"), "{}", found.notes()[0]);
}

#[test]
fn run_configs_say_phases_and_the_log_and_refuse_unknown_keys() {
    let run = TestRun::with_steps([50, 100, 17_000, 18_000])
        .write("thalweg.toml", "stable = [100, \"17k\"]\nlog = \"logs/train.csv\"\n")
        .write("logs/train.csv", "step,loss\n50,4.5\n");
    let trajectory = run.trajectory();
    let phases: Vec<Option<Phase>> = trajectory.checkpoints().iter().map(|c| c.phase).collect();
    assert_eq!(phases, [Some(Phase::Warmup), Some(Phase::Stable), Some(Phase::Stable), Some(Phase::Anneal)]);
    assert_eq!(trajectory.phases().unwrap().source(), PhaseSource::Given);
    assert_eq!(trajectory.log().unwrap().last_step(), Some(Step(50)));
    for (text, word) in [
        ("tokens_per_stp = 1", "tokens_per_stp"),
        ("stable = [5, 1]", "ends at step 1"),
        ("stable = 5", "line 1"),
        ("log = \"no-such.jsonl\"", "no-such.jsonl"),
        ("tokens_per_step = \"4X\"", "4X"),
        ("tokens_per_step = 0", "at least one"),
    ] {
        let run = TestRun::with_steps([1]).write("thalweg.toml", text);
        let error = thalweg_trajectory::Trajectory::open(&disk(), run.path(), &run.options).unwrap_err();
        assert!(error.to_string().contains(word), "{text}: {error}");
    }
}

#[test]
fn the_log_of_the_newest_state_is_found_by_itself() {
    let history = r#"{"global_step": 20, "log_history": [
        {"step": 10, "loss": 3.5, "learning_rate": 0.001, "grad_norm": 1.5},
        {"step": 20, "loss": NaN, "learning_rate": 0.001, "grad_norm": Infinity},
        {"step": 20, "eval_loss": 3.0}]}"#;
    let run = TestRun::new(["checkpoint-10", "checkpoint-20"]).write("checkpoint-20/trainer_state.json", history);
    let trajectory = run.trajectory();
    assert_eq!(trajectory.log().unwrap().entries().len(), 2);
    assert!(trajectory.log_paths()[0].ends_with("checkpoint-20/trainer_state.json"));
    assert!(trajectory.notes().is_empty());
}

#[test]
fn a_log_that_was_found_and_not_asked_for_never_stops_the_run() {
    let run = TestRun::with_steps([1]).write("log.jsonl", "{\"step\":1,\"loss\":}\n{}\n");
    let notes = run.trajectory().notes().to_vec();
    assert!(
        matches!(&notes[..], [TrajectoryNote::LogUnreadable { reason, .. }] if reason.contains("line 1")),
        "{notes:?}"
    );
}

#[test]
fn the_real_checkpoints_of_the_fixtures_are_a_run() {
    let run = RunDir::open(&disk(), &fixture("hf-sharded"), None).unwrap();
    assert_eq!(run.finished().count(), 4);
}

#[test]
fn the_run_in_the_examples_is_read_with_its_stable_phase() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/runs/hybridstories");
    let trajectory = Trajectory::open(&disk(), &path, &TrajectoryOptions::default()).unwrap();
    let steps: Vec<u64> = trajectory.finished().map(|checkpoint| checkpoint.step.0).collect();
    assert_eq!(steps, (1..=10).map(|n| n * 2000).collect::<Vec<_>>());
    assert_eq!(trajectory.phases().unwrap().stable_end(), Some(Step(17_000)));
    assert_eq!(trajectory.checkpoints()[8].phase, Some(Phase::Anneal));
}
