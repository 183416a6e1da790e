//! Recipes: what is read, what is refused, and with which message.

use super::*;
use crate::scheme::{DecayCurve, SumRule};

/// The options and sources of a recipe in one list, spelt as on the command line.
fn arguments_of(recipe: &Recipe) -> Vec<String> {
    const FLAGS: [&str; 5] = ["normalize", "allow_sum", "allow_non_finite", "no_model_card", "code"];
    const REPEATED: [&str; 3] = ["allow_config", "drop", "take_newest"];
    let mut arguments = Vec::new();
    for RecipeOption { name, values } in &recipe.options {
        let option = format!("--{}", name.replace('_', "-"));
        match values.as_slice() {
            [_] if FLAGS.contains(name) => arguments.push(option),
            values if REPEATED.contains(name) => {
                arguments.extend(values.iter().map(|value| format!("{option}={value}")));
            }
            values => arguments.push(format!("{option}={}", values.join(","))),
        }
    }
    let mut paths = Vec::new();
    match &recipe.sources {
        RecipeSources::Run { path } => paths.push(path.clone()),
        RecipeSources::Averages(runs) => {
            arguments.extend(runs.iter().map(|(sigma, run)| format!("--from-averages={sigma}={run}")));
        }
        RecipeSources::Checkpoints(checkpoints) => {
            for RecipeCheckpoint { path, coefficient } in checkpoints {
                match coefficient {
                    Some(coefficient) => arguments.push(format!("--model={path}:{coefficient}")),
                    None => paths.push(path.clone()),
                }
            }
        }
    }
    if !paths.is_empty() {
        arguments.push("--".to_owned());
        arguments.extend(paths);
    }
    arguments
}

fn ratio(text: &str) -> Ratio {
    text.parse().unwrap()
}

fn toml(text: &str) -> Recipe {
    parse_recipe(text, RecipeKind::Toml).unwrap_or_else(|error| panic!("{error}"))
}

fn yaml(text: &str) -> Recipe {
    parse_recipe(text, RecipeKind::Yaml).unwrap_or_else(|error| panic!("{error}"))
}

/// The problems as a person sees them, one line each: place, text, hint.
fn problems(text: &str, kind: RecipeKind) -> Vec<String> {
    let error = parse_recipe(text, kind).expect_err(text);
    let show = |problem: &RecipeProblem| {
        let hint = RecipeError { problems: vec![problem.clone()] }.hint();
        let hint = hint.map(|hint| format!(" -> {hint}")).unwrap_or_default();
        format!("{}:{} {}{hint}", problem.line, problem.column, problem.fault)
    };
    error.problems.iter().map(show).collect()
}

fn check_refused(text: &str, kind: RecipeKind, expected: &str) {
    assert_eq!(problems(text, kind), [expected], "{text}");
}

const RUN_TOML: &str = r#"
kind = "thalweg-recipe"
version = 1
run = "runs/base"
count = 10
interval-tokens = "4B"
end_tokens = 1.5T
"#;

#[test]
fn a_run_with_a_selection() {
    let recipe = toml(&RUN_TOML.replace("1.5T", "\"1.5T\""));
    assert_eq!(recipe.sources, RecipeSources::Run { path: "runs/base".to_owned() });
    assert_eq!(recipe.option("count"), Some(&["10".to_owned()][..]));
    assert_eq!(recipe.scheme, None);
    let arguments = ["--count=10", "--interval-tokens=4B", "--end-tokens=1.5T", "--", "runs/base"];
    assert_eq!(arguments_of(&recipe), arguments);
}

#[test]
fn toml_and_yaml_say_the_same() {
    let from_toml = toml(
        "run = 'r'\nsteps = [1000, \"2k\"]\nscheme = 'decay:cosine'\nfloor = 0.1\nallow_non_finite = true\n\
         no_model_card = false\nallow_config = ['rope_theta=1,2', 'norm_eps=1e-5,1e-6']\nout_shard_size = '5GiB'\n",
    );
    let from_yaml = yaml(
        "run: r\nsteps: [1000, 2k]\nscheme: decay:cosine\nfloor: 0.1\nallow-non-finite: yes\nno-model-card: false\n\
         allow-config:\n- rope_theta=1,2\n- norm_eps=1e-5,1e-6\nout-shard-size: 5GiB\n",
    );
    assert_eq!(from_toml, from_yaml);
    assert_eq!(from_toml.scheme, Some(Scheme::Decay { curve: DecayCurve::Cosine, floor: ratio("0.1") }));
    let arguments = [
        "--steps=1000,2k",
        "--scheme=decay:cosine",
        "--floor=0.1",
        "--out-shard-size=5GiB",
        "--allow-config=rope_theta=1,2",
        "--allow-config=norm_eps=1e-5,1e-6",
        "--allow-non-finite",
        "--",
        "r",
    ];
    assert_eq!(arguments_of(&from_toml), arguments);
}

#[test]
fn names_of_tensors_are_given_one_by_one() {
    let recipe = toml("run = 'r'\nlast = 2\ndrop = ['*.a', 'b']\ntake_newest = ['c']\ncode = true\n");
    let arguments = ["--last=2", "--drop=*.a", "--drop=b", "--take-newest=c", "--code", "--", "r"];
    assert_eq!(arguments_of(&recipe), arguments);
}

#[test]
fn checkpoints_have_all_coefficients_or_none() {
    let recipe = toml("checkpoints = [{ path = 'a:b', coefficient = 0.75 }, { path = 'c', coefficient = '1/3' }]\n");
    let coefficients = vec![ratio("0.75"), ratio("1/3")];
    assert_eq!(recipe.scheme, Some(Scheme::Custom { coefficients, sum_rule: SumRule::AsGiven }));
    assert_eq!(arguments_of(&recipe), ["--model=a:b:0.75", "--model=c:1/3"]);
    let plain = yaml("checkpoints: [a, {path: -b}]\nscheme: ema\nalpha: 1e-1\n");
    assert_eq!(plain.scheme, Some(Scheme::Ema { alpha: ratio("0.1") }));
    assert_eq!(arguments_of(&plain), ["--scheme=ema", "--alpha=0.1", "--", "a", "-b"]);
    let some = "checkpoints = [\n{ path = 'a', coefficient = 1 },\n{ path = 'b' }]\n";
    check_refused(some, RecipeKind::Toml, "3:1 every checkpoint, or none, needs `coefficient`");
}

#[test]
fn a_number_that_versions_of_yaml_read_in_two_ways_is_refused() {
    let zero = "a number without a leading zero, which YAML 1.1 takes for base 8 and YAML 1.2 does not";
    check_refused("run: r\nlast: 010\n", RecipeKind::Yaml, &format!("2:7 `last` must be {zero}, `010` found"));
    let linear =
        |weight: &str| format!("merge_method: linear\nmodels:\n- model: a\n  parameters: {{weight: {weight}}}\n");
    let expected = format!("4:24 `weight` must be {zero}, `-08` found");
    check_refused(&linear("-08"), RecipeKind::Yaml, &expected);
    for weight in ["0.10", "00.5", "'010'"] {
        yaml(&linear(weight));
    }
}

#[test]
fn averages_name_their_widths() {
    let recipe =
        yaml("from_averages: ['0.05=runs/a=b', 0.1=runs/c]\nscheme: power-ema\nsigma_rel: 0.07\nend_step: 9k\n");
    let expected = vec![(ratio("0.05"), "runs/a=b".to_owned()), (ratio("0.1"), "runs/c".to_owned())];
    assert_eq!(recipe.sources, RecipeSources::Averages(expected));
    check_refused(
        "from_averages: [runs/c]\n",
        RecipeKind::Yaml,
        "1:17 `from_averages` must be a list of `SIGMA=RUN`, `runs/c` found",
    );
}

#[test]
fn every_option_is_a_known_key_and_reads_back() {
    assert!(native::keys_agree());
    for text in [
        "run = 'a \"b\" \\ c'\nlast = 3\nscheme = 'ema-normalised'\nalpha = '1/3'\norder = 'scramble:7'\n",
        "checkpoints = [{ path = 'a', coefficient = -0.5 }, { path = 'b', coefficient = 1.5 }]\nnormalize = true\n",
        "run = 'r'\ncoefficients = [1, 2, '1/7']\nsteps = [1, '2M']\ndtype = 'f32'\nrouter = 'newest'\n",
        "from_averages = ['0.05=a']\nscheme = 'power-ema:0.1'\nallow_non_finite = true\ndigest = 'xxh3'\n",
    ] {
        let recipe = toml(text);
        let written = native_equivalent(&recipe);
        assert_eq!(toml(&written), recipe, "{written}");
    }
}

#[test]
fn unknown_keys_name_the_nearest_or_their_place() {
    check_refused(
        "run = 'r'\nlats = 10\n",
        RecipeKind::Toml,
        "2:1 unknown key `lats` at the top level -> did you mean `last`?",
    );
    check_refused(
        "run: r\ncoefficient: 3\n",
        RecipeKind::Yaml,
        "2:1 unknown key `coefficient` at the top level -> `coefficient` belongs at `checkpoints[]`",
    );
    check_refused(
        "checkpoints = [{ path = 'a', scheme = 'sma' }]\n",
        RecipeKind::Toml,
        "1:30 unknown key `scheme` at `checkpoints[]` -> `scheme` belongs at the top level",
    );
    check_refused("run = 'r'\nzzz = 1\n", RecipeKind::Toml, "2:1 unknown key `zzz` at the top level");
}

#[test]
fn wrong_values_show_their_line() {
    let check = |text, expected| check_refused(text, RecipeKind::Toml, expected);
    check("run = 5\n", "1:7 `run` must be text, a number found");
    check("run = ''\n", "1:7 `run` must be text, `` found");
    check("run = 'r'\nlast = -1\n", "2:8 `last` must be a count such as 2000, 4B or 1.5k, `-1` found");
    check("run = 'r'\nlast = 2026-01-01\n", "2:8 `last` must be a count such as 2000, 4B or 1.5k, a date found");
    check("run = 'r'\nlast = 0x10\n", "2:8 `last` must be a count such as 2000, 4B or 1.5k, `0x10` found");
    check("run = 'r'\nsteps = 5\n", "2:9 `steps` must be a list of counts, a number found");
    check("run = 'r'\nsteps = []\n", "2:9 `steps` must be a list of counts, an empty list found");
    check(
        "run = 'r'\ndtype = 'int8'\n",
        "2:9 `dtype` cannot be `int8` -> one of same, f32, float32, fp32, float, bf16, bfloat16, f16, float16, fp16, half",
    );
    check("run = 'r'\nallow_non_finite = 1\n", "2:20 `allow_non_finite` must be true or false, a number found");
    check(
        "run = 'r'\nout_shard_size = '5 elephants'\n",
        "2:18 `out_shard_size` must be a size such as 5GB, 5GiB or a number of bytes, `5 elephants` found",
    );
    check("run = 'r'\nversion = 2\n", "2:11 `version` cannot be `2` -> one of 1");
    check("run = 'r'\norder = 5\n", "2:9 `order` must be text, a number found");
    check(
        "run = 'r'\norder = 'random'\n",
        "2:9 there is no order `random` -> one of `as-is`, `given`, `reverse` or `scramble:SEED`",
    );
    check("run = 'r'\ncheckpoints = ['a']\n", "2:1 `checkpoints` cannot be given with `run`");
    check("checkpoints = ['a']\nlast = 3\n", "2:1 `last` cannot be given with `checkpoints`");
    check("", "1:1 a recipe needs `run` or `checkpoints`");
    check_refused("# nothing\n", RecipeKind::Yaml, "1:1 a recipe needs `run` or `checkpoints`");
    check_refused("hello", RecipeKind::Yaml, "1:1 `the recipe` must be a table, text found");
    check_refused("run:\n", RecipeKind::Yaml, "1:4 `run` must be text, nothing found");
}

#[test]
fn wrong_schemes_point_at_what_is_wrong() {
    let check = |text, expected| check_refused(text, RecipeKind::Toml, expected);
    check("run = 'r'\nscheme = 'smaa'\n", "2:10 there is no scheme `smaa` -> did you mean `sma`?");
    check("run = 'r'\nscheme = 'ema'\nalpha = 2\n", "3:9 `alpha` is 2; it must be above 0 and at most 1");
    check("run = 'r'\nscheme = 'wma'\nfloor = 0.1\n", "3:9 scheme `wma` takes no `floor`");
    check("run = 'r'\nalpha = 0.1\n", "2:9 scheme `sma` takes no `alpha`");
    check("run = 'r'\nscheme = 'ema'\nalpha = nan\n", "3:9 `nan` is not a finite decimal number or fraction");
    check(
        "run = 'r'\nscheme = 'ema'\nalpha = 1e999999999\n",
        concat!(
            "3:9 the number `1e999999999` has too many digits or too large an exponent -> ",
            "write the number with fewer digits"
        ),
    );
    check(
        "checkpoints = ['a', 'b']\ncoefficients = [1]\n",
        "2:16 1 coefficient is given for 2 checkpoints -> give one coefficient for each checkpoint, oldest first",
    );
    check(
        "checkpoints = [{path = 'a', coefficient = 1}]\nscheme = 'sma'\n",
        "2:10 scheme `sma` takes no `coefficients`",
    );
}

#[test]
fn all_problems_are_shown_together() {
    let error = parse_recipe("rnu = 'r'\nlast = 'x'\n\tscheme = 3\n", RecipeKind::Toml).unwrap_err();
    let expected = "\
3 errors found
line 1, column 1: unknown key `rnu` at the top level
  1 | rnu = 'r'
    | ^^^
  did you mean `run`?
line 2, column 8: `last` must be a count such as 2000, 4B or 1.5k, `x` found
  2 | last = 'x'
    |        ^^^
line 3, column 11: `scheme` must be text, a number found
  3 | \u{fffd}scheme = 3
    |           ^";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn broken_syntax_has_a_place() {
    let error = parse_recipe("run = 'r'\nlast = = 3\n", RecipeKind::Toml).unwrap_err();
    assert_eq!((error.problems[0].line, error.problems.len()), (2, 1));
    let error = parse_recipe("run = 'r'\nrun = 's'\n", RecipeKind::Toml).unwrap_err();
    assert_eq!(error.problems[0].line, 2, "{error}");
    let error = parse_recipe("run: [a\nlast: 3\n", RecipeKind::Yaml).unwrap_err();
    assert!(matches!(error.problems[0].fault, RecipeFault::Syntax { .. }), "{error}");
    let yaml = |text, expected| check_refused(text, RecipeKind::Yaml, expected);
    yaml("run: r\nrun: s\n", "2:1 key `run` is given twice in one table");
    yaml("last: 1\nend-step: 2\nend_step: 3\nrun: r\n", "3:1 key `end_step` is given twice in one table");
    yaml("run: &a r\nlog: *a\n", "2:6 aliases (`*name`) are not supported: write the value out");
    yaml("run: !!str r\n", "1:6 tags (`!name`) are not supported: write plain data");
    yaml("run: r\n---\nrun: s\n", "2:1 a second document begins here, but a recipe is a single document");
    yaml("? [a, b]\n: c\n", "1:3 a key must be plain text");
}

const MERGEKIT: &str = "
merge_method: linear
base_model: run/step2000
models:
  - model: run/step1000
    parameters:
      weight: 1e-1
  - model: run/step2000
parameters:
  weight: 0.3
dtype: bfloat16
tokenizer_source: base
chat_template: auto
";

#[test]
fn mergekits_linear_keeps_its_meaning() {
    let recipe = yaml(MERGEKIT);
    assert_eq!(recipe.dialect, RecipeDialect::Mergekit);
    let coefficients = vec![ratio("0.1"), ratio("0.3")];
    assert_eq!(recipe.scheme, Some(Scheme::Custom { coefficients, sum_rule: SumRule::DivideBySum }));
    assert_eq!(recipe.input_dtype, Some(Dtype::Bf16));
    assert_eq!(recipe.notices, ["`chat_template` is ignored: the template is copied with the tokenizer"]);
    let expected = "\
kind = \"thalweg-recipe\"
version = 1

# the sources must not change when they are cast to bf16
checkpoints = [
  { path = \"run/step1000\", coefficient = 0.1 },
  { path = \"run/step2000\", coefficient = 0.3 },
]
normalize = true
dtype = \"bf16\"
side_files_from = \"run/step2000\"
";
    assert_eq!(native_equivalent(&recipe), expected);
    let native = toml(expected);
    assert_eq!((&native.sources, &native.options, &native.scheme), (&recipe.sources, &recipe.options, &recipe.scheme));
}

#[test]
fn mergekits_output_type_may_differ_from_its_input_type() {
    let both = yaml(&MERGEKIT.replace("dtype: bfloat16", "dtype: torch.float32\nout_dtype: float16"));
    assert_eq!((both.input_dtype, both.option("dtype").unwrap()), (Some(Dtype::F32), &["f16".to_owned()][..]));
    let neither = yaml(&MERGEKIT.replace("dtype: bfloat16", "dtype: null"));
    assert_eq!((neither.input_dtype, neither.option("dtype")), (None, None));
    assert!(cast_is_exact(Dtype::Bf16, Dtype::F32) && cast_is_exact(Dtype::Bf16, Dtype::Bf16));
    for (from, to) in
        [(Dtype::F32, Dtype::Bf16), (Dtype::F16, Dtype::Bf16), (Dtype::Bf16, Dtype::F16), (Dtype::F64, Dtype::F32)]
    {
        assert!(!cast_is_exact(from, to), "{from} {to}");
    }
}

#[test]
fn weights_are_used_as_they_are_without_normalize() {
    let recipe = yaml(
        "merge_method: linear\nmodels:\n- {model: a, parameters: {weight: 1.5}}\n- {model: b, parameters: {weight: -0.5}}\n\
         parameters: {normalize: false}\n",
    );
    let coefficients = vec![ratio("1.5"), ratio("-0.5")];
    assert_eq!(recipe.scheme, Some(Scheme::Custom { coefficients, sum_rule: SumRule::AsGiven }));
    assert_eq!(recipe.option("normalize"), None);
    assert_eq!(
        recipe.notices,
        ["the config and tokenizer are taken from the last model; set `base_model` to choose another"]
    );
}

fn two_models(weights: [&str; 2]) -> String {
    let model = |name, weight| format!("- {{model: {name}, parameters: {{weight: {weight}}}}}\n");
    format!("merge_method: linear\nmodels:\n{}{}", model("a", weights[0]), model("b", weights[1]))
}

/// mergekit 0.1.5 ignores a misspelt key and exits with success.
#[test]
fn misspelt_mergekit_keys_are_errors() {
    let check = |text: String, expected| check_refused(&text, RecipeKind::Yaml, expected);
    let good = two_models(["1", "2"]);
    check(
        format!("{good}parametres: {{normalize: false}}\n"),
        "5:1 unknown key `parametres` at the top level -> did you mean `parameters`?",
    );
    check(
        good.replace("merge_method", "merge_metod"),
        "1:1 unknown key `merge_metod` at the top level -> did you mean `merge_method`?",
    );
    check(
        good.replace("{model: b, parameters: {weight: 2}}", "{model: b, weight: 2, parameters: {weight: 2}}"),
        "4:14 unknown key `weight` at `models[]` -> `weight` belongs at `models[].parameters`",
    );
    check(
        good.replace("weight: 2", "weight: 2, normalize: no"),
        concat!(
            "4:38 unknown key `normalize` at `models[].parameters` -> ",
            "`normalize` belongs at the top level's `parameters`"
        ),
    );
    check(
        good.replace("weight: 2", "wieght: 2, weight: 2"),
        "4:27 unknown key `wieght` at `models[].parameters` -> did you mean `weight`?",
    );
    check(
        format!("{good}out-dtype: float32\n"),
        "5:1 unknown key `out-dtype` at the top level -> did you mean `out_dtype`?",
    );
}

/// mergekit 0.1.5 writes infinities and NaN and exits with success.
#[test]
fn weights_without_a_sum_are_errors() {
    let hint = "write `normalize: false` under `parameters` of the recipe and give `--allow-sum`, which uses the weights as they are";
    let expected = format!("2:1 the weights sum to 0 and cannot be divided by their sum -> {hint}");
    check_refused(&two_models(["1", "-1"]), RecipeKind::Yaml, &expected);
    for weight in [".nan", "nan", ".inf", "-.inf", "abc"] {
        let expected = format!("4:35 `{weight}` is not a finite decimal number or fraction");
        check_refused(&two_models(["1", weight]), RecipeKind::Yaml, &expected);
    }
    check_refused(&two_models(["0", "0"]), RecipeKind::Yaml, "2:1 every coefficient is 0: nothing is left to merge");
    check_refused(
        "merge_method: linear\nmodels: [{model: a}]\n",
        RecipeKind::Yaml,
        "2:10 a model, or the top level's `parameters`, needs `weight`",
    );
}

/// mergekit 0.1.5 refuses the same model twice, even where it is meant.
#[test]
fn a_model_may_stand_twice() {
    let recipe = yaml(&two_models(["1", "2"]).replace("model: b", "model: a"));
    assert_eq!(arguments_of(&recipe), ["--normalize", "--model=a:1", "--model=a:2"]);
}

/// mergekit 0.1.5 shows a stack trace.
#[test]
fn wrong_methods_and_types_are_sentences() {
    let check = |text: String, expected| check_refused(&text, RecipeKind::Yaml, expected);
    let good = two_models(["1", "2"]);
    check(good.replace("linear", "linaer"), "1:15 `merge_method` cannot be `linaer` -> did you mean `linear`?");
    check(
        good.replace("linear", "nearswap"),
        concat!(
            "1:15 `merge_method: nearswap` is not supported: thalweg has no scheme or rule of that name; ",
            "use mergekit for it"
        ),
    );
    check(format!("{good}dtype: bfloat\n"), "5:8 `dtype` cannot be `bfloat` -> did you mean `bfloat16`?");
    check(
        format!("{good}dtype: float64\n"),
        "5:8 `dtype: float64` is not supported: the output can be f32, bf16 or f16; the sum is exact for any of them",
    );
}

#[test]
fn what_has_no_meaning_here_is_refused_with_a_way_out() {
    let good = two_models(["1", "2"]);
    for (addition, beginning) in [
        ("slices: []\n", "5:1 `slices` is not supported: layers cannot be rearranged"),
        ("modules: {}\n", "5:1 `modules` is not supported"),
        ("tokenizer: {source: union}\n", "5:1 `tokenizer` is not supported"),
        ("name: x\n", "5:1 `name` is not supported"),
        ("tokenizer_source: union\n", "5:19 `tokenizer_source: union` is not supported"),
        ("tokenizer_source: base\n", "5:19 `tokenizer_source: base` is not supported"),
        ("tokenizer_source: c\n", "5:19 a `tokenizer_source` that is not among the models is not supported"),
        ("base_model: c\n", "5:13 a `base_model` that is not among the models is not supported"),
        ("base_model: a\ntokenizer_source: b\n", "6:19 a `tokenizer_source` that is not the `base_model`"),
        ("parameters: {weight: [0, 1]}\n", "5:22 a weight that differs between layers or tensors"),
        ("parameters: {normalize: [{value: 1}]}\n", "5:25 a `normalize` that differs"),
    ] {
        let found = problems(&format!("{good}{addition}"), RecipeKind::Yaml);
        assert!(found.len() == 1 && found[0].starts_with(beginning), "{addition}{found:?}");
    }
    let found = problems(&good.replace("model: a", "model: a+lora"), RecipeKind::Yaml);
    assert!(found[0].starts_with("3:11 an adapter (`+`) is not supported"), "{found:?}");
}

#[test]
fn hostile_documents_end_quickly() {
    let deep = |open: &str, n: usize| format!("run: {}", open.repeat(n));
    let bomb: String = (1..9).map(|i| format!("a{i}: &a{i} [{}]\n", "*a0,".repeat(9))).collect();
    let long = "a".repeat(MAX_RECIPE_BYTES + 1);
    let many_keys: String = (0..100_000).map(|i| format!("k{i}: 1\n")).collect();
    let many_toml: String = (0..60_000).map(|i| format!("k{i} = 1\n")).collect();
    let many_items = format!("checkpoints: [{}]\n", "a,".repeat(400_000));
    for text in [
        &deep("[", 100_000),
        &deep("{a: ", 100_000),
        &deep("- ", 100_000),
        &format!("run:\n{}", "- ".repeat(100_000)),
        &"? ".repeat(100_000),
        &bomb,
        &long,
        &many_keys,
        &many_items,
        &"\t".repeat(100_000),
        &"'".repeat(100_001),
        &"%".repeat(1000),
        &"&a ".repeat(10_000),
        &"!!".repeat(10_000),
        &"\u{0}\u{feff}\u{85}\u{2028}".to_owned(),
    ] {
        assert!(parse_recipe(text, RecipeKind::Yaml).is_err(), "{}", &text[..text.len().min(40)]);
    }
    for text in [
        &format!("run = {}", "[".repeat(100_000)),
        &format!("run = {}", "{a=".repeat(100_000)),
        &format!("{} = 1", "a.".repeat(100_000)),
        &"[[a]]\n".repeat(50_000),
        &many_toml,
        &"\"".repeat(100_001),
        &format!("run = {}", "9".repeat(500_000)),
    ] {
        assert!(parse_recipe(text, RecipeKind::Toml).is_err(), "{}", &text[..text.len().min(40)]);
    }
}

#[test]
fn places_in_yaml_count_lone_carriage_returns_as_line_breaks() {
    let error = parse_recipe("run: r\r\r\nlast: 3\rlats: 4\n", RecipeKind::Yaml).unwrap_err();
    let [problem] = &error.problems[..] else { panic!("{error}") };
    assert_eq!((problem.line, problem.column, &*problem.excerpt), (4, 1, "lats: 4"));
}

#[test]
fn mutilated_recipes_never_panic() {
    let seeds = [
        MERGEKIT,
        RUN_TOML,
        "checkpoints:\n- {path: a, coefficient: 1/3}\n- path: >-\n    b\n",
        "a: |\n x\n? y\n: z\n",
    ];
    let pieces = [
        "\n", ":", "- ", "[", "]", "{", "}", "\"", "'", "#", "&a", "*a", "!", "|", ">", "%", "=", "\t", "é", "\r", ",",
        "? ",
    ];
    let mut state = 1u64;
    let mut draw = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % n
    };
    for round in 0..6000 {
        let mut text: Vec<char> = seeds[round % seeds.len()].chars().collect();
        for _ in 0..1 + draw(6) {
            let at = draw(text.len() + 1);
            match draw(3) {
                0 => {
                    text.splice(at..at, pieces[draw(pieces.len())].chars());
                }
                1 => {
                    text.drain(at..(at + draw(8)).min(text.len()));
                }
                _ => text.truncate(at.max(1)),
            }
        }
        let text: String = text.into_iter().collect();
        for kind in [RecipeKind::Toml, RecipeKind::Yaml] {
            match parse_recipe(&text, kind) {
                Ok(recipe) => assert!(parse_recipe(&native_equivalent(&recipe), RecipeKind::Toml).is_ok(), "{text}"),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    }
}

/// A recipe of a rule, and the options that it becomes.
#[track_caller]
fn check_rule(method: &str, text: &str, options: &[(&str, &str)], coefficients: &[&str]) {
    let text = format!("merge_method: {method}\n{text}");
    let recipe = parse_recipe(&text, RecipeKind::Yaml).unwrap_or_else(|error| panic!("{error}"));
    let found: Vec<(&str, String)> =
        recipe.options.iter().map(|option| (option.name, option.values.join(","))).collect();
    let expected: Vec<(&str, String)> = options.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    assert_eq!(found, expected);
    let RecipeSources::Checkpoints(checkpoints) = &recipe.sources else { panic!("{:?}", recipe.sources) };
    let weights: Vec<String> = checkpoints
        .iter()
        .map(|one| one.coefficient.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string))
        .collect();
    assert_eq!(weights, coefficients);
    // What the note shows means the same.
    let native = parse_recipe(&native_equivalent(&recipe), RecipeKind::Toml).unwrap_or_else(|error| panic!("{error}"));
    let sorted = |options: &[RecipeOption]| {
        let mut options: Vec<_> = options.iter().map(|one| (one.name, one.values.clone())).collect();
        options.sort();
        options
    };
    assert_eq!((native.sources, sorted(&native.options)), (recipe.sources.clone(), sorted(&recipe.options)));
}

#[test]
fn rules_of_mergekit_are_translated_with_their_defaults() {
    let ties = "base_model: base\nmodels:\n  - model: base\n  - {model: a, parameters: {weight: 0.5, density: 0.3}}\n  \
                - {model: b, parameters: {weight: 1}}\nparameters: {density: 0.6, normalize: true, int8_mask: true}\ndtype: float32\n";
    check_rule(
        "ties",
        ties,
        &[("rule", "ties"), ("base", "base"), ("density", "0.3,0.6"), ("convention", "mergekit"), ("dtype", "f32")],
        &["0.5", "1"],
    );
    check_rule(
        "dare_ties",
        &ties.replace("normalize: true", "normalize: true, rescale: false, lambda: 0.9"),
        &[
            ("rule", "dare-ties"),
            ("base", "base"),
            ("density", "0.3,0.6"),
            ("lambda", "0.9"),
            ("divide", "yes"),
            ("rescale", "none"),
            ("convention", "mergekit"),
            ("dtype", "f32"),
        ],
        &["0.5", "1"],
    );
    check_rule(
        "slerp",
        "base_model: a\nmodels: [{model: a}, {model: b}]\nparameters: {t: 0.25}\n",
        &[("rule", "slerp"), ("base", "a"), ("convention", "mergekit")],
        &["0.25"],
    );
    check_rule(
        "karcher",
        "models: [{model: a}, {model: b}, {model: c}]\n",
        &[("rule", "karcher"), ("convention", "mergekit")],
        &["-", "-", "-"],
    );
    check_rule(
        "model_stock",
        "base_model: base\nmodels: [{model: a}, {model: b}]\n",
        &[("rule", "model-stock"), ("base", "base"), ("convention", "mergekit")],
        &["-", "-"],
    );
    let sce = "base_model: base\nmodels: [{model: a}, {model: b}]\n";
    for (parameters, density) in [("", "1,1"), ("parameters: {select_topk: 0.2}\n", "0.2,0.2")] {
        let options = [("rule", "sce"), ("base", "base"), ("density", density), ("convention", "mergekit")];
        check_rule("sce", &format!("{sce}{parameters}"), &options, &["-", "-"]);
    }
    check_rule(
        "breadcrumbs",
        "base_model: base\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1, density: 0.9, gamma: 0.02}\n",
        &[
            ("rule", "breadcrumbs"),
            ("base", "base"),
            ("density", "0.9,0.9"),
            ("gamma", "0.02"),
            ("convention", "mergekit"),
        ],
        &["1", "1"],
    );
}

#[test]
fn what_a_rule_of_mergekit_cannot_mean_here_is_refused() {
    let check = |text: &str, expected| check_refused(text, RecipeKind::Yaml, expected);
    let ties = "merge_method: ties\nmodels: [{model: a}, {model: b}]\n";
    check(&format!("{ties}parameters: {{weight: 1}}\n"), "1:1 the top level needs `base_model`");
    check(&format!("{ties}base_model: c\n"), "2:10 a model, or the top level's `parameters`, needs `weight`");
    check(
        &format!("{ties}base_model: c\nparameters: {{weight: 1, density: [0.1, 0.5]}}\n"),
        "4:34 a `density` that differs between layers or tensors is not supported: a value applies to the whole model; give one number",
    );
}
