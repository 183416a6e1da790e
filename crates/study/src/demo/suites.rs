//! The two suites of the demo, which share no document: one decides, one reports.

use thalweg_eval::{ReportSuite, SelectionSuite, Suite, check_apart};
use thalweg_lab::corpus::{CorpusPart, built_in_bytes};
use thalweg_merge::context::RunContext;
use thalweg_storage::guard::OwnKind;
use thalweg_storage::publish::publish_file;

use super::spec::{DemoSpec, SEQUENCE_LENGTH};
use crate::Error;

/// The score that decides.
pub(crate) const DECIDES: &str = "text/nats_per_token";

/// Writes both suites below the demo's folder, where `thalweg eval` finds them too: the one that decides first.
pub(crate) fn write_suites(spec: &DemoSpec, cx: &RunContext<'_>) -> Result<Vec<Suite>, Error> {
    let selection = SelectionSuite::new(write_suite(spec, "validation", CorpusPart::Validation, cx)?)?;
    let report = ReportSuite::new(write_suite(spec, "test", CorpusPart::Test, cx)?)?;
    check_apart(&selection, &report)?;
    Ok(vec![selection.suite().clone(), report.suite().clone()])
}

fn write_suite(spec: &DemoSpec, name: &str, part: CorpusPart, cx: &RunContext<'_>) -> Result<Suite, Error> {
    let role = if part == CorpusPart::Validation { "selection" } else { "report" };
    let n_documents = spec.numbers().n_documents;
    let folder = spec.path("suites");
    cx.storage.create_folder(&folder)?;
    let documents = built_in_bytes("stories", part).unwrap_or_default();
    let kind = OwnKind::same_bytes("the text of this demo");
    publish_file(&*cx.storage, &folder.join(format!("{name}.jsonl.zst")), documents, kind)?;
    let toml = format!(
        "kind = \"thalweg-suite\"\nversion = 1\nname = \"{name}\"\nrole = \"{role}\"\n\
         context_length = {SEQUENCE_LENGTH}\nstart = \"{}\"\n\n\
         [[task]]\nname = \"text\"\nkind = \"text\"\nfile = \"{name}.jsonl.zst\"\nlimit = {n_documents}\n",
        thalweg_lab::tokens::END_OF_TEXT
    );
    let path = folder.join(format!("{name}.toml"));
    publish_file(&*cx.storage, &path, toml.as_bytes(), OwnKind::same_bytes("the suite of this demo"))?;
    Ok(Suite::open(&*cx.storage, &path)?)
}
