//! x
use crate::{args::InspectArgs, command::Outcome, error::Error, host::World, messages::Messages};
pub(crate) fn run(_: &InspectArgs, _: &World<'_>, _: &Messages) -> Result<Outcome, Error> {
    Ok(Outcome::Done)
}
