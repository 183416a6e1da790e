//! Tensors as PyTorch pickles them: a call of a function that rebuilds one from a storage, an offset, a size and
//! strides.
//!
//! Everything is checked against the size of the storage; where the storage's bytes are is not known here.

use thalweg_tensor::{Dtype, Shape, show_size};

use crate::pickle::{Global, NameList, ObjectView, Value};

/// The functions whose calls are tensors that can be read.
pub(crate) const TENSOR_NAMES: NameList = &[
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_tensor_v3"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch._utils", "_rebuild_parameter_with_state"),
    ("torch._tensor", "_rebuild_from_type_v2"),
];

/// Functions whose calls are tensors that cannot be read, and what those are.
const REFUSED_NAMES: [(&str, &str); 9] = [
    ("_rebuild_sparse_tensor", "it is sparse"),
    ("_rebuild_sparse_csr_tensor", "it is sparse"),
    ("_rebuild_meta_tensor_no_storage", "it is a meta tensor, which has no data"),
    ("_rebuild_qtensor", "it is quantised"),
    ("_rebuild_nested_tensor", "it is a nested tensor"),
    ("_rebuild_wrapper_subclass", "it is a tensor subclass that wraps others"),
    ("_rebuild_device_tensor_from_numpy", "it was saved from a device as a NumPy array"),
    ("_rebuild_device_tensor_from_cpu_tensor", "it was saved from a device through another tensor"),
    ("_rebuild_functional_tensor", "it is a functional tensor"),
];

/// Classes that are plain tensors when they wrap one.
const PLAIN_TYPES: [(&str, &str); 5] = [
    ("torch", "Tensor"),
    ("torch._tensor", "Tensor"),
    ("torch.nn.parameter", "Parameter"),
    ("torch.nn", "Parameter"),
    ("torch.nn.parameter", "Buffer"),
];

/// Classes of numbers alone that are saved among tensors: how FSDP1 cuts its flat parameters.
const DESCRIPTIONS: [(&str, &str); 2] = [
    ("torch.distributed.fsdp._flat_param", "_ShardParamInfo"),
    ("torch.distributed.fsdp.flat_param", "_ShardParamInfo"),
];

/// Most wrappers around a tensor: more than any writer nests.
const MAX_WRAPPERS: usize = 4;

/// A view may repeat its elements so many times, and any number of times up to so many bytes.
const MAX_REPEATS: u64 = 1024;
const MAX_REPEATED_BYTES: u64 = 256 << 20;

/// What is wrong with a tensor that should be readable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorFault {
    /// An argument that is missing or of the wrong kind.
    #[error("its {what} is not in the form that PyTorch writes")]
    Malformed {
        /// Which part.
        what: &'static str,
    },
    /// Sizes and strides of different lengths.
    #[error("it has {n_sizes} sizes and {n_strides} strides")]
    Rank {
        /// Sizes.
        n_sizes: usize,
        /// Strides.
        n_strides: usize,
    },
    /// A size, stride or offset that overflows 64 bits.
    #[error("its size overflows 64 bits")]
    TooLarge,
    /// Elements outside the storage.
    #[error("it needs {wanted} elements of storage `{}`, which has {found}", thalweg_tensor::display_name(key))]
    OutsideStorage {
        /// Name of the storage.
        key: String,
        /// One more than the last element that is needed.
        wanted: u64,
        /// Elements of the storage.
        found: u64,
    },
    /// A storage that is not in the file.
    #[error("its storage `{}` is not in the file", thalweg_tensor::display_name(key))]
    NoStorage {
        /// Its name.
        key: String,
    },
    /// A storage whose length differs from what the tensor says.
    #[error(
        "storage `{}` has {found_bytes} bytes in the file, {wanted_bytes} expected",
        thalweg_tensor::display_name(key)
    )]
    StorageLength {
        /// Its name.
        key: String,
        /// What the pickle says.
        wanted_bytes: u64,
        /// What the file has.
        found_bytes: u64,
    },
}

/// A storage as a persistent id names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StorageRef<'a> {
    pub(crate) key: &'a str,
    /// Element type; none where the storage is plain bytes.
    pub(crate) dtype: Option<StorageType>,
    /// Elements, or bytes where there is no element type.
    pub(crate) n_elements: u64,
    /// First element and number of elements of a view, in files from before 1.6.
    view: Option<(u64, u64)>,
}

/// An element type as PyTorch knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StorageType {
    Known(Dtype),
    /// One that safetensors lacks, with its size in bytes.
    Unknown(&'static str, u64),
}

impl StorageType {
    fn n_bytes(self) -> u64 {
        match self {
            Self::Known(dtype) => dtype.bytes().unwrap_or(1),
            Self::Unknown(_, n_bytes) => n_bytes,
        }
    }
}

impl StorageRef<'_> {
    /// Bytes of the whole storage; `None` on overflow.
    pub(crate) fn n_bytes(&self) -> Option<u64> {
        self.n_elements.checked_mul(self.dtype.map_or(1, StorageType::n_bytes))
    }
}

/// A tensor within its storage; all numbers were checked against the size of the storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TensorSpec<'a> {
    pub(crate) key: &'a str,
    pub(crate) storage_bytes: u64,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Shape,
    pub(crate) strides: Vec<u64>,
    /// First byte within the storage.
    pub(crate) first_byte: u64,
}

impl TensorSpec<'_> {
    /// Why a tensor is too large for what it stores, if it is: a file of a few bytes would take days to merge.
    fn too_many_repeats(&self) -> Option<String> {
        let n_bytes = self.dtype.bytes_of(self.shape.n_elements()?)?;
        let is_small = n_bytes <= MAX_REPEATED_BYTES || n_bytes / MAX_REPEATS <= self.storage_bytes;
        let (whole, stored) = (show_size(n_bytes), show_size(self.storage_bytes));
        (!is_small).then(|| format!("it repeats {stored} of stored elements to make {whole}, as `Tensor.expand` does"))
    }
}

/// What a value is, seen as a tensor.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    Tensor(TensorSpec<'a>),
    /// A tensor, or an object that may be one, which cannot be read, and why.
    Unreadable(String),
    /// A container or a plain value.
    Other,
}

/// Whether a value is a call that makes a tensor, readable or not. Cheap: looks only at its name.
pub(crate) fn is_tensor(value: Value<'_>) -> bool {
    value.as_any_object().is_some_and(|object| is_rebuild(object.global))
}

fn is_rebuild(global: &Global) -> bool {
    TENSOR_NAMES.iter().any(|(module, name)| global.is(module, name))
        || global.module.starts_with("torch.") && REFUSED_NAMES.iter().any(|(name, _)| *name == &*global.name)
}

/// Reads a value as a tensor.
///
/// # Errors
/// A [`TensorFault`] for a tensor that breaks the rules of its kind.
pub(crate) fn read_tensor(value: Value<'_>) -> Result<Found<'_>, TensorFault> {
    let mut value = value;
    for _ in 0..MAX_WRAPPERS {
        let Some(object) = value.as_any_object() else {
            let opaque = value.opaque_name().filter(|_| value.as_global().is_none());
            return Ok(opaque.map_or(Found::Other, |global| Found::Unreadable(foreign(global))));
        };
        if DESCRIPTIONS.iter().any(|(module, name)| object.global.is(module, name)) {
            return Ok(Found::Other);
        }
        if !object.global.is_listed {
            return Ok(Found::Unreadable(refusal(object.global)));
        }
        match &*object.global.name {
            "_rebuild_parameter" | "_rebuild_parameter_with_state" => value = argument(object, 0, "content")?,
            "_rebuild_from_type_v2" => match unwrap_type(object)? {
                Ok(args) => return read_call(args),
                Err(reason) => return Ok(Found::Unreadable(reason)),
            },
            name if is_rebuild(object.global) => return read_arguments(object.args(), name),
            _ => return Ok(Found::Unreadable(foreign(object.global))),
        }
    }
    Err(TensorFault::Malformed { what: "wrapping" })
}

fn foreign(global: &Global) -> String {
    format!("it is an object of `{}`, which thalweg does not construct", global.display())
}

fn refusal(global: &Global) -> String {
    let known = REFUSED_NAMES.iter().find(|(name, _)| is_rebuild(global) && *name == &*global.name);
    known.map_or_else(|| foreign(global), |(_, reason)| format!("{reason} (`{}`)", global.display()))
}

fn argument<'a>(object: ObjectView<'a>, position: usize, what: &'static str) -> Result<Value<'a>, TensorFault> {
    object.arg(position).ok_or(TensorFault::Malformed { what })
}

/// A function and its arguments, as a subclass of tensors keeps them.
struct Call<'a> {
    function: &'a Global,
    args: Value<'a>,
}

/// The call that makes the tensor inside a subclass, or why the subclass is not a plain tensor.
fn unwrap_type(object: ObjectView<'_>) -> Result<Result<Call<'_>, String>, TensorFault> {
    const FAULT: TensorFault = TensorFault::Malformed { what: "class" };
    let global = |position| argument(object, position, "class")?.as_global().ok_or(FAULT);
    let (function, class) = (global(0)?, global(1)?);
    if !PLAIN_TYPES.iter().any(|(module, name)| class.is(module, name)) {
        let is_cut = matches!(&*class.name, "DTensor" | "ShardedTensor");
        let part = if is_cut { ": the file holds one rank's part of it" } else { "" };
        return Ok(Err(format!("it is a tensor of class `{}`{part}", class.display())));
    }
    if !function.is_listed || !is_rebuild(function) {
        return Ok(Err(refusal(function)));
    }
    Ok(Ok(Call { function, args: argument(object, 2, "arguments")? }))
}

fn read_call(call: Call<'_>) -> Result<Found<'_>, TensorFault> {
    match &*call.function.name {
        "_rebuild_parameter" | "_rebuild_parameter_with_state" | "_rebuild_from_type_v2" => {
            Err(TensorFault::Malformed { what: "wrapping" })
        }
        name => read_arguments(call.args, name),
    }
}

fn read_arguments<'a>(args: Value<'a>, function: &str) -> Result<Found<'a>, TensorFault> {
    let malformed = |what| TensorFault::Malformed { what };
    let arg = |position: usize| args.items().nth(position);
    let persistent = arg(0).and_then(Value::as_persistent).ok_or(malformed("storage"))?;
    let storage = read_storage(persistent)?;
    let is_third = function == "_rebuild_tensor_v3";
    let dtype = if is_third {
        let named = arg(6).and_then(Value::as_global).and_then(dtype_of).ok_or(malformed("element type"))?;
        Some(named)
    } else {
        storage.dtype
    };
    let dtype = match dtype.ok_or(malformed("element type"))? {
        StorageType::Known(dtype) => dtype,
        StorageType::Unknown(name, _) => {
            return Ok(Found::Unreadable(format!("its elements are `{name}`, which safetensors does not have")));
        }
    };
    if let Some(marks) = arg(if is_third { 7 } else { 6 })
        && marks.entries().any(|(_, mark)| mark.as_bool() == Some(true))
    {
        return Ok(Found::Unreadable(
            "it is a conjugate or negative view, whose values differ from those stored".to_owned(),
        ));
    }
    let first = arg(1).and_then(Value::as_u64).ok_or(malformed("offset"))?;
    let sizes = whole_numbers(arg(2), "size")?;
    let strides = whole_numbers(arg(3), "strides")?;
    let spec = place_in(&storage, dtype, first, sizes, strides)?;
    Ok(spec.too_many_repeats().map_or(Found::Tensor(spec), Found::Unreadable))
}

fn whole_numbers(value: Option<Value<'_>>, what: &'static str) -> Result<Vec<u64>, TensorFault> {
    let fault = TensorFault::Malformed { what };
    let Some(value) = value.filter(|value| value.is_sequence()) else {
        return Err(fault);
    };
    value.items().map(Value::as_u64).collect::<Option<_>>().ok_or(fault)
}

/// Checks that every element of a tensor is within its storage.
fn place_in<'a>(
    storage: &StorageRef<'a>,
    dtype: Dtype,
    first: u64,
    sizes: Vec<u64>,
    strides: Vec<u64>,
) -> Result<TensorSpec<'a>, TensorFault> {
    if sizes.len() != strides.len() {
        return Err(TensorFault::Rank { n_sizes: sizes.len(), n_strides: strides.len() });
    }
    let shape = Shape::new(sizes);
    let element_bytes = dtype.bytes().ok_or(TensorFault::TooLarge)?;
    let storage_bytes = storage.n_bytes().ok_or(TensorFault::TooLarge)?;
    let n_elements = shape.n_elements().ok_or(TensorFault::TooLarge)?;
    dtype.bytes_of(n_elements).ok_or(TensorFault::TooLarge)?;
    let (view_first, view_elements) = storage.view.unwrap_or((0, storage_bytes / element_bytes));
    let reach = |reach: u64, (size, stride): (&u64, &u64)| reach.checked_add((size - 1).checked_mul(*stride)?);
    let wanted = if n_elements == 0 {
        first
    } else {
        let last = shape.0.iter().zip(&strides).try_fold(first, reach);
        last.and_then(|last| last.checked_add(1)).ok_or(TensorFault::TooLarge)?
    };
    let end = view_first.checked_add(view_elements).and_then(|end| end.checked_mul(element_bytes));
    if wanted > view_elements || end.is_none_or(|end| end > storage_bytes) {
        return Err(TensorFault::OutsideStorage { key: storage.key.to_owned(), wanted, found: view_elements });
    }
    let first_byte = (view_first + first) * element_bytes;
    Ok(TensorSpec { key: storage.key, storage_bytes, dtype, shape, strides, first_byte })
}

/// Reads a persistent id: what storage it names.
pub(crate) fn read_storage(id: Value<'_>) -> Result<StorageRef<'_>, TensorFault> {
    let malformed = |what| TensorFault::Malformed { what };
    let item = |position: usize| id.items().nth(position);
    if !id.is_tuple() || item(0).and_then(Value::as_text) != Some("storage") {
        return Err(malformed("storage"));
    }
    let class = item(1).and_then(Value::as_global).ok_or(malformed("storage class"))?;
    let dtype = storage_class(class).ok_or(malformed("storage class"))?;
    let key = item(2).and_then(Value::as_text).ok_or(malformed("storage key"))?;
    let n_elements = item(4).and_then(Value::as_u64).ok_or(malformed("number of stored elements"))?;
    let view = match item(5).filter(|view| !view.is_none()) {
        None => None,
        Some(view) => {
            let number = |position| view.items().nth(position).and_then(Value::as_u64).ok_or(malformed("view"));
            Some((number(1)?, number(2)?))
        }
    };
    Ok(StorageRef { key, dtype, n_elements, view })
}

/// Whether a name is that of a storage type or an element type, which belongs to the format and builds nothing.
pub(crate) fn is_type_name(global: &Global) -> bool {
    storage_class(global).is_some() || dtype_of(global).is_some()
}

/// The element type of a storage class; no type for a storage of bytes; `None` for anything else.
fn storage_class(class: &Global) -> Option<Option<StorageType>> {
    use StorageType::{Known, Unknown};
    if !matches!(&*class.module, "torch" | "torch.cuda" | "torch.storage") {
        return None;
    }
    Some(Some(match &*class.name {
        "UntypedStorage" | "_UntypedStorage" => return Some(None),
        "FloatStorage" => Known(Dtype::F32),
        "DoubleStorage" => Known(Dtype::F64),
        "HalfStorage" => Known(Dtype::F16),
        "BFloat16Storage" => Known(Dtype::Bf16),
        "LongStorage" => Known(Dtype::I64),
        "IntStorage" => Known(Dtype::I32),
        "ShortStorage" => Known(Dtype::I16),
        "CharStorage" => Known(Dtype::I8),
        "ByteStorage" => Known(Dtype::U8),
        "BoolStorage" => Known(Dtype::Bool),
        "ComplexFloatStorage" => Known(Dtype::C64),
        "ComplexDoubleStorage" => Unknown("complex128", 16),
        "QInt8Storage" => Unknown("qint8", 1),
        "QUInt8Storage" => Unknown("quint8", 1),
        "QInt32Storage" => Unknown("qint32", 4),
        "QUInt4x2Storage" => Unknown("quint4x2", 1),
        "QUInt2x4Storage" => Unknown("quint2x4", 1),
        _ => return None,
    }))
}

/// The element type that `torch.NAME` is.
pub(crate) fn dtype_of(global: &Global) -> Option<StorageType> {
    dtype_named(&global.name).filter(|_| &*global.module == "torch")
}

/// The element type that PyTorch calls by this name.
pub(crate) fn dtype_named(name: &str) -> Option<StorageType> {
    use StorageType::{Known, Unknown};
    Some(match name {
        "float32" | "float" => Known(Dtype::F32),
        "float64" | "double" => Known(Dtype::F64),
        "float16" | "half" => Known(Dtype::F16),
        "bfloat16" => Known(Dtype::Bf16),
        "int64" | "long" => Known(Dtype::I64),
        "int32" | "int" => Known(Dtype::I32),
        "int16" | "short" => Known(Dtype::I16),
        "int8" => Known(Dtype::I8),
        "uint8" => Known(Dtype::U8),
        "uint16" => Known(Dtype::U16),
        "uint32" => Known(Dtype::U32),
        "uint64" => Known(Dtype::U64),
        "bool" => Known(Dtype::Bool),
        "complex64" | "cfloat" => Known(Dtype::C64),
        "float8_e4m3fn" => Known(Dtype::F8E4M3),
        "float8_e5m2" => Known(Dtype::F8E5M2),
        "float8_e4m3fnuz" => Known(Dtype::F8E4M3Fnuz),
        "float8_e5m2fnuz" => Known(Dtype::F8E5M2Fnuz),
        "float8_e8m0fnu" => Known(Dtype::F8E8M0),
        "complex128" | "cdouble" => Unknown("complex128", 16),
        "complex32" | "chalf" => Unknown("complex32", 4),
        "float4_e2m1fn_x2" => Unknown("float4_e2m1fn_x2", 1),
        _ => return None,
    })
}
