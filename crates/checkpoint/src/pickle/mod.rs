//! Reads pickles as data: bytes in, a tree of values out. No name is looked up, nothing is called. `write` writes them.
//!
//! A pickle is a program that names functions of the process that loads it. Here a name is only text. Calls of names
//! that the caller lists become [`Value`]s with arguments and state; calls of any other name are opaque values that
//! keep their name for messages. The formats that use this decide what a tensor, a storage or a shard is.
//!
//! Values live in one flat list and refer to each other by number, so that shared and circular values cost nothing,
//! nothing recurses, and a nest of a million lists is dropped in one go.

mod arena;
mod error;
mod int_text;
mod machine;
mod memo;
#[cfg(test)]
mod tests;
mod value;
mod write;

pub use error::{PickleError, PickleFault};
pub use value::{Global, ObjectView, Value};
pub use write::{PickleWriter, Slot};

use arena::Arena;
use value::{Node, Object};

/// Limits on what reading one pickle may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PickleLimits {
    /// Operations, the last one included.
    pub max_ops: u64,
    /// Containers that may be open at once.
    pub max_open: usize,
    /// Bytes that the values may hold, strings included.
    pub max_memory_bytes: u64,
    /// Bytes of all strings and byte strings together.
    pub max_text_bytes: u64,
}

impl Default for PickleLimits {
    /// Room for the metadata of a sharded checkpoint of 100,000 pieces; not for data.
    fn default() -> Self {
        Self { max_ops: 50_000_000, max_open: 1_000, max_memory_bytes: 160 << 20, max_text_bytes: 48 << 20 }
    }
}

/// Full names, module and name, whose calls the caller understands.
pub type NameList = &'static [(&'static str, &'static str)];

/// What a pickle says.
#[derive(Debug)]
pub struct Pickle {
    nodes: Vec<Node>,
    objects: Vec<Object>,
    wide_ints: Vec<i128>,
    arena: Arena,
    globals: Vec<Global>,
    root: u32,
}

impl Pickle {
    /// The value that the pickle encodes.
    pub fn root(&self) -> Value<'_> {
        Value::new(self, self.root)
    }

    /// The members of a list, tuple or set; `None` for other values.
    fn members(&self, node: Node) -> Option<&[u32]> {
        match node {
            Node::Tuple(span) => Some(self.arena.members(span)),
            Node::List(list) | Node::Set(list) => Some(self.arena.list(list)),
            _ => None,
        }
    }

    fn list(&self, number: Option<u32>) -> &[u32] {
        number.map(|number| self.arena.list(number)).unwrap_or_default()
    }

    /// The persistent ids that the pickle mentions, in the order of their mention.
    pub fn persistent_ids(&self) -> impl Iterator<Item = Value<'_>> {
        let ids = self.nodes.iter().filter_map(|node| if let Node::Persistent(id) = node { Some(*id) } else { None });
        ids.map(|id| Value::new(self, id))
    }

    /// The names outside the list that the pickle mentions, in the order of their first mention.
    pub fn unlisted_names(&self) -> impl Iterator<Item = &Global> {
        self.globals.iter().filter(|global| !global.is_listed)
    }
}

/// Reads one pickle from the start of `bytes`; also returns how many bytes it took.
///
/// Names in one of `lists` are marked as listed. Python's own containers (`collections OrderedDict`, `torch Size`,
/// `set`, byte strings of protocol 2) are always built as plain containers.
///
/// # Errors
/// A [`PickleError`] with the position: an operation that breaks the rules, is refused, or goes beyond a limit.
///
/// # Example
/// ```
/// use thalweg_checkpoint::pickle::{PickleLimits, parse_pickle};
///
/// let (pickle, n_bytes) = parse_pickle(b"\x80\x02}X\x01\x00\x00\x00aK\x07s.rest", &[], &PickleLimits::default())?;
/// assert_eq!(pickle.root().get("a").and_then(|value| value.as_int()), Some(7));
/// assert_eq!(n_bytes, 13);
/// # Ok::<(), thalweg_checkpoint::pickle::PickleError>(())
/// ```
pub fn parse_pickle(bytes: &[u8], lists: &[NameList], limits: &PickleLimits) -> Result<(Pickle, usize), PickleError> {
    machine::Machine::new(bytes, lists, limits).run()
}
