//! A suite: which sets are scored, how, and in how much context. Data, in TOML; `docs/adding/task.md` describes it.
//!
//! A suite is read whole: its rows are in memory, its digest covers every file. It does not know tokens or models.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use thalweg_storage::Storage;
use thalweg_tensor::Digest;
use thalweg_tensor::digest::{DigestKind, bytes_digest};

use crate::Error;
use crate::data::{json_lines, read_data};
use crate::fields::Fields;
use crate::measure::{Measure, TaskKind};
use crate::row::{Row, RowBody, parse_row};

/// `kind` of a suite.
pub(crate) const SUITE_KIND: &str = "thalweg-suite";
/// `version` of the suites that are read.
pub(crate) const SUITE_VERSION: i64 = 1;

const SUITE_KEYS: &[&str] = &["kind", "version", "name", "role", "context_length", "start", "start_token", "task"];
const TASK_KEYS: &[&str] =
    &["name", "kind", "file", "limit", "where", "measures", "delimiter", "fewshot", "stride", "cut_tokens", "split_on"];
/// Tokens that a model sees at most where the suite leaves it open.
const AUTO_CONTEXT: usize = 512;
/// The largest suite file.
const MAX_SUITE_BYTES: u64 = 1 << 20;

/// What a suite may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SuiteRole {
    /// To choose by: mixtures, windows, schemes.
    Selection,
    /// To report on, once everything is chosen.
    Report,
}

impl SuiteRole {
    /// The name in a suite.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Selection => "selection",
            Self::Report => "report",
        }
    }
}

/// What comes before every text: the token that nothing predicts and that is never scored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// What the tokenizer puts there; else the config's `bos_token_id`, else its `eos_token_id`.
    Auto,
    /// This token.
    Token(String),
}

/// Whether the start token is put before every text, or only where the first token would have nothing before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StartRule {
    /// Before every text.
    #[default]
    Always,
    /// Before a context if the tokenizer's own files add one, as in lm-evaluation-harness.
    Auto,
    /// Never before a context.
    Never,
}

impl StartRule {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Always, Self::Auto, Self::Never];

    /// Its name in a suite and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Auto => "auto",
            Self::Never => "never",
        }
    }
}

/// Sets with the way in which they are scored.
#[derive(Debug, Clone)]
pub struct Suite {
    /// Its name.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// What it may be used for, where it says so.
    pub role: Option<SuiteRole>,
    /// Tokens that a model may see before and at each scored token.
    pub context_length: usize,
    context: Context,
    /// The token that is put before texts.
    pub start: Start,
    /// Before which texts it is put.
    pub start_rule: StartRule,
    /// The sets.
    pub tasks: Vec<Task>,
    /// BLAKE3 of everything that decides scores, the data files included; remarks in the file do not count.
    pub digest: Digest,
}

/// One set and how it is scored.
#[derive(Debug, Clone)]
pub struct Task {
    /// Its name.
    pub name: String,
    /// Form of its rows.
    pub kind: TaskKind,
    /// What is measured, in the order of results.
    pub measures: Vec<Measure>,
    /// The data file.
    pub file: PathBuf,
    /// BLAKE3 of the data file.
    pub file_digest: Digest,
    /// Keys of rows and the value that they must have.
    pub filter: Vec<(String, String)>,
    /// Between context and continuation.
    pub delimiter: String,
    /// Before every context: worked examples.
    pub fewshot_prefix: String,
    /// Tokens by which windows advance over what is longer than the context.
    pub stride: usize,
    /// Tokens of a document that are kept, the start token among them.
    pub cut_tokens: Option<usize>,
    /// The rows.
    pub rows: Vec<Row>,
    /// BLAKE3 of everything above that decides scores.
    pub digest: Digest,
    stated: Stated,
}

/// What a task of a suite says that its digest holds and scoring does not need.
#[derive(Debug, Clone)]
struct Stated {
    stride: Option<usize>,
    limit: Option<usize>,
    split_on: Option<String>,
}

/// Who says how many tokens a model may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Context {
    /// The suite.
    Given,
    /// The models: as many as all of them see, up to [`AUTO_CONTEXT`].
    Auto,
}

impl Suite {
    /// Reads a suite and its data files. Relative paths in it start at its folder.
    ///
    /// # Errors
    /// `NotASuite`, `SuiteInvalid`, `UnknownName`, `RowInvalid`, `DataInvalid`, `EmptySet`; `Storage` where a file
    /// cannot be read.
    ///
    /// # Example
    /// ```
    /// use std::path::Path;
    /// use thalweg_eval::Suite;
    /// use thalweg_storage::{MemoryStorage, Storage};
    ///
    /// let storage = MemoryStorage::new();
    /// let put = |name: &str, text: &str| -> Result<(), thalweg_storage::Error> {
    ///     storage.create_file(Path::new(name), text.len() as u64)?.write_all_at(0, text.as_bytes())
    /// };
    /// put("/notes.txt", "One day a cat met a dog.")?;
    /// put("/suite.toml", r#"
    ///     kind = "thalweg-suite"
    ///     version = 1
    ///     context_length = 64
    ///     [[task]]
    ///     name = "notes"
    ///     kind = "text"
    ///     file = "notes.txt"
    /// "#)?;
    /// let suite = Suite::open(&storage, Path::new("/suite.toml"))?;
    /// assert_eq!((suite.name.as_str(), suite.tasks[0].rows.len()), ("suite", 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open(storage: &dyn Storage, path: &Path) -> Result<Self, Error> {
        let invalid = |what: String| Error::SuiteInvalid { path: path.to_owned(), what };
        let not_a_suite = || Error::NotASuite { path: path.to_owned() };
        if has_name_of_rows(path) && storage.file_info(path).is_ok() {
            return Err(not_a_suite());
        }
        let bytes = storage.read_file(path, MAX_SUITE_BYTES)?;
        // No TOML begins with a brace; rows do.
        if bytes.trim_ascii_start().starts_with(b"{") {
            return Err(not_a_suite());
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| invalid("the text is not UTF-8".to_owned()))?;
        let table: toml::Table =
            toml::from_str(text).map_err(|error| invalid(error.to_string().trim_end().to_owned()))?;
        let fields = Fields::new(path, "the suite".to_owned(), &table, SUITE_KEYS)?;
        let (kind, version) = (fields.string("kind")?, fields.integer("version")?);
        if kind.as_deref() != Some(SUITE_KIND) || version != Some(SUITE_VERSION) {
            return Err(invalid(format!(
                "`kind = \"{SUITE_KIND}\"` and `version = {SUITE_VERSION}` expected, {} and {} found",
                kind.map_or_else(|| "no kind".to_owned(), |kind| format!("`{kind}`")),
                version.map_or_else(|| "no version".to_owned(), |version| version.to_string()),
            )));
        }
        let context = match table.get("context_length").and_then(toml::Value::as_str) {
            Some("auto") => Context::Auto,
            _ => Context::Given,
        };
        let context_length = match context {
            Context::Auto => AUTO_CONTEXT,
            Context::Given => fields.count("context_length")?.ok_or_else(|| fields.missing("context_length"))?,
        };
        if context_length < 2 {
            return Err(invalid(format!("`context_length` is {context_length}; it must be at least 2")));
        }
        let stem = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        let mut suite = Self {
            name: fields.string("name")?.unwrap_or(stem),
            path: path.to_owned(),
            role: role(&fields)?,
            context_length,
            context,
            start: match fields.string("start")?.as_deref() {
                None | Some("auto") => Start::Auto,
                Some(token) => Start::Token(token.to_owned()),
            },
            start_rule: start_rule(&fields)?,
            tasks: Vec::new(),
            digest: bytes_digest(DigestKind::Blake3, b""),
        };
        for table in fields.tables("task")? {
            let task = open_task(storage, path, context_length, table)?;
            if suite.tasks.iter().any(|other| other.name == task.name) {
                return Err(invalid(format!("two tasks are named `{}`", task.name)));
            }
            suite.tasks.push(task);
        }
        if suite.tasks.is_empty() {
            return Err(invalid("it has no `[[task]]`".to_owned()));
        }
        suite.digest = suite_digest(&suite);
        Ok(suite)
    }

    /// The suite for models that see at least `max_positions` tokens, where it leaves the context open (`"auto"`). Its
    /// own digest stays, those of its tasks do not.
    pub fn fit(&self, max_positions: usize) -> Cow<'_, Self> {
        if self.context == Context::Given || max_positions >= self.context_length {
            return Cow::Borrowed(self);
        }
        let mut fitted = Self { context_length: max_positions, ..self.clone() };
        for task in &mut fitted.tasks {
            let stride = task.stated.stride.unwrap_or_else(|| task.kind.stride_in(max_positions));
            task.stride = stride.min(max_positions);
            task.digest = task_digest(task, max_positions);
        }
        Cow::Owned(fitted)
    }

    /// Whether it is scored in a context that depends on the models.
    pub fn has_open_context(&self) -> bool {
        self.context == Context::Auto
    }

    /// The same suite with another rule for the start token, and so with another digest.
    #[must_use]
    pub fn with_start_rule(mut self, rule: StartRule) -> Self {
        self.start_rule = rule;
        self.digest = suite_digest(&self);
        self
    }
}

fn start_rule(fields: &Fields<'_>) -> Result<StartRule, Error> {
    let Some(found) = fields.string("start_token")? else { return Ok(StartRule::default()) };
    let rule = StartRule::ALL.into_iter().find(|rule| rule.name() == found);
    rule.ok_or_else(|| fields.unknown("start_token", &found, StartRule::ALL.map(StartRule::name).to_vec()))
}

fn role(fields: &Fields<'_>) -> Result<Option<SuiteRole>, Error> {
    let Some(found) = fields.string("role")? else { return Ok(None) };
    let roles = [SuiteRole::Selection, SuiteRole::Report];
    let role = roles.into_iter().find(|role| role.name() == found);
    role.map(Some).ok_or_else(|| fields.unknown("role", &found, roles.map(SuiteRole::name).to_vec()))
}

/// Whether a file is one of rows or of text, which a suite would name.
fn has_name_of_rows(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    [".jsonl", ".json", ".txt", ".zst"].iter().any(|end| name.ends_with(end))
}

fn open_task(storage: &dyn Storage, suite: &Path, context_length: usize, table: &toml::Table) -> Result<Task, Error> {
    let name = table.get("name").and_then(toml::Value::as_str);
    let place = name.map_or_else(|| "a task without a name".to_owned(), |name| format!("task `{name}`"));
    let fields = Fields::new(suite, place, table, TASK_KEYS)?;
    let name = fields.string("name")?.ok_or_else(|| fields.missing("name"))?;
    let kind_name = fields.string("kind")?.ok_or_else(|| fields.missing("kind"))?;
    let kind = TaskKind::ALL.into_iter().find(|kind| kind.name() == kind_name);
    let kind = kind.ok_or_else(|| fields.unknown("kind", &kind_name, TaskKind::ALL.map(TaskKind::name).to_vec()))?;
    let folder = suite.parent().unwrap_or(Path::new(""));
    let file = folder.join(fields.string("file")?.ok_or_else(|| fields.missing("file"))?);
    let stated =
        Stated { stride: fields.count("stride")?, limit: fields.count("limit")?, split_on: fields.string("split_on")? };
    let stride = stated.stride.unwrap_or_else(|| kind.stride_in(context_length));
    if stride == 0 || stride > context_length {
        return Err(fields.invalid(format!("`stride` is {stride}, 1 to `context_length` ({context_length}) expected")));
    }
    only_for(&fields, kind, "cut_tokens", TaskKind::Text)?;
    only_for(&fields, kind, "split_on", TaskKind::Text)?;
    let cut_tokens = fields.count("cut_tokens")?;
    if cut_tokens.is_some_and(|cut| cut < 2) {
        return Err(fields.invalid("`cut_tokens` must be 2 or more: the first is not scored".to_owned()));
    }
    let mut task = Task {
        measures: measures(&fields, kind)?,
        name,
        kind,
        file_digest: bytes_digest(DigestKind::Blake3, b""),
        filter: fields.conditions("where")?,
        delimiter: fields.string("delimiter")?.unwrap_or_else(|| kind.default_delimiter().to_owned()),
        fewshot_prefix: fewshot_prefix(storage, folder, &fields)?,
        stride,
        cut_tokens,
        rows: Vec::new(),
        digest: bytes_digest(DigestKind::Blake3, b""),
        stated: stated.clone(),
        file,
    };
    read_rows(storage, &mut task, stated.limit, stated.split_on.as_deref())?;
    task.digest = task_digest(&task, context_length);
    Ok(task)
}

fn only_for(fields: &Fields<'_>, kind: TaskKind, key: &str, wanted: TaskKind) -> Result<(), Error> {
    if kind == wanted || !fields.has(key) {
        return Ok(());
    }
    Err(fields.invalid(format!("`{key}` is for tasks of kind `{}`, but this one is `{}`", wanted.name(), kind.name())))
}

fn measures(fields: &Fields<'_>, kind: TaskKind) -> Result<Vec<Measure>, Error> {
    let known = kind.measures();
    let Some(names) = fields.strings("measures")? else { return Ok(known[..kind.n_default_measures()].to_vec()) };
    if names.is_empty() {
        return Err(fields.invalid("`measures` is empty".to_owned()));
    }
    let mut measures = Vec::new();
    for name in names {
        let measure = Measure::from_name(&name).filter(|measure| known.contains(measure));
        let measure = measure
            .ok_or_else(|| fields.unknown("measure", &name, known.iter().map(|measure| measure.name()).collect()))?;
        if !measures.contains(&measure) {
            measures.push(measure);
        }
    }
    Ok(measures)
}

/// `fewshot = { file = .., name = .. }`: the `prefix` of an entry of a JSON file.
fn fewshot_prefix(storage: &dyn Storage, folder: &Path, fields: &Fields<'_>) -> Result<String, Error> {
    let Some(table) = fields.table("fewshot")? else { return Ok(String::new()) };
    let inner = fields.inner("fewshot", table, &["file", "name"])?;
    let file = folder.join(inner.string("file")?.ok_or_else(|| inner.missing("file"))?);
    let name = inner.string("name")?.ok_or_else(|| inner.missing("name"))?;
    let text = read_data(storage, &file)?.text;
    let invalid = |what: String| Error::DataInvalid { path: file.clone(), what };
    let entries: Value = serde_json::from_str(&text).map_err(|error| invalid(error.to_string()))?;
    let prefix = entries[&name]["prefix"].as_str();
    prefix.map(str::to_owned).ok_or_else(|| {
        let names = entries.as_object().map(|entries| entries.keys().cloned().collect::<Vec<_>>().join(", "));
        invalid(format!("no `prefix` for `{name}`; there are {}", names.unwrap_or_default()))
    })
}

fn read_rows(
    storage: &dyn Storage,
    task: &mut Task,
    limit: Option<usize>,
    split_on: Option<&str>,
) -> Result<(), Error> {
    let data = read_data(storage, &task.file)?;
    task.file_digest = data.digest;
    let limit = limit.unwrap_or(usize::MAX);
    let name = task.file.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let is_json_lines = name.trim_end_matches(".zst").ends_with(".jsonl");
    if is_json_lines {
        for row in json_lines(&task.file, &data.text) {
            if task.rows.len() >= limit {
                break;
            }
            let (line, value) = row?;
            if task.filter.iter().all(|(key, wanted)| is_equal(at(&value, key), wanted)) {
                task.rows.push(parse_row(task.kind, &task.file, line, &value)?);
            }
        }
    } else if task.kind == TaskKind::Text {
        let documents: Vec<&str> = split_on.map_or_else(|| vec![&*data.text], |mark| data.text.split(mark).collect());
        let documents = documents.into_iter().filter(|text| !text.trim().is_empty()).take(limit);
        task.rows = (0..)
            .zip(documents)
            .map(|(i, text)| Row { id: format!("{name}#{i}"), body: RowBody::Document { text: text.to_owned() } })
            .collect();
    } else {
        let what = format!("rows of kind `{}` are read from `.jsonl` or `.jsonl.zst`", task.kind.name());
        return Err(Error::DataInvalid { path: task.file.clone(), what });
    }
    let is_void =
        |row: &Row| matches!(&row.body, RowBody::Document { text } | RowBody::Spans { text, .. } if text.is_empty());
    if task.rows.iter().all(is_void) {
        let what = if task.filter.is_empty() { "rows" } else { "rows that meet `where`" };
        return Err(Error::EmptySet { task: task.name.clone(), path: task.file.clone(), what });
    }
    Ok(())
}

/// The value at a dotted key.
fn at<'a>(value: &'a Value, key: &str) -> &'a Value {
    key.split('.').fold(value, |value, part| &value[part])
}

fn is_equal(value: &Value, wanted: &str) -> bool {
    match value {
        Value::String(text) => text == wanted,
        Value::Null => false,
        other => serde_json::to_string(other).is_ok_and(|text| text == wanted),
    }
}

fn task_digest(task: &Task, context_length: usize) -> Digest {
    let facts = json!({
        "name": task.name,
        "kind": task.kind.name(),
        "measures": task.measures.iter().map(|measure| measure.name()).collect::<Vec<_>>(),
        "file": task.file_digest.to_string(),
        "where": task.filter,
        "delimiter": task.delimiter,
        "fewshot": task.fewshot_prefix,
        "stride": task.stride,
        "cut_tokens": task.cut_tokens,
        "limit": task.stated.limit,
        "split_on": task.stated.split_on,
        "context_length": context_length,
    });
    bytes_digest(DigestKind::Blake3, facts.to_string().as_bytes())
}

fn suite_digest(suite: &Suite) -> Digest {
    let tasks: Vec<String> = suite.tasks.iter().map(|task| task.digest.to_string()).collect();
    let start = match &suite.start {
        Start::Auto => None,
        Start::Token(token) => Some(token),
    };
    let mut facts = json!({"version": SUITE_VERSION, "start": start, "tasks": tasks});
    // Under `Always` the facts are what they were before there was a rule, so that old digests stay valid.
    if suite.start_rule != StartRule::Always {
        facts["start_token"] = suite.start_rule.name().into();
    }
    bytes_digest(DigestKind::Blake3, facts.to_string().as_bytes())
}
