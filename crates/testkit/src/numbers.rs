//! Elements of test tensors as bytes, made here because this crate is compiled with optimization and tests are not.

/// Little-endian bytes of floats.
pub fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Little-endian bytes of 16-bit elements.
pub fn bits16_bytes(bits: &[u16]) -> Vec<u8> {
    bits.iter().flat_map(|bits| bits.to_le_bytes()).collect()
}

/// Bytes of finite bf16 numbers that look random: exponents from 2^-8 to 2^-1, any sign and mantissa.
pub fn noise_bf16_bytes(seed: u64, n_elements: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let low = u16::try_from(state >> 20 & 0x83ff).unwrap();
        low & 0x8000 | ((low & 0x3ff) + (119 << 7))
    };
    bits16_bytes(&(0..n_elements).map(|_| next()).collect::<Vec<_>>())
}
