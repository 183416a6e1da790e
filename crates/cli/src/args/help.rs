//! How `--help` is laid out: the commands in groups, and the options of every command under one heading.

use std::fmt::Write;

use clap::{Arg, ArgAction, Command, CommandFactory};

use super::Arguments;

/// The heading of the options that every command has.
pub(super) const COMMON: &str = "Common options";

/// All commands, by what one wants to do.
const GROUPS: [(&str, &[&str]); 6] = [
    ("Look", &["inspect", "diff", "verify", "explain"]),
    ("Merge", &["merge", "plan", "launch", "convert"]),
    ("Choose what to merge", &["eval", "sweep", "forecast", "extrapolate", "report"]),
    ("While a run trains, and after it", &["watch", "serve", "recover", "init"]),
    ("Experts and data", &["law", "mix", "forget"]),
    ("Try it, and the rest", &["demo", "train", "clean", "generate", "help"]),
];

/// The program as it is parsed, and described to people, shells and manuals.
pub(crate) fn program() -> Command {
    let program = with_help_flag(Arguments::command());
    let version = Arg::new("version").short('V').long("version").action(ArgAction::Version).help("Print version");
    let program = program.disable_version_flag(true).arg(in_common(version));
    let template = template(&program);
    program.help_template(template)
}

/// Gives a command and those below it a help flag that is listed with the other common options.
fn with_help_flag(command: Command) -> Command {
    let help = Arg::new("help").short('h').long("help").action(ArgAction::Help).help("Print help");
    command.disable_help_flag(true).arg(in_common(help)).mut_subcommands(with_help_flag)
}

/// Last among the common options.
fn in_common(arg: Arg) -> Arg {
    arg.help_heading(COMMON).display_order(usize::MAX)
}

/// The help of the program itself, without blank lines between groups, so that it fits one screen. The parser has no
/// groups of commands.
fn template(program: &Command) -> String {
    let header = program.get_styles().get_header();
    let mut text = "{about-with-newline}\n{usage-heading} {usage}\n\n".to_owned();
    // Writing to a String cannot fail.
    for (heading, names) in GROUPS {
        let _ = writeln!(text, "{header}{heading}:{header:#}");
        for name in names {
            let about = program.find_subcommand(name).and_then(Command::get_about);
            let about = about.map_or_else(|| "Print the help of a command".to_owned(), ToString::to_string);
            let _ = writeln!(text, "  {name:<12} {about}");
        }
    }
    let _ = write!(text, "\n{header}{COMMON}:{header:#}\n{{options}}\n\n{{after-help}}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_in_one_group() {
        let mut grouped: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        grouped.sort_unstable();
        let program = Arguments::command();
        let mut all: Vec<&str> = program.get_subcommands().map(Command::get_name).chain(["help"]).collect();
        all.sort_unstable();
        assert_eq!(grouped, all);
    }
}
