//! x
use std::path::Path; use thalweg_merge::plan::MergePlan;
use crate::{error::Error,host::World,messages::Messages};
pub(crate) fn plan_of_recipe(_: &Path, _: Option<&Path>, _: &World<'_>, _: &Messages) -> Result<MergePlan, Error> { Err(Error::usage("x")) }
