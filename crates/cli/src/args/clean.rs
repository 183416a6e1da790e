//! What can be typed for `clean`.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct CleanArgs {
    /// Address of an output, a run or a bucket, such as s3://bucket/runs: searches everything below it
    #[arg(value_name = "URL")]
    pub(crate) path: PathBuf,
    /// List the unfinished uploads without removing anything
    #[arg(long)]
    pub(crate) dry_run: bool,
}
