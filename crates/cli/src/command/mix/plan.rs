//! `thalweg mix plan`.

use std::fmt::Write;
use std::path::Path;

use thalweg_lab::config::TrainConfig;
use thalweg_study::mix::{MixPlan, MixSpace, PlanRequest, plan_components};
use thalweg_tensor::shell_path;
use thalweg_tensor::{counted, display_name};

use crate::args::MixPlanArgs;
use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;
use crate::messages::document_of;
use crate::options::show_count;
use crate::train_config::{WrittenConfigs, folder_of_config, read_config, start_of};

const CONFIGS: WrittenConfigs = WrittenConfigs {
    mark: "# A component of a search for mixtures, by `thalweg mix plan`.",
    what: "a config that `mix plan` wrote",
};

pub(super) fn run(args: &MixPlanArgs, world: &World<'_>) -> Result<Outcome, Error> {
    let config = args.config.as_deref().map(|path| read_config(path, world)).transpose()?;
    let names: Vec<String> = match (&config, args.domains.is_empty()) {
        (Some(config), true) => config.data.iter().map(|one| one.domain_name()).collect(),
        _ => args.domains.clone(),
    };
    let Some(general) = args.general.as_ref().or(names.first()) else {
        return Err(Error::usage_with_hint("there are no data sets", "name them with `--domains web,math,code`"));
    };
    let request = PlanRequest {
        space: MixSpace::new(&names, general, args.beta)?,
        component_tokens: args.tokens,
        n_proxies: args.proxies,
        proxy_tokens: args.proxy_tokens,
        score_tokens: args.score_tokens,
    };
    let mut plan = plan_components(&request)?;
    if let (Some(config), Some(base), Some(out)) = (&config, &args.base, &args.out) {
        write_configs(&mut plan, config, (args.config.as_deref().unwrap_or(Path::new("")), base, out), world)?;
    }
    Ok(world.answer(&document_of("thalweg-mix-plan", &plan), &text(args, &plan)))
}

fn write_configs(
    plan: &mut MixPlan,
    config: &TrainConfig,
    (like, base, out): (&Path, &Path, &Path),
    world: &World<'_>,
) -> Result<(), Error> {
    let (base, step) = start_of(base, world)?;
    let folder = folder_of_config(like, world)?;
    let path = |name: &str| out.join(format!("{name}.toml"));
    for one in &plan.components {
        if one.name.contains(['/', '\\', '\0']) || one.name.starts_with('.') {
            return Err(Error::usage(format!("`{}` cannot be used as a file name", display_name(&one.name))));
        }
        CONFIGS.check(&path(&one.name), world)?;
    }
    world.storage.create_folder(out)?;
    for one in &mut plan.components {
        let path = path(&one.name);
        CONFIGS.publish(&path, &one.config(config, &folder, &base, step)?, world)?;
        one.config = Some(path);
    }
    Ok(())
}

fn text(args: &MixPlanArgs, plan: &MixPlan) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{:<16} {:>9}  trains on", "component", "tokens");
    for one in &plan.components {
        let shares: Vec<String> = one
            .data_shares
            .iter()
            .map(|(name, share)| format!("{:.0} % {}", share * 100.0, display_name(name)))
            .collect();
        let _ = writeln!(text, "{:<16} {:>9}  {}", display_name(&one.name), show_count(one.tokens), shares.join(", "));
    }
    let _ = writeln!(
        text,
        "\n{} tokens for the components, {} with the scores of {}; a run for each mixture: {}",
        show_count(plan.component_tokens_total),
        show_count(plan.merged_total),
        counted(args.proxies, "mixture"),
        show_count(plan.trained_total)
    );
    let _ = match plan.break_even_proxies {
        Some(n) => writeln!(text, "merging is cheaper for {} or more", counted(n, "mixture")),
        None => writeln!(text, "merging never pays off: a score costs as much as a run"),
    };
    let _ = writeln!(
        text,
        "mixtures with less than {:.0} % `{}` cannot be predicted by these components",
        plan.least_general_share * 100.0,
        display_name(&plan.general)
    );
    for one in &plan.components {
        let config = one.config.as_ref().map(shell_path);
        let folder = args.out.as_ref().map(|out| shell_path(out.join(&one.name)));
        if let Some((config, folder)) = config.zip(folder) {
            let _ = writeln!(text, "  thalweg train {config} -o {folder}");
        }
    }
    text
}
