//! Writes small torch.save files, in the form from before PyTorch 1.6: states of trainers that no fixture has.

use std::fs;
use std::path::Path;

use thalweg_checkpoint::pickle::PickleWriter;

/// Element types of the tensors in such files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    F32,
    Bf16,
}

/// A value in a file.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    Dict(Vec<(String, Node)>),
    List(Vec<Node>),
    Tensor(View),
    Number(u64),
    Text(&'static str),
    Nothing,
}

/// A tensor in the storage with this number.
#[derive(Debug, Clone)]
pub(crate) struct View {
    storage: usize,
    first: u64,
    shape: Vec<u64>,
}

/// A file that is being made.
#[derive(Debug, Default)]
pub(crate) struct Saved {
    storages: Vec<(Type, Vec<f32>)>,
}

/// A dictionary.
pub(crate) fn dict<const N: usize>(items: [(&str, Node); N]) -> Node {
    Node::Dict(items.into_iter().map(|(key, node)| (key.to_owned(), node)).collect())
}

/// Different values for each seed, between -1 and 1, with more digits than bfloat16 has.
pub(crate) fn values(seed: u32, n: u32) -> Vec<f32> {
    let value = |i: u32| {
        let mixed = (seed * 7919 + i).wrapping_mul(2_654_435_761) ^ seed.wrapping_mul(40_503);
        f32::from(u16::try_from(mixed >> 16).unwrap()) / 32_768.0 - 1.0
    };
    (0..n).map(value).collect()
}

fn bf16(value: f32) -> [u8; 2] {
    let bits = value.to_bits();
    let rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    u16::try_from(rounded).unwrap().to_le_bytes()
}

impl Saved {
    /// A tensor alone in its storage.
    pub(crate) fn tensor(&mut self, dtype: Type, shape: &[u64], values: &[f32]) -> Node {
        self.storages.push((dtype, values.to_vec()));
        Node::Tensor(View { storage: self.storages.len() - 1, first: 0, shape: shape.to_vec() })
    }

    /// Part of the storage of another tensor.
    pub(crate) fn view(&self, of: &Node, first: u64, shape: &[u64]) -> Node {
        let Node::Tensor(view) = of else { panic!("{of:?} is not a tensor") };
        Node::Tensor(View { storage: view.storage, first, shape: shape.to_vec() })
    }

    /// Writes the file.
    pub(crate) fn write(&self, path: &Path, root: &Node) {
        let pickle = |write: &dyn Fn(&mut PickleWriter)| {
            let mut writer = PickleWriter::new();
            write(&mut writer);
            writer.finish()
        };
        let mut bytes = pickle(&|writer| writer.int(0x1950_a86a_20f9_469c_fc6c_i128));
        bytes.extend(pickle(&|writer| writer.int(1001)));
        bytes.extend(pickle(&|writer| {
            writer.dict();
            writer.set_items([()], |writer, ()| {
                writer.text("little_endian");
                writer.boolean(true);
            });
        }));
        bytes.extend(pickle(&|writer| self.write_node(writer, root)));
        bytes.extend(pickle(&|writer| {
            writer.list();
            writer.append_items(0..self.storages.len(), |writer, key| writer.text(&key.to_string()));
        }));
        for (dtype, values) in &self.storages {
            bytes.extend((values.len() as u64).to_le_bytes());
            match dtype {
                Type::F32 => bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())),
                Type::Bf16 => bytes.extend(values.iter().flat_map(|value| bf16(*value))),
            }
        }
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn write_node(&self, writer: &mut PickleWriter, node: &Node) {
        match node {
            Node::Dict(items) => {
                writer.dict();
                writer.set_items(items, |writer, (key, node)| {
                    writer.text(key);
                    self.write_node(writer, node);
                });
            }
            Node::List(items) => {
                writer.list();
                writer.append_items(items, |writer, node| self.write_node(writer, node));
            }
            Node::Tensor(view) => self.write_tensor(writer, view),
            Node::Number(number) => writer.int(*number),
            Node::Text(text) => writer.text(text),
            Node::Nothing => writer.none(),
        }
    }

    fn write_tensor(&self, writer: &mut PickleWriter, view: &View) {
        let (dtype, values) = &self.storages[view.storage];
        let strides: Vec<u64> = (1..=view.shape.len()).map(|dim| view.shape[dim..].iter().product()).collect();
        writer.global("torch._utils", "_rebuild_tensor_v2");
        writer.mark();
        writer.mark();
        writer.text("storage");
        writer.global("torch", if *dtype == Type::F32 { "FloatStorage" } else { "BFloat16Storage" });
        writer.text(&view.storage.to_string());
        writer.text("cpu");
        writer.int(values.len() as u64);
        writer.none();
        writer.long_tuple();
        writer.persistent();
        writer.int(view.first);
        writer.numbers(&view.shape);
        writer.numbers(&strides);
        writer.boolean(false);
        writer.ordered_dict();
        writer.long_tuple();
        writer.call();
    }
}
