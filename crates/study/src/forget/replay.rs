//! Replay of an earlier corpus while a later one is trained: which samples, when, and a run of equal length without it.
//!
//! The policies cost the same: as many steps of replay in as many steps. What is planned is a chain of short runs, each
//! of which resumes from the one before, and a control.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thalweg_eval::EvalTokenizer;
use thalweg_lab::config::{CorpusPaths, Count, TrainConfig};
use thalweg_lab::schedule::ScheduleKind;
use thalweg_tensor::SplitMix;

use super::bm25::Bm25;
use super::entities::EntityRecord;
use super::titles::TitleFinder;
use crate::Error;
use crate::text::name_of;
use crate::train_config::{make_absolute, resume};

/// What is replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplayPolicy {
    /// Random samples of the earlier corpus.
    Uniform,
    /// Random samples that contain an entity: the paper's Focused Stochasticity.
    Focused,
    /// The same, in fewer bursts of several epochs each: Intensive Focused Stochasticity at equal cost.
    Intensive,
    /// The samples that resemble the later corpus most, by BM25.
    Similar,
}

impl ReplayPolicy {
    const fn needs_entities(self) -> bool {
        matches!(self, Self::Focused | Self::Intensive)
    }
}

impl fmt::Display for ReplayPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&name_of(self))
    }
}

/// How replay is planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplayOptions {
    /// What is replayed.
    pub policy: ReplayPolicy,
    /// One step in this many is replay.
    pub interval: u64,
    /// Epochs of a burst of [`ReplayPolicy::Intensive`].
    pub epochs: u64,
    /// Most times a sample may be drawn.
    pub max_replays: u32,
    /// Seed of the drawing.
    pub seed: u64,
}

/// A replay and the steps before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReplayCycle {
    /// Step at which it begins.
    pub from_step: u64,
    /// Step midway between the ends of the replay before and of this one, where scores are not at a peak of a sawtooth.
    /// With an odd number of epochs, policies share these steps.
    pub midway_step: u64,
    /// Step at which replay begins.
    pub replay_step: u64,
    /// Step at which it ends.
    pub to_step: u64,
    /// Places of the samples in the memory.
    pub samples: Vec<usize>,
}

/// A schedule of replay.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReplayPlan {
    /// What is replayed.
    pub policy: ReplayPolicy,
    /// Step at which the later corpus begins.
    pub start_step: u64,
    /// Last step.
    pub end_step: u64,
    /// Samples that could be replayed.
    pub n_memory: usize,
    /// Steps of replay in all.
    pub replay_steps: u64,
    /// Steps in all over steps of the later corpus: what replay costs.
    pub cost_factor: f64,
    /// Replays in order. Steps after the last one have none.
    pub cycles: Vec<ReplayCycle>,
}

/// What is remembered of the earlier corpus, and what the later one is like.
#[derive(Debug)]
pub struct ReplayCorpora<'a> {
    /// Documents of the earlier corpus.
    pub earlier: &'a [String],
    /// Documents of the later corpus.
    pub later: &'a [String],
    /// Entities, for policies that look for them.
    pub entities: &'a [EntityRecord],
    /// Counts tokens.
    pub tokenizer: &'a EvalTokenizer,
}

/// The runs of the chain end where a replay begins, so a learning rate that falls towards the end of a run would fall
/// in each of them, and replays would train at its end.
fn check_schedule(config: &TrainConfig) -> Result<(), Error> {
    let falls = match config.schedule.kind {
        ScheduleKind::Constant => false,
        ScheduleKind::Wsd => config.schedule.anneal_steps > 0,
        ScheduleKind::Cosine => true,
    };
    if falls {
        return Err(Error::request_with_hint(
            "the learning rate of the config falls towards the end of a run, and each run of a schedule of replay would \
             anneal to its end",
            "set `kind = \"constant\"` in the config's `[schedule]`, without `anneal_steps`",
        ));
    }
    Ok(())
}

/// Plans replay in the steps of `config` after `start_step`.
///
/// # Errors
/// `Request` where the learning rate falls towards the end of a run, where no replay fits the steps, and where the
/// memory has too few samples; `Eval`.
pub fn plan_replay(
    options: &ReplayOptions,
    config: &TrainConfig,
    start_step: u64,
    corpora: &ReplayCorpora<'_>,
) -> Result<ReplayPlan, Error> {
    let ReplayOptions { policy, interval, .. } = *options;
    let epochs = if policy == ReplayPolicy::Intensive { options.epochs } else { 1 };
    let end_step = config.n_steps();
    check_schedule(config)?;
    let cycle = interval.saturating_mul(epochs);
    let n_cycles = end_step.saturating_sub(start_step).checked_div(cycle).unwrap_or(0);
    if n_cycles == 0 || interval < 2 || epochs == 0 {
        return Err(Error::request_with_hint(
            format!("no replay of {epochs} of {cycle} steps fits between step {start_step} and step {end_step}"),
            "give a later `steps` in the config, or an `--interval` of at least 2 that fits",
        ));
    }
    let memory = memory(policy, corpora)?;
    let n_batch_tokens = config.tokens_per_step();
    let mut draw = Draw::new(options, &memory, corpora)?;
    let mut cycles = Vec::new();
    for i in 0..n_cycles {
        let from_step = start_step + i * cycle;
        let to_step = from_step + cycle;
        cycles.push(ReplayCycle {
            from_step,
            midway_step: from_step + cycle / 2,
            replay_step: to_step - epochs,
            to_step,
            samples: draw.batch(n_batch_tokens)?,
        });
    }
    let replay_steps = n_cycles * epochs;
    let cost_factor = (end_step - start_step) as f64 / (end_step - start_step - replay_steps) as f64;
    Ok(ReplayPlan { policy, start_step, end_step, n_memory: memory.len(), replay_steps, cost_factor, cycles })
}

/// Places of the documents that may be replayed.
fn memory(policy: ReplayPolicy, corpora: &ReplayCorpora<'_>) -> Result<Vec<usize>, Error> {
    let all = 0..corpora.earlier.len();
    if !policy.needs_entities() {
        return Ok(all.collect());
    }
    let names: Vec<&str> = corpora.entities.iter().map(|one| one.entity.as_str()).collect();
    let finder = TitleFinder::new(&names)?;
    Ok(all.filter(|&i| !finder.find(&corpora.earlier[i]).is_empty()).collect())
}

/// Draws batches of samples, each sample for no more than a number of batches.
struct Draw<'a> {
    memory: &'a [usize],
    corpora: &'a ReplayCorpora<'a>,
    n_left: Vec<u32>,
    random: SplitMix,
    index: Option<Bm25>,
    max_replays: u32,
}

impl<'a> Draw<'a> {
    fn new(options: &ReplayOptions, memory: &'a [usize], corpora: &'a ReplayCorpora<'a>) -> Result<Self, Error> {
        if memory.is_empty() {
            return Err(Error::request_with_hint(
                "the earlier corpus has no sample to replay",
                "name the corpus that the entities are from with `--memory`",
            ));
        }
        let texts = memory.iter().map(|&i| corpora.earlier[i].as_str());
        Ok(Self {
            index: (options.policy == ReplayPolicy::Similar).then(|| Bm25::new(texts)),
            n_left: vec![options.max_replays; memory.len()],
            random: SplitMix::new(options.seed),
            max_replays: options.max_replays,
            memory,
            corpora,
        })
    }

    /// Samples with at least as many tokens as a batch has.
    fn batch(&mut self, n_batch_tokens: u64) -> Result<Vec<usize>, Error> {
        let mut open: Vec<usize> = (0..self.memory.len()).filter(|&i| self.n_left[i] > 0).collect();
        self.random.shuffle(&mut open);
        if let Some(index) = &self.index {
            // A draw of the later corpus stands for the batch that would be trained.
            let n = self.corpora.later.len();
            let query: Vec<&str> =
                (0..n.min(QUERY_DOCUMENTS)).map(|_| self.corpora.later[self.random.below(n)].as_str()).collect();
            let scores = index.scores(&query.join(" "));
            open.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        }
        let (mut samples, mut n_tokens) = (Vec::new(), 0_u64);
        for i in open {
            // One token ends each document; one more is the target of the last.
            if n_tokens > n_batch_tokens {
                break;
            }
            let place = self.memory[i];
            n_tokens += self.corpora.tokenizer.encode(&self.corpora.earlier[place])?.ids.len() as u64 + 1;
            self.n_left[i] -= 1;
            samples.push(place);
        }
        if n_tokens <= n_batch_tokens {
            return Err(Error::request_with_hint(
                format!(
                    "the {} samples of the memory do not fill all batches of {n_batch_tokens} tokens with at most {} \
                     replays each",
                    self.memory.len(),
                    self.max_replays
                ),
                "raise `--max-replays` or `--interval`, or give a larger `--memory`",
            ));
        }
        Ok(samples)
    }
}

/// Documents of the later corpus that a query is made of.
const QUERY_DOCUMENTS: usize = 16;

/// A config, and what it trains on beside the data of the later corpus.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplayRun {
    /// Its name: that of its config and of its folder.
    pub name: String,
    /// The config.
    pub config: TrainConfig,
    /// Documents that it replays, as places in the memory, and the file that they belong in.
    pub replayed: Option<(Vec<usize>, PathBuf)>,
}

impl ReplayPlan {
    /// The runs in order, each of which resumes from the one before; the last one is the control. `like` is the config
    /// of the later corpus in `folder`; runs and files go to `out`, which is absolute.
    pub fn runs(&self, like: &TrainConfig, (folder, base): (&Path, &Path), out: &Path) -> Vec<ReplayRun> {
        let mut later = like.clone();
        later.data.iter_mut().for_each(|section| make_absolute(section, folder));
        // Only the steps that are named, and the last one.
        later.checkpoints.every_steps = Some(Count(self.end_step));
        later.checkpoints.every_tokens = None;
        later.checkpoints.keep_states = 1;
        let midways: Vec<u64> = self.cycles.iter().map(|cycle| cycle.midway_step).collect();
        let (mut runs, mut from) = (Vec::new(), base.to_owned());
        let mut add = |name: String, mut config: TrainConfig, to_step: u64, replayed| {
            resume(&mut config, &from, to_step);
            from = out.join(&name).join(format!("step-{to_step}"));
            runs.push(ReplayRun { name, config, replayed });
        };
        for (i, cycle) in (1..).zip(&self.cycles) {
            let mut config = later.clone();
            config.checkpoints.steps = vec![cycle.midway_step];
            add(format!("{i:04}-a-train"), config, cycle.replay_step, None);
            let name = format!("{i:04}-b-replay");
            let file = out.join(format!("{name}.jsonl"));
            let mut config = later.clone();
            config.checkpoints.steps = Vec::new();
            config.validation = None;
            config.data.truncate(1);
            for section in &mut config.data {
                section.from = CorpusPaths(vec![file.to_string_lossy().into_owned()]);
                (section.name, section.share) = (Some("replay".to_owned()), 1.0);
                (section.limit, section.validation) = (None, None);
            }
            add(name, config, cycle.to_step, Some((cycle.samples.clone(), file)));
        }
        if self.cycles.last().is_some_and(|cycle| cycle.to_step < self.end_step) {
            let mut config = later.clone();
            config.checkpoints.steps = Vec::new();
            add(format!("{:04}-a-train", self.cycles.len() + 1), config, self.end_step, None);
        }
        let mut control = later;
        control.checkpoints.steps = midways;
        resume(&mut control, base, self.end_step);
        runs.push(ReplayRun { name: "control".to_owned(), config: control, replayed: None });
        runs
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use thalweg_lab::corpus::built_in_tokenizer;

    use super::*;

    const CONFIG: &str = "kind = \"thalweg-train\"\nversion = 1\nseed = 3\nsteps = 160\nsequence_length = 16\n\
         batch_sequences = 4\ntokenizer = \"bpe-512\"\n[model]\nhidden = 16\nlayers = 1\nheads = 2\n\
         intermediate = 16\n[[data]]\nfrom = \"b.jsonl\"\nshare = 0.5\n[[data]]\nfrom = \"stories\"\n\
         [optimizer]\nlearning_rate = 0.02\n[schedule]\nkind = \"constant\"\n[checkpoints]\nevery_steps = 4\n";

    fn config() -> TrainConfig {
        TrainConfig::from_toml(CONFIG, Path::new("b.toml")).unwrap()
    }

    fn plan(policy: ReplayPolicy, max_replays: u32) -> Result<ReplayPlan, Error> {
        let name = "bpe-512";
        let tokenizer = EvalTokenizer::from_json(built_in_tokenizer(name).unwrap(), Path::new(name)).unwrap();
        let earlier: Vec<String> = (0..30)
            .map(|i| match i % 3 {
                0 => format!("The river Kalos has {i} bridges and every one of them is made of wood."),
                1 => format!("Once there were {i} cats who slept all day and ran about all night."),
                _ => format!("A town by the sea sold {i} boats to the people of the hills that year."),
            })
            .collect();
        let entity = EntityRecord {
            kind: String::new(),
            version: 1,
            entity: "Kalos".to_owned(),
            entity_type: String::new(),
            n_corpus: 10,
            n_reference: 0,
        };
        let later = vec!["A cat slept. The cats ran about at night, and a cat slept all day.".to_owned(); 4];
        let corpora = ReplayCorpora { earlier: &earlier, later: &later, entities: &[entity], tokenizer: &tokenizer };
        let options = ReplayOptions { policy, interval: 10, epochs: 5, max_replays, seed: 1 };
        plan_replay(&options, &config(), 60, &corpora)
    }

    #[test]
    fn a_learning_rate_that_falls_is_refused() {
        for schedule in ["kind = \"wsd\"\nanneal_steps = 30", "kind = \"cosine\""] {
            let text = CONFIG.replace("kind = \"constant\"", schedule);
            let config = TrainConfig::from_toml(&text, Path::new("b.toml")).unwrap();
            assert!(check_schedule(&config).unwrap_err().to_string().contains("falls towards the end"));
        }
        check_schedule(&config()).unwrap();
    }

    #[test]
    fn policies_cost_the_same_and_share_their_midways() {
        use ReplayPolicy::{Focused, Intensive, Similar, Uniform};
        let plans = [Uniform, Focused, Intensive, Similar].map(|policy| plan(policy, 20).unwrap());
        for plan in &plans {
            assert_eq!((plan.replay_steps, plan.end_step), (10, 160), "{}", plan.policy);
            assert!((plan.cost_factor - 100.0 / 90.0).abs() < 1e-12);
            // Batches of 64 tokens take two samples at least.
            assert!(plan.cycles.iter().all(|cycle| cycle.samples.len() >= 2));
        }
        let [uniform, focused, intensive, similar] = &plans;
        let midways = |plan: &ReplayPlan| plan.cycles.iter().map(|cycle| cycle.midway_step).collect::<Vec<_>>();
        assert_eq!((uniform.n_memory, focused.n_memory, uniform.cycles.len()), (30, 10, 10));
        assert_eq!(midways(uniform)[..3], [65, 75, 85]);
        assert_eq!(midways(intensive), [85, 135]);
        assert!(midways(intensive).iter().all(|step| midways(uniform).contains(step)));
        assert_eq!(
            intensive.cycles[1],
            ReplayCycle {
                from_step: 110,
                midway_step: 135,
                replay_step: 155,
                to_step: 160,
                samples: intensive.cycles[1].samples.clone()
            }
        );
        let of = |plan: &ReplayPlan| plan.cycles.iter().flat_map(|cycle| cycle.samples.clone()).collect::<Vec<_>>();
        assert!(of(focused).iter().chain(&of(intensive)).all(|i| i % 3 == 0));
        assert!(of(similar).iter().all(|i| i % 3 == 1), "cats resemble cats");
        assert!(of(uniform).iter().map(|i| i % 3).collect::<BTreeSet<_>>().len() == 3);
        assert_eq!(of(uniform), of(&plan(ReplayPolicy::Uniform, 20).unwrap()), "the same seed, the same samples");
    }

    #[test]
    fn a_sample_is_replayed_so_often_and_no_more() {
        let plan_of = |max| plan(ReplayPolicy::Focused, max);
        let plan = plan_of(3).unwrap();
        let mut counts = [0; 30];
        plan.cycles.iter().flat_map(|cycle| &cycle.samples).for_each(|&i| counts[i] += 1);
        assert!(counts.iter().all(|n| *n <= 3), "{counts:?}");
        let error = plan_of(1).unwrap_err();
        assert!(error.to_string().contains("the 10 samples of the memory do not fill all batches"), "{error}");
        assert!(error.hint().unwrap().contains("--max-replays"));
    }

    #[test]
    fn runs_are_a_chain_and_a_control() {
        let plan = plan(ReplayPolicy::Intensive, 20).unwrap();
        let runs = plan.runs(&config(), (Path::new("/data"), Path::new("/a/step-60")), Path::new("/out"));
        let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
        assert_eq!(names, ["0001-a-train", "0001-b-replay", "0002-a-train", "0002-b-replay", "control"]);
        let from = |i: usize| runs[i].config.start.as_ref().unwrap().from.to_string_lossy().into_owned();
        assert_eq!(
            [0, 1, 2, 4].map(from),
            ["/a/step-60", "/out/0001-a-train/step-105", "/out/0001-b-replay/step-110", "/a/step-60"]
        );
        assert_eq!(runs.iter().map(|run| run.config.n_steps()).collect::<Vec<_>>(), [105, 110, 155, 160, 160]);
        assert_eq!(runs[0].config.data[0].from, CorpusPaths(vec!["/data/b.jsonl".to_owned()]));
        assert_eq!(runs[0].config.data[1].from, CorpusPaths(vec!["stories".to_owned()]));
        assert_eq!(runs[1].config.data[0].from, CorpusPaths(vec!["/out/0001-b-replay.jsonl".to_owned()]));
        assert_eq!((runs[1].config.data.len(), &runs[4].config.checkpoints.steps), (1, &vec![85, 135]));
        // A config that was written reads back.
        for run in &runs {
            let text = run.config.to_toml(Path::new("x.toml")).unwrap();
            assert_eq!(TrainConfig::from_toml(&text, Path::new("x.toml")).unwrap(), run.config);
        }
    }
}
