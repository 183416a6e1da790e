//! Checkpoints of DeepSpeed whose model is cut by tensor, pipeline or expert parallelism, as GPT-NeoX,
//! Megatron-DeepSpeed and DeepSpeed-MoE write them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::saved::Type::{Bf16, F32};
use crate::saved::{Node, Saved, dict, values};
use crate::selection::Scene;
use crate::torch::tensors;

/// How a model is cut.
#[derive(Debug, Clone, Copy)]
struct Cut {
    /// Parts of each layer, by tensor parallelism; 0 for none, and file names that do not mention it.
    n_parts: u32,
    /// Whether the last layer has the weight of the first.
    is_tied: bool,
    has_masters: bool,
}

const PLAIN: Cut = Cut { n_parts: 0, is_tied: false, has_masters: true };
const N_STAGES: u32 = 2;
const TIED: &str = "tied_modules.embed.word_embeddings.weight";

/// The parameters of a stage: number of the layer, key, sizes. All of one model have other values.
fn params(stage: u32, cut: Cut) -> Vec<(u32, &'static str, &'static [u64])> {
    let embedding = (0, "word_embeddings.weight", &[4, 2][..]);
    match (stage, cut.is_tied) {
        (0, _) => vec![embedding, (2, "dense.weight", &[3, 4]), (2, "norm.bias", &[3])],
        (_, false) => vec![(3, "dense.weight", &[3, 4]), (4, "final_linear.weight", &[4, 2])],
        (_, true) => vec![(3, "dense.weight", &[3, 4]), embedding],
    }
}

fn n_elements(shape: &[u64]) -> u32 {
    u32::try_from(shape.iter().product::<u64>()).unwrap()
}

fn master(step: u32, layer: u32, key: &str, part: u32, shape: &[u64]) -> Vec<f32> {
    values(step * 1000 + layer * 100 + u32::try_from(key.len()).unwrap() + 50 * part, n_elements(shape))
}

fn numbers(sizes: &[u64]) -> Node {
    Node::List(sizes.iter().map(|size| Node::Number(*size)).collect())
}

fn named(items: Vec<(String, Node)>) -> Node {
    Node::Dict(items)
}

/// What a file of the module's state holds besides the module.
fn state(module: Node, shapes: Node, step: u32, n_model_ranks: u32) -> Node {
    dict([
        ("module", module),
        // ZeRO keeps it in separate files.
        ("optimizer", if matches!(shapes, Node::Nothing) { dict([]) } else { Node::Nothing }),
        ("param_shapes", shapes),
        ("shared_params", dict([])),
        ("global_steps", Node::Number(step.into())),
        ("skipped_steps", Node::Number(0)),
        ("dp_world_size", Node::Number(2)),
        ("mp_world_size", Node::Number(n_model_ranks.into())),
    ])
}

/// Writes the shares of two data-parallel ranks: masters, and moments that are the masters of other steps.
fn write_masters(folder: &Path, model_rank: u32, step: u32, flat: &dyn Fn(u32) -> Vec<f32>) {
    let share = |step: u32, rank: usize| {
        let mut all = flat(step);
        all.resize(all.len().div_ceil(4) * 4, 0.0);
        all[rank * all.len() / 2..][..all.len() / 2].to_vec()
    };
    for rank in 0..2 {
        let mut saved = Saved::default();
        let [masters, first, second] = [0, 1, 2]
            .map(|more| share(step + more, rank))
            .map(|share| saved.tensor(F32, &[share.len() as u64], &share));
        let moments = dict([("step", Node::Number(step.into())), ("exp_avg", first), ("exp_avg_sq", second)]);
        let state = dict([
            ("single_partition_of_fp32_groups", Node::List(vec![masters])),
            ("base_optimizer_state", Node::List(vec![moments])),
        ]);
        let name = format!("bf16_zero_pp_rank_{rank}_mp_rank_{model_rank:02}_optim_states.pt");
        saved.write(&folder.join(name), &dict([("optimizer_state_dict", state)]));
    }
}

/// The end of the name of a file of a layer, and the beginning of the names of its tensors.
fn layer_name(layer: u32, part: u32, cut: Cut) -> (String, String) {
    match cut.n_parts {
        0 => (format!("layer_{layer:02}-model_states.pt"), format!("layer_{layer:02}.")),
        _ => {
            (format!("layer_{layer:02}-model_{part:02}-model_states.pt"), format!("layer_{layer:02}.model_{part:02}."))
        }
    }
}

/// Writes a checkpoint of a pipeline of two stages.
fn write_pipeline(folder: &Path, step: u32, cut: Cut) {
    let n_parts = cut.n_parts.max(1);
    for (stage, part) in (0..N_STAGES).flat_map(|stage| (0..n_parts).map(move |part| (stage, part))) {
        let params = params(stage, cut);
        let mut layers: BTreeMap<u32, (Saved, Vec<(String, Node)>)> = BTreeMap::new();
        for (layer, key, shape) in params.iter().filter(|(layer, ..)| stage == 0 || *layer > 0) {
            let (saved, items) = layers.entry(*layer).or_default();
            let weight = saved.tensor(Bf16, shape, &master(step, *layer, key, part, shape));
            items.push(((*key).to_owned(), weight));
            if *layer == 2 && *key == "norm.bias" {
                items.push(("inv_freq".to_owned(), saved.tensor(F32, &[2], &[1.0, 0.5])));
            }
        }
        for (layer, (saved, items)) in layers {
            saved.write(&folder.join(layer_name(layer, part, cut).0), &named(items));
        }
        let name =
            |layer: u32, key: &str| if cut.is_tied && layer == 0 { TIED.to_owned() } else { format!("{layer}.{key}") };
        let shapes = params.iter().map(|(layer, key, shape)| (name(*layer, key), numbers(shape))).collect();
        let shapes = if cut.has_masters { Node::List(vec![named(shapes)]) } else { Node::Nothing };
        let model_rank = stage * n_parts + part;
        let state = state(Node::Nothing, shapes, step, N_STAGES * n_parts);
        Saved::default().write(&folder.join(format!("mp_rank_{model_rank:02}_model_states.pt")), &state);
        if cut.has_masters {
            let flat = |step: u32| {
                params.iter().flat_map(|(layer, key, shape)| master(step, *layer, key, part, shape)).collect()
            };
            write_masters(folder, model_rank, step, &flat);
        }
    }
}

fn run_of(scene: &Scene, name: &str, cut: Cut) {
    for step in [10, 20] {
        write_pipeline(&scene.path(&format!("{name}/global_step{step}")), step, cut);
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
}

/// BF16 as F32, which holds it exactly.
fn widened(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks(2).flat_map(|two| floats(&[0, 0, two[0], two[1]])).collect()
}

fn bf16(value: f32) -> f32 {
    let bits = value.to_bits();
    f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
}

/// The mean of two lists, which F32 holds exactly for the values of these tests.
fn mean(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| f32::midpoint(*a, *b)).collect()
}

/// Name, and what the merge of steps 10 and 20 must be, computed from masters (`true`) or weights.
fn expected(cut: Cut, of_masters: bool) -> BTreeMap<String, Vec<f32>> {
    let mut all = BTreeMap::new();
    let n_parts = cut.n_parts.max(1);
    for (stage, part) in (0..N_STAGES).flat_map(|stage| (0..n_parts).map(move |part| (stage, part))) {
        for (layer, key, shape) in params(stage, cut) {
            let is_second = stage > 0 && layer == 0;
            let name = match is_second {
                true => format!("mp_rank_{:02}.{TIED}", stage * n_parts + part),
                false => format!("{}{key}", layer_name(layer, part, cut).1),
            };
            if is_second && !cut.has_masters {
                continue;
            }
            let [a, b] = [10, 20].map(|step| master(step, layer, key, part, shape));
            let merged = match of_masters {
                true => mean(&a, &b),
                false => {
                    let [a, b] = [a, b].map(|values| values.into_iter().map(bf16).collect::<Vec<_>>());
                    mean(&a, &b).into_iter().map(bf16).collect()
                }
            };
            all.insert(name, merged);
        }
        if stage == 0 {
            all.insert(format!("{}inv_freq", layer_name(2, part, cut).1), vec![1.0, 0.5]);
        }
    }
    all
}

/// The tensors of a folder, all of them in F32.
fn read(path: &Path) -> BTreeMap<String, Vec<f32>> {
    let float =
        |(dtype, _, bytes): (String, String, Vec<u8>)| if dtype == "BF16" { widened(&bytes) } else { floats(&bytes) };
    tensors(path).into_iter().map(|(name, tensor)| (name, float(tensor))).collect()
}

/// The tensors in the files of layers, read one by one, under the names that the checkpoint gives them.
fn read_layers(folder: &Path) -> BTreeMap<String, Vec<f32>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
        let name = entry.file_name().into_string().unwrap();
        let Some(stem) = name.strip_suffix("-model_states.pt") else { continue };
        let prefix = stem.replace('-', ".");
        all.extend(read(&entry.path()).into_iter().map(|(name, values)| (format!("{prefix}.{name}"), values)));
    }
    all
}

#[track_caller]
fn assert_equal(found: &BTreeMap<String, Vec<f32>>, expected: &BTreeMap<String, Vec<f32>>) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, values) in found {
        assert_eq!(values, &expected[name], "{name}");
    }
}

#[test]
fn masters_of_a_pipeline_are_merged_rank_by_rank_and_its_layers_rounded_from_them() {
    for (n_parts, is_tied) in [(0, false), (0, true), (1, true), (2, false), (2, true)] {
        let cut = Cut { n_parts, is_tied, ..PLAIN };
        let scene = Scene::new(&[]);
        run_of(&scene, "run", cut);
        scene.run("merge run --last 2 -o out").done(&["merged 2 checkpoints"]);
        let merged = expected(cut, true);
        assert_equal(&read(&scene.path("out")), &merged);
        let rounded = |(name, values): (&String, &Vec<f32>)| {
            let is_layer = name.starts_with("layer_");
            is_layer.then(|| (name.clone(), values.iter().copied().map(bf16).collect()))
        };
        assert_equal(&read_layers(&scene.path("out")), &merged.iter().filter_map(rounded).collect());
        // The states of the ranks are those of the newest source.
        let state = |folder: &str| fs::read(scene.path(folder).join("mp_rank_01_model_states.pt")).unwrap();
        assert!(state("out") == state("run/global_step20"));
        scene.run("verify out --inputs").done(&[]);
    }
}

#[test]
fn weights_of_a_pipeline_are_merged_and_its_masters_follow_them() {
    for (n_parts, is_tied) in [(0, true), (2, true), (2, false)] {
        let cut = Cut { n_parts, is_tied, ..PLAIN };
        let scene = Scene::new(&[]);
        run_of(&scene, "run", cut);
        scene.run("merge run --last 2 --params module -o out").done(&[]);
        let merged = expected(cut, false);
        assert_equal(&read(&scene.path("out")), &merged);
        let layers = merged.into_iter().filter(|(name, _)| name.starts_with("layer_")).collect();
        assert_equal(&read_layers(&scene.path("out")), &layers);
    }
}

#[test]
fn a_pipeline_without_zero_is_merged_by_its_layers() {
    let cut = Cut { n_parts: 2, is_tied: true, has_masters: false };
    let scene = Scene::new(&[]);
    run_of(&scene, "run", cut);
    scene.run("merge run --last 2 -o out").done(&[]);
    assert_equal(&read_layers(&scene.path("out")), &expected(cut, false));
    scene.run("merge run --last 2 --params master -o x").refused(&["without ZeRO writes no masters"]);
}

#[test]
fn moments_of_cut_masters_are_averaged_too() {
    let cut = Cut { n_parts: 2, is_tied: true, ..PLAIN };
    let scene = Scene::new(&[]);
    run_of(&scene, "run", cut);
    scene.run("merge run --last 2 --optimizer average -o out").done(&[]);
    // Moments are laid out as the masters are, and so merge to the masters of the steps that they were made of.
    let scene_of_moments = Scene::new(&[]);
    for step in [10, 20] {
        write_pipeline(&scene_of_moments.path(&format!("run/global_step{step}")), step + 1, cut);
    }
    scene_of_moments.run("merge -m run/global_step10 -m run/global_step20 -o out").done(&[]);
    let share = |scene: &Scene, key: &str| {
        let name = "bf16_zero_pp_rank_1_mp_rank_03_optim_states.pt";
        let file = format!("out/{name}");
        scene.run(&format!("convert {file} --key {key} --force -o flat")).done(&[]);
        read(&scene.path("flat"))
    };
    let moments = share(&scene, "optimizer_state_dict.base_optimizer_state.0");
    let masters = share(&scene_of_moments, "optimizer_state_dict.single_partition_of_fp32_groups");
    assert_eq!(moments["exp_avg"], masters["0"]);
}

/// Writes a checkpoint of two tensor-parallel ranks without a pipeline.
fn write_ranks(folder: &Path, step: u32, has_masters: bool) {
    let all: [(&str, &[u64]); 2] = [("embed.weight", &[4, 2]), ("mlp.weight", &[3, 4])];
    for rank in 0..2 {
        let mut saved = Saved::default();
        let weight = |(key, shape): &(&str, &[u64])| {
            ((*key).to_owned(), saved.tensor(Bf16, shape, &master(step, 0, key, rank, shape)))
        };
        let mut module: Vec<(String, Node)> = all.iter().map(weight).collect();
        let tied = module[0].1.clone();
        module.push(("head.weight".to_owned(), tied));
        let shapes = named(all.iter().map(|(key, shape)| ((*key).to_owned(), numbers(shape))).collect());
        let shapes = if has_masters { Node::List(vec![shapes]) } else { Node::Nothing };
        let Node::Dict(mut state) = state(named(module), shapes, step, 2) else { panic!() };
        // DeepSpeed lists what is shared in the first file only.
        let shared = dict([("head.weight", Node::Text("embed.weight"))]);
        state
            .iter_mut()
            .filter(|(key, _)| key == "shared_params" && rank == 0)
            .for_each(|item| item.1 = shared.clone());
        saved.write(&folder.join(format!("mp_rank_{rank:02}_model_states.pt")), &Node::Dict(state));
        if has_masters {
            let flat = |step: u32| all.iter().flat_map(|(key, shape)| master(step, 0, key, rank, shape)).collect();
            write_masters(folder, rank, step, &flat);
        }
    }
}

#[test]
fn ranks_without_a_pipeline_are_merged_under_their_own_names() {
    for (has_masters, of_masters, more) in [(true, true, ""), (true, false, "--params module"), (false, false, "")] {
        let scene = Scene::new(&[]);
        for step in [10, 20] {
            write_ranks(&scene.path(&format!("run/global_step{step}")), step, has_masters);
        }
        scene.run(&format!("merge run --last 2 -o out {more}")).done(&[]);
        let mut all: BTreeMap<String, Vec<f32>> = BTreeMap::new();
        for (rank, (key, shape)) in
            (0..2).flat_map(|rank| [("embed.weight", &[4, 2]), ("mlp.weight", &[3, 4])].map(|param| (rank, param)))
        {
            let [a, b] = [10, 20].map(|step| master(step, 0, key, rank, shape));
            let [a, b] = [a, b].map(|values| if of_masters { values } else { values.into_iter().map(bf16).collect() });
            let merged = mean(&a, &b).into_iter().map(|value| if of_masters { value } else { bf16(value) });
            all.insert(format!("mp_rank_{rank:02}.{key}"), merged.collect());
        }
        for rank in 0..2 {
            let tied: Vec<f32> = all[&format!("mp_rank_{rank:02}.embed.weight")].clone();
            all.insert(format!("mp_rank_{rank:02}.head.weight"), tied);
        }
        assert_equal(&read(&scene.path("out")), &all);
        // The weights in the file of a rank.
        scene.run("convert out/mp_rank_01_model_states.pt --key module -o module").done(&[]);
        let module = read(&scene.path("module"));
        for (name, values) in &module {
            let rounded: Vec<f32> = all[&format!("mp_rank_01.{name}")].iter().copied().map(bf16).collect();
            assert_eq!(values, &rounded, "{name}");
        }
        assert_eq!(module.len(), 3);
    }
}

#[test]
fn a_cut_model_is_inspected_compared_and_converted_by_its_parts() {
    let cut = Cut { n_parts: 2, ..PLAIN };
    let scene = Scene::new(&[]);
    run_of(&scene, "run", cut);
    let told = ["the model is cut into ranks or layers", "such as `layer_00.model_00.word_embeddings.weight`"];
    scene.run("inspect run/global_step20").done(&told);
    let different = scene.run("diff run/global_step10 run/global_step20");
    assert!(different.code == 1 && different.stdout.contains("layer_03.model_01.dense.weight"), "{different:?}");
    scene.run("convert run/global_step20 --dtype bf16 -o plain").done(&told);
    assert!(read(&scene.path("plain")) == read_layers(&scene.path("run/global_step20")));
    scene.run("merge run --last 2 --format safetensors -o st").done(&[]);
    assert_equal(&read(&scene.path("st")), &expected(cut, true));
    // Another cut of the same model has other tensors.
    write_pipeline(&scene.path("other/global_step30"), 30, PLAIN);
    scene.run("merge -m run/global_step20 -m other/global_step30 -o x").refused(&["layer_00.model_00"]);
}

#[test]
fn every_missing_file_of_a_cut_model_is_named() {
    let cut = Cut { n_parts: 2, is_tied: true, ..PLAIN };
    for (missing, options, named) in [
        ("mp_rank_01_model_states.pt", &["", "--params module"][..], "mp_rank_01_model_states.pt"),
        // The number of ranks is in the state of each.
        ("mp_rank_03_model_states.pt", &["", "--params module"], "mp_rank_03_model_states.pt"),
        ("layer_03-model_01-model_states.pt", &["", "--params module"], "layer_03-model_01-model_states.pt"),
        ("layer_03-model_0", &["", "--params module"], "layer_03-model_00-model_states.pt"),
        ("layer_00-model_0", &["--params module"], "mp_rank_00"),
        ("bf16_zero_pp_rank_1_mp_rank_02_", &[""], "zero_pp_rank_1_mp_rank_02_optim_states.pt"),
        // All that a rank of the model has of the optimizer.
        ("mp_rank_02_optim_states.pt", &[""], "zero_pp_rank_0_mp_rank_02_optim_states.pt"),
    ] {
        let scene = Scene::new(&[]);
        let folder = scene.path("global_step10");
        write_pipeline(&folder, 10, cut);
        for entry in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap()) {
            if entry.file_name().to_str().unwrap().contains(missing) {
                fs::remove_file(entry.path()).unwrap();
            }
        }
        for more in options {
            scene.run(&format!("merge -m global_step10 -o x {more}")).refused(&[named]);
        }
    }
}

#[test]
fn ranks_of_two_saves_and_files_of_other_kinds_are_refused() {
    let scene = Scene::new(&[]);
    let folder = scene.path("global_step10");
    let check = |file: &str, node: &dyn Fn(&mut Saved) -> Node, fact: &str| {
        write_pipeline(&folder, 10, PLAIN);
        let mut saved = Saved::default();
        let root = node(&mut saved);
        saved.write(&folder.join(file), &root);
        for more in ["", "--params module"] {
            scene.run(&format!("merge -m global_step10 -o x {more}")).refused(&[fact]);
        }
    };
    let shapes = |items| Node::List(vec![named(items)]);
    let of_second = |sizes: &[u64]| shapes(vec![("3.dense.weight".to_owned(), numbers(sizes))]);
    check(
        "mp_rank_01_model_states.pt",
        &|_| state(Node::Nothing, of_second(&[3, 4]), 20, 2),
        "it is from step 20, but `mp_rank_00_model_states.pt` is from step 10",
    );
    check("layer_03-model_states.pt", &|_| Node::List(Vec::new()), "it does not hold the state of a layer");
    check(
        "layer_03-model_states.pt",
        &|saved| named(vec![("dense.weight".to_owned(), saved.tensor(Bf16, &[4, 3], &[0.0; 12]))]),
        "`layer_03.dense.weight` has shape [4, 3], but `3.dense.weight` of `mp_rank_01` has shape [3, 4]",
    );
    check("layer_03-model_states.pt", &|_| dict([]), "no file of a layer holds `layer_03.dense.weight`");
    check(
        "mp_rank_01_model_states.pt",
        &|_| {
            state(Node::Nothing, shapes(vec![("3.dense.weight".to_owned(), Node::List(vec![Node::Text("3")]))]), 10, 2)
        },
        "`param_shapes` are not in the form that DeepSpeed writes",
    );
    check(
        "mp_rank_01_model_states.pt",
        &|_| state(Node::Nothing, of_second(&[3, 4]), 10, 4),
        "mp_rank_02_model_states.pt",
    );
    // An optimizer of another step.
    write_pipeline(&folder, 10, PLAIN);
    write_masters(&folder, 1, 30, &|_| vec![0.0; 20]);
    scene.run("merge -m global_step10 -o x").refused(&["its optimizer is at step 30", "at step 10"]);
}

const EXPERT: &str = "moe.deepspeed_moe.experts.deepspeed_experts.";
const GATE: &str = "moe.deepspeed_moe.gate.wg.weight";

/// Writes a checkpoint with four experts in one layer, two on each of two ranks.
fn write_experts(folder: &Path, step: u32, has_masters: bool) {
    let mut saved = Saved::default();
    let gate = saved.tensor(Bf16, &[4, 2], &values(step, 8));
    let own = [0, 1].map(|expert| (format!("{EXPERT}{expert}.fc.weight"), numbers(&[2, 2])));
    let shapes = vec![named(vec![(GATE.to_owned(), numbers(&[4, 2]))]), named(own.to_vec())];
    let shapes = if has_masters { Node::List(shapes) } else { Node::Nothing };
    let Node::Dict(mut items) = state(named(vec![(GATE.to_owned(), gate)]), shapes, step, 1) else { panic!() };
    items.push(("num_experts".to_owned(), Node::List(vec![Node::Number(4)])));
    saved.write(&folder.join("mp_rank_00_model_states.pt"), &Node::Dict(items));
    for expert in 0..4 {
        let mut saved = Saved::default();
        let weight = saved.tensor(Bf16, &[2, 2], &values(step + expert, 4));
        let name = format!("layer_0_expert_{expert}_mp_rank_00_model_states.pt");
        saved.write(&folder.join(name), &named(vec![(format!("{EXPERT}{expert}.fc.weight"), weight)]));
    }
    for rank in (0..2).filter(|_| has_masters) {
        let mut saved = Saved::default();
        let gate = values(step, 8)[4 * rank as usize..][..4].to_vec();
        let own = [0, 1].map(|expert| values(step + 2 * rank + expert, 4)).concat();
        let groups = [gate, own].map(|values| saved.tensor(F32, &[values.len() as u64], &values));
        let state = dict([
            ("single_partition_of_fp32_groups", Node::List(groups.to_vec())),
            // The experts of a rank are on no other one.
            ("partition_count", numbers(&[2, 1])),
        ]);
        let name = format!("bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt");
        saved.write(&folder.join(name), &dict([("optimizer_state_dict", state)]));
    }
}

#[test]
fn experts_are_merged_as_parts_of_the_module() {
    let mut expected_weights = BTreeMap::new();
    let mut expected_masters = BTreeMap::new();
    let mut add = |name: String, seed: u32, n: u32| {
        let [a, b] = [10, 20].map(|step| values(step + seed, n));
        expected_masters.insert(name.clone(), mean(&a, &b));
        let [a, b] = [a, b].map(|values| values.into_iter().map(bf16).collect::<Vec<_>>());
        expected_weights.insert(name, mean(&a, &b).into_iter().map(bf16).collect::<Vec<_>>());
    };
    add(GATE.to_owned(), 0, 8);
    (0..4).for_each(|expert| add(format!("{EXPERT}{expert}.fc.weight"), expert, 4));
    let scene = Scene::new(&[]);
    for step in [10, 20] {
        write_experts(&scene.path(&format!("run/global_step{step}")), step, false);
        write_experts(&scene.path(&format!("zero/global_step{step}")), step, true);
    }
    let own = |folder: &str| {
        let files = (0..4).map(|expert| format!("{folder}/layer_0_expert_{expert}_mp_rank_00_model_states.pt"));
        files.flat_map(|file| read(&scene.path(&file))).collect::<BTreeMap<_, _>>()
    };
    let of_experts = |all: &BTreeMap<String, Vec<f32>>| {
        let rounded = |(name, values): (&String, &Vec<f32>)| (name.clone(), values.iter().copied().map(bf16).collect());
        all.iter().filter(|(name, _)| name.starts_with(EXPERT)).map(rounded).collect()
    };
    scene.run("merge run --last 2 -o out").done(&[]);
    assert_equal(&read(&scene.path("out")), &expected_weights);
    assert_equal(&own("out"), &of_experts(&expected_weights));
    scene.run("merge zero --last 2 -o masters").done(&[]);
    assert_equal(&read(&scene.path("masters")), &expected_masters);
    assert_equal(&own("masters"), &of_experts(&expected_masters));
    scene.run("merge zero --last 2 --params module -o module").done(&[]);
    assert_equal(&read(&scene.path("module")), &expected_weights);
    assert_equal(&own("module"), &of_experts(&expected_weights));
}

#[test]
fn experts_without_a_file_or_without_masters_are_refused() {
    let scene = Scene::new(&[]);
    let folder = scene.path("global_step10");
    write_experts(&folder, 10, true);
    let mut saved = Saved::default();
    let bias = saved.tensor(Bf16, &[2], &[1.0, 2.0]);
    let file = "layer_0_expert_3_mp_rank_00_model_states.pt";
    saved.write(&folder.join(file), &named(vec![(format!("{EXPERT}3.fc.bias"), bias)]));
    let facts = ["the masters of experts", "hint: `--params module --format safetensors` merges"];
    scene.run("merge -m global_step10 -o x").refused(&facts);
    scene.run("merge -m global_step10 --params module -o x").refused(&facts);
    scene.run("merge -m global_step10 --params module --format safetensors -o st").done(&[]);
    for expert in [3, 0, 1, 2] {
        fs::remove_file(folder.join(format!("layer_0_expert_{expert}_mp_rank_00_model_states.pt"))).unwrap();
        scene.run("merge -m global_step10 --params module -o x").refused(&[file]);
    }
}
