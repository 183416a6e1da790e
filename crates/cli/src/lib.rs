//! The `thalweg` program: arguments in, messages and exit code out. Each command is one file in `command/`.
//!
//! A library, because link-time optimization takes its level from the binary (`cargo xtask dist`): that has to be fast,
//! while all of this can be small.

mod args;
mod command;
mod error;
mod eval_external;
mod eval_requests;
mod eval_results;
mod host;
mod merge_shares;
mod merged;
mod messages;
mod meter;
mod near_path;
mod notify;
mod options;
mod pace;
mod planned;
mod policy;
mod progress;
mod recipe;
mod requests;
mod run;
mod scoring;
mod serve;
mod share_env;
mod shell;
mod stdout;
mod store;
mod svg;
mod text_bar;
mod train_config;

use std::process::ExitCode;

use crate::args::{Arguments, Command, ReadArgs};
use crate::command::Outcome;
use crate::messages::Messages;
use crate::near_path::nearest_path;
use thalweg_checkpoint::ReadOptions;
use thalweg_study::request::read_rename_map;

/// Does what the arguments of the process ask for.
pub fn start() -> ExitCode {
    let (arguments, reading) = match args::parse_arguments() {
        Ok(parsed) => parsed,
        Err(answer) => return messages::finish_without_command(&answer),
    };
    let messages = Messages::new(&arguments.global);
    let outcome = run(&arguments, reading, &messages);
    messages.finish(outcome)
}

fn run(arguments: &Arguments, reading: ReadArgs, messages: &Messages) -> Result<Outcome, error::Error> {
    let options = ReadOptions { key: reading.key, params: reading.params, ..ReadOptions::default() };
    let mut world = host::World::new(&arguments.global, options, messages)?;
    if let Some(path) = reading.rename {
        world.reading.rename = read_rename_map(&*world.storage, &path)?;
    }
    // What fails once a stop was asked for, such as a request that was not waited for, failed because of it.
    run_command(&arguments.command, &world).map_err(|error| match error.missing_path() {
        _ if world.is_stopping() => error.when_stopped(),
        Some(missing) => match nearest_path(&*world.storage, missing) {
            Some(near) => error.when_near(near),
            None => error,
        },
        None => error,
    })
}

fn run_command(command: &Command, world: &host::World<'_>) -> Result<Outcome, error::Error> {
    match command {
        Command::Inspect(args) => command::inspect::run(args, world),
        Command::Fetch(args) => command::fetch::run(args, world),
        Command::Plan(args) => command::plan::run(args, world),
        Command::Merge(args) => command::merge::run(args, world),
        Command::Launch(args) => command::launch::run(args, world),
        Command::Convert(args) => command::convert::run(args, world),
        Command::Sweep(args) => command::sweep::run(args, world),
        Command::Watch(args) => command::watch::run(args, world),
        Command::Serve(args) => command::serve::run(args, world),
        Command::Verify(args) => command::verify::run(args, world),
        Command::Diff(args) => command::diff::run(args, world),
        Command::Eval(args) => command::eval::run(args, world),
        Command::Forecast(args) => command::forecast::run(args, world),
        Command::Extrapolate(args) => command::extrapolate::run(args, world),
        Command::Law(args) => command::law::run(args, world),
        Command::Mix(args) => command::mix::run(args, world),
        Command::Forget(args) => command::forget::run(args, world),
        Command::Explain(args) => command::explain::run(args, world),
        Command::Recover(args) => command::recover::run(args, world),
        Command::Init(args) => command::init::run(args, world),
        Command::Train(args) => command::train::run(args, world),
        Command::Demo(args) => command::demo::run(args, world),
        Command::Report(args) => command::report::run(args, world),
        Command::Clean(args) => command::clean::run(args, world),
        Command::Generate(args) => command::generate::run(args, world),
    }
}
