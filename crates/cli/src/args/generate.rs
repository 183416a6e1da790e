//! What can be typed for `generate`.

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// What to print
    #[command(subcommand)]
    pub(crate) what: GenerateWhat,
}

#[derive(Debug, Subcommand)]
pub(crate) enum GenerateWhat {
    /// Completions for a shell
    Completions {
        /// Which
        shell: clap_complete::Shell,
    },
    /// The man page of the program or of one command
    Man {
        /// Which command, such as `merge` or `law curve`
        command: Vec<String>,
    },
}
