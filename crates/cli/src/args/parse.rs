//! Reads the command line, and corrects advice of the parser that does not work.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches};

use super::Arguments;

/// The arguments of this process, or what to print instead of running.
pub(crate) fn parse_arguments() -> Result<Arguments, clap::Error> {
    let words: Vec<OsString> = std::env::args_os().collect();
    // `--last -1` is a bad number, not an unknown option.
    let mut command = Arguments::command().mut_subcommands(|command| {
        command.mut_args(|arg| match arg.get_action().takes_values() && !arg.is_positional() {
            true if !arg.is_allow_hyphen_values_set() => arg.allow_negative_numbers(true),
            _ => arg,
        })
    });
    let parsed = command
        .try_get_matches_from_mut(&words)
        .and_then(|matches| Arguments::from_arg_matches(&matches).map_err(|error| error.format(&mut command)));
    parsed.map_err(|mut error| {
        if error.kind() == ErrorKind::UnknownArgument
            && let Some(ContextValue::String(unknown)) = error.get(ContextKind::InvalidArg)
            && let Some(tip) = tip_for_value(&command, &words, unknown)
        {
            error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
        }
        error
    })
}

/// How a value that looks like an option is given to the option before it. `--` would end all options.
fn tip_for_value(command: &clap::Command, words: &[OsString], unknown: &str) -> Option<String> {
    let at = words.iter().position(|word| word.to_string_lossy() == unknown)?;
    let before = words.get(at.checked_sub(1)?)?.to_str()?;
    let used = words.iter().take(at).find_map(|word| command.find_subcommand(word)).unwrap_or(command);
    let mut arguments = used.get_arguments().chain(command.get_arguments());
    let is_before = |arg: &clap::Arg| match before.strip_prefix("--") {
        Some(long) => arg.get_long_and_visible_aliases().is_some_and(|names| names.contains(&long)),
        None => before
            .strip_prefix('-')
            .is_some_and(|short| arg.get_short().is_some_and(|letter| short.chars().eq(std::iter::once(letter)))),
    };
    let takes_value = arguments.any(|arg| is_before(arg) && arg.get_action().takes_values());
    takes_value.then(|| format!("to pass '{unknown}' as the value of '{before}', use '{before}={unknown}'"))
}
