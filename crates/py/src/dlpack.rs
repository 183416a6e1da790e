//! DLPack: tensors handed to other libraries where they are.
//!
//! The structures are those of the DLPack headers, 1.1 and the one before 1.0. A capsule that is taken gives its
//! memory back through the deleter inside; one that is not, when Python drops it.

use std::ffi::{CStr, c_void};
use std::ptr::NonNull;
use std::sync::Arc;

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;
use thalweg_tensor::Dtype;

use crate::error::{Failure, Result};
use crate::tensor_data::TensorData;

/// Memory of the CPU, device 0.
pub(crate) const CPU: (i32, i32) = (1, 0);
/// The version of the protocol that the structures here have.
const VERSION: [u32; 2] = [1, 1];
/// Flag of a capsule whose bytes were copied for it alone.
const IS_COPIED: u64 = 2;

/// Which structure a consumer takes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum CapsuleKind {
    /// That of before version 1.0, for consumers that name no version.
    Legacy,
    /// That of 1.x.
    Versioned {
        /// Whether the bytes were copied for the capsule.
        is_copied: bool,
    },
}

#[repr(C)]
struct DlTensor {
    data: *mut c_void,
    device_type: i32,
    device_id: i32,
    n_dims: i32,
    code: u8,
    bits: u8,
    lanes: u16,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

/// What a capsule keeps alive: the tensor, and its dimensions and strides as DLPack has them.
struct Owned {
    _data: Arc<TensorData>,
    dims: Vec<i64>,
}

#[repr(C)]
struct Legacy {
    tensor: DlTensor,
    owned: *mut Owned,
    deleter: unsafe extern "C" fn(*mut Legacy),
}

#[repr(C)]
struct Versioned {
    version: [u32; 2],
    owned: *mut Owned,
    deleter: unsafe extern "C" fn(*mut Versioned),
    flags: u64,
    tensor: DlTensor,
}

/// A structure that a capsule of this name holds.
trait Managed: Sized {
    const NAME: &'static CStr;

    fn owned(&self) -> *mut Owned;
}

impl Managed for Legacy {
    const NAME: &'static CStr = c"dltensor";

    fn owned(&self) -> *mut Owned {
        self.owned
    }
}

impl Managed for Versioned {
    const NAME: &'static CStr = c"dltensor_versioned";

    fn owned(&self) -> *mut Owned {
        self.owned
    }
}

/// Frees a structure and lets go of its tensor. Called once, by the holder of the contents, from any thread.
unsafe extern "C" fn delete<T: Managed>(managed: *mut T) {
    // SAFETY: `capsule` made both boxes, and DLPack lets the deleter be called only once.
    unsafe {
        let managed = Box::from_raw(managed);
        drop(Box::from_raw(managed.owned()));
    }
}

/// Frees what a capsule holds, unless a consumer took it: that gives the capsule another name.
unsafe extern "C" fn drop_capsule<T: Managed>(capsule: *mut ffi::PyObject) {
    // SAFETY: Python calls this with the capsule itself, attached to the interpreter. The name is a static string, and
    // a capsule of that name holds what `new_capsule` put there.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, T::NAME.as_ptr()) == 1 {
            delete(ffi::PyCapsule_GetPointer(capsule, T::NAME.as_ptr()).cast::<T>());
        }
    }
}

/// The tensor as a capsule.
pub(crate) fn capsule(py: Python<'_>, data: Arc<TensorData>, kind: CapsuleKind) -> Result<Bound<'_, PyAny>> {
    let (code, bits) = element_type(data.dtype).ok_or_else(|| {
        Failure::Python(PyBufferError::new_err(format!("DLPack has no element type for {}", data.dtype)))
    })?;
    let start = data.bytes.start();
    let n_dims = data.shape.0.len();
    let n_dims_in_c = i32::try_from(n_dims).map_err(|_| too_large())?;
    let dims = dims_and_strides(&data.shape.0).ok_or_else(too_large)?;
    let owned = Box::into_raw(Box::new(Owned { _data: data, dims }));
    // SAFETY: `owned` was just made and nothing else knows it yet. The dimensions do not move while it lives.
    let shape = unsafe { (*owned).dims.as_mut_ptr() };
    let tensor = DlTensor {
        data: start.as_ptr().cast(),
        device_type: CPU.0,
        device_id: CPU.1,
        n_dims: n_dims_in_c,
        code,
        bits,
        lanes: 1,
        shape,
        // The strides are the second half of the list, which wrapping_add reaches without leaving it.
        strides: shape.wrapping_add(n_dims),
        byte_offset: 0,
    };
    match kind {
        CapsuleKind::Legacy => new_capsule(py, Legacy { tensor, owned, deleter: delete::<Legacy> }),
        CapsuleKind::Versioned { is_copied } => {
            let flags = if is_copied { IS_COPIED } else { 0 };
            new_capsule(py, Versioned { version: VERSION, owned, deleter: delete::<Versioned>, flags, tensor })
        }
    }
}

fn new_capsule<T: Managed>(py: Python<'_>, managed: T) -> Result<Bound<'_, PyAny>> {
    let managed = NonNull::from(Box::leak(Box::new(managed)));
    // SAFETY: the pointer is that of a box, which the destructor or the consumer frees; both may run on any thread,
    // because the tensor is `Send` and `Sync`.
    let capsule =
        unsafe { PyCapsule::new_with_pointer_and_destructor(py, managed.cast(), T::NAME, Some(drop_capsule::<T>)) };
    match capsule {
        Ok(capsule) => Ok(capsule.into_any()),
        Err(error) => {
            // SAFETY: there is no capsule, so nothing else will free it.
            unsafe { delete(managed.as_ptr()) };
            Err(error.into())
        }
    }
}

/// The dimensions followed by the strides, in elements; `None` if they exceed what DLPack holds.
fn dims_and_strides(shape: &[u64]) -> Option<Vec<i64>> {
    let mut dims = vec![1; 2 * shape.len()];
    let mut stride = 1_i64;
    for (i, &dim) in shape.iter().enumerate().rev() {
        dims[i] = i64::try_from(dim).ok()?;
        dims[shape.len() + i] = stride;
        stride = stride.checked_mul(dims[i].max(1))?;
    }
    Some(dims)
}

fn too_large() -> Failure {
    PyBufferError::new_err("DLPack cannot hold a shape of this size").into()
}

/// Code and bits of an element type.
fn element_type(dtype: Dtype) -> Option<(u8, u8)> {
    const INT: u8 = 0;
    const UINT: u8 = 1;
    const FLOAT: u8 = 2;
    const BFLOAT: u8 = 4;
    const COMPLEX: u8 = 5;
    const BOOL: u8 = 6;
    let code = match dtype {
        Dtype::Bool => BOOL,
        Dtype::U8 | Dtype::U16 | Dtype::U32 | Dtype::U64 => UINT,
        Dtype::I8 | Dtype::I16 | Dtype::I32 | Dtype::I64 => INT,
        Dtype::F16 | Dtype::F32 | Dtype::F64 => FLOAT,
        Dtype::Bf16 => BFLOAT,
        Dtype::C64 => COMPLEX,
        Dtype::F8E4M3 => 10,
        Dtype::F8E4M3Fnuz => 11,
        Dtype::F8E5M2 => 12,
        Dtype::F8E5M2Fnuz => 13,
        Dtype::F8E8M0 => 14,
        // Two to a byte, or four to three bytes: consumers differ in how such elements are packed.
        _ => return None,
    };
    Some((code, u8::try_from(dtype.bits()).ok()?))
}
