//! `thalweg mix`: mixtures of training data, found by merging.

mod check;
mod plan;
mod search;
mod validate;

use std::path::PathBuf;

use thalweg_study::mix::Component;
use thalweg_study::request::Resolver;

use crate::args::{MixArgs, MixCommand, RunArgs};
use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;
use crate::options::named_path;

pub(crate) fn run(args: &MixArgs, world: &World<'_>) -> Result<Outcome, Error> {
    match &args.what {
        MixCommand::Plan(args) => plan::run(args, world),
        MixCommand::Check(args) => check::run(args, world),
        MixCommand::Search(args) => search::run(args, world),
        MixCommand::Validate(args) => validate::run(args, world),
    }
}

/// Components of `NAME=CKPT`, and other checkpoints, in the order given.
fn components(texts: &[String], run: &RunArgs, resolver: &Resolver<'_>) -> Result<Vec<Component>, Error> {
    let split = |text: &String| named_path("--component", text, "web=CKPT");
    let named = texts.iter().map(split).collect::<Result<Vec<_>, Error>>()?;
    let source =
        |(name, path): (String, PathBuf)| Ok(Component { name, source: resolver.lone_model(&path, &run.options)? });
    named.into_iter().map(source).collect()
}
