//! The program as a user meets it: exit codes, messages, files, kills.

mod commands;
mod kill;
mod support;
