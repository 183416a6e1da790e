//! Values that are one of a few words.

use clap::builder::ValueParser;
use thalweg_eval::StartRule;
use thalweg_study::request::one_of;
use thalweg_tensor::kernel::Simd;

/// When the start token is put before a text.
pub(crate) fn start_rule() -> ValueParser {
    one_of(StartRule::ALL.map(StartRule::name), |word| StartRule::ALL.into_iter().find(|rule| rule.name() == word))
}

/// The instruction set of the kernels.
pub(crate) fn simd() -> ValueParser {
    const KNOWN: [(&str, Simd); 3] = [("avx512", Simd::Avx512), ("avx2", Simd::Avx2), ("portable", Simd::Portable)];
    one_of(KNOWN.map(|(name, _)| name), |word| KNOWN.iter().find(|(name, _)| *name == word).map(|(_, simd)| *simd))
}
