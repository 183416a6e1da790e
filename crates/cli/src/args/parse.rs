//! Reads the command line, and corrects advice of the parser that does not work.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgMatches, FromArgMatches};

use super::{Arguments, ReadArgs, program};

/// The arguments of this process, with those about how checkpoints are read, or what to print instead of running.
pub(crate) fn parse_arguments() -> Result<(Arguments, ReadArgs), clap::Error> {
    let words: Vec<OsString> = std::env::args_os().collect();
    // `--last -1` is a bad number, not an unknown option.
    let mut command = allow_negative_numbers(program());
    let parsed = command.try_get_matches_from_mut(&words).and_then(|matches| {
        let arguments = Arguments::from_arg_matches(&matches).and_then(|all| Ok((all, reading(&matches)?)));
        arguments.map_err(|error| error.format(&mut command))
    });
    parsed.map_err(|mut error| {
        if error.kind() == ErrorKind::UnknownArgument
            && let Some(ContextValue::String(unknown)) = error.get(ContextKind::InvalidArg)
        {
            match tip_for_value(&command, &words, unknown) {
                Some(tip) => {
                    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
                }
                // What begins with two dashes is a mistyped option, not the name of a checkpoint.
                None if unknown.starts_with("--") => {
                    error.remove(ContextKind::Suggested);
                }
                None => {}
            }
        }
        error
    })
}

/// What is said about reading, by whichever command takes it.
fn reading(matches: &ArgMatches) -> Result<ReadArgs, clap::Error> {
    match matches.subcommand() {
        Some((_, below)) => reading(below),
        None if matches.try_contains_id("rename").is_ok() => ReadArgs::from_arg_matches(matches),
        None => Ok(ReadArgs::default()),
    }
}

fn allow_negative_numbers(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| match arg.get_action().takes_values() && !arg.is_positional() {
        true if !arg.is_allow_hyphen_values_set() => arg.allow_negative_numbers(true),
        _ => arg,
    });
    command.mut_subcommands(allow_negative_numbers)
}

/// The command, or the one below it, that these words name.
fn named_by<'a>(command: &'a clap::Command, words: &[OsString]) -> &'a clap::Command {
    words.iter().skip(1).fold(command, |used, word| used.find_subcommand(word).unwrap_or(used))
}

/// A note after a hint whose options the command lacks: the crates that write hints do not know the command.
pub(crate) fn lacking_options(hint: &str) -> Option<String> {
    let words: Vec<OsString> = std::env::args_os().collect();
    let command = program();
    let used = named_by(&command, &words);
    let arguments = || used.get_arguments().chain(command.get_arguments());
    let is_known = |long: &str| {
        arguments().any(|arg| arg.get_long_and_visible_aliases().is_some_and(|names| names.contains(&long)))
    };
    let lacking: Vec<String> = options_in(hint).into_iter().filter(|long| !is_known(long)).collect();
    let is_of = |name: &str, long: &str| {
        let mut arguments = command.find_subcommand(name).into_iter().flat_map(clap::Command::get_arguments);
        arguments.any(|arg| arg.get_long_and_visible_aliases().is_some_and(|names| names.contains(&long)))
    };
    let lacking: Vec<String> = lacking.into_iter().filter(|long| is_of("merge", long)).collect();
    let name = used.get_bin_name().or(Some(used.get_name())).filter(|_| !lacking.is_empty())?;
    let do_have = match lacking.iter().all(|long| is_of("sweep", long)) {
        true => "`thalweg merge` and `thalweg sweep` do",
        false => "`thalweg merge` does",
    };
    let lacking: Vec<String> = lacking.iter().map(|long| format!("`--{long}`")).collect();
    Some(format!(
        "`{}` has no {}: {do_have}; or choose other checkpoints",
        name.trim_start_matches("thalweg "),
        lacking.join(" or ")
    ))
}

/// The long options that a text names, outside commands that it quotes whole.
fn options_in(text: &str) -> Vec<String> {
    let outside = text.split('`').filter(|part| !part.starts_with("thalweg "));
    let words = outside.flat_map(|part| part.split(|c: char| c.is_whitespace() || c == '=' || c == ','));
    let longs = words.filter_map(|word| word.strip_prefix("--"));
    longs.filter(|long| !long.is_empty()).map(str::to_owned).collect()
}

/// How a value that looks like an option is given to the option before it. `--` would end all options.
fn tip_for_value(command: &clap::Command, words: &[OsString], unknown: &str) -> Option<String> {
    let at = words.iter().position(|word| word.to_string_lossy() == unknown)?;
    let before = words.get(at.checked_sub(1)?)?.to_str()?;
    let used = named_by(command, words.get(..at)?);
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
