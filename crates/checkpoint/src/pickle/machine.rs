//! The stack machine that a pickle is written for.
//!
//! One operation at a time; each length is compared with the remaining bytes before anything is allocated.

use std::collections::BTreeMap;

use super::int_text::{decode_escaped, int_of_bytes, parse_float, parse_int};
use super::memo::Memo;
use super::value::{Global, Node, Object};
use super::{NameList, Pickle, PickleError, PickleFault, PickleLimits};

type Step<T> = Result<T, PickleFault>;

/// Values that exist once and are shared.
const NONE: u32 = 0;
const TRUE: u32 = 1;
const FALSE: u32 = 2;
const EMPTY_TUPLE: u32 = 3;

/// Memory for a value and its places on the stack and in the memo, spare room of vectors included.
const NODE_BYTES: u64 = 2 * (size_of::<Node>() as u64) + 24;
/// Memory for a member of a container, spare room included.
const MEMBER_BYTES: u64 = 16;

pub(super) struct Machine<'a> {
    bytes: &'a [u8],
    position: usize,
    lists: &'a [NameList],
    limits: &'a PickleLimits,
    nodes: Vec<Node>,
    stack: Vec<u32>,
    /// Heights of the stack at which groups begin.
    marks: Vec<usize>,
    /// A map, because a pickle may use any numbers.
    memo: Memo,
    globals: Vec<Global>,
    global_numbers: BTreeMap<(Box<str>, Box<str>), u32>,
    used_bytes: u64,
    text_bytes: u64,
}

impl<'a> Machine<'a> {
    pub(super) fn new(bytes: &'a [u8], lists: &'a [NameList], limits: &'a PickleLimits) -> Self {
        let nodes = vec![Node::None, Node::Bool(true), Node::Bool(false), Node::Tuple(Box::default())];
        Self {
            bytes,
            position: 0,
            lists,
            limits,
            nodes,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: Memo::default(),
            globals: Vec::new(),
            global_numbers: BTreeMap::new(),
            used_bytes: 0,
            text_bytes: 0,
        }
    }

    /// Performs operations until STOP.
    pub(super) fn run(mut self) -> Result<(Pickle, usize), PickleError> {
        let mut n_ops = 0;
        loop {
            let position = self.position;
            let fail = |fault| PickleError { position, fault };
            n_ops += 1;
            if n_ops > self.limits.max_ops {
                return Err(fail(PickleFault::TooMuch { what: "operations", limit: self.limits.max_ops }));
            }
            let opcode = self.take_byte().map_err(fail)?;
            if opcode == b'.' {
                let root = self.pop().map_err(fail)?;
                let n_bytes = self.position;
                return Ok((Pickle { nodes: self.nodes, globals: self.globals, root }, n_bytes));
            }
            self.perform(opcode).map_err(fail)?;
        }
    }

    fn perform(&mut self, opcode: u8) -> Step<()> {
        match opcode {
            0x80 => self.check_protocol(),
            0x95 => self.take_length(8).map(drop),
            b'(' => self.open_group(),
            b'0' => self.pop_any(),
            b'1' => self.close_group().map(drop),
            b'2' => {
                let top = self.top()?;
                self.push_id(top)
            }
            b'N' => self.push_id(NONE),
            0x88 => self.push_id(TRUE),
            0x89 => self.push_id(FALSE),
            b')' => self.push_id(EMPTY_TUPLE),
            b']' => self.push(Node::List(Vec::new())),
            b'}' => self.push(Node::Dict(Vec::new())),
            0x8f => self.push(Node::Set(Vec::new())),
            b'I' | b'L' | b'F' | b'J' | b'K' | b'M' | b'G' | 0x8a | 0x8b => self.push_number(opcode),
            b'X' | 0x8c | 0x8d | b'V' | b'T' | b'U' => self.push_text(opcode),
            b'B' | b'C' | 0x8e | 0x96 => self.push_bytes(opcode),
            b'q' | b'r' | b'p' | 0x94 | b'h' | b'j' | b'g' => self.use_memo(opcode),
            b't' | 0x85 | 0x86 | 0x87 | b'l' | b'd' | 0x91 => self.build_container(opcode),
            b'a' | b'e' | b's' | b'u' | 0x90 => self.extend_container(opcode),
            b'c' | 0x93 => self.push_global(opcode),
            b'R' | 0x81 | 0x92 => self.call(opcode),
            b'b' => self.build_state(),
            b'Q' => {
                let id = self.pop()?;
                self.push(Node::Persistent(id))
            }
            _ => Err(self.refusal(opcode)),
        }
    }

    fn refusal(&mut self, opcode: u8) -> PickleFault {
        let refuse = |name, reason| PickleFault::Refused { name, reason };
        match opcode {
            b'P' => refuse("PERSID", "storages are named by tuples, not by text"),
            0x82 => refuse("EXT1", "it names a table of the writing process"),
            0x83 => refuse("EXT2", "it names a table of the writing process"),
            0x84 => refuse("EXT4", "it names a table of the writing process"),
            0x97 => refuse("NEXT_BUFFER", "the buffer is not in the file"),
            0x98 => refuse("READONLY_BUFFER", "the buffer is not in the file"),
            b'S' => refuse("STRING", "no writer of checkpoints uses it"),
            b'i' => match (self.take_line(), self.take_line()) {
                (Ok(module), Ok(name)) => {
                    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                    PickleFault::RefusedCall { name: "INST", callee: format!("{}.{}", text(module), text(name)) }
                }
                _ => PickleFault::Truncated,
            },
            b'o' => {
                let callee = self.close_group().ok().and_then(|ids| ids.first().copied());
                let global = callee.and_then(|id| self.global_of(id));
                let callee =
                    global.map_or_else(|| "?".to_owned(), |global| format!("{}.{}", global.module, global.name));
                PickleFault::RefusedCall { name: "OBJ", callee }
            }
            found => PickleFault::UnknownOpcode { found },
        }
    }

    fn check_protocol(&mut self) -> Step<()> {
        match self.take_byte()? {
            0..=5 => Ok(()),
            found => Err(PickleFault::Protocol { found }),
        }
    }

    // Building blocks of the operations.

    fn spend(&mut self, n_bytes: u64) -> Step<()> {
        self.used_bytes = self.used_bytes.saturating_add(n_bytes);
        let limit = self.limits.max_memory_bytes;
        if self.used_bytes > limit { Err(PickleFault::TooMuch { what: "bytes of memory", limit }) } else { Ok(()) }
    }

    fn add(&mut self, node: Node) -> Step<u32> {
        self.spend(NODE_BYTES)?;
        let limit = u32::MAX.into();
        let id = u32::try_from(self.nodes.len()).map_err(|_| PickleFault::TooMuch { what: "values", limit })?;
        self.nodes.push(node);
        Ok(id)
    }

    fn push(&mut self, node: Node) -> Step<()> {
        let id = self.add(node)?;
        self.stack.push(id);
        Ok(())
    }

    fn push_id(&mut self, id: u32) -> Step<()> {
        self.spend(MEMBER_BYTES)?;
        self.stack.push(id);
        Ok(())
    }

    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Step<u32> {
        self.stack[self.floor()..].last().copied().ok_or(PickleFault::StackUnderflow)
    }

    fn pop(&mut self) -> Step<u32> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_any(&mut self) -> Step<()> {
        // In Python a mark is a value, too.
        if self.stack.len() == self.floor() && self.marks.pop().is_some() { Ok(()) } else { self.pop().map(drop) }
    }

    fn open_group(&mut self) -> Step<()> {
        let limit = self.limits.max_open;
        if self.marks.len() >= limit {
            return Err(PickleFault::TooMuch { what: "open containers", limit: limit as u64 });
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    fn close_group(&mut self) -> Step<Vec<u32>> {
        let start = self.marks.pop().ok_or(PickleFault::NoMark)?;
        let members = self.stack.split_off(start);
        self.spend(MEMBER_BYTES * members.len() as u64)?;
        Ok(members)
    }

    fn node(&self, id: u32) -> &Node {
        &self.nodes[id as usize]
    }

    fn wrong_kind(&self, wanted: &'static str, id: u32) -> PickleFault {
        PickleFault::WrongKind { wanted, found: self.node(id).kind() }
    }

    fn global_of(&self, id: u32) -> Option<&Global> {
        if let Node::Global(idx) = self.node(id) { self.globals.get(*idx as usize) } else { None }
    }

    // Bytes.

    fn take_byte(&mut self) -> Step<u8> {
        let byte = self.bytes.get(self.position).copied().ok_or(PickleFault::Truncated)?;
        self.position += 1;
        Ok(byte)
    }

    fn take(&mut self, n_bytes: u64) -> Step<&'a [u8]> {
        let rest = &self.bytes[self.position..];
        let past_end = PickleFault::LengthPastEnd { wanted_bytes: n_bytes, found_bytes: rest.len() };
        let n_bytes = usize::try_from(n_bytes).ok().filter(|n_bytes| *n_bytes <= rest.len()).ok_or(past_end)?;
        self.position += n_bytes;
        Ok(&rest[..n_bytes])
    }

    /// A little-endian unsigned number of up to eight bytes.
    fn take_length(&mut self, n_bytes: usize) -> Step<u64> {
        let rest = &self.bytes[self.position..];
        let found = rest.get(..n_bytes).ok_or(PickleFault::Truncated)?;
        self.position += n_bytes;
        Ok(found.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    }

    fn take_line(&mut self) -> Step<&'a [u8]> {
        let rest = &self.bytes[self.position..];
        let end = rest.iter().position(|byte| *byte == b'\n').ok_or(PickleFault::Truncated)?;
        self.position += end + 1;
        Ok(&rest[..end])
    }

    fn count_text(&mut self, n_bytes: usize) -> Step<()> {
        self.text_bytes = self.text_bytes.saturating_add(n_bytes as u64);
        let limit = self.limits.max_text_bytes;
        if self.text_bytes > limit {
            return Err(PickleFault::TooMuch { what: "bytes of text", limit });
        }
        self.spend(n_bytes as u64)
    }

    // Operations.

    fn push_number(&mut self, opcode: u8) -> Step<()> {
        let node = match opcode {
            b'K' => Node::Int(self.take_length(1)?.into()),
            b'M' => Node::Int(self.take_length(2)?.into()),
            b'J' | b'G' | 0x8a | 0x8b => return self.push_binary_number(opcode),
            b'F' => Node::Float(parse_float(self.take_line()?)?),
            _ => {
                let line = self.take_line()?;
                match (opcode, line) {
                    (b'I', b"00") => return self.push_id(FALSE),
                    (b'I', b"01") => return self.push_id(TRUE),
                    (b'L', _) => parse_int(line.strip_suffix(b"L").unwrap_or(line))?,
                    _ => parse_int(line)?,
                }
                .map_or(Node::HugeInt, Node::Int)
            }
        };
        self.push(node)
    }

    fn push_binary_number(&mut self, opcode: u8) -> Step<()> {
        let node = match opcode {
            b'J' => int_of_bytes(self.take(4)?).map_or(Node::HugeInt, Node::Int),
            // The only number that is written big-endian.
            b'G' => Node::Float(f64::from_bits(self.take_length(8)?.swap_bytes())),
            _ => {
                let n_bytes = if opcode == 0x8a {
                    self.take_length(1)?
                } else {
                    let found = int_of_bytes(self.take(4)?).and_then(|found| i64::try_from(found).ok()).unwrap_or(-1);
                    u64::try_from(found).map_err(|_| PickleFault::NegativeLength { found })?
                };
                int_of_bytes(self.take(n_bytes)?).map_or(Node::HugeInt, Node::Int)
            }
        };
        self.push(node)
    }

    fn push_text(&mut self, opcode: u8) -> Step<()> {
        if opcode == b'V' {
            let line = self.take_line()?;
            self.count_text(line.len().saturating_mul(2))?;
            let node = match decode_escaped(line)? {
                Some(text) => Node::Text(text.into()),
                None => Node::Bytes(line.into()),
            };
            return self.push(node);
        }
        let n_bytes = match opcode {
            b'X' | b'T' => self.take_length(4)?,
            0x8d => self.take_length(8)?,
            _ => self.take_length(1)?,
        };
        let bytes = self.take(n_bytes)?;
        self.count_text(bytes.len())?;
        // Python lets lone surrogates through, and byte strings of Python 2 may hold anything.
        self.push(match std::str::from_utf8(bytes) {
            Ok(text) => Node::Text(text.into()),
            Err(_) => Node::Bytes(bytes.into()),
        })
    }

    fn push_bytes(&mut self, opcode: u8) -> Step<()> {
        let n_bytes = match opcode {
            b'B' => self.take_length(4)?,
            b'C' => self.take_length(1)?,
            _ => self.take_length(8)?,
        };
        let bytes = self.take(n_bytes)?;
        self.count_text(bytes.len())?;
        self.push(Node::Bytes(bytes.into()))
    }

    fn use_memo(&mut self, opcode: u8) -> Step<()> {
        let index = match opcode {
            b'q' | b'h' => self.take_length(1)?,
            b'r' | b'j' => self.take_length(4)?,
            b'p' | b'g' => {
                let line = self.take_line()?;
                let bad =
                    || PickleFault::BadText { wanted: "a memo number", found: String::from_utf8_lossy(line).into() };
                parse_int(line)?.and_then(|index| u64::try_from(index).ok()).ok_or_else(bad)?
            }
            _ => self.memo.len(),
        };
        let limit = u32::MAX.into();
        let index = u32::try_from(index).map_err(|_| PickleFault::TooMuch { what: "memo entries", limit })?;
        if matches!(opcode, b'h' | b'j' | b'g') {
            let id = self.memo.get(index).ok_or(PickleFault::MemoMissing { index })?;
            return self.push_id(id);
        }
        let top = self.top()?;
        self.spend(MEMBER_BYTES)?;
        self.memo.insert(index, top);
        Ok(())
    }

    fn build_container(&mut self, opcode: u8) -> Step<()> {
        let node = match opcode {
            0x85..=0x87 => {
                let n_members = usize::from(opcode - 0x84);
                let start = self.stack.len().checked_sub(n_members).filter(|start| *start >= self.floor());
                let members = self.stack.split_off(start.ok_or(PickleFault::StackUnderflow)?);
                self.spend(MEMBER_BYTES * n_members as u64)?;
                Node::Tuple(members.into())
            }
            b't' => Node::Tuple(self.close_group()?.into()),
            b'l' => Node::List(self.close_group()?),
            0x91 => Node::Set(self.close_group()?),
            _ => Node::Dict(pair_up(&self.close_group()?)?),
        };
        self.push(node)
    }

    fn extend_container(&mut self, opcode: u8) -> Step<()> {
        let members = match opcode {
            b'a' => vec![self.pop()?],
            b's' => {
                let value = self.pop()?;
                vec![self.pop()?, value]
            }
            _ => self.close_group()?,
        };
        self.spend(MEMBER_BYTES * members.len() as u64)?;
        let target = self.top()?;
        let wanted = if matches!(opcode, b's' | b'u') { "a dictionary" } else { "a list" };
        let wrong_kind = self.wrong_kind(wanted, target);
        match (opcode, &mut self.nodes[target as usize]) {
            (b'a' | b'e', Node::List(items)) | (0x90, Node::Set(items)) => items.extend(members),
            (b's' | b'u', Node::Dict(entries)) => entries.extend(pair_up(&members)?),
            (b's' | b'u', Node::Object(object)) => object.entries.extend(pair_up(&members)?),
            (_, Node::Object(object)) => object.items.extend(members),
            _ => return Err(wrong_kind),
        }
        Ok(())
    }

    fn push_global(&mut self, opcode: u8) -> Step<()> {
        let (module, name): (Box<str>, Box<str>) = if opcode == b'c' {
            let text = |line: &[u8]| match std::str::from_utf8(line) {
                Ok(text) => Ok(text.into()),
                Err(_) => Err(PickleFault::BadText { wanted: "a name", found: String::from_utf8_lossy(line).into() }),
            };
            (text(self.take_line()?)?, text(self.take_line()?)?)
        } else {
            let (name, module) = (self.pop()?, self.pop()?);
            let text = |id| match self.node(id) {
                Node::Text(text) => Ok(text.clone()),
                _ => Err(self.wrong_kind("a string", id)),
            };
            (text(module)?, text(name)?)
        };
        self.count_text(module.len() + name.len())?;
        let key = (module, name);
        let number = match self.global_numbers.get(&key) {
            Some(number) => *number,
            None => {
                self.spend(NODE_BYTES + 2 * (key.0.len() + key.1.len()) as u64)?;
                let number = u32::try_from(self.globals.len()).unwrap_or(u32::MAX);
                let is_listed = is_built_here(&key.0, &key.1)
                    || self.lists.iter().any(|list| list.iter().any(|name| *name.0 == *key.0 && *name.1 == *key.1));
                self.globals.push(Global { module: key.0.clone(), name: key.1.clone(), is_listed });
                self.global_numbers.insert(key, number);
                number
            }
        };
        self.push(Node::Global(number))
    }

    fn call(&mut self, opcode: u8) -> Step<()> {
        if opcode == 0x92 {
            // Keyword arguments: no listed name is called with any.
            self.pop()?;
        }
        let (args, callee) = (self.pop()?, self.pop()?);
        if !matches!(self.node(args), Node::Tuple(_)) {
            return Err(self.wrong_kind("a tuple of arguments", args));
        }
        if !matches!(self.node(callee), Node::Global(_) | Node::Object(_)) {
            return Err(self.wrong_kind("something to call", callee));
        }
        let node = match self.build_plain(callee, args)? {
            Some(node) => node,
            None => {
                self.spend(size_of::<Object>() as u64)?;
                Node::Object(Box::new(Object { callee, args, ..Object::default() }))
            }
        };
        self.push(node)
    }

    fn build_state(&mut self) -> Step<()> {
        let state = self.pop()?;
        let target = self.top()?;
        let wrong_kind = self.wrong_kind("an object", target);
        match &mut self.nodes[target as usize] {
            Node::Object(object) => object.state = Some(state),
            // A dictionary may carry attributes, such as the `_metadata` of a state dict: not part of the data.
            Node::Dict(_) | Node::List(_) | Node::Set(_) => {}
            _ => return Err(wrong_kind),
        }
        Ok(())
    }

    fn members(&self, id: u32) -> Option<&[u32]> {
        match self.node(id) {
            Node::Tuple(ids) => Some(ids),
            Node::List(ids) | Node::Set(ids) => Some(ids),
            _ => None,
        }
    }

    /// The container that a call of one of Python's own classes makes, if the class is known here.
    fn build_plain(&mut self, callee: u32, args: u32) -> Step<Option<Node>> {
        let Some(global) = self.global_of(callee).filter(|global| is_built_here(&global.module, &global.name)) else {
            return Ok(None);
        };
        let first = self.members(args).and_then(|args| args.first().copied());
        let of_first = first.map(|id| (self.members(id), self.node(id)));
        let (n_members, n_bytes) = match of_first {
            Some((Some(members), _)) => (members.len(), 0),
            Some((_, Node::Bytes(bytes))) => (0, bytes.len()),
            Some((_, Node::Text(text))) => (0, text.len()),
            _ => (0, 0),
        };
        let pair = |id: &u32| self.members(*id).and_then(|pair| Some((*pair.first()?, *pair.get(1)?)));
        let node = match (&*global.name, of_first) {
            ("OrderedDict", None) | ("defaultdict", _) => Some(Node::Dict(Vec::new())),
            ("OrderedDict", Some((Some(pairs), _))) => pairs.iter().map(pair).collect::<Option<_>>().map(Node::Dict),
            ("set" | "frozenset", None) => Some(Node::Set(Vec::new())),
            ("set" | "frozenset", Some((Some(members), _))) => Some(Node::Set(members.to_vec())),
            ("Size", Some((Some(members), _))) => Some(Node::Tuple(members.into())),
            ("bytes" | "bytearray", None) => Some(Node::Bytes(Box::default())),
            ("bytearray", Some((_, Node::Bytes(bytes)))) => Some(Node::Bytes(bytes.clone())),
            ("encode", Some((_, Node::Text(text)))) => latin1(text),
            _ => None,
        };
        self.count_text(n_bytes)?;
        self.spend(MEMBER_BYTES * n_members as u64)?;
        Ok(node)
    }
}

/// The names whose calls become plain containers.
fn is_built_here(module: &str, name: &str) -> bool {
    match module {
        "collections" => matches!(name, "OrderedDict" | "defaultdict"),
        "__builtin__" | "builtins" => matches!(name, "set" | "frozenset" | "bytes" | "bytearray"),
        "torch" => name == "Size",
        "_codecs" => name == "encode",
        _ => false,
    }
}

/// Bytes that protocol 2 writes as a string of the characters 0 to 255.
fn latin1(text: &str) -> Option<Node> {
    let bytes: Option<Box<[u8]>> = text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
    bytes.map(Node::Bytes)
}

fn pair_up(members: &[u32]) -> Step<Vec<(u32, u32)>> {
    let (pairs, rest) = members.as_chunks::<2>();
    if rest.is_empty() {
        Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect())
    } else {
        Err(PickleFault::StackUnderflow)
    }
}
