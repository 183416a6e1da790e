//! Through the door: files on a disk in, checkpoints out.

// Clippy lets helpers unwrap where it sees that they are compiled for tests only.
#[cfg(test)]
mod crash;
#[cfg(test)]
mod dcp;
mod dequantised;
#[cfg(test)]
mod drawn_bytes;
#[cfg(test)]
mod gguf;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod large;
#[cfg(test)]
mod mutated;
#[cfg(test)]
mod npz;
#[cfg(test)]
mod orbax;
#[cfg(test)]
mod real;
#[cfg(test)]
mod strangers;
#[cfg(test)]
mod support;
#[cfg(test)]
mod template;
#[cfg(test)]
mod to_huggingface;
#[cfg(test)]
mod torch;
#[cfg(test)]
mod torch_checkpointing;
#[cfg(test)]
mod trainers;
#[cfg(test)]
mod write;
#[cfg(test)]
mod write_formats;
