//! From parsed arguments to the requests of the libraries.

use thalweg_study::forecast::request::AnnealQuestion;
use thalweg_study::request::{MergeRequest, OutputOptions, Resolver};
use thalweg_trajectory::Extent;

use crate::args::{AnnealArgs, SourceArgs};
use crate::error::Error;

/// The merge that the arguments ask for.
pub(crate) fn merge_request(args: SourceArgs, resolver: &Resolver<'_>) -> Result<MergeRequest, Error> {
    let SourceArgs { inputs, models, selection, run, scheme, rule, output, huggingface } = args;
    let models = models.iter().map(|model| resolver.parse_model(model)).collect::<Result<_, _>>()?;
    let output = OutputOptions { huggingface, ..output };
    Ok(MergeRequest { inputs, models, selection, run: run.options, scheme, rule, output })
}

/// The anneal that is asked about, wherever it ends.
pub(crate) fn anneal_question(args: &AnnealArgs) -> AnnealQuestion {
    let length = Extent::given(args.anneal_steps, args.anneal_tokens);
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
