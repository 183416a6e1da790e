//! M_ex from what another evaluator decoded: one continuation for each probe and model.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use thalweg_eval::recall::{ProbeFile, RecallMeasure};
use thalweg_storage::Storage;
use thalweg_tensor::{display_name, part_of};

use super::score::{ForgetModelRow, ForgetRecord, Items, complete_rows, new_record};
use crate::Error;
use crate::document::Lines;

/// The largest file that is read.
const MAX_BYTES: u64 = 1 << 30;
const OUTPUT_HINT: &str =
    "a line is {\"model\": \"step 100\", \"step\": 100, \"id\": \"7:42\", \"output\": \" is Kalos.\"}";

/// A line of the file.
#[derive(Debug, Deserialize)]
struct OutputLine {
    model: String,
    #[serde(default)]
    step: Option<u64>,
    /// The sample.
    id: String,
    /// Place of the entity in the sample.
    #[serde(default)]
    entity: usize,
    /// What follows the prompt that ends before the entity.
    output: String,
}

/// What a model said of each probe.
struct Answers {
    model: String,
    step: Option<u64>,
    is_recalled: Vec<Option<bool>>,
}

/// An entity that outputs are looked up by.
struct Asked<'a> {
    id: &'a str,
    name: &'a str,
    kind: &'a str,
    has_prompt: bool,
}

/// Scores continuations: JSON lines such as `{"model": "step 100", "step": 100, "id": "7:42", "output": " is Kalos."}`.
/// Only entities that `recalled_by` recalls count, where a model is named so.
///
/// # Errors
/// `Request` for lines that do not read, for samples that the probes do not have, for a model with two steps, and for
/// models that lack an output; `Storage`.
pub fn score_outputs(
    path: &Path,
    probes: &ProbeFile,
    recalled_by: Option<&str>,
    storage: &dyn Storage,
) -> Result<ForgetRecord, Error> {
    let asked: Vec<Asked<'_>> = probes
        .samples
        .iter()
        .flat_map(|sample| {
            sample.entities.iter().map(|one| Asked {
                id: &sample.id,
                name: &one.name,
                kind: &one.kind,
                has_prompt: one.has_prompt,
            })
        })
        .collect();
    let models = read_answers(path, probes, &asked, storage)?;
    let refuse = |what: String, hint: &str| Error::request_with_hint(format!("`{}`: {what}", path.display()), hint);
    let Some(first) = models.first() else {
        return Err(refuse("it has no outputs".to_owned(), "write one JSON object for each probe and model"));
    };
    for model in &models {
        if let Some(what) = missing(model, first, &asked) {
            return Err(refuse(
                what,
                "give every model an output for each `prompt` of the probes, and for the same ones",
            ));
        }
    }
    let mut kept: Vec<bool> = first.is_recalled.iter().map(Option::is_some).collect();
    if let Some(name) = recalled_by {
        let Some(judge) = models.iter().find(|one| one.model == name) else {
            let names: Vec<String> = models.iter().map(|one| format!("`{}`", display_name(&one.model))).collect();
            let hint = format!("`--recalled-by` names a model of the file: {}", names.join(", "));
            return Err(refuse(format!("it has no model `{}`", display_name(name)), &hint));
        };
        kept.iter_mut().zip(&judge.is_recalled).for_each(|(kept, is_recalled)| *kept &= *is_recalled == Some(true));
        if !kept.contains(&true) {
            let what = format!("`{}` recalls none of the {} entities", display_name(name), kept.len());
            return Err(refuse(what, "name another model, or leave out `--recalled-by`"));
        }
    }
    let mut record = new_record(probes, probes.options.unwrap_or_default(), &kept);
    record.recalled_by = recalled_by.map(Into::into);
    let row = |model: &Answers| ForgetModelRow {
        name: model.model.clone(),
        step: model.step,
        steps: vec![model.step],
        ..ForgetModelRow::default()
    };
    record.models = models.iter().map(row).collect();
    let kinds: Vec<&str> = asked.iter().map(|one| one.kind).collect();
    complete_rows(&mut record.models, (&kinds, &kept), &|i, kept| items_of(&models[i], kept));
    Ok(record)
}

/// The outputs that a model lacks: those of entities with a prompt, and those that the first model has.
fn missing(model: &Answers, first: &Answers, asked: &[Asked<'_>]) -> Option<String> {
    let is_expected = |i: &usize| asked[*i].has_prompt || first.is_recalled[*i].is_some();
    let lacks = |i: &usize| model.is_recalled[*i].is_none();
    let expected: Vec<usize> = (0..asked.len()).filter(is_expected).collect();
    let lacking: Vec<usize> = expected.iter().copied().filter(lacks).collect();
    let unexpected = (0..asked.len()).find(|i| !is_expected(i) && !lacks(i));
    let (of_model, of_first) = (display_name(&model.model), display_name(&first.model));
    let named = |i: usize| format!("`{}` in sample `{}`", display_name(asked[i].name), display_name(asked[i].id));
    match (lacking.first(), unexpected) {
        (Some(&i), _) => {
            let part = part_of(lacking.len(), expected.len(), "entity");
            Some(format!("model `{of_model}` has no output for {part}, such as {}", named(i)))
        }
        (None, Some(i)) => {
            Some(format!("model `{of_model}` has an output for {}, but `{of_first}` has none", named(i)))
        }
        (None, None) => None,
    }
}

fn read_answers(
    path: &Path,
    probes: &ProbeFile,
    asked: &[Asked<'_>],
    storage: &dyn Storage,
) -> Result<Vec<Answers>, Error> {
    let mut places = BTreeMap::new();
    for sample in &probes.samples {
        for entity in 0..sample.entities.len() {
            places.insert((sample.id.as_str(), entity), places.len());
        }
    }
    let mut models: Vec<Answers> = Vec::new();
    let mut by_name: BTreeMap<String, usize> = BTreeMap::new();
    let read = |_: usize, line: &str| {
        let line: OutputLine = serde_json::from_slice(line.as_bytes()).map_err(|error| error.to_string())?;
        let sample = display_name(&line.id);
        let Some(&place) = places.get(&(line.id.as_str(), line.entity)) else {
            return Err(format!("the probes have no entity {} in a sample `{sample}`", line.entity));
        };
        let model = *by_name.entry(line.model.clone()).or_insert_with(|| {
            models.push(Answers { model: line.model.clone(), step: line.step, is_recalled: vec![None; asked.len()] });
            models.len() - 1
        });
        match (models[model].step, line.step) {
            (Some(known), Some(step)) if known != step => {
                let name = display_name(&line.model);
                return Err(format!("model `{name}` has step {step} here and step {known} in an earlier line"));
            }
            (known, step) => models[model].step = known.or(step),
        }
        let is_recalled = line.output.contains(asked[place].name);
        if models[model].is_recalled[place].replace(is_recalled).is_some() {
            return Err(format!("there are two outputs of this model for sample `{sample}`"));
        }
        Ok(())
    };
    Lines::of_file(storage, path, MAX_BYTES)?.read(usize::MAX, OUTPUT_HINT, read)?;
    models.sort_by_key(|model| model.step);
    Ok(models)
}

/// M_ex alone: the other measures need the model.
fn items_of(model: &Answers, kept: &[bool]) -> [Items; 6] {
    let values = model.is_recalled.iter().zip(kept).filter(|(_, kept)| **kept).filter_map(|(one, _)| *one);
    let of_ex: Items = values.map(|is_recalled| (if is_recalled { 1.0 } else { 0.0 }, 1.0)).unzip();
    RecallMeasure::ALL.map(|measure| if measure == RecallMeasure::Ex { of_ex.clone() } else { Items::default() })
}
