//! Rounding mode and flush-to-zero of the calling thread: a host program may have changed them.

/// Sets rounding to nearest and keeps subnormals, until it is dropped. Every worker holds one.
#[derive(Debug)]
pub struct FloatEnvironment {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    saved: u64,
    /// It belongs to the thread that made it.
    _not_send: std::marker::PhantomData<*const ()>,
}

#[cfg(target_arch = "x86_64")]
fn read_control() -> u64 {
    let mut value = 0u32;
    // SAFETY: writes the 32 bits of MXCSR to a place that holds them.
    unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut value, options(nostack, preserves_flags)) };
    u64::from(value)
}

#[cfg(target_arch = "x86_64")]
fn write_control(value: u64) {
    let value = u32::try_from(value & 0xFFFF).unwrap_or(0x1F80);
    // SAFETY: the value was read from MXCSR or has only defined bits; rounding and masks are this thread's own.
    unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const value, options(nostack, preserves_flags)) };
}

#[cfg(target_arch = "aarch64")]
fn read_control() -> u64 {
    let value: u64;
    // SAFETY: reads this thread's floating-point control register.
    unsafe { std::arch::asm!("mrs {}, fpcr", out(reg) value, options(nostack, preserves_flags)) };
    value
}

#[cfg(target_arch = "aarch64")]
fn write_control(value: u64) {
    // SAFETY: the value was read from FPCR or is its default; it is this thread's own.
    unsafe { std::arch::asm!("msr fpcr, {}", in(reg) value, options(nostack, preserves_flags)) };
}

/// All exceptions masked, round to nearest, subnormals kept.
#[cfg(target_arch = "x86_64")]
const DEFAULT: u64 = 0x1F80;
#[cfg(target_arch = "aarch64")]
const DEFAULT: u64 = 0;

impl FloatEnvironment {
    /// Sets the default environment for this thread.
    pub fn set_default() -> Self {
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        {
            let saved = read_control();
            write_control(DEFAULT);
            Self { saved, _not_send: std::marker::PhantomData }
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        Self { _not_send: std::marker::PhantomData }
    }
}

impl Drop for FloatEnvironment {
    fn drop(&mut self) {
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        write_control(self.saved);
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_flushes_subnormals_keeps_them_inside() {
        let before = read_control();
        write_control(DEFAULT | 0x8040);
        {
            let _environment = FloatEnvironment::set_default();
            let tiny = std::hint::black_box(f32::from_bits(3));
            assert_eq!((tiny * std::hint::black_box(1.0)).to_bits(), 3);
        }
        assert_eq!(read_control() & 0x8040, 0x8040);
        write_control(before);
    }
}
