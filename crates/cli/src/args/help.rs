//! How `--help` is laid out: the commands in groups, and the options of every command under one heading.

use std::fmt::Write;

use clap::{Arg, ArgAction, Command, CommandFactory};

use super::Arguments;

/// The heading of the options that every command has.
pub(super) const COMMON: &str = "Common options";

/// The commands by what one wants to do; those that are not listed follow in the last group.
const GROUPS: [(&str, &[&str]); 6] = [
    ("Look", &["inspect", "diff", "verify", "explain"]),
    ("Merge", &["fetch", "merge", "plan", "launch", "convert"]),
    ("Choose what to merge", &["eval", "sweep", "forecast", "extrapolate", "report"]),
    ("While a run trains, and after it", &["watch", "serve", "recover", "init"]),
    ("Experts and data", &["law", "mix", "forget"]),
    ("Everything else", &["demo", "train"]),
];

/// The program as it is parsed, and described to people, shells and manuals.
pub(crate) fn program() -> Command {
    let program = with_help_flag(Arguments::command());
    let version = Arg::new("version").short('V').long("version").action(ArgAction::Version).help("Print version");
    let program = program.disable_version_flag(true).arg(in_common(version));
    // The program itself has only common options. Manuals list options of all headings in one order.
    let mut order = 1_000;
    let program = program.mut_args(|arg| {
        order += 1;
        if arg.get_display_order() == usize::MAX { arg } else { arg.display_order(order) }
    });
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
    let line = |text: &mut String, name: &str| {
        let about = program.find_subcommand(name).and_then(Command::get_about);
        let about = about.map_or_else(|| "Print the help of a command".to_owned(), ToString::to_string);
        let _ = writeln!(text, "  {name:<12} {about}");
    };
    for (heading, names) in GROUPS {
        let _ = writeln!(text, "{header}{heading}:{header:#}");
        names.iter().for_each(|name| line(&mut text, name));
    }
    let is_listed = |name: &&str| GROUPS.iter().any(|(_, names)| names.contains(name));
    let others = program.get_subcommands().map(Command::get_name).chain(["help"]).filter(|name| !is_listed(name));
    others.for_each(|name| line(&mut text, name));
    let _ = write!(text, "{header}{COMMON}:{header:#}\n{{options}}{{after-help}}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_listed_once() {
        let help = program().render_help().to_string();
        for name in program().get_subcommands().map(Command::get_name).chain(["help"]) {
            let start = format!("  {name} ");
            assert_eq!(help.lines().filter(|line| line.starts_with(&start)).count(), 1, "{name}");
        }
        let names = GROUPS.iter().flat_map(|(_, names)| names.iter());
        names.for_each(|name| assert!(program().find_subcommand(name).is_some(), "{name}"));
    }
}
