//! Forgetting in pre-training: entities that a phase of training had and a later one lacks, and how well checkpoints
//! and merges still recall them (Liao et al. 2025, arXiv 2410.17018).
//!
//! [`choose_entities`] finds the entities by counting titles in two corpora, [`build_probes`] cuts samples around them,
//! [`score_models`] asks checkpoints and merges, [`forget_curve`] follows the answers over a run, [`plan_replay`] lets
//! a run see the earlier corpus again.

mod bm25;
mod build;
mod curve;
mod entities;
mod models;
mod outputs;
mod replay;
mod schedule;
mod score;
mod titles;

pub use build::{BuildOptions, BuiltProbes, PROBES, build_probes, open_tokenizer};
pub use curve::{CurveTable, CurveTableRow, ForgetArm, ForgottenRow, KeptRow, forget_curve};
pub use entities::{ENTITIES, EntityRecord, EntitySet, choose_entities, read_entities};
pub use models::{ForgetModel, ForgetRequest};
pub use outputs::score_outputs;
pub use replay::{ReplayCorpora, ReplayCycle, ReplayOptions, ReplayPlan, ReplayPolicy, ReplayRun, plan_replay};
pub use schedule::{ReplayPlace, ReplaySteps, SCHEDULE, read_schedule};
pub use score::{
    ForgetModelRow, ForgetOptions, ForgetRecord, ItemRow, MeasureRow, PairedRow, SCORES, TypeRow, read_scores,
    score_models,
};
