//! One option of a merge by its name, with its values as text: for recipes and for programs.

use std::path::PathBuf;

use serde::de::DeserializeOwned;
use thalweg_merge::output_format::RequestedFormat;
use thalweg_merge::plan::CodePolicy;
use thalweg_tensor::{parse_count, parse_size};

use super::MergeRequest;
use crate::Error;

/// The names that [`MergeRequest::set_option`] takes, in the order of the command line's help.
pub const OPTION_NAMES: [&str; 53] = [
    "last",
    "count",
    "interval_steps",
    "interval_tokens",
    "duration_steps",
    "duration_tokens",
    "end_step",
    "end_tokens",
    "from_step",
    "to_step",
    "every",
    "steps",
    "tokens_per_step",
    "log",
    "log_columns",
    "log_every",
    "stable",
    "checkpoint_pattern",
    "scheme",
    "alpha",
    "floor",
    "sigma_rel",
    "coefficients",
    "from_averages",
    "order",
    "normalize",
    "allow_sum",
    "rule",
    "base",
    "density",
    "lambda",
    "seed",
    "gamma",
    "epsilon",
    "convention",
    "divide",
    "rescale",
    "dtype",
    "out_shard_size",
    "drop",
    "code",
    "digest",
    "no_model_card",
    "to_huggingface",
    "hf_assets",
    "format",
    "optimizer",
    "non_float",
    "router",
    "allow_config",
    "take_newest",
    "allow_non_finite",
    "side_files_from",
];

impl MergeRequest {
    /// Sets the option `name`, spelt with underscores, to `values`; a flag has the value `true` or `false`.
    ///
    /// # Errors
    /// `Request` for an unknown name, for a value that does not parse, and for several values of an option that has
    /// one.
    ///
    /// # Example
    /// ```
    /// use thalweg_study::request::MergeRequest;
    ///
    /// let mut request = MergeRequest::default();
    /// request.set_option("interval_tokens", &["8B".to_owned()])?;
    /// assert_eq!(request.selection.interval_tokens, Some(8_000_000_000));
    /// assert!(request.set_option("lats", &["10".to_owned()]).is_err());
    /// # Ok::<(), thalweg_study::Error>(())
    /// ```
    pub fn set_option(&mut self, name: &str, values: &[String]) -> Result<(), Error> {
        let option = Given { name, values };
        let Self { selection, run, scheme, .. } = self;
        match name {
            "last" => selection.last = Some(option.number()?),
            "count" => selection.count = Some(option.number()?),
            "interval_steps" => selection.interval_steps = Some(option.count()?),
            "interval_tokens" => selection.interval_tokens = Some(option.count()?),
            "duration_steps" => selection.duration_steps = Some(option.count()?),
            "duration_tokens" => selection.duration_tokens = Some(option.count()?),
            "end_step" => selection.end_step = Some(option.count()?),
            "end_tokens" => selection.end_tokens = Some(option.count()?),
            "from_step" => selection.from_step = Some(option.count()?),
            "to_step" => selection.to_step = Some(option.count()?),
            "every" => selection.every = Some(option.number()?),
            "steps" => selection.steps = option.counts()?,
            "tokens_per_step" => run.tokens_per_step = Some(option.count()?),
            "log" => run.log = option.paths(),
            "log_columns" => run.log_columns = option.list(),
            "log_every" => run.log_every = Some(option.count()?),
            "stable" => run.stable = Some(option.text()?),
            "checkpoint_pattern" => run.checkpoint_pattern = Some(option.text()?),
            "scheme" => scheme.scheme = Some(option.text()?),
            "alpha" => scheme.alpha = Some(option.text()?),
            "floor" => scheme.floor = Some(option.text()?),
            "sigma_rel" => scheme.sigma_rel = Some(option.text()?),
            "coefficients" => scheme.coefficients = option.list(),
            "from_averages" => scheme.from_averages = option.list(),
            "order" => scheme.order = Some(option.text()?),
            "normalize" => scheme.normalize = option.flag()?,
            "allow_sum" => scheme.allow_sum = option.flag()?,
            _ if self.set_rule_option(option)? => {}
            _ => return self.set_output_option(option),
        }
        Ok(())
    }

    /// Sets an option of rules; `false` if it is none.
    fn set_rule_option(&mut self, option: Given<'_>) -> Result<bool, Error> {
        let rule = &mut self.rule;
        match option.name {
            "rule" => rule.rule = Some(option.text()?),
            "base" => rule.base = Some(option.text()?.into()),
            "density" => rule.density = option.list(),
            "lambda" => rule.lambda = Some(option.text()?),
            "seed" => rule.seed = Some(option.count()?),
            "gamma" => rule.gamma = Some(option.text()?),
            "epsilon" => rule.epsilon = Some(option.text()?),
            "convention" => rule.convention = Some(option.text()?),
            "divide" => rule.divide = Some(option.text()?),
            "rescale" => rule.rescale = Some(option.text()?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn set_output_option(&mut self, option: Given<'_>) -> Result<(), Error> {
        let output = &mut self.output;
        match option.name {
            "dtype" => output.dtype = option.choice()?,
            "out_shard_size" => output.out_shard_bytes = Some(option.size()?),
            "drop" => output.drop = option.list(),
            "code" => output.code = if option.flag()? { CodePolicy::Copy } else { CodePolicy::Leave },
            "digest" => output.digest = option.choice()?,
            "no_model_card" => output.model_card = !option.flag()?,
            "to_huggingface" => output.to_huggingface = option.flag()?,
            "hf_assets" => output.hf_assets = Some(option.text()?.into()),
            "format" => output.format = Some(option.format()?),
            "optimizer" => output.optimizer = Some(option.choice()?),
            "non_float" => output.non_float = option.choice()?,
            "router" => output.router = option.choice()?,
            "allow_config" => output.allow_config = option.list(),
            "take_newest" => output.take_newest = option.list(),
            "allow_non_finite" => output.allow_non_finite = option.flag()?,
            "side_files_from" => {
                output.side_files_from = Some(option.text()?).filter(|from| from != "newest").map(Into::into)
            }
            name => return Err(Error::request(format!("there is no option `{name}` for merges"))),
        }
        Ok(())
    }
}

/// An option as it was given.
#[derive(Clone, Copy)]
struct Given<'a> {
    name: &'a str,
    values: &'a [String],
}

impl Given<'_> {
    fn one(&self) -> Result<&str, Error> {
        match self.values {
            [only] => Ok(only),
            values => Err(Error::request(format!("`{}` takes one value, but {} are given", self.name, values.len()))),
        }
    }

    fn refuse(&self, text: &str, expected: &str) -> Error {
        Error::request(format!("`{}`: `{text}` is not {expected}", self.name))
    }

    fn text(&self) -> Result<String, Error> {
        self.one().map(str::to_owned)
    }

    fn list(&self) -> Vec<String> {
        self.values.to_vec()
    }

    fn paths(&self) -> Vec<PathBuf> {
        self.values.iter().map(PathBuf::from).collect()
    }

    fn parse_count(&self, text: &str) -> Result<u64, Error> {
        parse_count(text).map_err(|reason| {
            Error::request(format!("`{}`: `{text}`: {reason}, such as 2000, 2K, 4e9 or 8B", self.name))
        })
    }

    fn count(&self) -> Result<u64, Error> {
        self.parse_count(self.one()?)
    }

    fn counts(&self) -> Result<Vec<u64>, Error> {
        self.values.iter().map(|text| self.parse_count(text)).collect()
    }

    /// A number of checkpoints: at least 1.
    fn number(&self) -> Result<usize, Error> {
        let number = usize::try_from(self.count()?).unwrap_or(usize::MAX);
        if number == 0 { Err(self.refuse("0", "a number of checkpoints")) } else { Ok(number) }
    }

    fn size(&self) -> Result<u64, Error> {
        let text = self.one()?;
        parse_size(text).ok().filter(|n_bytes| *n_bytes > 0).ok_or_else(|| self.refuse(text, "a size, such as 5GB"))
    }

    fn flag(&self) -> Result<bool, Error> {
        match self.one()? {
            "true" => Ok(true),
            "false" => Ok(false),
            text => Err(self.refuse(text, "true or false")),
        }
    }

    /// One of the words of a policy, which are those of plans.
    fn choice<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let text = self.one()?;
        serde_json::from_value(serde_json::Value::String(text.to_lowercase()))
            .map_err(|error| Error::request(format!("`{}`: {error}", self.name)))
    }

    fn format(&self) -> Result<RequestedFormat, Error> {
        let text = self.one()?;
        RequestedFormat::from_name(text).ok_or_else(|| self.refuse(text, "a format that `thalweg inspect` shows"))
    }
}

#[cfg(test)]
mod tests {
    use thalweg_merge::recipe::{RecipeKind, parse_recipe};

    use super::*;

    #[test]
    fn every_name_is_known_and_changes_the_request() {
        for name in OPTION_NAMES {
            let values = ["10", "true", "f32", "xxh3", "drop", "newest", "dcp"];
            let changes = values.iter().any(|value| {
                let mut request = MergeRequest::default();
                request.set_option(name, &[(*value).to_owned()]).is_ok() && request != MergeRequest::default()
            });
            assert!(changes, "{name}");
        }
    }

    #[test]
    fn a_recipe_takes_every_name() {
        // Other things are wrong with most of these values, but not the name.
        let said = |name: &str| {
            let read = parse_recipe(&format!("run = \"a\"\n{name} = 10\n"), RecipeKind::Toml);
            read.err().map(|error| error.to_string()).unwrap_or_default()
        };
        let unknown = said("nonsense");
        let sentence = unknown.lines().next().unwrap_or_default();
        assert!(sentence.contains("`nonsense`"), "{unknown}");
        for name in OPTION_NAMES {
            let found = said(name);
            assert!(!found.contains(&sentence.replace("nonsense", name)), "{found}");
        }
    }

    #[test]
    fn wrong_values_are_named_with_their_option() {
        let refused = |name: &str, values: &[&str]| {
            let values: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
            MergeRequest::default().set_option(name, &values).unwrap_err().to_string()
        };
        assert_eq!(refused("last", &["0"]), "`last`: `0` is not a number of checkpoints");
        assert_eq!(refused("last", &["1", "2"]), "`last` takes one value, but 2 are given");
        assert!(refused("interval_tokens", &["8x"]).starts_with("`interval_tokens`: `8x`: "));
        assert!(refused("router", &["mean"]).contains("expected `average` or `newest`"));
        assert_eq!(refused("format", &["onnx"]), "`format`: `onnx` is not a format that `thalweg inspect` shows");
        assert_eq!(refused("lats", &["1"]), "there is no option `lats` for merges");
    }
}
