//! Headers of safetensors files.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use thalweg_checkpoint::format::safetensors::{Header, HeaderError, parse_header, read_header_text};
use thalweg_storage::{Error, FileInfo, FileKind, ReadAt};

use crate::check_message;

/// The input as the JSON text of a header, and as the whole file.
pub(crate) fn check_header(bytes: &[u8]) {
    check_text(bytes);
    check_file(bytes);
}

fn check_text(text: &[u8]) {
    // A header that fits no file of 0 data bytes says how many it wants; with those it must be accepted.
    let (data_len, header) = match parse_header(text, 0) {
        Ok(header) => (0, header),
        Err(HeaderError::TruncatedData { wanted_bytes, .. }) => {
            (wanted_bytes, parse_header(text, wanted_bytes).unwrap())
        }
        Err(error) => return check_message(&error),
    };
    check_cover(&header, data_len);
    let longer = parse_header(text, data_len.wrapping_add(1));
    assert!(longer.is_err(), "a file of one byte more is accepted");
    if data_len > 0 {
        let shorter = parse_header(text, data_len - 1).unwrap_err();
        assert!(shorter.is_truncated(), "{shorter:?}");
    }
    let printed = print_header(&header);
    let again = parse_header(printed.as_bytes(), data_len).unwrap();
    assert_eq!(again, Header { unknown_field: None, ..header });
}

/// The tensors are in order, and every byte of the data belongs to exactly one.
fn check_cover(header: &Header, data_len: u64) {
    let mut expected = 0;
    for tensor in &header.tensors {
        assert_eq!(tensor.begin, expected);
        assert_eq!(Some(tensor.end - tensor.begin), tensor.dtype.bytes_of(tensor.shape.n_elements().unwrap()));
        expected = tensor.end;
    }
    assert_eq!(expected, data_len);
    let mut names: Vec<&str> = header.tensors.iter().map(|tensor| &*tensor.name).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] < pair[1]), "a name appears twice");
    assert!(!names.contains(&"__metadata__"));
}

fn print_header(header: &Header) -> String {
    let mut object = Map::new();
    if !header.metadata.is_empty() {
        object.insert("__metadata__".to_owned(), json!(header.metadata));
    }
    for tensor in &header.tensors {
        let entry = json!({
            "dtype": tensor.dtype.name(),
            "shape": tensor.shape.0,
            "data_offsets": [tensor.begin, tensor.end],
        });
        object.insert(tensor.name.to_string(), entry);
    }
    Value::Object(object).to_string()
}

fn check_file(bytes: &[u8]) {
    let path = std::path::Path::new("x.safetensors");
    let file = MemoryFile(Arc::from(bytes));
    let read = match read_header_text(&file, path) {
        Ok(read) => read,
        Err(error) => return check_message(&error),
    };
    assert_eq!(read.data_start() + read.data_len, bytes.len() as u64);
    match read.parse(path) {
        Ok(header) => check_cover(&header, read.data_len),
        Err(error) => check_message(&error),
    }
}

#[derive(Debug)]
pub(crate) struct MemoryFile(pub(crate) Arc<[u8]>);

impl ReadAt for MemoryFile {
    fn info(&self) -> FileInfo {
        FileInfo { kind: FileKind::File, len_bytes: self.0.len() as u64, modified_ns: 0, changed_ns: 0, id: (0, 0) }
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        // The reader knows the length: to ask for more is its fault.
        let start = usize::try_from(offset).unwrap();
        out.copy_from_slice(&self.0[start..start + out.len()]);
        Ok(())
    }

    fn check_unchanged(&self) -> Result<(), Error> {
        Ok(())
    }
}
