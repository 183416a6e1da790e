//! From parsed arguments to the requests of the libraries.

use std::path::{Path, PathBuf};

use thalweg_merge::plan::CodePolicy;
use thalweg_storage::STDIN_PATH;
use thalweg_study::forecast::request::AnnealQuestion;
use thalweg_study::request::{
    MergeRequest, OutputOptions, Resolver, RuleOptions, RunOptions, SchemeOptions, Selection,
};
use thalweg_trajectory::Extent;

use crate::args::{
    AnnealArgs, FileArgs, HuggingFaceArgs, OutputArgs, RuleArgs, RunArgs, SchemeArgs, SelectionArgs, SourceArgs,
};
use crate::error::Error;
use crate::options::Count;

/// The merge that the arguments ask for.
pub(crate) fn merge_request(args: &SourceArgs, resolver: &Resolver<'_>) -> Result<MergeRequest, Error> {
    Ok(MergeRequest {
        inputs: args.inputs.clone(),
        models: args.models.iter().map(|model| resolver.parse_model(model)).collect::<Result<_, _>>()?,
        selection: (&args.selection).into(),
        run: (&args.run).into(),
        scheme: (&args.scheme).into(),
        rule: (&args.rule).into(),
        output: OutputOptions {
            to_huggingface: args.huggingface.to_huggingface,
            hf_assets: args.huggingface.hf_assets.clone(),
            ..(&args.output).into()
        },
    })
}

/// What the output of a conversion is like.
pub(crate) fn file_options(files: &FileArgs, huggingface: &HuggingFaceArgs) -> OutputOptions {
    OutputOptions {
        dtype: files.dtype,
        out_shard_bytes: files.out_shard_size.map(|size| size.0),
        drop: files.drop.clone(),
        code: if files.code { CodePolicy::Copy } else { CodePolicy::Leave },
        digest: files.digest,
        no_model_card: files.no_model_card,
        to_huggingface: huggingface.to_huggingface,
        hf_assets: huggingface.hf_assets.clone(),
        ..OutputOptions::default()
    }
}

impl From<&OutputArgs> for OutputOptions {
    fn from(args: &OutputArgs) -> Self {
        Self {
            format: args.format,
            optimizer: args.optimizer,
            non_float: args.non_float,
            router: args.router,
            allow_config: args.allow_config.clone(),
            take_newest: args.take_newest.clone(),
            allow_non_finite: args.allow_non_finite,
            side_files_from: Some(&args.side_files_from).filter(|from| *from != "newest").map(Into::into),
            ..file_options(&args.files, &HuggingFaceArgs::default())
        }
    }
}

/// `-` is standard input.
fn log_path(path: &Path) -> PathBuf {
    if path == Path::new("-") { STDIN_PATH.into() } else { path.to_owned() }
}

impl From<&RunArgs> for RunOptions {
    fn from(args: &RunArgs) -> Self {
        Self {
            tokens_per_step: args.tokens_per_step.map(|tokens| tokens.0),
            log: args.log.iter().map(|path| log_path(path)).collect(),
            log_columns: args.log_columns.clone(),
            log_every: args.log_every.map(std::num::NonZeroU64::get),
            stable: args.stable.clone(),
            checkpoint_pattern: args.checkpoint_pattern.clone(),
        }
    }
}

impl From<&SelectionArgs> for Selection {
    fn from(args: &SelectionArgs) -> Self {
        let number = |count: Option<Count>| count.map(|count| count.0);
        Self {
            last: args.last,
            count: args.count,
            interval_steps: number(args.interval_steps),
            interval_tokens: number(args.interval_tokens),
            duration_steps: number(args.duration_steps),
            duration_tokens: number(args.duration_tokens),
            end_step: number(args.end_step),
            end_tokens: number(args.end_tokens),
            from_step: number(args.from_step),
            to_step: number(args.to_step),
            every: args.every.map(std::num::NonZeroUsize::get),
            steps: args.steps.iter().map(|step| step.0).collect(),
        }
    }
}

impl From<&RuleArgs> for RuleOptions {
    fn from(args: &RuleArgs) -> Self {
        let RuleArgs { rule, base, convention, density, lambda, gamma, epsilon, seed, divide, rescale } = args.clone();
        Self { rule, base, convention, density, lambda, gamma, epsilon, seed, divide, rescale }
    }
}

impl From<&SchemeArgs> for SchemeOptions {
    fn from(args: &SchemeArgs) -> Self {
        let SchemeArgs { scheme, alpha, floor, sigma_rel, coefficients, from_averages, order, normalize, allow_sum } =
            args.clone();
        Self { scheme, alpha, floor, sigma_rel, coefficients, from_averages, order, normalize, allow_sum }
    }
}

/// The anneal that is asked about, wherever it ends.
pub(crate) fn anneal_question(args: &AnnealArgs) -> AnnealQuestion {
    let length = Extent::given(args.anneal_steps.map(|steps| steps.0), args.anneal_tokens.map(|tokens| tokens.0));
    AnnealQuestion { end_step: None, length, curve: args.anneal, floor: args.anneal_floor }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};
    use thalweg_merge::plan::OutputDtype;
    use thalweg_merge::recipe::{RecipeKind, parse_recipe};
    use thalweg_study::request::OPTION_NAMES;

    use crate::args::Arguments;

    #[test]
    fn recipes_take_the_values_that_the_help_shows() {
        let plan = Arguments::command().find_subcommand("plan").cloned().expect("a command");
        let mut n_options = 0;
        for argument in plan.get_arguments().filter(|argument| argument.get_action().takes_values()) {
            let name = argument.get_long().unwrap_or_default().replace('-', "_");
            let values = argument.get_possible_values();
            if !OPTION_NAMES.contains(&name.as_str()) || values.is_empty() {
                continue;
            }
            n_options += 1;
            for value in values.iter().filter(|value| !value.is_hide_set()) {
                let recipe = format!("run = \"a\"\n{name} = \"{}\"\n", value.get_name());
                let read = parse_recipe(&recipe, RecipeKind::Toml).map_err(|error| error.to_string());
                assert!(read.is_ok(), "{recipe}{read:?}");
            }
        }
        assert!(n_options >= 9, "{n_options}");
        for (name, _) in OutputDtype::NAMES {
            assert!(parse_recipe(&format!("run = \"a\"\ndtype = \"{name}\"\n"), RecipeKind::Toml).is_ok(), "{name}");
            let asked = Arguments::try_parse_from(["thalweg", "plan", "a", "--dtype", name]);
            assert!(asked.is_ok(), "{name}");
            let help = plan.clone().render_long_help().to_string();
            assert!(help.contains(name), "{name} is not in the help");
        }
    }
}
