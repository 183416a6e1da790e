//! Through the door: checkpoints on a disk in, merged checkpoints out.

// Clippy lets helpers unwrap where it sees that they are compiled for tests only.
#[cfg(test)]
mod crash;
#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod formats;
#[cfg(test)]
mod heads;
#[cfg(test)]
mod in_memory;
#[cfg(test)]
mod many_outputs;
#[cfg(test)]
mod policies;
#[cfg(test)]
mod resume;
#[cfg(test)]
mod rule_oracle;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod same_bytes;
#[cfg(test)]
mod scale;
#[cfg(test)]
mod sets;
#[cfg(test)]
mod shares;
#[cfg(test)]
mod shares_crash;
#[cfg(test)]
mod stages;
#[cfg(test)]
mod support;
#[cfg(test)]
mod verify;
