//! The stack machine that a pickle is written for.
//!
//! One operation at a time; each length is compared with the remaining bytes before anything is allocated.

use std::collections::BTreeMap;

use super::arena::{Arena, Span};
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
const NODE_BYTES: u64 = 2 * (size_of::<Node>() as u64) + 16;
/// Memory for what is known of a list or dictionary besides its members, or of a call.
const EXTRA_BYTES: u64 = 2 * (size_of::<Object>() as u64);
/// Memory for a member of a container, spare room included.
const MEMBER_BYTES: u64 = 16;

pub(super) struct Machine<'a> {
    bytes: &'a [u8],
    position: usize,
    lists: &'a [NameList],
    limits: &'a PickleLimits,
    pickle: Pickle,
    stack: Vec<u32>,
    /// Heights of the stack at which groups begin.
    marks: Vec<usize>,
    /// A map, because a pickle may use any numbers.
    memo: Memo,
    global_numbers: BTreeMap<(Box<str>, Box<str>), u32>,
    used_bytes: u64,
    text_bytes: u64,
}

impl<'a> Machine<'a> {
    pub(super) fn new(bytes: &'a [u8], lists: &'a [NameList], limits: &'a PickleLimits) -> Self {
        let nodes = vec![Node::None, Node::Bool(true), Node::Bool(false), Node::Tuple(Span::default())];
        let pickle = Pickle {
            nodes,
            objects: Vec::new(),
            wide_ints: Vec::new(),
            arena: Arena::default(),
            globals: Vec::new(),
            root: NONE,
        };
        Self {
            bytes,
            position: 0,
            lists,
            limits,
            pickle,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: Memo::default(),
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
                return Ok((Pickle { root, ..self.pickle }, self.position));
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
            b'1' => {
                let start = self.close_group()?;
                self.stack.truncate(start);
                Ok(())
            }
            b'2' => {
                let top = self.top()?;
                self.push_id(top)
            }
            b'N' => self.push_id(NONE),
            0x88 => self.push_id(TRUE),
            0x89 => self.push_id(FALSE),
            b')' => self.push_id(EMPTY_TUPLE),
            b']' => self.push_list(Node::List, &[]),
            b'}' => self.push_list(Node::Dict, &[]),
            0x8f => self.push_list(Node::Set, &[]),
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
            0x82 => refuse("EXT1", "it refers to a table of the process that wrote it"),
            0x83 => refuse("EXT2", "it refers to a table of the process that wrote it"),
            0x84 => refuse("EXT4", "it refers to a table of the process that wrote it"),
            0x97 => refuse("NEXT_BUFFER", "the buffer is not in the file"),
            0x98 => refuse("READONLY_BUFFER", "the buffer is not in the file"),
            b'S' => refuse("STRING", "no program writes checkpoints with it"),
            b'i' => match (self.take_line(), self.take_line()) {
                (Ok(module), Ok(name)) => {
                    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                    PickleFault::RefusedCall { name: "INST", callee: format!("{}.{}", text(module), text(name)) }
                }
                _ => PickleFault::Truncated,
            },
            b'o' => {
                let callee = self.close_group().ok().and_then(|start| self.stack.get(start).copied());
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
        let id = u32::try_from(self.pickle.nodes.len()).map_err(|_| PickleFault::TooMuch { what: "values", limit })?;
        self.pickle.nodes.push(node);
        Ok(id)
    }

    fn push(&mut self, node: Node) -> Step<()> {
        let id = self.add(node)?;
        self.stack.push(id);
        Ok(())
    }

    /// Pushes a container that may grow.
    fn push_list(&mut self, kind: fn(u32) -> Node, members: &[u32]) -> Step<()> {
        self.spend(EXTRA_BYTES + MEMBER_BYTES * members.len() as u64)?;
        let number = self.pickle.arena.new_list(members)?;
        self.push(kind(number))
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

    /// Ends a group: the height of the stack at which its members begin. The caller takes them off.
    fn close_group(&mut self) -> Step<usize> {
        let start = self.marks.pop().ok_or(PickleFault::NoMark)?;
        self.spend(MEMBER_BYTES * (self.stack.len() - start) as u64)?;
        Ok(start)
    }

    fn node(&self, id: u32) -> Node {
        self.pickle.nodes[id as usize]
    }

    fn wrong_kind(&self, wanted: &'static str, id: u32) -> PickleFault {
        PickleFault::WrongKind { wanted, found: self.node(id).kind() }
    }

    fn global_of(&self, id: u32) -> Option<&Global> {
        if let Node::Global(idx) = self.node(id) { self.pickle.globals.get(idx as usize) } else { None }
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

    fn take_array<const N: usize>(&mut self) -> Step<[u8; N]> {
        let found = self.bytes[self.position..].first_chunk::<N>().ok_or(PickleFault::Truncated)?;
        self.position += N;
        Ok(*found)
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
            b'K' => Node::Int(self.take_byte()?.into()),
            b'M' => Node::Int(u16::from_le_bytes(self.take_array()?).into()),
            b'J' => Node::Int(i32::from_le_bytes(self.take_array()?).into()),
            // The only number that is written big-endian.
            b'G' => Node::Float(f64::from_be_bytes(self.take_array()?)),
            b'F' => Node::Float(parse_float(self.take_line()?)?),
            0x8a | 0x8b => {
                let n_bytes = if opcode == 0x8a {
                    self.take_byte()?.into()
                } else {
                    let found = i32::from_le_bytes(self.take_array()?);
                    u64::try_from(found).map_err(|_| PickleFault::NegativeLength { found: found.into() })?
                };
                let number = int_of_bytes(self.take(n_bytes)?);
                self.int_node(number)?
            }
            _ => {
                let line = self.take_line()?;
                let number = match (opcode, line) {
                    (b'I', b"00") => return self.push_id(FALSE),
                    (b'I', b"01") => return self.push_id(TRUE),
                    (b'L', _) => parse_int(line.strip_suffix(b"L").unwrap_or(line))?,
                    _ => parse_int(line)?,
                };
                self.int_node(number)?
            }
        };
        self.push(node)
    }

    fn int_node(&mut self, number: Option<i128>) -> Step<Node> {
        let Some(number) = number else { return Ok(Node::HugeInt) };
        if let Ok(number) = i64::try_from(number) {
            return Ok(Node::Int(number));
        }
        self.spend(2 * size_of::<i128>() as u64)?;
        // There are fewer of them than values, whose number fits.
        let position = u32::try_from(self.pickle.wide_ints.len()).unwrap_or(u32::MAX);
        self.pickle.wide_ints.push(number);
        Ok(Node::WideInt(position))
    }

    fn push_text(&mut self, opcode: u8) -> Step<()> {
        if opcode == b'V' {
            let line = self.take_line()?;
            self.count_text(line.len().saturating_mul(2))?;
            let node = match decode_escaped(line)? {
                Some(text) => Node::Text(self.pickle.arena.keep_text(&text)?),
                None => Node::Bytes(self.pickle.arena.keep_bytes(line)?),
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
        let node = match std::str::from_utf8(bytes) {
            Ok(text) => Node::Text(self.pickle.arena.keep_text(text)?),
            Err(_) => Node::Bytes(self.pickle.arena.keep_bytes(bytes)?),
        };
        self.push(node)
    }

    fn push_bytes(&mut self, opcode: u8) -> Step<()> {
        let n_bytes = match opcode {
            b'B' => self.take_length(4)?,
            b'C' => self.take_length(1)?,
            _ => self.take_length(8)?,
        };
        let bytes = self.take(n_bytes)?;
        self.count_text(bytes.len())?;
        let span = self.pickle.arena.keep_bytes(bytes)?;
        self.push(Node::Bytes(span))
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
        let start = match opcode {
            0x85..=0x87 => {
                let n_members = usize::from(opcode - 0x84);
                self.spend(MEMBER_BYTES * n_members as u64)?;
                let start = self.stack.len().checked_sub(n_members).filter(|start| *start >= self.floor());
                start.ok_or(PickleFault::StackUnderflow)?
            }
            _ => self.close_group()?,
        };
        let (stack, arena) = (&self.stack[start..], &mut self.pickle.arena);
        let node = match opcode {
            0x85..=0x87 | b't' => Node::Tuple(arena.keep_members(stack)?),
            b'l' => Node::List(arena.new_list(stack)?),
            0x91 => Node::Set(arena.new_list(stack)?),
            _ if stack.len().is_multiple_of(2) => Node::Dict(arena.new_list(stack)?),
            _ => return Err(PickleFault::StackUnderflow),
        };
        self.stack.truncate(start);
        if !matches!(node, Node::Tuple(_)) {
            self.spend(EXTRA_BYTES)?;
        }
        self.push(node)
    }

    fn extend_container(&mut self, opcode: u8) -> Step<()> {
        let start = match opcode {
            b'a' | b's' => {
                let n_members = if opcode == b'a' { 1 } else { 2 };
                let start = self.stack.len().checked_sub(n_members).filter(|start| *start >= self.floor());
                start.ok_or(PickleFault::StackUnderflow)?
            }
            _ => self.close_group()?,
        };
        let n_members = self.stack.len() - start;
        self.spend(MEMBER_BYTES * n_members as u64)?;
        let target = self.stack[self.floor()..start].last().copied().ok_or(PickleFault::StackUnderflow)?;
        let sets_pairs = matches!(opcode, b's' | b'u');
        if sets_pairs && !n_members.is_multiple_of(2) {
            return Err(PickleFault::StackUnderflow);
        }
        let list = match (opcode, self.node(target)) {
            (b'a' | b'e', Node::List(list)) | (0x90, Node::Set(list)) | (b's' | b'u', Node::Dict(list)) => list,
            (_, Node::Object(position)) => self.list_of_object(position, sets_pairs)?,
            _ => return Err(self.wrong_kind(if sets_pairs { "a dictionary" } else { "a list" }, target)),
        };
        self.pickle.arena.extend_list(list, &self.stack[start..])?;
        self.stack.truncate(start);
        Ok(())
    }

    /// The list of what is set on an object, or appended to it.
    fn list_of_object(&mut self, position: u32, sets_pairs: bool) -> Step<u32> {
        let object = &mut self.pickle.objects[position as usize];
        let list = if sets_pairs { &mut object.entries } else { &mut object.items };
        if let Some(list) = *list {
            return Ok(list);
        }
        let new = self.pickle.arena.new_list(&[])?;
        *list = Some(new);
        self.spend(EXTRA_BYTES)?;
        Ok(new)
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
                Node::Text(span) => Ok(self.pickle.arena.text(span).into()),
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
                let number = u32::try_from(self.pickle.globals.len()).unwrap_or(u32::MAX);
                let is_built_here = is_built_here(&key.0, &key.1);
                let is_listed = is_built_here
                    || self.lists.iter().any(|list| list.iter().any(|name| *name.0 == *key.0 && *name.1 == *key.1));
                let (module, name) = key.clone();
                self.pickle.globals.push(Global { module, name, is_listed, is_built_here });
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
                self.spend(EXTRA_BYTES)?;
                // There are fewer of them than values, whose number fits.
                let position = u32::try_from(self.pickle.objects.len()).unwrap_or(u32::MAX);
                self.pickle.objects.push(Object { callee, args, state: None, items: None, entries: None });
                Node::Object(position)
            }
        };
        self.push(node)
    }

    fn build_state(&mut self) -> Step<()> {
        let state = self.pop()?;
        let target = self.top()?;
        match self.node(target) {
            Node::Object(position) => self.pickle.objects[position as usize].state = Some(state),
            // A dictionary may carry attributes, such as the `_metadata` of a state dict: not part of the data.
            Node::Dict(_) | Node::List(_) | Node::Set(_) => {}
            _ => return Err(self.wrong_kind("an object", target)),
        }
        Ok(())
    }

    fn members(&self, id: u32) -> Option<&[u32]> {
        self.pickle.members(self.node(id))
    }

    /// The container that a call of one of Python's own classes makes, if the class is known here.
    fn build_plain(&mut self, callee: u32, args: u32) -> Step<Option<Node>> {
        let Some(global) = self.global_of(callee).filter(|global| global.is_built_here) else { return Ok(None) };
        let first = self.members(args).and_then(|args| args.first().copied());
        let members = first.and_then(|id| self.members(id));
        let made = match (&*global.name, first.map(|id| self.node(id)), members) {
            ("OrderedDict", None, _) | ("defaultdict", ..) => Made::Dict(Vec::new()),
            ("OrderedDict", _, Some(pairs)) => {
                let pair = |id: &u32| Some([*self.members(*id)?.first()?, *self.members(*id)?.get(1)?]);
                let pairs = pairs.iter().map(pair).collect::<Option<Vec<_>>>();
                let Some(pairs) = pairs else { return Ok(None) };
                Made::Dict(pairs.into_flattened())
            }
            ("set" | "frozenset", None, _) => Made::Set(Vec::new()),
            ("set" | "frozenset", _, Some(members)) => Made::Set(members.to_vec()),
            // A tuple never changes, so its members are not copied.
            ("Size", Some(Node::Tuple(span)), _) => return Ok(Some(Node::Tuple(span))),
            ("Size", _, Some(members)) => Made::Tuple(members.to_vec()),
            ("bytes" | "bytearray", None, _) => Made::Bytes(Vec::new()),
            ("bytearray", Some(Node::Bytes(span)), _) => Made::Bytes(self.pickle.arena.bytes(span).to_vec()),
            ("encode", Some(Node::Text(span)), _) => match latin1(self.pickle.arena.text(span)) {
                Some(bytes) => Made::Bytes(bytes),
                None => return Ok(None),
            },
            _ => return Ok(None),
        };
        self.keep_made(made).map(Some)
    }

    fn keep_made(&mut self, made: Made) -> Step<Node> {
        match &made {
            Made::Bytes(bytes) => self.count_text(bytes.len())?,
            Made::Dict(members) | Made::Set(members) | Made::Tuple(members) => {
                self.spend(EXTRA_BYTES + MEMBER_BYTES * members.len() as u64)?;
            }
        }
        let arena = &mut self.pickle.arena;
        Ok(match made {
            Made::Bytes(bytes) => Node::Bytes(arena.keep_bytes(&bytes)?),
            Made::Dict(members) => Node::Dict(arena.new_list(&members)?),
            Made::Set(members) => Node::Set(arena.new_list(&members)?),
            Made::Tuple(members) => Node::Tuple(arena.keep_members(&members)?),
        })
    }
}

/// What a call of one of Python's own classes makes.
enum Made {
    Bytes(Vec<u8>),
    /// Keys and values in turn.
    Dict(Vec<u32>),
    Set(Vec<u32>),
    Tuple(Vec<u32>),
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
fn latin1(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect()
}
