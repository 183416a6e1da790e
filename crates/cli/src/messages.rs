//! What a person reads, and the exit code: the only place that prints.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use clap::ColorChoice;
use indicatif::ProgressDrawTarget;
use serde::Serialize;
use serde_json::{Value, json};
use thalweg_tensor::display_name;

use crate::args::{GlobalArgs, lacking_options};
use crate::command::Outcome;
use crate::error::Error;
use crate::stdout::write_stdout;
use crate::text_bar::TextBar;

/// Standard error, with the user's wishes about it.
#[derive(Debug, Clone)]
pub(crate) struct Notes {
    quiet: bool,
    color: bool,
    /// The bar on the terminal: whatever is printed removes it first.
    bar: Arc<Mutex<Option<TextBar>>>,
}

impl Notes {
    /// A note for the user, during or after the work.
    pub(crate) fn note(&self, text: impl Display) {
        if !self.quiet {
            self.write(&format!("{} {}\n", self.paint("36", "note:"), shown(text)));
        }
    }

    fn write(&self, text: &str) {
        self.clear_bar();
        // If standard error is gone, there is nowhere left to say so.
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }

    fn clear_bar(&self) {
        if let Some(bar) = self.bar.lock().unwrap_or_else(PoisonError::into_inner).take() {
            bar.clear();
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.color { format!("\u{1b}[1;{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// Standard output and error, with the user's wishes about them.
#[derive(Debug)]
pub(crate) struct Messages {
    json: bool,
    verbose: bool,
    notes: Notes,
    /// The first error of standard output.
    output_fault: Mutex<Option<std::io::Error>>,
    /// Whether standard output holds the document that is the result.
    has_document: AtomicBool,
}

impl Messages {
    pub(crate) fn new(global: &GlobalArgs) -> Self {
        let color = match global.color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
        };
        let notes = Notes { quiet: global.quiet, color, bar: Arc::default() };
        let has_document = AtomicBool::new(false);
        Self { json: global.json, verbose: global.verbose, notes, output_fault: Mutex::new(None), has_document }
    }

    /// Whether the result is wanted as one JSON document.
    pub(crate) fn wants_json(&self) -> bool {
        self.json
    }

    /// The result: text for a person, unless JSON was asked for.
    pub(crate) fn text(&self, text: &str) {
        if !self.json {
            self.stdout(&shown(text));
        }
    }

    /// The result as JSON, if that was asked for.
    pub(crate) fn json(&self, document: &Value) {
        if self.json {
            let text = serde_json::to_string_pretty(document).unwrap_or_default();
            self.has_document.store(true, Ordering::Relaxed);
            self.stdout(&format!("{text}\n"));
        }
    }

    /// One of many results as a line of JSON, if that was asked for.
    pub(crate) fn json_line(&self, document: &Value) {
        if self.json {
            self.stdout(&format!("{document}\n"));
        }
    }

    /// A document that is the result whatever was asked for: completions, man pages.
    pub(crate) fn document(&self, text: &str) {
        self.stdout(text);
    }

    fn stdout(&self, text: &str) {
        self.clear_bar();
        if let Err(error) = write_stdout(text) {
            self.output_fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    }

    /// Where notes go, for what outlives these messages.
    pub(crate) fn notes(&self) -> Notes {
        self.notes.clone()
    }

    /// A note for the user, during or after the work.
    pub(crate) fn note(&self, text: impl Display) {
        self.notes.note(text);
    }

    /// Something only `-v` shows.
    pub(crate) fn detail(&self, text: impl Display) {
        if self.verbose && !self.notes.quiet {
            self.notes.write(&format!("{}\n", shown(text)));
        }
    }

    /// A line of progress where there is no terminal.
    pub(crate) fn progress_line(&self, text: impl Display) {
        if !self.notes.quiet {
            self.notes.write(&format!("{}\n", shown(text)));
        }
    }

    /// How far an act is: a bar on a terminal, a line elsewhere.
    pub(crate) fn show_progress(&self, template: &str, [position, total]: [u64; 2], text: String) {
        if !self.draws_bars() {
            return self.progress_line(text);
        }
        let mut bar = self.notes.bar.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = bar.take_if(|bar| !bar.is_like(total, template)) {
            other.clear();
        }
        let new_bar = || TextBar::new(total, template, ProgressDrawTarget::stderr());
        bar.get_or_insert_with(new_bar).show(position, text);
    }

    /// Removes the bar from the terminal, as all that is printed does.
    pub(crate) fn clear_bar(&self) {
        self.notes.clear_bar();
    }

    /// Whether a moving bar may be drawn.
    pub(crate) fn draws_bars(&self) -> bool {
        !self.notes.quiet && std::io::stderr().is_terminal()
    }

    /// Says what went wrong, if anything did, and turns the outcome into an exit code.
    pub(crate) fn finish(&self, outcome: Result<Outcome, Error>) -> ExitCode {
        self.clear_bar();
        let fault = self.output_fault.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (outcome, fault) {
            (Ok(_), Some(fault)) if fault.kind() != std::io::ErrorKind::BrokenPipe => {
                self.finish(Err(Error::StandardOutput(fault)))
            }
            (outcome, _) => self.finish_told(outcome),
        }
    }

    fn finish_told(&self, outcome: Result<Outcome, Error>) -> ExitCode {
        match outcome {
            Ok(Outcome::Done) => ExitCode::SUCCESS,
            Ok(Outcome::No) => ExitCode::from(1),
            Err(error) => {
                self.notes.write(&format!("{} {}\n", self.notes.paint("31", "error:"), shown(&error)));
                for line in error.details() {
                    self.notes.write(&format!("  {}\n", shown(line)));
                }
                let hint = error.hint();
                let lacking = hint.as_deref().and_then(lacking_options);
                if let Some(hint) = &hint {
                    self.notes.write(&format!("{} {}\n", self.notes.paint("32", "hint:"), shown(hint)));
                }
                if let Some(lacking) = &lacking {
                    self.notes.write(&format!("{} {}\n", self.notes.paint("36", "note:"), shown(lacking)));
                }
                if self.json && !self.has_document.load(Ordering::Relaxed) {
                    let hint = hint.map(|hint| lacking.map_or(hint.clone(), |lacking| format!("{hint}; {lacking}")));
                    write_error_document(
                        (&error.reason(), error.exit_code()),
                        (&error.to_string(), error.details(), hint),
                    );
                }
                ExitCode::from(error.exit_code())
            }
        }
    }
}

/// A result as a document of a kind: its own keys, after `kind` and `version`.
pub(crate) fn document_of(kind: &str, result: &impl Serialize) -> Value {
    with_fields(Value::from_iter([("kind", json!(kind)), ("version", json!(1))]), result)
}

/// A document with the fields of `more` after its own.
pub(crate) fn with_fields(document: Value, more: &impl Serialize) -> Value {
    with_values(document, serde_json::to_value(more).unwrap_or_default())
}

fn with_values(mut document: Value, more: Value) -> Value {
    if let (Value::Object(document), Value::Object(more)) = (&mut document, more) {
        document.extend(more);
    }
    document
}

/// The error as the document that a program reads from standard output, where `--json` asks for one and no result is
/// there. It is one line, so that it may follow lines of results.
fn write_error_document((reason, exit_code): (&str, u8), (error, details, hint): (&str, Vec<String>, Option<String>)) {
    let document = json!({
        "kind": "thalweg-error", "version": 1, "exit_code": exit_code, "reason": reason, "error": error,
        "details": details, "hint": hint,
    });
    // The exit code says that the command failed; standard error has the text.
    let _ = write_stdout(&format!("{document}\n"));
}

/// Prints what clap has to say instead of running a command: help, the version, or what is wrong with the arguments.
pub(crate) fn finish_without_command(answer: &clap::Error) -> ExitCode {
    if answer.use_stderr() {
        let _ = answer.print();
        if std::env::args_os().any(|word| word == "--json") {
            let (error, details, hint) = usage_parts(&answer.render().to_string());
            write_error_document(("Usage", 2), (&error, details, hint));
        }
        return ExitCode::from(2);
    }
    let text = answer.render();
    let text = if std::io::stdout().is_terminal() { text.ansi().to_string() } else { text.to_string() };
    match write_stdout(&text) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            let _ = writeln!(std::io::stderr().lock(), "error: {}", Error::StandardOutput(error));
            ExitCode::from(2)
        }
        _ => ExitCode::SUCCESS,
    }
}

/// What the parser says is wrong, the lines that follow, and its tip or else how the command is used.
fn usage_parts(text: &str) -> (String, Vec<String>, Option<String>) {
    let parts: Vec<&str> = text.split("\n\n").map(str::trim).collect();
    let find = |start: &str| parts.iter().find_map(|part| part.strip_prefix(start)).map(str::to_owned);
    let usage = find("Usage: ").map(|usage| format!("usage: {usage}"));
    let said = find("error: ").unwrap_or_else(|| text.trim().to_owned());
    let mut lines = said.lines().map(|line| line.trim().to_owned());
    (lines.next().unwrap_or_default(), lines.collect(), find("tip: ").or(usage))
}

/// A text that is safe to print: paths and names come from untrusted files and could hold control sequences.
fn shown(text: impl Display) -> String {
    text.to_string().split('\n').map(display_name).collect::<Vec<_>>().join("\n")
}
