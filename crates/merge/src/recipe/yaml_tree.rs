//! YAML text as a tree of values with places.
//!
//! Reads one document of plain data. Aliases and tags are refused: no recipe needs them, and an alias can make a
//! short text mean an endless one.

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use super::error::RecipeFault;
use super::tree::{Entry, MAX_DEPTH, MAX_NODES, Node, NodeValue, Place, ScalarKind};

/// Most keys in one table.
const MAX_KEYS: usize = 1000;

/// A list or table that is still open.
enum Open {
    List { place: Place, items: Vec<Node> },
    Table { place: Place, entries: Vec<Entry>, key: Option<(String, Place)> },
}

#[derive(Default)]
struct TreeBuilder {
    open: Vec<Open>,
    root: Option<Node>,
    n_nodes: usize,
    n_documents: usize,
}

type Failure = (Place, RecipeFault);

fn place_of(span: Span) -> Place {
    let n_chars =
        if span.start.line() == span.end.line() { span.end.col().saturating_sub(span.start.col()) } else { 1 };
    Place { line: span.start.line().max(1), column: span.start.col() + 1, n_chars: n_chars.max(1) }
}

fn syntax(place: Place, message: &str) -> Failure {
    (place, RecipeFault::Syntax { message: message.to_owned() })
}

/// Reads one YAML document.
pub(super) fn read_yaml(text: &str) -> Result<Node, Failure> {
    let mut builder = TreeBuilder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            let place = Place { line: error.marker().line().max(1), column: error.marker().col() + 1, n_chars: 1 };
            syntax(place, error.info())
        })?;
        builder.take(event, place_of(span))?;
    }
    // An empty document is a recipe that says nothing, and its reader says what is missing.
    let nothing = Node { place: Place { line: 1, column: 1, n_chars: 1 }, value: NodeValue::Table(Vec::new()) };
    Ok(builder.root.filter(|root| root.value != NodeValue::Null).unwrap_or(nothing))
}

impl TreeBuilder {
    fn take(&mut self, event: Event<'_>, place: Place) -> Result<(), Failure> {
        match event {
            Event::DocumentStart(_) => {
                self.n_documents += 1;
                match self.n_documents > 1 {
                    true => Err(syntax(place, "a second document begins here, but a recipe is a single document")),
                    false => Ok(()),
                }
            }
            Event::Alias(_) => Err(syntax(place, "aliases (`*name`) are not supported: write the value out")),
            Event::Scalar(_, _, _, Some(_)) | Event::SequenceStart(_, Some(_)) | Event::MappingStart(_, Some(_)) => {
                Err(syntax(place, "tags (`!name`) are not supported: write plain data"))
            }
            Event::Scalar(text, style, _, None) => self.scalar(text.into_owned(), style, place),
            Event::SequenceStart(..) => self.start(Open::List { place, items: Vec::new() }, place),
            Event::MappingStart(..) => self.start(Open::Table { place, entries: Vec::new(), key: None }, place),
            Event::SequenceEnd | Event::MappingEnd => self.end(place),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    fn start(&mut self, open: Open, place: Place) -> Result<(), Failure> {
        if let Some(Open::Table { key: None, .. }) = self.open.last() {
            return Err(syntax(place, "a key must be plain text"));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err((place, RecipeFault::TooLarge { what: "levels of nesting", limit: MAX_DEPTH }));
        }
        self.open.push(open);
        Ok(())
    }

    fn end(&mut self, place: Place) -> Result<(), Failure> {
        match self.open.pop() {
            Some(Open::List { place, items }) => self.add(Node { place, value: NodeValue::List(items) }),
            Some(Open::Table { place, entries, .. }) => self.add(Node { place, value: NodeValue::Table(entries) }),
            None => Err(syntax(place, "something ends here that never began")),
        }
    }

    fn scalar(&mut self, text: String, style: ScalarStyle, place: Place) -> Result<(), Failure> {
        if let Some(Open::Table { key: key @ None, entries, .. }) = self.open.last_mut() {
            // The search for duplicates is over all keys before, so that their number needs a separate bound.
            if entries.len() >= MAX_KEYS {
                return Err((place, RecipeFault::TooLarge { what: "keys in one table", limit: MAX_KEYS }));
            }
            if entries.iter().any(|entry| entry.key == text) {
                return Err((place, RecipeFault::DuplicateKey { key: super::show(&text) }));
            }
            *key = Some((text, place));
            return Ok(());
        }
        let is_plain = style == ScalarStyle::Plain;
        let value = match text.as_str() {
            "" | "~" | "null" | "Null" | "NULL" if is_plain => NodeValue::Null,
            _ => {
                let kind = if is_plain { ScalarKind::Plain } else { ScalarKind::Quoted };
                NodeValue::Scalar { text, kind }
            }
        };
        self.add(Node { place, value })
    }

    fn add(&mut self, node: Node) -> Result<(), Failure> {
        self.n_nodes += 1;
        if self.n_nodes > MAX_NODES {
            return Err((node.place, RecipeFault::TooLarge { what: "values", limit: MAX_NODES }));
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Table { entries, key, .. }) => {
                let (key, key_place) = key.take().unwrap_or_default();
                entries.push(Entry { key, key_place, node });
            }
        }
        Ok(())
    }
}
