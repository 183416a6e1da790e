//! One option of a merge by its name, with its values as text: for recipes and for programs.

use std::path::PathBuf;

use serde::de::DeserializeOwned;
use thalweg_merge::output_format::RequestedFormat;

use super::MergeRequest;
use super::output::side_files_source;
use super::values::{parse_bytes, parse_positive, parse_whole};
use crate::Error;

/// Puts the values of an option into a request.
type Setter = fn(&mut MergeRequest, Given<'_>) -> Result<(), Error>;

/// Every option, in the order of the command line's help.
const OPTIONS: [(&str, Setter); 53] = [
    ("last", |to, it| it.parsed(&mut to.selection.last, parse_whole)),
    ("count", |to, it| it.parsed(&mut to.selection.count, parse_whole)),
    ("interval_steps", |to, it| it.parsed(&mut to.selection.interval_steps, parse_whole)),
    ("interval_tokens", |to, it| it.parsed(&mut to.selection.interval_tokens, parse_whole)),
    ("duration_steps", |to, it| it.parsed(&mut to.selection.duration_steps, parse_whole)),
    ("duration_tokens", |to, it| it.parsed(&mut to.selection.duration_tokens, parse_whole)),
    ("end_step", |to, it| it.parsed(&mut to.selection.end_step, parse_whole)),
    ("end_tokens", |to, it| it.parsed(&mut to.selection.end_tokens, parse_whole)),
    ("from_step", |to, it| it.parsed(&mut to.selection.from_step, parse_whole)),
    ("to_step", |to, it| it.parsed(&mut to.selection.to_step, parse_whole)),
    ("every", |to, it| it.parsed(&mut to.selection.every, parse_positive)),
    ("steps", |to, it| it.counts(&mut to.selection.steps)),
    ("tokens_per_step", |to, it| it.parsed(&mut to.run.tokens_per_step, parse_whole)),
    ("log", |to, it| it.list(&mut to.run.log)),
    ("log_columns", |to, it| it.list(&mut to.run.log_columns)),
    ("log_every", |to, it| it.parsed(&mut to.run.log_every, parse_positive)),
    ("stable", |to, it| it.text(&mut to.run.stable)),
    ("checkpoint_pattern", |to, it| it.text(&mut to.run.checkpoint_pattern)),
    ("scheme", |to, it| it.text(&mut to.scheme.scheme)),
    ("alpha", |to, it| it.text(&mut to.scheme.alpha)),
    ("floor", |to, it| it.text(&mut to.scheme.floor)),
    ("sigma_rel", |to, it| it.text(&mut to.scheme.sigma_rel)),
    ("coefficients", |to, it| it.list(&mut to.scheme.coefficients)),
    ("from_averages", |to, it| it.list(&mut to.scheme.from_averages)),
    ("order", |to, it| it.text(&mut to.scheme.order)),
    ("normalize", |to, it| it.flag(&mut to.scheme.normalize)),
    ("allow_sum", |to, it| it.flag(&mut to.scheme.allow_sum)),
    ("rule", |to, it| it.text(&mut to.rule.rule)),
    ("base", |to, it| it.text(&mut to.rule.base)),
    ("density", |to, it| it.list(&mut to.rule.density)),
    ("lambda", |to, it| it.text(&mut to.rule.lambda)),
    ("seed", |to, it| it.parsed(&mut to.rule.seed, parse_whole)),
    ("gamma", |to, it| it.text(&mut to.rule.gamma)),
    ("epsilon", |to, it| it.text(&mut to.rule.epsilon)),
    ("convention", |to, it| it.choice(&mut to.rule.convention)),
    ("divide", |to, it| it.text(&mut to.rule.divide)),
    ("rescale", |to, it| it.choice(&mut to.rule.rescale)),
    ("dtype", |to, it| it.choice(&mut to.output.files.dtype)),
    ("out_shard_size", |to, it| it.parsed(&mut to.output.files.out_shard_size, parse_bytes)),
    ("drop", |to, it| it.list(&mut to.output.files.drop)),
    ("code", |to, it| it.flag(&mut to.output.files.code)),
    ("digest", |to, it| it.choice(&mut to.output.files.digest)),
    ("no_model_card", |to, it| it.flag(&mut to.output.files.no_model_card)),
    ("to_huggingface", |to, it| it.flag(&mut to.output.huggingface.to_huggingface)),
    ("hf_assets", |to, it| it.text(&mut to.output.huggingface.hf_assets)),
    ("format", |to, it| it.format(&mut to.output.format)),
    ("optimizer", |to, it| it.choice(&mut to.output.optimizer)),
    ("non_float", |to, it| it.choice(&mut to.output.non_float)),
    ("router", |to, it| it.choice(&mut to.output.router)),
    ("allow_config", |to, it| it.list(&mut to.output.allow_config)),
    ("take_newest", |to, it| it.list(&mut to.output.take_newest)),
    ("allow_non_finite", |to, it| it.flag(&mut to.output.allow_non_finite)),
    ("side_files_from", |to, it| it.side_files(&mut to.output.side_files_from)),
];

/// The names that [`MergeRequest::set_option`] takes, in the order of the command line's help.
pub const OPTION_NAMES: [&str; OPTIONS.len()] = {
    let mut names = [""; OPTIONS.len()];
    let mut i = 0;
    while i < names.len() {
        names[i] = OPTIONS[i].0;
        i += 1;
    }
    names
};

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
        match OPTIONS.iter().find(|(known, _)| *known == name) {
            Some((name, set)) => set(self, Given { name, values }),
            None => Err(Error::request(format!("there is no option `{name}` for merges"))),
        }
    }
}

/// An option as it was given, to be put where it belongs.
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

    fn read<T>(&self, text: &str, parse: fn(&str) -> Result<T, String>) -> Result<T, Error> {
        parse(text).map_err(|why| Error::request(format!("`{}`: {why}", self.name)))
    }

    fn text<T: From<String>>(self, to: &mut Option<T>) -> Result<(), Error> {
        *to = Some(self.one()?.to_owned().into());
        Ok(())
    }

    fn list<T: From<String>>(self, to: &mut Vec<T>) -> Result<(), Error> {
        *to = self.values.iter().cloned().map(T::from).collect();
        Ok(())
    }

    fn parsed<T>(self, to: &mut Option<T>, parse: fn(&str) -> Result<T, String>) -> Result<(), Error> {
        *to = Some(self.read(self.one()?, parse)?);
        Ok(())
    }

    fn side_files(self, to: &mut Option<PathBuf>) -> Result<(), Error> {
        *to = side_files_source(self.one()?.into());
        Ok(())
    }

    fn counts(self, to: &mut Vec<u64>) -> Result<(), Error> {
        *to = self.values.iter().map(|text| self.read(text, parse_whole)).collect::<Result<_, _>>()?;
        Ok(())
    }

    fn flag(self, to: &mut bool) -> Result<(), Error> {
        let text = self.one()?;
        *to = text.parse().map_err(|_| self.refuse(text, "true or false"))?;
        Ok(())
    }

    /// One of the words of a policy, which are those of plans.
    fn choice<T: DeserializeOwned>(self, to: &mut T) -> Result<(), Error> {
        let word = serde_json::Value::String(self.one()?.to_lowercase());
        let choice = serde_json::from_value(word);
        *to = choice.map_err(|error| Error::request(format!("`{}`: {error}", self.name)))?;
        Ok(())
    }

    fn format(self, to: &mut Option<RequestedFormat>) -> Result<(), Error> {
        let text = self.one()?;
        let format = RequestedFormat::from_name(text);
        *to = Some(format.ok_or_else(|| self.refuse(text, "a format that `thalweg inspect` shows"))?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use thalweg_merge::recipe::{RecipeKind, parse_recipe};

    use super::*;

    #[test]
    fn every_name_is_known_and_changes_the_request() {
        for name in OPTION_NAMES {
            let values = ["10", "true", "f32", "xxh3", "drop", "newest", "dcp", "mergekit", "l1"];
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
    fn defaults_that_are_given_are_as_if_left_out() {
        let mut request = MergeRequest::default();
        for (name, value) in [("side_files_from", "newest"), ("digest", "blake3"), ("router", "average")] {
            request.set_option(name, &[value.to_owned()]).unwrap();
        }
        assert_eq!(request, MergeRequest::default());
    }

    #[test]
    fn wrong_values_are_named_with_their_option() {
        let refused = |name: &str, values: &[&str]| {
            let values: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
            MergeRequest::default().set_option(name, &values).unwrap_err().to_string()
        };
        for name in ["every", "log_every"] {
            assert_eq!(refused(name, &["0"]), format!("`{name}`: `0` is not above zero"));
        }
        assert_eq!(refused("last", &["1", "2"]), "`last` takes one value, but 2 are given");
        assert!(refused("interval_tokens", &["8x"]).starts_with("`interval_tokens`: `8x`: "));
        assert!(refused("router", &["mean"]).contains("expected `average` or `newest`"));
        assert_eq!(refused("format", &["onnx"]), "`format`: `onnx` is not a format that `thalweg inspect` shows");
        assert_eq!(refused("lats", &["1"]), "there is no option `lats` for merges");
    }
}
