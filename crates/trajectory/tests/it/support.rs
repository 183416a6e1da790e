//! Tiny runs for the tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;
use thalweg_storage::{LocalStorage, Storage};
use thalweg_trajectory::{Error, RunDir, Trajectory, TrajectoryOptions, Window, WindowSpec, select_window};

/// The disk.
pub(crate) fn disk() -> Arc<dyn Storage> {
    Arc::new(LocalStorage::new())
}

/// A file of the project's fixtures.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// A whole safetensors file of one number.
pub(crate) fn tiny_safetensors() -> Vec<u8> {
    let header = br#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header);
    bytes.extend_from_slice(&1.5f32.to_le_bytes());
    bytes
}

/// Writes a file, with its folder.
pub(crate) fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// A run in a temporary folder.
pub(crate) struct TestRun {
    pub(crate) folder: TempDir,
    pub(crate) options: TrajectoryOptions,
}

impl TestRun {
    /// A run with these names in it: files where they end in `.safetensors`, else finished checkpoints.
    pub(crate) fn new<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let path = folder.path().join(name.as_ref());
            let is_file = name.as_ref().ends_with(".safetensors");
            write(&if is_file { path } else { path.join("model.safetensors") }, tiny_safetensors());
        }
        Self { folder, options: TrajectoryOptions::default() }
    }

    /// A run of folders `step-N`.
    pub(crate) fn with_steps(steps: impl IntoIterator<Item = u64>) -> Self {
        Self::new(steps.into_iter().map(|step| format!("step-{step}")))
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn write(self, name: &str, bytes: impl AsRef<[u8]>) -> Self {
        write(&self.path().join(name), bytes);
        self
    }

    pub(crate) fn open(&self) -> Result<RunDir, Error> {
        RunDir::open(&disk(), self.path(), None)
    }

    pub(crate) fn trajectory(&self) -> Trajectory {
        Trajectory::open(&disk(), self.path(), &self.options).unwrap()
    }

    pub(crate) fn select(&self, spec: &WindowSpec) -> Result<Window, Error> {
        select_window(&self.trajectory(), spec)
    }
}

/// The steps of a run's finished checkpoints.
pub(crate) fn finished_steps(run: &RunDir) -> Vec<u64> {
    run.finished().map(|checkpoint| checkpoint.step.0).collect()
}
