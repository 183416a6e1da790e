//! A document as a tree of values that know their place, the same for TOML and YAML.
//!
//! Text stays text: what a value means is decided by who asks for it, so that `0.1` is never a double on its way.

/// Deepest nesting that is read. A recipe needs three levels.
pub(super) const MAX_DEPTH: usize = 32;
/// Most values in one document.
pub(super) const MAX_NODES: usize = 200_000;

/// A place in a text, counted from 1, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Place {
    pub(super) line: usize,
    pub(super) column: usize,
    /// At least 1; may reach beyond the line.
    pub(super) n_chars: usize,
}

/// How a scalar was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScalarKind {
    /// YAML without quotes: may be text, a number or a truth value.
    Plain,
    /// In quotes.
    Quoted,
    /// A number of TOML.
    Number,
    /// A truth value of TOML.
    Bool,
    /// A date or time of TOML, for which no recipe has a use.
    Date,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NodeValue {
    /// YAML's null, or nothing at all.
    Null,
    Scalar {
        text: String,
        kind: ScalarKind,
    },
    List(Vec<Node>),
    Table(Vec<Entry>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: NodeValue,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_place: Place,
    pub(super) node: Node,
}

impl Node {
    /// What the value is, for messages.
    pub(super) fn describe(&self) -> &'static str {
        match &self.value {
            NodeValue::Null => "nothing",
            NodeValue::Scalar { kind: ScalarKind::Number, .. } => "a number",
            NodeValue::Scalar { kind: ScalarKind::Bool, .. } => "true or false",
            NodeValue::Scalar { kind: ScalarKind::Date, .. } => "a date",
            NodeValue::Scalar { .. } => "text",
            NodeValue::List(_) => "a list",
            NodeValue::Table(_) => "a table",
        }
    }
}
