//! What is chosen by a set must not be reported on it: two types, and a check that their sets differ.

use crate::Error;
use crate::suite::{Suite, SuiteRole, Task};

/// A suite to choose by.
#[derive(Debug, Clone)]
pub struct SelectionSuite(Suite);

/// A suite to report on.
#[derive(Debug, Clone)]
pub struct ReportSuite(Suite);

fn with_role(suite: Suite, wanted: SuiteRole) -> Result<Suite, Error> {
    match suite.role {
        Some(role) if role == wanted => Ok(suite),
        role => {
            let found = role.map_or("neither (it has no `role`)", SuiteRole::name);
            Err(Error::WrongRole { name: suite.name, wanted: wanted.name(), found })
        }
    }
}

impl SelectionSuite {
    /// Takes a suite with `role = "selection"`.
    ///
    /// # Errors
    /// `WrongRole`.
    pub fn new(suite: Suite) -> Result<Self, Error> {
        with_role(suite, SuiteRole::Selection).map(Self)
    }

    /// The suite.
    pub fn suite(&self) -> &Suite {
        &self.0
    }
}

impl ReportSuite {
    /// Takes a suite with `role = "report"`.
    ///
    /// # Errors
    /// `WrongRole`.
    pub fn new(suite: Suite) -> Result<Self, Error> {
        with_role(suite, SuiteRole::Report).map(Self)
    }

    /// The suite.
    pub fn suite(&self) -> &Suite {
        &self.0
    }
}

/// Checks that no row is in both: two tasks may share a file only where `where` parts it.
///
/// # Errors
/// `SharedSet` with the first that is shared.
pub fn check_apart(selection: &SelectionSuite, report: &ReportSuite) -> Result<(), Error> {
    for chosen in &selection.suite().tasks {
        if let Some(reported) = report.suite().tasks.iter().find(|task| shares_rows(chosen, task)) {
            return Err(Error::SharedSet {
                path: chosen.file.clone(),
                selection_task: chosen.name.clone(),
                report_task: reported.name.clone(),
            });
        }
    }
    Ok(())
}

fn shares_rows(a: &Task, b: &Task) -> bool {
    let is_parted =
        a.filter.iter().any(|(key, value)| b.filter.iter().any(|(other, wanted)| key == other && value != wanted));
    a.file_digest == b.file_digest && !is_parted
}
