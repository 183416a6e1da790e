//! STUB to be replaced by branch kernel.
#![allow(missing_docs, clippy::all)]
use crate::Dtype;
use num_bigint::{BigInt, Sign};
use num_traits::{Zero, Signed};
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NonFinitePolicy { Refuse, Propagate }
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Simd { Auto, Avx512, Avx2, Portable }
#[derive(Debug, Clone, Copy)]
pub struct SumSpec { pub input: Dtype, pub output: Dtype, pub non_finite: NonFinitePolicy, pub simd: Simd }
#[derive(Debug, thiserror::Error)] #[error("bad")] pub struct SumError;
#[derive(Debug)]
pub struct WeightedSum { c: Vec<BigInt>, d: BigInt, spec: SumSpec }
#[derive(Debug, Default, Clone, Copy)]
pub struct SumCounts { pub n_slow_path: u64, pub n_non_finite: u64 }
#[derive(Debug)]
pub enum SumFault { NonFiniteInput { source_idx: usize, element_idx: usize }, Overflow { element_idx: usize, value: f64 }, LengthMismatch }
pub struct FloatEnvironment;
impl FloatEnvironment { pub fn set_default() -> Self { Self } }
pub struct DifferenceStats { pub sum_squared_difference: f64, pub max_abs_difference: f64 }
fn p(t: Dtype) -> i32 { match t { Dtype::Bf16 => 8, Dtype::F16 => 11, Dtype::F32 => 24, _ => 53 } }
fn q(t: Dtype) -> i32 { match t { Dtype::Bf16 => -133, Dtype::F16 => -24, Dtype::F32 => -149, _ => -1074 } }
fn eb(t: Dtype) -> i32 { match t { Dtype::Bf16 => 8, Dtype::F16 => 5, Dtype::F32 => 8, _ => 11 } }
fn load(t: Dtype, b: &[u8], i: usize) -> u64 { match t.bits() { 16 => u16::from_le_bytes([b[2*i], b[2*i+1]]) as u64, 32 => u32::from_le_bytes(b[4*i..4*i+4].try_into().unwrap()) as u64, _ => u64::from_le_bytes(b[8*i..8*i+8].try_into().unwrap()) } }
fn parts(t: Dtype, b: u64) -> Option<(bool, u64, i32)> {
    let mb = p(t) - 1; let s = b >> (t.bits() - 1) & 1 == 1; let e = (b >> mb & ((1 << eb(t)) - 1)) as i32; let m = b & ((1u64 << mb) - 1);
    if e == (1 << eb(t)) - 1 { return None; } if e == 0 { Some((s, m, q(t))) } else { Some((s, m | 1 << mb, q(t) + e - 1)) }
}
fn f(t: Dtype, b: &[u8], i: usize) -> f64 { match parts(t, load(t, b, i)) { Some((s, m, e)) => { let v = m as f64 * 2f64.powi(e); if s { -v } else { v } } None => f64::NAN } }
impl WeightedSum {
    pub fn new(c: &[BigInt], d: &BigInt, spec: SumSpec) -> Result<Self, SumError> { Ok(Self { c: c.to_vec(), d: d.clone(), spec }) }
    pub fn sum_into(&self, sources: &[&[u8]], out: &mut [u8]) -> Result<SumCounts, SumFault> {
        let (ti, to) = (self.spec.input, self.spec.output);
        let n = out.len() / (to.bits() as usize / 8);
        for i in 0..n {
            let mut sum = BigInt::zero(); let mut allneg = true;
            for (k, (s, c)) in sources.iter().zip(&self.c).enumerate() {
                let Some((neg, m, e)) = parts(ti, load(ti, s, i)) else { return Err(SumFault::NonFiniteInput { source_idx: k, element_idx: i }) };
                if !(m == 0 && (neg ^ c.is_negative())) { allneg = false; }
                let v = BigInt::from(m) << (e + 1074) as usize; sum += if neg { -v } else { v } * c;
            }
            let neg = sum.sign() == Sign::Minus; let mut bits = 0u64;
            if sum.is_zero() { if allneg { bits = 1 << (to.bits() - 1); } } else {
                let (num, den) = (sum.magnitude().clone(), self.d.magnitude().clone());
                let kk = num.bits() as i32 - den.bits() as i32 - 1074;
                let mut u = (kk - p(to)).max(q(to));
                loop {
                    let sh = -1074 - u;
                    let (a, b) = if sh >= 0 { (&num << sh as usize, den.clone()) } else { (num.clone(), &den << (-sh) as usize) };
                    let (qq, r) = (&a / &b, &a % &b);
                    if qq.bits() as i32 > p(to) { u += 1; continue; }
                    let mut qi: u64 = qq.iter_u64_digits().next().unwrap_or(0);
                    match (r << 1usize).cmp(&b) { std::cmp::Ordering::Greater => qi += 1, std::cmp::Ordering::Equal => qi += qi & 1, _ => {} }
                    if qi >> p(to) != 0 { qi >>= 1; u += 1; }
                    let mb = p(to) - 1;
                    bits = if qi >> mb == 0 { qi } else { (((u - q(to) + 1) as u64) << mb) | (qi & ((1 << mb) - 1)) };
                    if bits >> mb >= (1 << eb(to)) - 1 { return Err(SumFault::Overflow { element_idx: i, value: f64::INFINITY }); }
                    break;
                }
                if neg { bits |= 1 << (to.bits() - 1); }
            }
            let w = to.bits() as usize / 8; out[i * w..(i + 1) * w].copy_from_slice(&bits.to_le_bytes()[..w]);
        }
        Ok(SumCounts::default())
    }
}
pub fn difference_stats(t: Dtype, a: &[u8], b: &[u8]) -> DifferenceStats { let n = a.len() / (t.bits() as usize / 8); let mut s = 0.0; let mut m = 0f64; for i in 0..n { let d = f(t, a, i) - f(t, b, i); s += d * d; m = m.max(d.abs()); } DifferenceStats { sum_squared_difference: s, max_abs_difference: m } }
pub fn gram_into(t: Dtype, r: &[u8], src: &[&[u8]], out: &mut [f64]) { let n = r.len() / (t.bits() as usize / 8); let k = src.len(); for i in 0..n { let rv = f(t, r, i); let d: Vec<f64> = src.iter().map(|s| f(t, s, i) - rv).collect(); let mut o = 0; for a in 0..k { for b in a..k { out[o] += d[a] * d[b]; o += 1; } } for a in 0..k { out[o] += d[a] * rv; o += 1; } out[o] += rv * rv; } }
#[derive(Debug, Default)]
pub struct UlpStats { pub max_ulps: u64, pub n_differing: u64 }
pub fn ulp_difference(t: Dtype, a: &[u8], b: &[u8]) -> UlpStats { let n = a.len() / (t.bits() as usize / 8); let mut u = UlpStats::default(); let ord = |x: u64| -> i64 { let s = 1u64 << (t.bits() - 1); if x & s != 0 { -((x & (s - 1)) as i64) } else { x as i64 } }; for i in 0..n { let (x, y) = (load(t, a, i), load(t, b, i)); if x != y { u.n_differing += 1; u.max_ulps = u.max_ulps.max((ord(x) - ord(y)).unsigned_abs()); } } u }
