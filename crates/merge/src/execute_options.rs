//! How a plan is executed.

use thalweg_storage::publish::Replace;

/// What a run may do to things that exist, beyond what the plan says: by default it replaces nothing and resumes what
/// was interrupted.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExecuteOptions {
    /// Whether another output may be replaced.
    pub replace: Replace,
    /// What becomes of a stage that an interrupted run left.
    pub partial: PartialStage,
}

/// What becomes of a stage that an interrupted run left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PartialStage {
    /// Resume it. One of another plan or reading is an error.
    #[default]
    Resume,
    /// Resume it if it is of the same plan and reading, else start over.
    ResumeIfSame,
    /// Start over.
    Discard,
}
