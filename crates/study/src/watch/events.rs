//! Scores as TensorBoard's event file, to be shown beside the trainer's own curves.
//!
//! The file is a function of the record and only grows, so it is appended to: readers keep their place in it. What a
//! kill cut off is completed.

use std::path::Path;

use thalweg_lab::event_file::{event_record, file_version_record};
use thalweg_storage::Storage;

use super::record::{ANNEALED_SCHEME, EVENTS_NAME, FORECAST_SCHEME, RAW_SCHEME, WatchEvent, WatchRow};
use crate::Error;

const FILE_NAME: &str = "events.out.tfevents.0.thalweg";

/// Brings the event file up to the record.
///
/// # Errors
/// `Request` where the file is not the beginning of what it should be; `Storage`.
pub(super) fn publish_events(storage: &dyn Storage, folder: &Path, rows: &[WatchRow]) -> Result<(), Error> {
    let mut bytes = file_version_record();
    let scored: Vec<&WatchRow> = rows.iter().filter(|row| row.event != WatchEvent::Merged).collect();
    if scored.is_empty() {
        return Ok(());
    }
    scored.iter().for_each(|row| bytes.extend(record_of(row)));
    let folder = folder.join(EVENTS_NAME);
    let path = folder.join(FILE_NAME);
    let known = match storage.read_file(&path, bytes.len() as u64) {
        Ok(known) => known,
        Err(error) if error.is_not_found() => {
            storage.create_folder(&folder)?;
            storage.create_file(&path, 0)?;
            Vec::new()
        }
        Err(thalweg_storage::Error::TooLarge { .. }) => return Err(refuse(&path)),
        Err(error) => return Err(error.into()),
    };
    let Some(more) = bytes.strip_prefix(known.as_slice()) else { return Err(refuse(&path)) };
    if !more.is_empty() {
        let file = storage.open_for_update(&path)?;
        file.write_all_at(known.len() as u64, more)?;
        file.sync()?;
    }
    Ok(())
}

fn refuse(path: &Path) -> Error {
    Error::request_with_hint(
        format!("`{}` does not match the record beside it", path.display()),
        "remove it: it is recreated from the record",
    )
}

/// The scalars of one model.
fn record_of(row: &WatchRow) -> Vec<u8> {
    let model = match row.scheme.as_str() {
        RAW_SCHEME | ANNEALED_SCHEME | FORECAST_SCHEME => row.scheme.clone(),
        scheme => format!("merged/{}-{}", scheme.replace([':', '/'], "-"), row.n_checkpoints),
    };
    let tag = |task: &str, measure: &str| format!("{model}/{task}/{measure}");
    let mut scalars: Vec<(String, f64)> =
        row.scores.iter().map(|score| (tag(&score.task, &score.measure), score.value)).collect();
    for one in &row.forecasts {
        let tag = tag(&one.task, &one.measure);
        let bounds = [("80", one.interval_80), ("95", one.interval_95)];
        scalars.push((tag.clone(), one.value));
        for (percent, [low, high]) in bounds {
            scalars.extend([(format!("{tag}/low-{percent}"), low), (format!("{tag}/high-{percent}"), high)]);
        }
    }
    let scalars: Vec<(&str, f64)> = scalars.iter().map(|(tag, value)| (tag.as_str(), *value)).collect();
    event_record(row.end_step, &scalars)
}
