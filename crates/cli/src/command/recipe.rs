//! x
use crate::{error::Error, host::World, messages::Messages};
use std::path::Path;
use thalweg_merge::plan::MergePlan;
pub(crate) fn plan_of_recipe(_: &Path, _: Option<&Path>, _: &World<'_>, _: &Messages) -> Result<MergePlan, Error> {
    Err(Error::usage("x"))
}
