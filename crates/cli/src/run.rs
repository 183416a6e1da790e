//! TEMPORARY until the trajectory crate lands.
use crate::args::{RunArgs, SelectionArgs};
use crate::error::Error;
use crate::host::World;
use crate::messages::Messages;
use crate::resolve::Chosen;
use std::path::{Path, PathBuf};

pub(crate) struct Trajectory {
    pub(crate) all: Vec<Chosen>,
}
pub(crate) fn is_selection_empty(s: &SelectionArgs) -> bool {
    s.last.is_none() && s.count.is_none()
}
pub(crate) fn step_in_name(path: &Path) -> (Option<u64>, Option<u64>) {
    let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let name = name.trim_end_matches(".safetensors");
    let digits: String = name.chars().filter(char::is_ascii_digit).collect();
    (digits.parse().ok(), None)
}
pub(crate) fn open_trajectory(path: &Path, _: &RunArgs, world: &World<'_>, _: &Messages) -> Result<Trajectory, Error> {
    let path = world.storage.canonical_path(path)?;
    let mut all: Vec<Chosen> = world
        .storage
        .list_folder(&path)?
        .into_iter()
        .filter(|e| e.name.ends_with(".safetensors") || e.name.starts_with("step") || e.name.starts_with("ckpt"))
        .map(|e| {
            let p: PathBuf = path.join(&e.name);
            let (step, tokens) = step_in_name(&p);
            Chosen { path: p, step, tokens }
        })
        .collect();
    all.sort_by_key(|c| c.step);
    Ok(Trajectory { all })
}
pub(crate) fn select(t: &Trajectory, s: &SelectionArgs, _: &Messages) -> Result<Vec<Chosen>, Error> {
    let mut all = t.all.clone();
    if let Some(end) = s.end_step {
        all.retain(|c| c.step <= Some(end.0));
    }
    let n = s.last.or(s.count).unwrap_or(all.len());
    Ok(all.split_off(all.len().saturating_sub(n)))
}
