//! `thalweg generate`: shell completions and man pages, from the same description as `--help`.

use crate::args::{EXIT_CODES, GenerateArgs, GenerateWhat, program};
use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;

pub(crate) fn run(args: &GenerateArgs, world: &World<'_>) -> Result<Outcome, Error> {
    let mut program = program();
    program.build();
    let mut bytes = Vec::new();
    match &args.what {
        GenerateWhat::Completions { shell } => {
            clap_complete::generate(*shell, &mut program, "thalweg", &mut bytes);
        }
        GenerateWhat::Man { command } => {
            let mut page = program;
            for name in command {
                page = page
                    .find_subcommand(name)
                    .cloned()
                    .ok_or_else(|| Error::usage(format!("`{}` has no command `{name}`", page.get_name())))?;
            }
            clap_mangen::Man::new(page)
                .render(&mut bytes)
                .map_err(|error| Error::usage(format!("the man page cannot be made: {error}")))?;
            bytes.extend_from_slice(exit_status().as_bytes());
        }
    }
    world.messages.document(&String::from_utf8_lossy(&bytes));
    Ok(Outcome::Done)
}

/// The section of a man page about exit codes, in the language of man pages.
fn exit_status() -> String {
    let rows = EXIT_CODES.iter().map(|(code, what)| format!(".TP\n\\fB{code}\\fR\n{what}\n"));
    format!(".SH \"EXIT STATUS\"\n{}", rows.collect::<String>())
}
