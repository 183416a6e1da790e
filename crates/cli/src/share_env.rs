//! Which share this process is, by the variables that job schedulers set. Asked only by `--shard auto`.

use thalweg_merge::share::Share;
use thalweg_tensor::counted;

use crate::error::Error;

/// Reads a variable of the environment.
pub(crate) type GetVariable<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Variables that say which process of how many this is.
struct Pair {
    scheduler: &'static str,
    index: &'static str,
    count: &'static str,
    /// The number of the first process, where it need not be 0, and that of the last.
    bounds: Option<(&'static str, &'static str)>,
}

/// `JOB_COMPLETIONS` is not set by Kubernetes, but by the manifests of `thalweg launch kubernetes`.
const PAIRS: [Pair; 4] = [
    Pair {
        scheduler: "Slurm array",
        index: "SLURM_ARRAY_TASK_ID",
        count: "SLURM_ARRAY_TASK_COUNT",
        bounds: Some(("SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX")),
    },
    Pair { scheduler: "Kubernetes job", index: "JOB_COMPLETION_INDEX", count: "JOB_COMPLETIONS", bounds: None },
    Pair { scheduler: "Open MPI job", index: "OMPI_COMM_WORLD_RANK", count: "OMPI_COMM_WORLD_SIZE", bounds: None },
    Pair { scheduler: "MPI job", index: "PMI_RANK", count: "PMI_SIZE", bounds: None },
];

/// The share that the environment names. `count` is the number of shares where the user says it.
pub(crate) fn share_of_environment(count: Option<usize>, get: GetVariable<'_>) -> Result<Share, Error> {
    let mut found: Vec<(&Pair, Share)> = Vec::new();
    for pair in &PAIRS {
        if let Some(share) = pair.share(count, get)? {
            found.push((pair, share));
        }
    }
    // A task of an array may itself be an MPI job of one process.
    if found.iter().any(|(_, share)| share.count() > 1) {
        found.retain(|(_, share)| share.count() > 1);
    }
    found.dedup_by_key(|(_, share)| *share);
    match &*found {
        [(_, share)] => Ok(*share),
        [] => Err(Error::usage_with_hint(
            "`--shard auto` found no job: none of `SLURM_ARRAY_TASK_ID`, `JOB_COMPLETION_INDEX`, `OMPI_COMM_WORLD_RANK` \
             and `PMI_RANK` is set",
            "name the share: `--shard 0/8`",
        )),
        [(a, share_a), (b, share_b), ..] => Err(Error::usage_with_hint(
            format!(
                "`--shard auto` found two jobs: the {} says share {share_a}, the {} share {share_b}",
                a.scheduler, b.scheduler
            ),
            format!("name the share: `--shard {share_a}`"),
        )),
    }
}

impl Pair {
    fn share(&self, count: Option<usize>, get: GetVariable<'_>) -> Result<Option<Share>, Error> {
        let index = number(self.index, get)?;
        let asked = count;
        let count = match asked {
            Some(count) => Some(count),
            None => number(self.count, get)?,
        };
        let (index, count) = match (index, count) {
            (None, _) if asked.is_some() => return Ok(None),
            (None, None) => return Ok(None),
            (Some(_), None) => return Err(self.half(self.index, self.count)),
            (None, Some(_)) => return Err(self.half(self.count, self.index)),
            (Some(index), Some(count)) => (index, count),
        };
        let first = match self.bounds {
            Some(bounds) if asked.is_none() => self.first(bounds, count, get)?,
            _ => 0,
        };
        let share = index.checked_sub(first).and_then(|index| Share::new(index, count));
        share.map(Some).ok_or_else(|| {
            Error::usage_with_hint(
                format!("`{}` is {index}, but there are {count} shares, counted from {first}", self.index),
                "start as many processes as there are shares, or name the share: `--shard 0/8`",
            )
        })
    }

    /// The number of the first process of all `count`, if they are counted without gaps.
    fn first(
        &self,
        (min, max): (&'static str, &'static str),
        count: usize,
        get: GetVariable<'_>,
    ) -> Result<usize, Error> {
        let first = number(min, get)?.ok_or_else(|| self.half(self.index, min))?;
        let last = number(max, get)?.unwrap_or_else(|| (first + count).saturating_sub(1));
        if first > 1 || last.checked_sub(first).is_none_or(|n| n + 1 != count) {
            return Err(Error::usage_with_hint(
                format!(
                    "the {} has {} from {first} to {last}, so it does not say how many shares there are",
                    self.scheduler,
                    counted(count, "task")
                ),
                format!("give it: `--shard auto/N` takes only the number of the share from `{}`", self.index),
            ));
        }
        Ok(first)
    }

    fn half(&self, set: &str, missing: &str) -> Error {
        Error::usage_with_hint(
            format!("`{set}` is set but `{missing}` is not: the two together say which share this is"),
            format!("set both, or give the number of shares: `--shard auto/N` needs only `{}`", self.index),
        )
    }
}

fn number(name: &str, get: GetVariable<'_>) -> Result<Option<usize>, Error> {
    let Some(text) = get(name) else { return Ok(None) };
    // More would not be a number of shares, and sums of two must not overflow.
    let parsed = text.parse::<usize>().ok().filter(|number| *number <= thalweg_merge::share::MAX_SHARES);
    parsed.map(Some).ok_or_else(|| {
        Error::usage_with_hint(
            format!("`{name}` is `{text}`, which is not a share number"),
            "name the share: `--shard 0/8`",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detect(count: Option<usize>, variables: &[(&str, &str)]) -> Result<String, String> {
        let get = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        share_of_environment(count, &get).map(|share| share.to_string()).map_err(|error| error.to_string())
    }

    fn array(
        id: &'static str,
        count: &'static str,
        min: &'static str,
        max: &'static str,
    ) -> [(&'static str, &'static str); 4] {
        [
            ("SLURM_ARRAY_TASK_ID", id),
            ("SLURM_ARRAY_TASK_COUNT", count),
            ("SLURM_ARRAY_TASK_MIN", min),
            ("SLURM_ARRAY_TASK_MAX", max),
        ]
    }

    #[test]
    fn every_scheduler_says_its_share() {
        assert_eq!(detect(None, &array("3", "8", "0", "7")).unwrap(), "3/8");
        assert_eq!(detect(None, &array("8", "8", "1", "8")).unwrap(), "7/8", "an array from 1 on");
        assert_eq!(detect(None, &[("JOB_COMPLETION_INDEX", "5"), ("JOB_COMPLETIONS", "6")]).unwrap(), "5/6");
        assert_eq!(detect(None, &[("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "2")]).unwrap(), "0/2");
        assert_eq!(detect(None, &[("PMI_RANK", "1"), ("PMI_SIZE", "2")]).unwrap(), "1/2");
    }

    #[test]
    fn half_of_a_pair_is_an_error() {
        for pair in &PAIRS {
            for (set, missing) in [(pair.index, pair.count), (pair.count, pair.index)] {
                let refused = detect(None, &[(set, "1")]).unwrap_err();
                assert!(refused.contains(set) && refused.contains(missing), "{refused}");
            }
        }
        let without_min = [("SLURM_ARRAY_TASK_ID", "1"), ("SLURM_ARRAY_TASK_COUNT", "4")];
        assert!(detect(None, &without_min).unwrap_err().contains("SLURM_ARRAY_TASK_MIN"));
    }

    #[test]
    fn an_array_that_reruns_some_shares_must_say_how_many_there_are() {
        for some in [array("5", "4", "2", "7"), array("5", "3", "5", "7"), array("0", "2", "0", "3")] {
            assert!(detect(None, &some).unwrap_err().contains("does not say how many"));
            assert_eq!(detect(Some(8), &some).unwrap(), format!("{}/8", some[0].1));
        }
        assert!(detect(Some(4), &array("5", "4", "2", "7")).unwrap_err().contains("there are 4 shares"));
    }

    #[test]
    fn jobs_in_jobs_must_agree() {
        let both = |rank, size| [&array("3", "8", "0", "7")[..], &[("PMI_RANK", rank), ("PMI_SIZE", size)]].concat();
        assert_eq!(detect(None, &both("0", "1")).unwrap(), "3/8", "a job of one process in a task");
        assert_eq!(detect(None, &both("3", "8")).unwrap(), "3/8");
        assert!(detect(None, &both("1", "4")).unwrap_err().contains("two jobs"));
    }

    #[test]
    fn what_is_no_number_is_an_error_and_nothing_is_guessed() {
        assert!(detect(None, &[]).unwrap_err().contains("found no job"));
        assert!(detect(Some(4), &[]).unwrap_err().contains("found no job"));
        for value in ["", "x", "-1", "99999999999999999999", "4000000"] {
            let refused = detect(None, &[("PMI_RANK", value), ("PMI_SIZE", "2")]).unwrap_err();
            assert!(refused.contains("PMI_RANK"), "{refused}");
        }
        assert!(detect(None, &[("PMI_RANK", "2"), ("PMI_SIZE", "2")]).unwrap_err().contains("2 shares"));
    }
}
