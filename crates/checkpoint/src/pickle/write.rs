//! Writes pickles of protocol 2, operation by operation, as Python's own pickler orders them.
//!
//! Every value that Python remembers is remembered here too, so that a pickle can equal one that PyTorch writes. Values
//! come first and what collects them last: write the parts, then [`PickleWriter::tuple`] or [`PickleWriter::call`].

use std::collections::BTreeMap;

/// Items that one operation adds to a container, as Python limits them.
const BATCH_ITEMS: usize = 1000;

/// A value that was written before and can be mentioned again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(u32);

/// A pickle under construction.
///
/// # Example
/// ```
/// use thalweg_checkpoint::pickle::{PickleLimits, PickleWriter, parse_pickle};
///
/// let mut writer = PickleWriter::new();
/// writer.dict();
/// writer.set_items([("a", 7), ("b", 300)], |writer, (key, value)| {
///     writer.text(key);
///     writer.int(value);
/// });
/// let (pickle, _) = parse_pickle(&writer.finish(), &[], &PickleLimits::default())?;
/// assert_eq!(pickle.root().get("b").and_then(|value| value.as_int()), Some(300));
/// # Ok::<(), thalweg_checkpoint::pickle::PickleError>(())
/// ```
#[derive(Debug, Clone)]
pub struct PickleWriter {
    bytes: Vec<u8>,
    n_slots: u32,
    /// Names and constant strings (of the module "") that were written, and where they are remembered.
    constants: BTreeMap<(&'static str, &'static str), Slot>,
}

impl Default for PickleWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl PickleWriter {
    /// An empty pickle.
    pub fn new() -> Self {
        Self { bytes: b"\x80\x02".to_vec(), n_slots: 0, constants: BTreeMap::new() }
    }

    /// The pickle of the one value that was written.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.push(b'.');
        self.bytes
    }

    /// None.
    pub fn none(&mut self) {
        self.bytes.push(b'N');
    }

    /// A boolean.
    pub fn boolean(&mut self, value: bool) {
        self.bytes.push(if value { 0x88 } else { 0x89 });
    }

    /// An integer.
    pub fn int(&mut self, value: impl Into<i128>) {
        let value = value.into();
        if let Ok(small) = u8::try_from(value) {
            self.bytes.extend([b'K', small]);
        } else if let Ok(short) = u16::try_from(value) {
            self.with_bytes(b'M', &short.to_le_bytes());
        } else if let Ok(int) = i32::try_from(value) {
            self.with_bytes(b'J', &int.to_le_bytes());
        } else {
            let all = value.to_le_bytes();
            // The shortest form that keeps the sign.
            let fits = |n_bits: u32| value >> (n_bits - 1) == 0 || value >> (n_bits - 1) == -1;
            let n_bytes = (5..16_u8).find(|n_bytes| fits(8 * u32::from(*n_bytes))).unwrap_or(16);
            self.bytes.extend([0x8a, n_bytes]);
            self.bytes.extend_from_slice(&all[..usize::from(n_bytes)]);
        }
    }

    /// A floating-point number.
    pub fn float(&mut self, value: f64) {
        self.with_bytes(b'G', &value.to_be_bytes());
    }

    /// A string.
    pub fn text(&mut self, text: &str) {
        let len_bytes = u32::try_from(text.len()).unwrap_or(u32::MAX);
        self.with_bytes(b'X', &len_bytes.to_le_bytes());
        self.bytes.extend_from_slice(&text.as_bytes()[..text.len().min(u32::MAX as usize)]);
        self.remember();
    }

    /// A byte string. Protocol 2 has none, so it is a call that makes one from the characters 0 to 255.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.global("_codecs", "encode");
        self.text(&bytes.iter().map(|byte| char::from(*byte)).collect::<String>());
        self.constant_text("latin1");
        self.tuple(2);
        self.call();
    }

    /// A string that is likely to come up again.
    pub(crate) fn constant_text(&mut self, text: &'static str) {
        if let Some(slot) = self.constants.get(&("", text)) {
            return self.repeat(*slot);
        }
        self.text(text);
        self.constants.insert(("", text), Slot(self.n_slots - 1));
    }

    /// The name of a class or function of a module.
    pub fn global(&mut self, module: &'static str, name: &'static str) {
        if let Some(slot) = self.constants.get(&(module, name)) {
            return self.repeat(*slot);
        }
        self.with_bytes(b'c', format!("{module}\n{name}\n").as_bytes());
        let slot = self.remember();
        self.constants.insert((module, name), slot);
    }

    /// Begins a tuple of more than three values; [`PickleWriter::long_tuple`] ends it.
    pub fn mark(&mut self) {
        self.bytes.push(b'(');
    }

    /// The tuple of what was written since the last [`PickleWriter::mark`].
    pub fn long_tuple(&mut self) {
        self.bytes.push(b't');
        self.remember();
    }

    /// The tuple of the last `n_values` values, at most three.
    pub fn tuple(&mut self, n_values: u8) {
        match n_values {
            0 => self.bytes.push(b')'),
            n_values => {
                self.bytes.push(0x84 + n_values.min(3));
                self.remember();
            }
        }
    }

    /// A tuple of integers.
    pub fn numbers(&mut self, numbers: &[u64]) {
        let is_long = numbers.len() > 3;
        if is_long {
            self.mark();
        }
        numbers.iter().for_each(|number| self.int(*number));
        match u8::try_from(numbers.len()) {
            Ok(n_numbers) if !is_long => self.tuple(n_numbers),
            _ => self.long_tuple(),
        }
    }

    /// An empty dictionary; [`PickleWriter::set_items`] fills it.
    pub fn dict(&mut self) {
        self.bytes.push(b'}');
        self.remember();
    }

    /// An empty ordered dictionary; [`PickleWriter::set_items`] fills it.
    pub fn ordered_dict(&mut self) {
        self.global("collections", "OrderedDict");
        self.tuple(0);
        self.call();
    }

    /// An empty list; [`PickleWriter::append_items`] fills it.
    pub fn list(&mut self) {
        self.bytes.push(b']');
        self.remember();
    }

    /// Puts items into the dictionary that was written last. `write` writes a key and a value.
    pub fn set_items<T>(&mut self, items: impl IntoIterator<Item = T>, write: impl FnMut(&mut Self, T)) {
        self.add_items(items, write, (b's', b'u'));
    }

    /// Appends items to the list that was written last. `write` writes one value.
    pub fn append_items<T>(&mut self, items: impl IntoIterator<Item = T>, write: impl FnMut(&mut Self, T)) {
        self.add_items(items, write, (b'a', b'e'));
    }

    fn add_items<T>(
        &mut self,
        items: impl IntoIterator<Item = T>,
        mut write: impl FnMut(&mut Self, T),
        (one, many): (u8, u8),
    ) {
        let mut items = items.into_iter().peekable();
        while let Some(first) = items.next() {
            if items.peek().is_none() {
                write(self, first);
                return self.bytes.push(one);
            }
            self.mark();
            write(self, first);
            items.by_ref().take(BATCH_ITEMS - 1).for_each(|item| write(self, item));
            self.bytes.push(many);
        }
    }

    /// The result of calling the value before last with the tuple that was written last.
    pub fn call(&mut self) {
        self.bytes.push(b'R');
        self.remember();
    }

    /// An object of a class, without a call of its constructor, whose attributes are the items that `write` writes.
    pub fn object<T>(
        &mut self,
        (module, name): (&'static str, &'static str),
        attributes: impl IntoIterator<Item = T>,
        write: impl FnMut(&mut Self, T),
    ) {
        self.global(module, name);
        self.tuple(0);
        self.bytes.push(0x81);
        self.remember();
        let mut attributes = attributes.into_iter().peekable();
        if attributes.peek().is_some() {
            self.dict();
            self.set_items(attributes, write);
            self.bytes.push(b'b');
        }
    }

    /// What the tuple that was written last refers to outside the pickle.
    pub fn persistent(&mut self) {
        self.bytes.push(b'Q');
    }

    /// Remembers the string, name, container or object that was written last.
    ///
    /// Only for a value that was written just before: each is remembered once already, and this names its place.
    pub(crate) fn last_slot(&self) -> Slot {
        Slot(self.n_slots.saturating_sub(1))
    }

    /// A value that was written before.
    pub fn repeat(&mut self, slot: Slot) {
        match u8::try_from(slot.0) {
            Ok(short) => self.bytes.extend([b'h', short]),
            Err(_) => self.with_bytes(b'j', &slot.0.to_le_bytes()),
        }
    }

    fn remember(&mut self) -> Slot {
        let slot = Slot(self.n_slots);
        self.n_slots += 1;
        match u8::try_from(slot.0) {
            Ok(short) => self.bytes.extend([b'q', short]),
            Err(_) => self.with_bytes(b'r', &slot.0.to_le_bytes()),
        }
        slot
    }

    fn with_bytes(&mut self, opcode: u8, bytes: &[u8]) {
        self.bytes.push(opcode);
        self.bytes.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pickle::{Pickle, PickleLimits, parse_pickle};

    fn read(writer: PickleWriter) -> Pickle {
        let bytes = writer.finish();
        let (pickle, n_bytes) = parse_pickle(&bytes, &[&[("m", "C")]], &PickleLimits::default()).unwrap();
        assert_eq!(n_bytes, bytes.len());
        pickle
    }

    #[test]
    fn integers_of_every_length_read_back() {
        let mut values = vec![0, i128::from(i32::MIN), i128::from(i32::MAX), i128::MAX, i128::MIN];
        for n_bits in [7, 8, 15, 16, 31, 32, 39, 40, 63, 64, 100] {
            let edge = 1_i128 << n_bits;
            values.extend([edge - 1, edge, edge + 1, -edge - 1, -edge, 1 - edge]);
        }
        let mut writer = PickleWriter::new();
        writer.list();
        writer.append_items(&values, |writer, value| writer.int(*value));
        let pickle = read(writer);
        assert!(pickle.root().items().map(|item| item.as_int().unwrap()).eq(values));
    }

    #[test]
    fn integers_have_the_bytes_of_pythons_pickler() {
        let written = |value: i64| {
            let mut writer = PickleWriter::new();
            writer.int(value);
            writer.finish()[2..].to_vec()
        };
        assert_eq!(written(255), b"K\xff.");
        assert_eq!(written(256), b"M\x00\x01.");
        assert_eq!(written(65_536), b"J\x00\x00\x01\x00.");
        assert_eq!(written(-1), b"J\xff\xff\xff\xff.");
        assert_eq!(written(1 << 31), b"\x8a\x05\x00\x00\x00\x80\x00.");
        assert_eq!(written(-(1 << 31) - 1), b"\x8a\x05\xff\xff\xff\x7f\xff.");
    }

    #[test]
    fn values_of_every_kind_read_back() {
        let mut writer = PickleWriter::new();
        writer.ordered_dict();
        let keys = ["none", "true", "float", "text", "bytes", "numbers", "object", "again", "stored"];
        writer.set_items(keys, |writer, key| {
            writer.text(key);
            match key {
                "none" => writer.none(),
                "true" => writer.boolean(true),
                "float" => writer.float(-0.1),
                "text" => writer.text("ü \" \n \0"),
                "bytes" => writer.bytes(&[0, 127, 128, 255]),
                "numbers" => writer.numbers(&[1, 2, 3, u64::MAX]),
                "object" => writer.object(("m", "C"), ["x"], |writer, name| {
                    writer.constant_text(name);
                    writer.numbers(&[]);
                }),
                "again" => writer.constant_text("x"),
                _ => {
                    writer.numbers(&[5]);
                    writer.persistent();
                }
            }
        });
        let pickle = read(writer);
        let root = pickle.root();
        let get = |key: &str| root.get(key).unwrap();
        assert!(get("none").is_none());
        assert_eq!(get("true").as_bool(), Some(true));
        assert_eq!(get("float").as_float(), Some(-0.1));
        assert_eq!(get("text").as_text(), Some("ü \" \n \0"));
        assert_eq!(get("bytes").as_bytes(), Some(&[0, 127, 128, 255][..]));
        assert!(get("numbers").items().map(|item| item.as_u64().unwrap()).eq([1, 2, 3, u64::MAX]));
        assert!(get("object").as_object().unwrap().attribute("x").unwrap().is_tuple());
        assert_eq!(get("again").as_text(), Some("x"));
        assert_eq!(get("stored").as_persistent().unwrap().items().next().unwrap().as_u64(), Some(5));
    }

    #[test]
    fn thousands_of_items_are_written_in_batches_and_remembered() {
        for n_items in [0, 1, 2, 999, 1000, 1001, 1002, 2001, 70_000] {
            let mut writer = PickleWriter::new();
            writer.dict();
            let mut slots = Vec::new();
            writer.set_items(0..n_items, |writer, i: u64| {
                writer.text(&i.to_string());
                slots.push(writer.last_slot());
                writer.int(i);
            });
            let pickle = read(writer);
            assert_eq!(pickle.root().entries().len() as u64, n_items);
            assert!(
                pickle
                    .root()
                    .entries()
                    .zip(0..)
                    .all(|((key, value), i)| { key.as_text() == Some(&*i.to_string()) && value.as_int() == Some(i) })
            );
            assert!(slots.iter().zip(1..).all(|(slot, number)| *slot == Slot(number)));
        }
    }
}
