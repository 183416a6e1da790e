//! Rules of experts: mergekit's results, the papers' equations, degenerate inputs, bytes that depend on nothing else.

use std::path::{Path, PathBuf};

use thalweg_merge::plan::{MergePlan, OutputPlan};
use thalweg_merge::rule::{Convention, PlanRule, RULES, Rescale, RuleKind};

use crate::rule_oracle::{self as oracle, Expert};
use crate::support::{
    FORCE, PLAIN, Runner, Tensor, Tensors, assert_same_tensors, bits16_tensor, decode_safetensors, f32_tensor, fixture,
    noise_tensor, output, plan, read_tensors, tensors, write_checkpoint,
};

/// A merge of experts by a rule; the base, if there is one, is the first source. Coefficients are hundredths.
struct Merge {
    sources: Vec<PathBuf>,
    hundredths: Vec<i64>,
    rule: PlanRule,
}

impl Merge {
    fn new(kind: RuleKind, convention: Convention, base: Option<&Path>, experts: &[(&Path, i64)]) -> Self {
        let rule = PlanRule::new(kind, convention, base.map(|_| 0), experts.len());
        let sources = base.into_iter().chain(experts.iter().map(|(path, _)| *path)).map(Path::to_owned).collect();
        let hundredths = base.map(|_| 0).into_iter().chain(experts.iter().map(|(_, weight)| *weight)).collect();
        Self { sources, hundredths, rule }
    }

    fn output(&self, out: &Path) -> OutputPlan {
        let mut output = output(&self.sources, &self.hundredths, 100, out);
        let newest = self.rule.base.unwrap_or(self.sources.len() - 1);
        (output.policy.newest, output.policy.side_files_from) = (newest, newest);
        output.rule = Some(self.rule.clone());
        output.scheme = self.rule.scheme_name();
        output
    }

    #[track_caller]
    fn run(&self) -> Tensors {
        let folder = tempfile::tempdir().unwrap();
        Runner::default().merge(&plan(self.output(&folder.path().join("out"))))
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect()
}

/// The distance of two numbers in steps of f32 at the larger of `scale` and them.
fn ulps(a: f32, b: f32, scale: f32) -> f32 {
    let largest = a.abs().max(b.abs()).max(scale.abs()).max(f32::MIN_POSITIVE);
    (a - b).abs() / (largest.next_up() - largest)
}

fn numbers(value: &serde_json::Value) -> Vec<f64> {
    value.as_array().map_or_else(Vec::new, |list| list.iter().map(|number| number.as_f64().unwrap()).collect())
}

/// The merge that a case of the fixture describes.
fn merge_of_case(case: &serde_json::Value) -> Merge {
    let parameters = &case["parameters"];
    let kind: RuleKind = case["method"].as_str().unwrap().parse().unwrap();
    let names = case["experts"].as_array().unwrap();
    let weights = match kind {
        RuleKind::Slerp => vec![parameters["t"].as_f64().unwrap()],
        _ if parameters["weight"].is_array() => numbers(&parameters["weight"]),
        _ => vec![1.0; names.len()],
    };
    let paths: Vec<PathBuf> =
        names.iter().map(|name| fixture(&format!("expert-rules/{}", name.as_str().unwrap()))).collect();
    #[expect(clippy::cast_possible_truncation, reason = "hundredths of small numbers")]
    let experts: Vec<(&Path, i64)> =
        paths.iter().zip(&weights).map(|(path, weight)| (path.as_path(), (weight * 100.0).round() as i64)).collect();
    let base = fixture("expert-rules/base");
    let base = (kind != RuleKind::Karcher).then_some(base.as_path());
    let mut merge = Merge::new(kind, Convention::Mergekit, base, &experts);
    let rule = &mut merge.rule;
    if kind == RuleKind::Sce {
        rule.densities = vec![parameters["select_topk"].as_f64().unwrap(); names.len()];
    } else if kind.has_density() {
        rule.densities = numbers(&parameters["density"]);
    }
    rule.gamma = rule.gamma.map(|_| numbers(&parameters["gamma"])[0]);
    rule.epsilon = rule.epsilon.map(|_| numbers(&parameters["epsilon"])[0]);
    rule.seed = rule.seed.map(|_| case["seed"].as_u64().unwrap());
    if let Some(lambda) = parameters["lambda"].as_f64() {
        rule.lambda = lambda.to_string();
    }
    rule.divide = parameters["normalize"] == true || kind == RuleKind::Sce;
    rule.rescale = if parameters["rescale"] == true { Rescale::L1 } else { Rescale::None };
    merge
}

/// mergekit in F32; its Karcher mean in F64, since ten steps of it in F32 are 3 ULPs off.
#[test]
fn every_rule_equals_mergekits_within_two_ulps() {
    let folder = fixture("expert-rules");
    let document: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("cases.json")).unwrap()).unwrap();
    let models = ["base", "a", "b", "c"].map(|name| read_tensors(&folder.join(name)));
    let cases = document["cases"].as_array().unwrap();
    let (mut seen, mut n_near, mut n_elements) = (Vec::new(), 0, 0);
    for case in cases {
        let name = case["case"].as_str().unwrap();
        let merge = merge_of_case(case);
        seen.push(merge.rule.kind);
        #[expect(clippy::cast_possible_truncation, reason = "a tenth or so")]
        let least_density = merge.rule.densities.iter().copied().fold(1.0, f64::min) as f32;
        let largest_factor = if merge.rule.kind.has_seed() { 1.0 / least_density } else { 1.0 };
        let found = merge.run();
        let expected = decode_safetensors(&std::fs::read(folder.join(format!("{name}.safetensors"))).unwrap());
        assert!(expected.len() >= 4, "{name}");
        for (tensor, (_, shape, bytes)) in &expected {
            assert_eq!(&found[tensor].1, shape, "{name}: {tensor}");
            // Where terms cancel, mergekit's F32 sum is off by steps of the terms, so ULPs are counted at the sum of
            // their magnitudes; and at the result itself for nearly all elements.
            let inputs = models.each_ref().map(|model| floats(&model[tensor].2));
            for (i, (a, b)) in floats(&found[tensor].2).iter().zip(floats(bytes)).enumerate() {
                let deltas = inputs.iter().map(|input| (input[i] - inputs[0][i]).abs() * largest_factor);
                let magnitudes = inputs[0][i].abs() + deltas.sum::<f32>();
                let distance = ulps(*a, b, magnitudes);
                n_near += usize::from(ulps(*a, b, 0.0) <= 2.0);
                n_elements += 1;
                assert!(distance <= 2.0, "{name}: {tensor}[{i}]: {a} and {b}, {distance} ULPs apart");
            }
        }
    }
    assert!(RULES.iter().all(|entry| seen.contains(&entry.kind)), "{seen:?}");
    assert!(n_near * 100 >= n_elements * 95, "{n_near} of {n_elements} are within 2 ULPs of the result");
}

/// A base and three experts whose values have no ties, in two tensors of different spread.
fn small_set(folder: &Path) -> [PathBuf; 4] {
    let names = ["base", "x1", "x2", "x3"].map(|name| folder.join(name));
    let mut random = oracle::Random::new(11);
    let base: Vec<f32> = (0..90).map(|_| random.next(1.0)).collect();
    for (k, name) in names.iter().enumerate() {
        let mut values = base.clone();
        if k > 0 {
            values.iter_mut().for_each(|x| *x += random.next(0.1));
        }
        let (first, second) = values.split_at(40);
        let rows = ("F32".to_owned(), vec![5, 8], crate::support::f32_bytes(first));
        write_checkpoint(name, &tensors([("rows", rows), ("vector", f32_tensor(second))]));
    }
    names
}

/// Every tensor of the small set by the rule, and by the plain reading of its equation.
#[track_caller]
fn check_equation(kind: RuleKind, hundredths: [i64; 3], change: impl Fn(&mut PlanRule)) {
    let folder = tempfile::tempdir().unwrap();
    let [base, x1, x2, x3] = small_set(folder.path());
    let experts = [(&*x1, hundredths[0]), (&*x2, hundredths[1]), (&*x3, hundredths[2])];
    let mut merge = Merge::new(kind, Convention::Paper, Some(&base), &experts);
    change(&mut merge.rule);
    let found = merge.run();
    let read = |path: &Path| {
        let found = read_tensors(path);
        [("rows", 8), ("vector", 50)].map(|(name, row)| oracle::Part {
            name,
            row,
            values: floats(&found[name].2).into_iter().map(f64::from).collect(),
        })
    };
    let models: Vec<Expert> = experts
        .iter()
        .map(|(path, weight)| Expert {
            parts: read(path).into(),
            weight: f64::from(i32::try_from(*weight).unwrap()) / 100.0,
        })
        .collect();
    let expected = oracle::merge(&merge.rule, &read(&base), &models);
    for (name, values) in expected {
        #[expect(clippy::cast_possible_truncation, reason = "the one rounding")]
        let expected: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
        assert_eq!(floats(&found[name].2), expected, "{kind}: {name}");
    }
}

#[test]
fn ties_is_algorithm_1_of_its_paper() {
    for density in [0.1, 0.2, 0.5, 0.9] {
        check_equation(RuleKind::Ties, [100, 100, 100], |rule| rule.densities = vec![density; 3]);
    }
    check_equation(RuleKind::Ties, [100, 50, -25], |rule| {
        (rule.densities, rule.lambda) = (vec![0.3, 0.6, 1.0], "0.75".to_owned());
    });
}

#[test]
fn dare_is_equations_3_to_5_of_its_paper() {
    for (seed, density) in [(0, 0.1), (1, 0.5), (u64::MAX, 0.9)] {
        for kind in [RuleKind::Dare, RuleKind::DareTies] {
            check_equation(kind, [100, 50, 30], |rule| (rule.seed, rule.densities) = (Some(seed), vec![density; 3]));
        }
    }
}

#[test]
fn della_follows_the_ranks_in_rows() {
    for (density, epsilon) in [(0.5, 0.2), (0.3, 0.0), (0.7, 0.4)] {
        for kind in [RuleKind::Della, RuleKind::DellaLinear] {
            check_equation(kind, [100, 50, 30], |rule| {
                (rule.densities, rule.epsilon) = (vec![density; 3], Some(epsilon));
            });
        }
    }
}

#[test]
fn breadcrumbs_drop_outliers_and_small_changes_of_each_tensor() {
    for (density, gamma) in [(0.5, 0.1), (0.9, 0.05), (0.95, 0.2)] {
        for kind in [RuleKind::Breadcrumbs, RuleKind::BreadcrumbsTies] {
            check_equation(kind, [100, 50, 30], |rule| (rule.densities, rule.gamma) = (vec![density; 3], Some(gamma)));
        }
    }
}

#[test]
fn sce_keeps_what_differs_and_weighs_experts_by_their_squares() {
    for density in [0.0, 0.1, 0.5, 0.9, 1.0] {
        check_equation(RuleKind::Sce, [100, 100, 100], |rule| rule.densities = vec![density; 3]);
    }
    let mut rule = PlanRule::new(RuleKind::Sce, Convention::Paper, Some(0), 2);
    rule.densities = vec![0.5, 0.6];
    let error = rule.check(&thalweg_merge::Coefficients::new([0, 1, 1], 1).unwrap()).unwrap_err();
    assert!(error.to_string().contains("one density for all experts"), "{error}");
}

#[test]
fn rules_on_a_sphere_are_their_equations_on_whole_vectors() {
    check_equation(RuleKind::MultiSlerp, [100, 50, 30], |_| {});
    check_equation(RuleKind::Karcher, [100, 50, 30], |_| {});
    check_equation(RuleKind::ModelStock, [100, 100, 100], |_| {});
}

/// Element-wise rules and those on the sphere, with two experts.
const OF_TWO: [RuleKind; 12] = [
    RuleKind::TaskArithmetic,
    RuleKind::Ties,
    RuleKind::Dare,
    RuleKind::DareTies,
    RuleKind::Della,
    RuleKind::DellaLinear,
    RuleKind::Breadcrumbs,
    RuleKind::BreadcrumbsTies,
    RuleKind::Sce,
    RuleKind::MultiSlerp,
    RuleKind::Karcher,
    RuleKind::ModelStock,
];

fn one_tensor(folder: &Path, name: &str, values: &[f32]) -> PathBuf {
    let path = folder.join(name);
    write_checkpoint(&path, &tensors([("w", f32_tensor(values))]));
    path
}

#[track_caller]
fn merged(merge: &Merge) -> Vec<f32> {
    floats(&merge.run()["w"].2)
}

const CONVENTIONS: [Convention; 2] = [Convention::Paper, Convention::Mergekit];

#[test]
fn experts_equal_to_the_base_give_the_base() {
    let folder = tempfile::tempdir().unwrap();
    let values = [1.5, -2.0, 0.0, 3.25, 1e-30, 7.0];
    let base = one_tensor(folder.path(), "base", &values);
    let [a, b] = ["a", "b"].map(|name| one_tensor(folder.path(), name, &values));
    for convention in CONVENTIONS {
        for kind in OF_TWO {
            let merge = Merge::new(kind, convention, Some(&base), &[(&a, 100), (&b, 100)]);
            assert_eq!(merged(&merge), values, "{kind} {convention:?}");
        }
        assert_eq!(merged(&Merge::new(RuleKind::Slerp, convention, Some(&base), &[(&a, 30)])), values);
        for kind in [RuleKind::MultiSlerp, RuleKind::Karcher] {
            let found = merged(&Merge::new(kind, convention, None, &[(&a, 100), (&b, 50)]));
            assert!(found.iter().zip(values).all(|(x, y)| ulps(*x, y, 0.0) <= 1.0), "{kind}: {found:?}");
        }
    }
}

#[test]
fn equal_experts_count_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let base = one_tensor(folder.path(), "base", &[1.0, -2.0, 0.5, 3.0]);
    let expert = [1.25, -2.5, 0.25, 3.5];
    let [a, b] = ["a", "b"].map(|name| one_tensor(folder.path(), name, &expert));
    // Rules that take a mean give the expert, where all elements are kept.
    for kind in [RuleKind::Ties, RuleKind::DareTies, RuleKind::Della, RuleKind::MultiSlerp, RuleKind::ModelStock] {
        let mut merge = Merge::new(kind, Convention::Paper, Some(&base), &[(&a, 100), (&b, 100)]);
        merge.rule.densities.fill(1.0);
        let found = merged(&merge);
        assert!(found.iter().zip(expert).all(|(x, y)| ulps(*x, y, 0.0) <= 1.0), "{kind}: {found:?}");
    }
}

#[test]
fn density_0_gives_the_base_and_density_1_keeps_everything() {
    let folder = tempfile::tempdir().unwrap();
    let [base, x1, x2, _] = small_set(folder.path());
    let experts = [(&*x1, 100), (&*x2, 50)];
    let original = read_tensors(&base);
    let sum = Merge::new(RuleKind::TaskArithmetic, Convention::Paper, Some(&base), &experts).run();
    for kind in OF_TWO.into_iter().filter(|kind| kind.has_density()) {
        let weight = if kind == RuleKind::Sce { 100 } else { 50 };
        let experts = [experts[0], (&*x2, weight)];
        for convention in CONVENTIONS {
            let mut merge = Merge::new(kind, convention, Some(&base), &experts);
            merge.rule.densities.fill(0.0);
            assert_same_tensors(&merge.run(), &original, &format!("{kind} {convention:?}"));
        }
        if matches!(kind, RuleKind::Dare | RuleKind::DellaLinear | RuleKind::Breadcrumbs) {
            let mut merge = Merge::new(kind, Convention::Paper, Some(&base), &experts);
            merge.rule.densities.fill(1.0);
            assert_same_tensors(&merge.run(), &sum, &format!("{kind} at density 1"));
        }
    }
}

#[test]
fn task_arithmetic_is_the_exact_sum() {
    let folder = tempfile::tempdir().unwrap();
    let [base, x1, x2, _] = small_set(folder.path());
    let mut merge = Merge::new(RuleKind::TaskArithmetic, Convention::Paper, Some(&base), &[(&x1, 70), (&x2, -20)]);
    merge.rule.lambda = "1/3".to_owned();
    // base (1 - (0.7 - 0.2)/3) + x1 0.7/3 - x2 0.2/3
    let sum = Runner::default().merge(&plan(output(&[base, x1, x2], &[25, 7, -2], 30, &folder.path().join("sum"))));
    assert_same_tensors(&merge.run(), &sum, "task arithmetic");
}

#[test]
fn opposite_deltas_agree_on_nothing_unless_zero_counts_as_positive() {
    let folder = tempfile::tempdir().unwrap();
    let base = one_tensor(folder.path(), "base", &[1.0, 2.0]);
    let a = one_tensor(folder.path(), "a", &[1.5, 1.5]);
    let b = one_tensor(folder.path(), "b", &[0.5, 2.5]);
    let by = |convention| {
        let mut merge = Merge::new(RuleKind::Ties, convention, Some(&base), &[(&a, 100), (&b, 100)]);
        merge.rule.densities.fill(1.0);
        merged(&merge)
    };
    assert_eq!(by(Convention::Paper), [1.0, 2.0]);
    assert_eq!(by(Convention::Mergekit), [1.5, 2.5]);
    // No direction is the mean of opposite ones: multi-SLERP takes the plain mean, model stock the base.
    for kind in [RuleKind::MultiSlerp, RuleKind::ModelStock] {
        let merge = Merge::new(kind, Convention::Paper, Some(&base), &[(&a, 100), (&b, 100)]);
        assert_eq!(merged(&merge), [1.0, 2.0], "{kind}");
    }
}

#[test]
fn opposite_and_zero_vectors_are_interpolated_linearly_by_slerp() {
    let folder = tempfile::tempdir().unwrap();
    let base = one_tensor(folder.path(), "base", &[1.0, -2.0]);
    let opposite = one_tensor(folder.path(), "opposite", &[-3.0, 6.0]);
    let zero = one_tensor(folder.path(), "zero", &[0.0, 0.0]);
    let by = |convention, expert: &Path| merged(&Merge::new(RuleKind::Slerp, convention, Some(&base), &[(expert, 25)]));
    for convention in CONVENTIONS {
        assert_eq!(by(convention, &opposite), [0.0, 0.0], "{convention:?}");
    }
    assert_eq!(by(Convention::Paper, &zero), [0.75, -1.5]);
    // The Karcher mean of opposite vectors keeps the first direction and the mean length.
    let merge = Merge::new(RuleKind::Karcher, Convention::Paper, None, &[(&base, 100), (&opposite, 100)]);
    let found = merged(&merge);
    assert!(found.iter().zip([2.0, -4.0]).all(|(x, y)| ulps(*x, y, 0.0) <= 1.0), "{found:?}");
}

#[test]
fn the_karcher_mean_of_opposite_vectors_of_unequal_length_keeps_its_length() {
    // Rounding must not make the shorter two look as if they were not quite opposite to the longest.
    let folder = tempfile::tempdir().unwrap();
    let values = [-0.330_437_076_183_387_14, -0.475_219_068_991_552_1, 2.608_908_472_609_203_f64];
    for (name, n_times) in [("one", 1), ("many", 9)] {
        let experts = [0, 1, 2].map(|i| {
            let path = folder.path().join(format!("{name}-{i}"));
            let bytes = values[i].to_le_bytes().repeat(n_times);
            write_checkpoint(&path, &tensors([("w", ("F64".to_owned(), vec![n_times as u64], bytes))]));
            path
        });
        let experts = [(experts[0].as_path(), 1), (&experts[1], 200), (&experts[2], 100)];
        let merged = Merge::new(RuleKind::Karcher, Convention::Paper, None, &experts).run();
        let found = f64::from_le_bytes(merged["w"].2[..8].try_into().unwrap());
        let length: f64 = experts.iter().zip(values).map(|((_, weight), x)| *weight as f64 / 301.0 * x.abs()).sum();
        assert!((found + length).abs() < 1e-7 * length, "{name}: {found} is not -{length}");
    }
}

#[test]
fn slerp_is_linear_for_opposite_vectors_of_unequal_length() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, values: &[f64]| {
        let path = folder.path().join(name);
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        write_checkpoint(&path, &tensors([("w", ("F64".to_owned(), vec![values.len() as u64], bytes))]));
        path
    };
    for n_elements in [1, 64] {
        let long: Vec<f64> = (1..=n_elements).map(|i| f64::from(i).sin()).collect();
        let short: Vec<f64> = long.iter().map(|x| x * -0.001).collect();
        let paths = [write(&format!("long-{n_elements}"), &long), write(&format!("short-{n_elements}"), &short)];
        for (base, expert) in [(&paths[0], &paths[1]), (&paths[1], &paths[0])] {
            let found = Merge::new(RuleKind::Slerp, Convention::Paper, Some(base), &[(expert, 50)]).run();
            let first = f64::from_le_bytes(found["w"].2[..8].try_into().unwrap());
            let mean = long[0] * 0.4995;
            assert!((first - mean).abs() < 1e-12, "{n_elements}: {first}, not {mean}");
        }
    }
}

#[test]
fn of_equal_changes_mergekits_convention_keeps_the_first_and_the_papers_all() {
    let folder = tempfile::tempdir().unwrap();
    let base = one_tensor(folder.path(), "base", &[0.0; 6]);
    let a = one_tensor(folder.path(), "a", &[1.0, 1.0, -1.0, 1.0, 0.5, 2.0]);
    let by = |convention| {
        let mut merge = Merge::new(RuleKind::Ties, convention, Some(&base), &[(&a, 100)]);
        merge.rule.densities = vec![0.5];
        merged(&merge)
    };
    assert_eq!(by(Convention::Mergekit), [1.0, 1.0, 0.0, 0.0, 0.0, 2.0]);
    assert_eq!(by(Convention::Paper), [1.0, 1.0, -1.0, 1.0, 0.0, 2.0]);
}

/// A set of several units, with ties as bf16 has them, and a tensor of each other kind.
fn large_set(folder: &Path) -> [PathBuf; 3] {
    let names = ["base", "x1", "x2"].map(|name| folder.join(name));
    for (seed, name) in (1..).zip(&names) {
        let mut set = tensors([
            ("big", noise_tensor(seed, 530_000)),
            ("mask", bits16_tensor("BF16", &[0xff80, 0, 0x3f80])),
            ("one", noise_tensor(seed + 10, 1)),
            ("small", noise_tensor(seed + 20, 4097)),
        ]);
        let big = set.get_mut("big").unwrap();
        big.1 = vec![530, 1000];
        let matrix = noise_tensor(seed + 30, 70_000);
        set.insert("matrix".to_owned(), (matrix.0, vec![350, 200], matrix.2));
        write_checkpoint(name, &set);
    }
    names
}

fn large_merge(kind: RuleKind, convention: Convention, [base, x1, x2]: &[PathBuf; 3]) -> Merge {
    match kind {
        RuleKind::Slerp => Merge::new(kind, convention, Some(base), &[(x1, 40)]),
        RuleKind::ModelStock | RuleKind::Sce => Merge::new(kind, convention, Some(base), &[(x1, 100), (x2, 100)]),
        _ => Merge::new(kind, convention, Some(base), &[(x1, 70), (x2, 40)]),
    }
}

#[test]
fn bytes_depend_on_neither_threads_nor_memory() {
    let folder = tempfile::tempdir().unwrap();
    let set = large_set(folder.path());
    for entry in &RULES {
        for convention in CONVENTIONS {
            // What another convention shares with mergekit's need not run twice.
            let is_other = matches!(entry.kind, RuleKind::Ties | RuleKind::Dare | RuleKind::Della);
            if convention == Convention::Paper && !is_other {
                continue;
            }
            let merge = large_merge(entry.kind, convention, &set);
            let mut first: Option<Tensors> = None;
            for (n_threads, memory_bytes) in [(1, 256_000_000), (7, 60_000_000)] {
                let out = folder.path().join("out");
                let runner = Runner { n_threads, memory_bytes, ..Runner::default() };
                runner.execute(&plan(merge.output(&out)), FORCE).unwrap_or_else(|error| panic!("{error}"));
                let found = read_tensors(&out);
                match &first {
                    Some(first) => {
                        assert_same_tensors(&found, first, &format!("{} {convention:?} {n_threads}", entry.name))
                    }
                    None => first = Some(found),
                }
                std::fs::remove_dir_all(&out).unwrap();
            }
        }
    }
}

#[test]
fn a_stopped_merge_by_a_rule_resumes_to_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let set = large_set(folder.path());
    for kind in [RuleKind::Ties, RuleKind::DareTies, RuleKind::Karcher] {
        let merge = large_merge(kind, Convention::Mergekit, &set);
        let whole = merge.run();
        let planned = plan(merge.output(&folder.path().join(kind.to_string())));
        let stopping = Runner { n_threads: 1, stop_after_bytes: Some(1_000_000), ..Runner::default() };
        assert!(stopping.execute(&planned, PLAIN).is_err(), "{kind} was stopped");
        let outcomes = Runner::default().execute(&planned, PLAIN).unwrap();
        assert!(outcomes[0].bytes_resumed > 0, "{kind}");
        assert_same_tensors(&read_tensors(&planned.outputs[0].path), &whole, "resumed");
        let again = Runner::default().execute(&planned, PLAIN).unwrap();
        assert!(again[0].was_done, "{kind}");
    }
}

#[test]
fn a_plan_with_a_rule_reads_back_and_a_wrong_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let [base, x1, x2, _] = small_set(folder.path());
    let good = Merge::new(RuleKind::Della, Convention::Paper, Some(&base), &[(&x1, 100), (&x2, 50)]);
    let document = plan(good.output(&folder.path().join("out")));
    assert_eq!(MergePlan::from_json(&document.to_json().unwrap()).unwrap(), document);
    let refused = |change: &dyn Fn(&mut OutputPlan)| {
        let mut output = good.output(&folder.path().join("out"));
        change(&mut output);
        MergePlan::new(vec![output]).unwrap_err().to_string()
    };
    let of_rule = |change: fn(&mut PlanRule)| refused(&|output| change(output.rule.as_mut().unwrap()));
    assert!(
        of_rule(|rule| rule.densities = vec![0.5]).contains("needs 2 densities, one for each expert, not 1 density")
    );
    assert!(of_rule(|rule| rule.densities[1] = 1.5).contains("must be between 0 and 1, but it is 1.5"));
    assert!(of_rule(|rule| rule.densities[1] = f64::NAN).contains("must be between 0 and 1"));
    assert!(of_rule(|rule| rule.base = None).contains("`della` needs a base"));
    assert!(of_rule(|rule| rule.base = Some(1)).contains("has a base with a coefficient"));
    assert!(of_rule(|rule| rule.base = Some(3)).contains("names a base that is not a source"));
    assert!(of_rule(|rule| rule.seed = None).contains("needs seed"));
    assert!(of_rule(|rule| rule.gamma = Some(0.1)).contains("has no gamma"));
    assert!(of_rule(|rule| rule.epsilon = Some(1.5)).contains("below 1.0000 at density 0.5, not 1.5"));
    assert!(of_rule(|rule| rule.epsilon = Some(-0.1)).contains("at least 0 and below 1.0000 at density 0.5, not -0.1"));
    let uneven = of_rule(|rule| (rule.densities, rule.epsilon) = (vec![0.5, 0.875], Some(1.5)));
    assert!(uneven.contains("below 0.2500 at density 0.875"), "{uneven}");
    let whole = of_rule(|rule| (rule.densities, rule.epsilon) = (vec![0.0, 1.0], Some(-0.1)));
    assert!(whole.contains("needs an epsilon of at least 0, not -0.1"), "{whole}");
    assert!(of_rule(|rule| rule.lambda = "x".to_owned()).contains("lambda"));
    for lambda in ["1e-101", "-1e101"] {
        let said = refused(&|output| output.rule.as_mut().unwrap().lambda = lambda.to_owned());
        assert!(said.contains("lambda of `della` must be 0, or between 1e-100 and 1e100"), "{said}");
    }
}

#[test]
fn values_that_are_not_finite_are_refused_with_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, tensor: Tensor| {
        let path = folder.path().join(name);
        write_checkpoint(&path, &tensors([("w", tensor)]));
        path
    };
    let single = |middle: f32| f32_tensor(&[1.0, middle, 3.0]);
    let half = |middle: u16| bits16_tensor("F16", &[0x3c00, middle, 0x4200]);
    for (name, base, bad, good) in [
        ("single", single(2.0), single(f32::NAN), single(2.5)),
        ("half", half(0x4000), half(0x7c00), half(0x4100)),
        ("not-a-half", half(0x4000), half(0x7e01), half(0x4100)),
    ] {
        let [base, bad, good] = [("base", base), ("bad", bad), ("good", good)]
            .map(|(role, tensor)| write(&format!("{name}-{role}"), tensor));
        let (base, bad, good) = (base.as_path(), bad.as_path(), good.as_path());
        for kind in [RuleKind::Ties, RuleKind::DareTies, RuleKind::Breadcrumbs, RuleKind::MultiSlerp] {
            for (base, expert) in [(base, bad), (bad, base)] {
                let merge = Merge::new(kind, Convention::Paper, Some(base), &[(good, 100), (expert, 100)]);
                let planned = plan(merge.output(&folder.path().join("out")));
                let error = Runner::default().execute(&planned, PLAIN).unwrap_err().to_string();
                let is_named = error.contains("`w`") && error.contains("-bad") && error.contains("element 1");
                assert!(is_named, "{kind} of {name}: {error}");
            }
        }
    }
}

/// A merge that may meet what is not finite, and its error.
#[track_caller]
fn refused_by_ieee_rules(merge: &Merge) -> (String, String) {
    let folder = tempfile::tempdir().unwrap();
    let mut output = merge.output(&folder.path().join("out"));
    output.policy.allow_non_finite = true;
    let error = Runner::default().execute(&plan(output), PLAIN).unwrap_err();
    (error.to_string(), error.hint().unwrap())
}

#[test]
fn a_rule_that_sums_over_a_tensor_names_what_makes_its_sums_not_finite() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, tensor: Tensor| {
        let path = folder.path().join(name);
        write_checkpoint(&path, &tensors([("w", tensor)]));
        path
    };
    // The value is in another piece than the first, which sees only its effect.
    let n_elements = 530_000;
    let mut bad = noise_tensor(2, n_elements);
    bad.2.truncate(2 * 529_999);
    bad.2.extend(0x7fc0_u16.to_le_bytes());
    let [base, x1] = [("base", 1), ("x1", 3)].map(|(name, seed)| write(name, noise_tensor(seed, n_elements)));
    let bad = write("bad", bad);
    let two = [(x1.as_path(), 100), (bad.as_path(), 100)];
    for kind in [RuleKind::Slerp, RuleKind::MultiSlerp, RuleKind::ModelStock, RuleKind::Sce, RuleKind::Dare] {
        let experts = if kind == RuleKind::Slerp { &[(bad.as_path(), 30)] } else { two.as_slice() };
        let (said, hint) = refused_by_ieee_rules(&Merge::new(kind, Convention::Mergekit, Some(&base), experts));
        assert!(said.contains("bad` holds a value that is not finite, at element 529999"), "{kind}: {said}");
        // By IEEE rules the whole tensor would be NaN.
        assert!(hint.contains("`--take-newest w`") && !hint.contains("--allow-non-finite"), "{kind}: {hint}");
    }
    // Finite values whose squares are not.
    let f64_tensor =
        |values: [f64; 2]| ("F64".to_owned(), vec![2], values.iter().flat_map(|x| x.to_le_bytes()).collect());
    let [base, x1, x2] = [("base64", [0.0, 0.0]), ("x64", [1e200, 1.0]), ("y64", [2e200, 2.0])]
        .map(|(name, values)| write(name, f64_tensor(values)));
    let experts = [(x1.as_path(), 100), (x2.as_path(), 100)];
    for kind in [RuleKind::Karcher, RuleKind::Sce] {
        let (said, _) = refused_by_ieee_rules(&Merge::new(kind, Convention::Paper, Some(&base), &experts));
        assert!(said.contains(&format!("too large for the sums over the tensor that `{kind}` needs")), "{said}");
    }
    for (base, hint) in [(Some(&*base), "take the base's tensor"), (None, "take the newest source's tensor")] {
        let (_, found) = refused_by_ieee_rules(&Merge::new(RuleKind::Karcher, Convention::Paper, base, &experts));
        assert!(found.contains(hint), "{found}");
    }
}

#[test]
fn a_result_beyond_doubles_is_not_blamed_on_a_source() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, value: f64| {
        let path = folder.path().join(name);
        write_checkpoint(&path, &tensors([("w", ("F64".to_owned(), vec![1], value.to_le_bytes().to_vec()))]));
        path
    };
    let (base, expert) = (write("base", 1e250), write("expert", 3e250));
    for kind in [RuleKind::Ties, RuleKind::TaskArithmetic] {
        let mut merge = Merge::new(kind, Convention::Paper, Some(&base), &[(&expert, 100)]);
        merge.rule.lambda = "1e90".to_owned();
        let error = Runner::default().execute(&plan(merge.output(&folder.path().join("out"))), PLAIN).unwrap_err();
        assert_eq!(error.to_string(), "tensor `w`, element 0: the merged value is too large for F64", "{kind}");
    }
}
