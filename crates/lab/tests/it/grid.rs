//! Many runs from one file equal the same runs made one by one.

use std::path::Path;

use thalweg_lab::grid::{GRID_RECORD_NAME, GridWatcher, TrainFile, parse_train_file, train_grid};
use thalweg_lab::step_log::StepRecord;
use thalweg_lab::{Error, TrainOutcome};

use crate::support::{TINY, World};

struct Silent;

impl GridWatcher for Silent {
    fn on_step(&self, _: &str, _: &StepRecord, _: u64, _: f64) {}
    fn on_end(&self, _: &str, _: &Result<TrainOutcome, Error>) {}
    fn on_note(&self, _: &str, _: &str) {}
}

#[test]
fn cells_run_together_and_again_without_work() {
    let world = World::new();
    let grid = "[grid]\njobs = 2\n[grid.axes]\nseed = [1, 2, 3]\n";
    let TrainFile::Grid(grid) = parse_train_file(&format!("{TINY}{grid}"), Path::new("run.toml")).unwrap() else {
        panic!("a grid")
    };
    let train = || train_grid(&grid, Path::new("/disk"), Path::new("/disk/grid"), &Silent, &world.context()).unwrap();
    let outcomes = train();
    assert_eq!(outcomes.len(), 3);
    for (cell, outcome) in grid.cells.iter().zip(&outcomes) {
        let alone = format!("alone-{}", cell.config.seed);
        world.train(&TINY.replace("seed = 7", &format!("seed = {}", cell.config.seed)), &alone);
        world.assert_same_files(&alone, &format!("grid/{}", cell.name));
        assert!(outcome.last.is_some());
    }
    let text = String::from_utf8(world.bytes(&format!("grid/{GRID_RECORD_NAME}"))).unwrap();
    assert!(text.contains("\"thalweg-train-grid\"") && text.contains(&grid.cells[2].name));
    assert!(train().iter().all(|outcome| outcome.last.is_none()), "nothing is trained twice");
}
