//! The values of a pickle, and how a format looks at them.

use thalweg_tensor::display_name;

use super::Pickle;
use super::arena::Span;

/// A value. Numbers refer to other values of the same pickle, or to what its arena keeps for them.
#[derive(Debug, Clone, Copy)]
pub(super) enum Node {
    None,
    Bool(bool),
    Int(i64),
    /// An integer of at most 128 bits: its position in the list of these.
    WideInt(u32),
    /// An integer of more than 128 bits, whose digits are not kept.
    HugeInt,
    Float(f64),
    Text(Span),
    /// Also a string that is not Unicode.
    Bytes(Span),
    Tuple(Span),
    List(u32),
    Set(u32),
    /// Keys and values in turn.
    Dict(u32),
    Global(u32),
    /// Its position in the list of calls.
    Object(u32),
    Persistent(u32),
}

/// A call that was not made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Object {
    pub(super) callee: u32,
    pub(super) args: u32,
    pub(super) state: Option<u32>,
    /// A list of what was appended to it.
    pub(super) items: Option<u32>,
    /// A list of keys and values in turn that were set on it.
    pub(super) entries: Option<u32>,
}

impl Node {
    /// What kind of value it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Bool(_) => "a boolean",
            Self::Int(_) | Self::WideInt(_) | Self::HugeInt => "an integer",
            Self::Float(_) => "a floating-point number",
            Self::Text(_) => "a string",
            Self::Bytes(_) => "a byte string",
            Self::Tuple(_) => "a tuple",
            Self::List(_) => "a list",
            Self::Set(_) => "a set",
            Self::Dict(_) => "a dictionary",
            Self::Global(_) => "a name",
            Self::Object(_) => "an object",
            Self::Persistent(_) => "a reference to a storage",
        }
    }
}

/// A name that a pickle mentions: text, never looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Global {
    /// The module.
    pub module: Box<str>,
    /// The name in it.
    pub name: Box<str>,
    /// Whether the caller listed it.
    pub is_listed: bool,
    /// Whether calls of it make plain containers.
    pub(super) is_built_here: bool,
}

impl Global {
    /// Whether it is this name of this module.
    pub fn is(&self, module: &str, name: &str) -> bool {
        *self.module == *module && *self.name == *name
    }

    /// `module.name` as it can be printed.
    pub fn display(&self) -> String {
        display_name(&format!("{}.{}", self.module, self.name))
    }
}

/// A call of a name, with what was built onto its result.
#[derive(Debug, Clone, Copy)]
pub struct ObjectView<'a> {
    pickle: &'a Pickle,
    object: Object,
    /// The name.
    pub global: &'a Global,
}

impl<'a> ObjectView<'a> {
    /// What it was called with: a tuple.
    pub fn args(self) -> Value<'a> {
        Value::new(self.pickle, self.object.args)
    }

    /// The argument at this position, counted from 0.
    pub fn arg(self, position: usize) -> Option<Value<'a>> {
        self.args().items().nth(position)
    }

    /// The state that was set afterwards.
    pub fn state(self) -> Option<Value<'a>> {
        Some(Value::new(self.pickle, self.object.state?))
    }

    /// An attribute, where the state is a dictionary or a pair of one and another (slots).
    pub fn attribute(self, name: &str) -> Option<Value<'a>> {
        let state = self.state()?;
        state.get(name).or_else(|| state.items().find_map(|part| part.get(name)))
    }

    /// The pairs that were set on it afterwards, as on a mapping.
    pub fn entries(self) -> impl Iterator<Item = (Value<'a>, Value<'a>)> {
        pairs_of(self.pickle, self.object.entries)
    }

    /// The items that were appended to it afterwards, as to a list.
    pub fn items(self) -> impl Iterator<Item = Value<'a>> {
        let pickle = self.pickle;
        pickle.list(self.object.items).iter().map(move |id| Value::new(pickle, *id))
    }
}

/// A list of keys and values in turn, as pairs.
fn pairs_of(
    pickle: &Pickle,
    list: Option<u32>,
) -> impl DoubleEndedIterator<Item = (Value<'_>, Value<'_>)> + ExactSizeIterator {
    let (pairs, _) = pickle.list(list).as_chunks::<2>();
    pairs.iter().map(move |[key, value]| (Value::new(pickle, *key), Value::new(pickle, *value)))
}

/// A value of a pickle, as cheap to copy as a reference.
///
/// Values may be shared and may contain themselves: code that walks them must keep a limit, or remember [`Value::id`].
#[derive(Debug, Clone, Copy)]
pub struct Value<'a> {
    pickle: &'a Pickle,
    id: u32,
}

impl<'a> Value<'a> {
    pub(super) fn new(pickle: &'a Pickle, id: u32) -> Self {
        Self { pickle, id }
    }

    fn node(self) -> Node {
        self.pickle.nodes.get(self.id as usize).copied().unwrap_or(Node::None)
    }

    /// A number that is unique to this value within its pickle.
    pub fn id(self) -> u32 {
        self.id
    }

    /// The value of the same pickle with this number.
    pub(crate) fn with_id(self, id: u32) -> Self {
        Self { id, ..self }
    }

    /// Number of values in its pickle, of which each is counted once however often it is used.
    pub(crate) fn n_in_pickle(self) -> usize {
        self.pickle.nodes.len()
    }

    /// Whether it is None.
    pub fn is_none(self) -> bool {
        matches!(self.node(), Node::None)
    }

    /// The boolean that it is.
    pub fn as_bool(self) -> Option<bool> {
        if let Node::Bool(value) = self.node() { Some(value) } else { None }
    }

    /// The integer that it is, where it fits.
    pub fn as_int(self) -> Option<i128> {
        match self.node() {
            Node::Int(value) => Some(value.into()),
            Node::WideInt(position) => self.pickle.wide_ints.get(position as usize).copied(),
            _ => None,
        }
    }

    /// The integer that it is, where it is not negative and fits.
    pub fn as_u64(self) -> Option<u64> {
        match self.node() {
            Node::Int(value) => u64::try_from(value).ok(),
            _ => u64::try_from(self.as_int()?).ok(),
        }
    }

    /// The floating-point number that it is.
    pub fn as_float(self) -> Option<f64> {
        if let Node::Float(value) = self.node() { Some(value) } else { None }
    }

    /// The string that it is.
    pub fn as_text(self) -> Option<&'a str> {
        if let Node::Text(span) = self.node() { Some(self.pickle.arena.text(span)) } else { None }
    }

    /// The byte string that it is.
    pub fn as_bytes(self) -> Option<&'a [u8]> {
        if let Node::Bytes(span) = self.node() { Some(self.pickle.arena.bytes(span)) } else { None }
    }

    /// Whether it is a tuple.
    pub fn is_tuple(self) -> bool {
        matches!(self.node(), Node::Tuple(_))
    }

    /// Whether it is a list, a tuple or a set.
    pub fn is_sequence(self) -> bool {
        matches!(self.node(), Node::Tuple(_) | Node::List(_) | Node::Set(_))
    }

    /// Whether it is a dictionary.
    pub fn is_dict(self) -> bool {
        matches!(self.node(), Node::Dict(_))
    }

    /// The members of a list, tuple or set; nothing for other values.
    pub fn items(self) -> impl ExactSizeIterator<Item = Value<'a>> {
        let pickle = self.pickle;
        pickle.members(self.node()).unwrap_or_default().iter().map(move |id| Self::new(pickle, *id))
    }

    /// Keys and values of a dictionary in the order in which they were set; a key set twice appears twice. Nothing
    /// for other values.
    pub fn entries(self) -> impl DoubleEndedIterator<Item = (Value<'a>, Value<'a>)> + ExactSizeIterator {
        pairs_of(self.pickle, if let Node::Dict(list) = self.node() { Some(list) } else { None })
    }

    /// The value under a string key of a dictionary: the last one, as in Python.
    pub fn get(self, key: &str) -> Option<Value<'a>> {
        self.entries().rev().find(|(name, _)| name.as_text() == Some(key)).map(|(_, value)| value)
    }

    /// The name that it is.
    pub fn as_global(self) -> Option<&'a Global> {
        if let Node::Global(idx) = self.node() { self.pickle.globals.get(idx as usize) } else { None }
    }

    fn call(self) -> Option<Object> {
        if let Node::Object(position) = self.node() {
            self.pickle.objects.get(position as usize).copied()
        } else {
            None
        }
    }

    /// The call that it is, if its name was listed.
    pub fn as_object(self) -> Option<ObjectView<'a>> {
        self.as_any_object().filter(|object| object.global.is_listed)
    }

    /// The call that it is, listed or not. If its name is not listed, nothing but its text may be used.
    pub fn as_any_object(self) -> Option<ObjectView<'a>> {
        let object = self.call()?;
        Some(ObjectView { pickle: self.pickle, object, global: Self::new(self.pickle, object.callee).as_global()? })
    }

    /// The persistent id, where it is a reference to something outside the pickle.
    pub fn as_persistent(self) -> Option<Value<'a>> {
        if let Node::Persistent(id) = self.node() { Some(Self::new(self.pickle, id)) } else { None }
    }

    /// The name that keeps this value from being understood: an unlisted name, or the one that a call begins with.
    pub fn opaque_name(self) -> Option<&'a Global> {
        /// Most calls of calls that are followed, for a message.
        const MAX_CALLS: usize = 64;
        let mut value = self;
        for _ in 0..MAX_CALLS {
            let Some(object) = value.call() else { break };
            value = Self::new(self.pickle, object.callee);
        }
        // A listed name is a value like any other, and so is a listed call; a listed name that begins a chain of calls
        // is not.
        let is_understood = match self.node() {
            Node::Object(_) => self.as_object().is_some(),
            _ => value.as_global().is_some_and(|global| global.is_listed),
        };
        if is_understood { None } else { value.as_global() }
    }

    /// What kind of value it is, for messages.
    pub fn kind(self) -> &'static str {
        self.node().kind()
    }
}
