//! A row of a set, as its task reads it: texts without tokens.

use std::ops::Range;
use std::path::Path;

use serde_json::Value;

use crate::Error;
use crate::measure::TaskKind;

/// One item of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What names it in results; `line N` where the file has no `id`.
    pub id: String,
    /// Its texts.
    pub body: RowBody,
}

/// Texts of a row, by form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowBody {
    /// A document.
    Document {
        /// The text.
        text: String,
    },
    /// Continuations of a context.
    Choices {
        /// What comes before each.
        context: String,
        /// The continuations.
        choices: Vec<String>,
        /// Which is right.
        answer: usize,
    },
    /// Contexts of a continuation.
    Contexts {
        /// What may come before.
        contexts: Vec<String>,
        /// What follows each.
        continuation: String,
        /// Which context is right.
        answer: usize,
    },
    /// What should follow a context.
    Target {
        /// What comes before.
        context: String,
        /// What should follow.
        target: String,
    },
    /// A text with spans.
    Spans {
        /// The text.
        text: String,
        /// Bytes of the spans.
        spans: Vec<Range<usize>>,
    },
}

/// Reads one row of a kind.
pub(crate) fn parse_row(kind: TaskKind, path: &Path, line: usize, value: &Value) -> Result<Row, Error> {
    let body = match kind {
        TaskKind::Text => string(value, "text").map(|text| RowBody::Document { text }),
        TaskKind::Choice => choices(value, 2),
        TaskKind::Pair => choices(value, 2).and_then(|body| match &body {
            RowBody::Choices { choices, .. } if choices.len() == 2 => Ok(body),
            _ => Err("a pair has two `choices`".to_owned()),
        }),
        TaskKind::LastWord => choices(value, 1),
        TaskKind::Partial => contexts(value),
        TaskKind::Gold => string(value, "context").and_then(|context| {
            Ok(RowBody::Target { context, target: non_empty(string(value, "target")?, "target")? })
        }),
        TaskKind::EntitySpans => spans(value),
    };
    let id = value["id"].as_str().map_or_else(|| format!("line {line}"), str::to_owned);
    let body = body.map_err(|what| Error::RowInvalid { path: path.to_owned(), line, what })?;
    Ok(Row { id, body })
}

fn string(value: &Value, key: &str) -> Result<String, String> {
    match &value[key] {
        Value::String(text) => Ok(text.clone()),
        Value::Null => Err(format!("the row has no `{key}`")),
        _ => Err(format!("`{key}` must be a text")),
    }
}

fn non_empty(text: String, key: &str) -> Result<String, String> {
    if text.is_empty() { Err(format!("`{key}` is empty: there is nothing to score")) } else { Ok(text) }
}

fn strings(value: &Value, key: &str) -> Result<Vec<String>, String> {
    let texts = value[key].as_array().ok_or_else(|| format!("the row has no list `{key}`"))?;
    let texts = texts.iter().map(|text| text.as_str().map(str::to_owned));
    texts.collect::<Option<_>>().ok_or_else(|| format!("`{key}` must hold texts only"))
}

fn answer(value: &Value, n: usize, key: &str) -> Result<usize, String> {
    let answer = value["answer"].as_u64().ok_or("the row has no whole number `answer`")?;
    usize::try_from(answer)
        .ok()
        .filter(|&answer| answer < n)
        .ok_or_else(|| format!("`answer` is {answer}, but there are {n} `{key}`, counted from 0"))
}

fn choices(value: &Value, fewest: usize) -> Result<RowBody, String> {
    let choices = strings(value, "choices")?;
    if choices.len() < fewest {
        return Err(format!("there are {} `choices`, but {fewest} are needed", choices.len()));
    }
    let choices = choices.into_iter().map(|text| non_empty(text, "choices")).collect::<Result<Vec<_>, _>>()?;
    let context = if value["context"].is_null() { String::new() } else { string(value, "context")? };
    let answer = answer(value, choices.len(), "choices")?;
    Ok(RowBody::Choices { context, choices, answer })
}

fn contexts(value: &Value) -> Result<RowBody, String> {
    let contexts = strings(value, "contexts")?;
    if contexts.len() < 2 {
        return Err(format!("there are {} `contexts`, but two are needed", contexts.len()));
    }
    let continuation = non_empty(string(value, "continuation")?, "continuation")?;
    let answer = answer(value, contexts.len(), "contexts")?;
    Ok(RowBody::Contexts { contexts, continuation, answer })
}

fn spans(value: &Value) -> Result<RowBody, String> {
    let text = string(value, "text")?;
    let entities = value["entities"].as_array().ok_or("the row has no list `entities`")?;
    let mut spans = Vec::new();
    for entity in entities {
        let end = |i: usize| entity["byte"][i].as_u64().and_then(|end| usize::try_from(end).ok());
        let (Some(start), Some(end)) = (end(0), end(1)) else {
            return Err("an entity has no `byte` with two whole numbers".to_owned());
        };
        let found = text.get(start..end).filter(|found| !found.is_empty());
        let Some(found) = found else {
            return Err(format!("`byte` [{start}, {end}] is not a span of a text of {} bytes", text.len()));
        };
        if entity["text"].as_str().is_some_and(|said| said != found) {
            return Err(format!("`byte` [{start}, {end}] is `{found}`, but the entity says {}", entity["text"]));
        }
        spans.push(start..end);
    }
    Ok(RowBody::Spans { text, spans })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(kind: TaskKind, value: &Value) -> Result<RowBody, String> {
        parse_row(kind, Path::new("set"), 3, value).map(|row| row.body).map_err(|error| error.to_string())
    }

    #[test]
    fn each_form_is_read() {
        let row = json!({"context": "a", "choices": ["b", "c"], "answer": 1});
        let choices = |context: &str, answer| RowBody::Choices {
            context: context.into(),
            choices: vec!["b".into(), "c".into()],
            answer,
        };
        assert_eq!(parse(TaskKind::Choice, &row), Ok(choices("a", 1)));
        assert_eq!(parse(TaskKind::Pair, &json!({"choices": ["b", "c"], "answer": 0})), Ok(choices("", 0)));
        let spans = json!({"text": "à Nîmes", "entities": [{"text": "Nîmes", "char": [2, 7], "byte": [3, 9]}]});
        let expected = RowBody::Spans { text: "à Nîmes".into(), spans: std::iter::once(3..9).collect() };
        assert_eq!(parse(TaskKind::EntitySpans, &spans), Ok(expected));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let wrong = |kind, value: Value| parse(kind, &value).unwrap_err();
        let cases = [
            (TaskKind::Text, json!({"content": ""}), "the row has no `text`"),
            (TaskKind::Choice, json!({"choices": ["a"], "answer": 0}), "there are 1 `choices`, but 2 are needed"),
            (
                TaskKind::Choice,
                json!({"choices": ["a", ""], "answer": 0}),
                "`choices` is empty: there is nothing to score",
            ),
            (TaskKind::Pair, json!({"choices": ["a", "b", "c"], "answer": 0}), "a pair has two `choices`"),
            (
                TaskKind::Choice,
                json!({"choices": ["a", "b"], "answer": 2}),
                "`answer` is 2, but there are 2 `choices`, counted from 0",
            ),
            (TaskKind::Gold, json!({"context": "a", "target": 5}), "`target` must be a text"),
            (
                TaskKind::EntitySpans,
                json!({"text": "à", "entities": [{"byte": [1, 2]}]}),
                "`byte` [1, 2] is not a span of a text of 2 bytes",
            ),
            (
                TaskKind::EntitySpans,
                json!({"text": "ab", "entities": [{"byte": [0, 1], "text": "b"}]}),
                "`byte` [0, 1] is `a`, but the entity says \"b\"",
            ),
        ];
        for (kind, value, expected) in cases {
            assert_eq!(wrong(kind, value), format!("`set`, line 3: {expected}"));
        }
    }
}
