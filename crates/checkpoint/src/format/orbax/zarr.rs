//! Descriptions of zarr arrays, versions 2 (`.zarray`) and 3 (`zarr.json`): shape, element type, the grid of chunks,
//! the keys of chunks, and how a chunk becomes elements.

use serde_json::{Value, json};
use thalweg_tensor::{Dtype, Shape, display_name};

use crate::unpacked::Packing;

/// What an array's description says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ArraySpec {
    pub(super) shape: Shape,
    /// Extent of a chunk; chunks at the end are as long, and partly empty.
    pub(super) chunk: Vec<u64>,
    /// Element type; why its elements are not read, otherwise.
    pub(super) dtype: Result<Dtype, String>,
    pub(super) keys: ChunkKeys,
    pub(super) coding: Coding,
    /// Whether chunks that are missing hold zeros; otherwise what they hold.
    pub(super) fill: Result<(), String>,
}

/// How chunks are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ChunkKeys {
    /// Whether keys begin with `c`.
    has_letter: bool,
    separator: String,
}

impl ChunkKeys {
    /// Those of version 2, unless its description says otherwise.
    pub(super) fn usual() -> Self {
        Self { has_letter: false, separator: ".".to_owned() }
    }

    /// The key of a chunk, below that of its array.
    pub(super) fn of(&self, index: &[u64]) -> String {
        let letter = self.has_letter.then(|| "c".to_owned());
        let numbers = index.iter().map(u64::to_string);
        let parts: Vec<String> = letter.into_iter().chain(numbers).collect();
        if parts.is_empty() { "0".to_owned() } else { parts.join(&self.separator) }
    }
}

/// What makes elements of the bytes of a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Coding {
    /// How the elements are packed.
    pub(super) packing: Packing,
    /// Bytes of sums after them.
    pub(super) sum_bytes: u64,
    /// The chunks inside each chunk.
    pub(super) shard: Option<ShardSpec>,
}

/// A chunk that holds smaller chunks, and an index of where they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ShardSpec {
    /// Extent of the inner chunks.
    pub(super) inner: Vec<u64>,
    /// Whether the index is at the end.
    pub(super) is_index_last: bool,
    /// Bytes of a sum after the index.
    pub(super) index_sum_bytes: u64,
}

/// Reads `.zarray` of version 2.
///
/// # Errors
/// Why it cannot be read.
pub(super) fn parse_version_2(text: &[u8]) -> Result<ArraySpec, String> {
    let json = parse_object(text)?;
    if json["zarr_format"].as_u64() != Some(2) {
        return Err("its `zarr_format` is not 2".to_owned());
    }
    let packing = match &json["compressor"] {
        Value::Null => Packing::None,
        compressor if compressor["id"] == "zstd" => Packing::Zstd,
        compressor => {
            return Err(format!(
                "its chunks are compressed by {}, but only zstd is supported",
                shown(&compressor["id"])
            ));
        }
    };
    if !json["filters"].is_null() && json["filters"].as_array().is_none_or(|filters| !filters.is_empty()) {
        return Err("its chunks use filters, which are not supported".to_owned());
    }
    if json["order"] != "C" {
        return Err(format!("the order of its elements is {}, but only \"C\" is supported", shown(&json["order"])));
    }
    let separator = match &json["dimension_separator"] {
        Value::Null => ".",
        Value::String(separator) if matches!(&**separator, "." | "/") => separator,
        other => return Err(format!("its `dimension_separator` is {}", shown(other))),
    };
    let (shape, chunk) = (sizes(&json["shape"], "shape")?, sizes(&json["chunks"], "chunks")?);
    let dtype = dtype_of(&json["dtype"], |known, name| known.1 == name);
    check_grid(ArraySpec {
        shape: Shape::new(shape),
        chunk,
        dtype,
        keys: ChunkKeys { has_letter: false, separator: separator.to_owned() },
        coding: Coding { packing, sum_bytes: 0, shard: None },
        fill: fill_of(&json["fill_value"]),
    })
}

/// Reads `zarr.json` of version 3; `None` for a group, which has no elements.
///
/// # Errors
/// Why it cannot be read.
pub(super) fn parse_version_3(text: &[u8]) -> Result<Option<ArraySpec>, String> {
    let json = parse_object(text)?;
    if json["zarr_format"].as_u64() != Some(3) {
        return Err("its `zarr_format` is not 3".to_owned());
    }
    match json["node_type"].as_str() {
        Some("group") => return Ok(None),
        Some("array") => {}
        _ => return Err(format!("its `node_type` is {}", shown(&json["node_type"]))),
    }
    let grid = &json["chunk_grid"];
    if grid["name"] != "regular" {
        return Err(format!(
            "its chunk grid is of the kind {}, but only \"regular\" is supported",
            shown(&grid["name"])
        ));
    }
    let encoding = &json["chunk_key_encoding"];
    let (has_letter, usual) = match encoding["name"].as_str() {
        Some("default") => (true, "/"),
        Some("v2") => (false, "."),
        _ => return Err(format!("its chunk keys are of the kind {}", shown(&encoding["name"]))),
    };
    let separator = match &encoding["configuration"]["separator"] {
        Value::Null => usual,
        Value::String(separator) if matches!(&**separator, "." | "/") => separator,
        other => return Err(format!("its `separator` is {}", shown(other))),
    };
    let coding = coding_of(&json["codecs"])?;
    let chunk = sizes(&grid["configuration"]["chunk_shape"], "chunk_shape")?;
    check_grid(ArraySpec {
        shape: Shape::new(sizes(&json["shape"], "shape")?),
        chunk,
        dtype: dtype_of(&json["data_type"], |known, name| known.2 == name),
        keys: ChunkKeys { has_letter, separator: separator.to_owned() },
        coding,
        fill: fill_of(&json["fill_value"]),
    })
    .map(Some)
}

fn parse_object(text: &[u8]) -> Result<Value, String> {
    let json: Value = serde_json::from_slice(text).map_err(|error| format!("its description is not JSON: {error}"))?;
    if json.is_object() { Ok(json) } else { Err("its description is not a JSON object".to_owned()) }
}

/// A value for a message.
fn shown(value: &Value) -> String {
    let text: String = value.to_string().chars().take(60).collect();
    display_name(&text)
}

fn sizes(value: &Value, key: &str) -> Result<Vec<u64>, String> {
    let numbers = value.as_array().and_then(|sizes| sizes.iter().map(Value::as_u64).collect());
    numbers.ok_or_else(|| format!("its `{key}` is not a list of sizes"))
}

/// Checks that chunks have elements and as many dimensions as their array, and inner ones divide them.
fn check_grid(spec: ArraySpec) -> Result<ArraySpec, String> {
    let same_rank = |chunk: &[u64]| chunk.len() == spec.shape.0.len() && !chunk.contains(&0);
    if !same_rank(&spec.chunk) {
        return Err(format!("chunks of shape {} do not match shape {}", Shape::new(&*spec.chunk), spec.shape));
    }
    if spec.shape.n_elements().is_none() || Shape::new(&*spec.chunk).n_elements().is_none() {
        return Err(format!("the size of its shape {} overflows 64 bits", spec.shape));
    }
    if let Some(shard) = &spec.coding.shard {
        let divides = |(inner, outer): (&u64, &u64)| outer.is_multiple_of(*inner);
        if !same_rank(&shard.inner) || !shard.inner.iter().zip(&spec.chunk).all(divides) {
            let (inner, outer) = (Shape::new(&*shard.inner), Shape::new(&*spec.chunk));
            return Err(format!("inner chunks of shape {inner} do not divide those of shape {outer}"));
        }
    }
    Ok(spec)
}

/// Reads a list of codecs: `bytes`, perhaps `zstd`, perhaps `crc32c`; or `sharding_indexed` around such a list.
fn coding_of(codecs: &Value) -> Result<Coding, String> {
    let codecs = codecs.as_array().ok_or("its `codecs` are not a list")?;
    if let [codec] = &**codecs
        && codec["name"] == "sharding_indexed"
    {
        let configuration = &codec["configuration"];
        let coding = coding_of(&configuration["codecs"])?;
        if coding.shard.is_some() {
            return Err("its shards contain shards, which is not supported".to_owned());
        }
        let index = coding_of(&configuration["index_codecs"])?;
        if index.packing != Packing::None || index.shard.is_some() {
            return Err("its index is compressed, which is not supported".to_owned());
        }
        let is_index_last = match &configuration["index_location"] {
            Value::Null => true,
            location if location == "end" => true,
            location if location == "start" => false,
            other => return Err(format!("its `index_location` is {}", shown(other))),
        };
        let inner = sizes(&configuration["chunk_shape"], "chunk_shape")?;
        let shard = ShardSpec { inner, is_index_last, index_sum_bytes: index.sum_bytes };
        return Ok(Coding { shard: Some(shard), ..coding });
    }
    let mut coding = Coding { packing: Packing::None, sum_bytes: 0, shard: None };
    let mut has_bytes = false;
    for codec in codecs {
        match (codec["name"].as_str(), has_bytes, coding.sum_bytes) {
            (Some("bytes"), false, 0) => {
                let endian = &codec["configuration"]["endian"];
                if !endian.is_null() && endian != "little" {
                    return Err(format!(
                        "its elements are {}-endian, but only little-endian is supported",
                        shown(endian)
                    ));
                }
                has_bytes = true;
            }
            (Some("zstd"), true, 0) if coding.packing == Packing::None => coding.packing = Packing::Zstd,
            (Some("crc32c"), true, 0) => coding.sum_bytes = 4,
            (_, _, _) => {
                return Err(format!("the codec {} of its chunks is not supported here", shown(&codec["name"])));
            }
        }
    }
    if has_bytes { Ok(coding) } else { Err("its `codecs` lack `bytes`".to_owned()) }
}

/// Element types by their names in version 2 and in version 3.
const TYPES: [(Dtype, &str, &str); 19] = [
    (Dtype::F16, "<f2", "float16"),
    (Dtype::F32, "<f4", "float32"),
    (Dtype::F64, "<f8", "float64"),
    (Dtype::Bf16, "bfloat16", "bfloat16"),
    (Dtype::I8, "|i1", "int8"),
    (Dtype::I16, "<i2", "int16"),
    (Dtype::I32, "<i4", "int32"),
    (Dtype::I64, "<i8", "int64"),
    (Dtype::U8, "|u1", "uint8"),
    (Dtype::U16, "<u2", "uint16"),
    (Dtype::U32, "<u4", "uint32"),
    (Dtype::U64, "<u8", "uint64"),
    (Dtype::Bool, "|b1", "bool"),
    (Dtype::C64, "<c8", "complex64"),
    (Dtype::F8E4M3, "float8_e4m3fn", "float8_e4m3fn"),
    (Dtype::F8E5M2, "float8_e5m2", "float8_e5m2"),
    (Dtype::F8E4M3Fnuz, "float8_e4m3fnuz", "float8_e4m3fnuz"),
    (Dtype::F8E5M2Fnuz, "float8_e5m2fnuz", "float8_e5m2fnuz"),
    (Dtype::F8E8M0, "float8_e8m0fnu", "float8_e8m0fnu"),
];

fn dtype_of(value: &Value, is_named: impl Fn(&(Dtype, &str, &str), &str) -> bool) -> Result<Dtype, String> {
    let name = value.as_str().unwrap_or_default();
    let found = TYPES.iter().find(|known| is_named(known, name));
    found.map(|known| known.0).ok_or_else(|| format!("its element type {} is not supported", shown(value)))
}

/// Writes `.zarray` of version 2 for chunks that are not compressed; `None` for element types that tensorstore does not
/// have.
pub(super) fn write_version_2(shape: &Shape, chunk: &[u64], dtype: Dtype) -> Option<Vec<u8>> {
    let (_, name, _) = TYPES.iter().find(|known| known.0 == dtype)?;
    let text = json!({
        "chunks": chunk,
        "compressor": null,
        "dimension_separator": ".",
        "dtype": name,
        "fill_value": null,
        "filters": null,
        "order": "C",
        "shape": &*shape.0,
        "zarr_format": 2,
    });
    Some(text.to_string().into_bytes())
}

/// A description that was read, changed to chunks of this extent that are not compressed and hold no further chunks.
///
/// # Errors
/// Why it cannot be read.
pub(super) fn without_compression(text: &[u8], chunk: &[u64]) -> Result<Vec<u8>, String> {
    let mut json = parse_object(text)?;
    if json["zarr_format"] == 2 {
        json["chunks"] = json!(chunk);
        json["compressor"] = Value::Null;
    } else {
        json["chunk_grid"]["configuration"]["chunk_shape"] = json!(chunk);
        json["codecs"] = json!([{"name": "bytes", "configuration": {"endian": "little"}}]);
    }
    Ok(json.to_string().into_bytes())
}

/// What chunks hold that are not stored. tensorstore leaves out chunks that are all fill value, which is zero unless
/// the description says otherwise.
fn fill_of(value: &Value) -> Result<(), String> {
    let is_zero = match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64().is_some_and(|number| number.to_bits() == 0),
        _ => false,
    };
    if is_zero { Ok(()) } else { Err(shown(value)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION_2: &str = r#"{"chunks":[12,64],"compressor":{"id":"zstd","level":1},"dimension_separator":".","dtype":"<f4","fill_value":null,"filters":null,"order":"C","shape":[24,64],"zarr_format":2}"#;
    const VERSION_3: &str = r#"{"chunk_grid":{"configuration":{"chunk_shape":[4,6]},"name":"regular"},"chunk_key_encoding":{"name":"default"},"codecs":[{"configuration":{"chunk_shape":[2,6],"codecs":[{"configuration":{"endian":"little"},"name":"bytes"},{"configuration":{"checksum":false,"level":3},"name":"zstd"}],"index_codecs":[{"configuration":{"endian":"little"},"name":"bytes"},{"name":"crc32c"}]},"name":"sharding_indexed"}],"data_type":"bfloat16","fill_value":0.0,"node_type":"array","shape":[8,6],"zarr_format":3}"#;

    #[test]
    fn descriptions_that_orbax_writes_are_read() {
        let spec = parse_version_2(VERSION_2.as_bytes()).unwrap();
        assert_eq!((&spec.shape, &*spec.chunk, &spec.dtype), (&Shape::new([24, 64]), &[12, 64][..], &Ok(Dtype::F32)));
        assert_eq!(spec.coding, Coding { packing: Packing::Zstd, sum_bytes: 0, shard: None });
        assert_eq!((spec.keys.of(&[1, 0]), spec.keys.of(&[])), ("1.0".to_owned(), "0".to_owned()));
        let spec = parse_version_3(VERSION_3.as_bytes()).unwrap().unwrap();
        let shard = ShardSpec { inner: vec![2, 6], is_index_last: true, index_sum_bytes: 4 };
        assert_eq!(spec.coding, Coding { packing: Packing::Zstd, sum_bytes: 0, shard: Some(shard) });
        assert_eq!((spec.dtype, spec.fill), (Ok(Dtype::Bf16), Ok(())));
        assert_eq!((spec.keys.of(&[1, 0]), spec.keys.of(&[])), ("c/1/0".to_owned(), "c".to_owned()));
        assert_eq!(parse_version_3(br#"{"zarr_format":3,"node_type":"group"}"#), Ok(None));
    }

    /// The reason for refusing a description with one part replaced.
    fn refuse(whole: &str, part: &str, other: &str) -> String {
        assert!(whole.contains(part), "{part}");
        let text = whole.replacen(part, other, 1);
        let parsed = if whole == VERSION_2 {
            parse_version_2(text.as_bytes()).map(Some)
        } else {
            parse_version_3(text.as_bytes())
        };
        parsed.err().unwrap_or_else(|| panic!("{other} was accepted"))
    }

    #[test]
    fn descriptions_that_are_written_are_read_as_what_they_say() {
        for (dtype, ..) in &TYPES {
            let shape = Shape::new([24, 64]);
            let spec = parse_version_2(&write_version_2(&shape, &[8, 64], *dtype).unwrap()).unwrap();
            assert_eq!((&spec.shape, &*spec.chunk, &spec.dtype), (&shape, &[8, 64][..], &Ok(*dtype)));
            assert_eq!(spec.coding, Coding { packing: Packing::None, sum_bytes: 0, shard: None });
            assert_eq!((spec.keys, spec.fill), (ChunkKeys::usual(), Ok(())));
        }
        assert_eq!(write_version_2(&Shape::new([2]), &[2], Dtype::F4), None);
        let changed = without_compression(VERSION_2.as_bytes(), &[12, 64]).unwrap();
        assert_eq!(String::from_utf8(changed).unwrap(), VERSION_2.replace(r#"{"id":"zstd","level":1}"#, "null"));
        let spec = parse_version_3(&without_compression(VERSION_3.as_bytes(), &[2, 6]).unwrap()).unwrap().unwrap();
        assert_eq!((&*spec.chunk, spec.dtype), (&[2, 6][..], Ok(Dtype::Bf16)));
        assert_eq!(spec.coding, Coding { packing: Packing::None, sum_bytes: 0, shard: None });
    }

    #[test]
    fn what_is_not_read_is_named() {
        for (part, other, reason) in [
            ("\"zstd\"", "\"blosc\"", "compressed by \"blosc\""),
            ("\"filters\":null", "\"filters\":[{\"id\":\"delta\"}]", "filters"),
            ("\"order\":\"C\"", "\"order\":\"F\"", "\"F\""),
            ("\"shape\":[24,64]", "\"shape\":[24]", "do not match shape [24]"),
            ("\"chunks\":[12,64]", "\"chunks\":[0,64]", "do not match shape"),
            ("\"shape\":[24,64]", "\"shape\":[-1,64]", "not a list of sizes"),
            ("\"shape\":[24,64]", "\"shape\":[18446744073709551615,64]", "overflows 64 bits"),
            ("\"zarr_format\":2", "\"zarr_format\":1", "is not 2"),
            ("\"dimension_separator\":\".\"", "\"dimension_separator\":\"../\"", "dimension_separator"),
        ] {
            let found = refuse(VERSION_2, part, other);
            assert!(found.contains(reason), "{other}: {found}");
        }
        for (part, other, reason) in [
            ("\"regular\"", "\"rectangular\"", "\"rectangular\""),
            ("\"little\"", "\"big\"", "\"big\"-endian"),
            ("\"zstd\"", "\"gzip\"", "\"gzip\""),
            ("\"chunk_shape\":[2,6]", "\"chunk_shape\":[3,6]", "do not divide"),
            ("\"name\":\"default\"", "\"name\":\"x\"", "chunk keys are of the kind \"x\""),
            ("\"sharding_indexed\"", "\"transpose\"", "\"transpose\""),
            ("\"node_type\":\"array\"", "\"node_type\":7", "`node_type` is 7"),
        ] {
            let found = refuse(VERSION_3, part, other);
            assert!(found.contains(reason), "{other}: {found}");
        }
        assert!(parse_version_2(b"[]").is_err() && parse_version_2(b"{").is_err() && parse_version_3(b"{}").is_err());
        let other = parse_version_2(VERSION_2.replace("<f4", ">f4").as_bytes()).unwrap();
        assert!(other.dtype.unwrap_err().contains("\">f4\""));
        for (fill, is_zero) in [("0.0", true), ("false", true), ("-0.0", false), ("1", false), ("\"NaN\"", false)] {
            let spec =
                parse_version_3(VERSION_3.replace("\"fill_value\":0.0", &format!("\"fill_value\":{fill}")).as_bytes());
            assert_eq!(spec.unwrap().unwrap().fill.is_ok(), is_zero, "{fill}");
        }
    }
}
