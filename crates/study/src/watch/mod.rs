//! A run in training, merged and scored as it goes: which merges are current, which are still to be made, and what
//! became of them.
//!
//! A [`Watcher`] looks at a run, makes what is missing in as few readings as memory allows, and keeps a record.
//! [`keep_watching`] checks repeatedly.

mod checkpoints;
mod events;
mod forecast;
mod heads;
mod hold;
mod keep;
mod make;
mod notice;
mod output;
mod record;
mod request;
mod scan;
mod score;
mod study;
mod watcher;

pub use forecast::WatchForecast;
pub use heads::PreparedSums;
pub use keep::{Heartbeat, KeepOptions, MakeEvaluator, OnceScores, WatchNews, keep_watching, score_once};
pub use notice::{Bests, NewBest, Notice, NoticeEvent, TargetCrossing};
pub use output::WatchedOutput;
pub(crate) use record::read_watch_record;
pub use record::{EVENTS_NAME, RECORD_NAME, WatchEvent, WatchRow};
pub use request::{WatchEnds, WatchRequest};
pub use score::UnscoredModel;
pub(crate) use study::RUN_FACTS_NAME;
pub use study::study_of_watch;
pub use watcher::{FailedMerge, WatchPass, Watcher};
