//! Rules of experts: from options to the rule of a plan, with its base.

use std::path::{Path, PathBuf};

use thalweg_merge::plan::{MergePlan, NonFloatPolicy, OutputPlan, RouterPolicy, SourceRef};
use thalweg_merge::rule::{PlanRule, RuleKind};
use thalweg_merge::{Coefficients, Ratio};

use super::sources::{GivenModel, SourceOrder, choose_models};
use super::weights::{SchemeOptions, parse_ratio};
use super::{MergeRequest, Resolver, RuleOptions};
use crate::Error;

impl RuleOptions {
    /// Refuses options of rules where no rule is named.
    pub(super) fn check_idle(&self) -> Result<(), Error> {
        if *self == Self::default() {
            return Ok(());
        }
        Err(Error::request_with_hint(
            "options of a rule are given without a rule",
            "name one, such as `--rule ties`, or leave out `--base` and the others",
        ))
    }

    /// The rule of a plan whose base, if there is one, is the first source.
    fn plan_rule(&self, kind: RuleKind, n_experts: usize) -> Result<PlanRule, Error> {
        let mut rule =
            PlanRule::new(kind, self.convention.unwrap_or_default(), self.base.as_ref().map(|_| 0), n_experts);
        let number = |name: &str, text: &String| Ok::<_, Error>(parse_ratio(name, text)?.to_f64());
        let densities = self.density.iter().map(|text| number("density", text)).collect::<Result<Vec<_>, _>>()?;
        match *densities {
            [] => {}
            [one] => rule.densities = vec![one; n_experts],
            _ => rule.densities = densities,
        }
        if let Some(lambda) = &self.lambda {
            rule.lambda = parse_ratio("lambda", lambda)?.to_string();
        }
        let optional = |name, text: &Option<String>| text.as_ref().map(|text| number(name, text)).transpose();
        rule.gamma = optional("gamma", &self.gamma)?.or(rule.gamma);
        rule.epsilon = optional("epsilon", &self.epsilon)?.or(rule.epsilon);
        rule.seed = self.seed.or(rule.seed);
        match self.divide.as_deref() {
            None => {}
            Some("yes") => rule.divide = true,
            Some("no") => rule.divide = false,
            Some(text) => return Err(Error::request(format!("`--divide {text}`: `yes` or `no` expected"))),
        }
        rule.rescale = self.rescale.unwrap_or(rule.rescale);
        Ok(rule)
    }
}

/// What becomes of a gamma that leaves too few elements for a density: the density counts, as in mergekit.
fn crowded_out(rule: &PlanRule) -> Option<String> {
    /// Sums of two shares may be off by so much.
    const ROUNDING: f64 = 1e-12;
    let gamma = rule.gamma?;
    let density = rule.densities.iter().find(|density| gamma + **density > 1.0 + ROUNDING)?;
    Some(format!(
        "`--gamma {gamma}` and `--density {density}` add up to more than 1: the density is kept, and fewer of the \
         largest elements are dropped"
    ))
}

/// Notes what a base that is an expert too, or that counts as the newest source, means.
fn note_base(base: &SourceRef, sources: &[SourceRef], output: &OutputPlan, resolver: &Resolver<'_>) {
    let path = base.path.display();
    if sources.iter().filter(|one| one.path == base.path).count() > 1 {
        resolver.note(format!("`{path}` is both the base and an expert: as an expert it adds nothing"));
    }
    let policy = &output.policy;
    let takes_newest = !policy.take_newest.is_empty()
        || policy.non_float == NonFloatPolicy::Newest
        || policy.router == RouterPolicy::Newest;
    if takes_newest {
        resolver.note(format!("everything taken from the newest source comes from the base, `{path}`"));
    }
}

impl Resolver<'_> {
    /// The plan of one merge of experts by the rule `name`.
    pub(super) fn rule_plan(&self, request: &MergeRequest, name: &str, out: &Path) -> Result<MergePlan, Error> {
        let kind: RuleKind = name.parse()?;
        if request.scheme != SchemeOptions::default() {
            return Err(Error::request_with_hint(
                "a rule decides how experts are merged, so options of a scheme would have no effect",
                "give the experts' coefficients with `-m CKPT:COEF`",
            ));
        }
        if !request.selection.is_empty() {
            return Err(Error::request_with_hint(
                "a rule merges the experts that you name, so there is nothing to select",
                "name each expert with `-m CKPT` or `-m CKPT:COEF`",
            ));
        }
        let options = &request.rule;
        let (experts, given) = self.experts(request)?;
        let rule = options.plan_rule(kind, experts.len())?;
        let default = if kind == RuleKind::Slerp { Ratio::new(1, 2) } else { Ratio::new(1, 1) };
        let default = default.unwrap_or_else(|| Ratio::from_integer(1));
        let mut coefficients = given.unwrap_or_else(|| vec![default; experts.len()]);
        let mut sources = Vec::new();
        if let Some(base) = &options.base {
            sources.push(self.lone_model(base, &request.run)?);
            coefficients.insert(0, Ratio::from_integer(0));
        } else if !kind.works_without_base() {
            return Err(Error::request_with_hint(
                format!("`{kind}` needs the model that the experts were trained from"),
                "name it with `--base CKPT`",
            ));
        }
        sources.extend(experts);
        let coefficients = Coefficients::from_ratios(&coefficients)?;
        rule.check(&coefficients)?;
        let newest = rule.base.unwrap_or(sources.len().saturating_sub(1));
        let mut output =
            self.output_plan((&sources, newest), (&coefficients, rule.scheme_name()), &request.output, out)?;
        let passes = kind.passes(rule.convention);
        let reported = if passes.starts_with('1') { "" } else { "; the reported bytes count one of them" };
        self.note(format!("`{kind}` reads the sources this many times: {passes}{reported}"));
        if let Some(note) = options.gamma.as_ref().and_then(|_| crowded_out(&rule)) {
            self.note(note);
        }
        if let Some(base) = rule.base.and_then(|base| sources.get(base)) {
            note_base(base, &sources, &output, self);
        }
        output.rule = Some(rule);
        Ok(MergePlan::new(vec![output])?)
    }

    /// The experts in the order given, and their coefficients if they have any.
    fn experts(&self, request: &MergeRequest) -> Result<(Vec<SourceRef>, Option<Vec<Ratio>>), Error> {
        let unweighed = |path: &PathBuf| GivenModel { path: path.clone(), coefficient: None };
        let models = match (request.models.is_empty(), request.inputs.is_empty()) {
            (false, false) => {
                return Err(Error::request("give checkpoints either as plain arguments or with `-m`, not both"));
            }
            (true, true) => {
                return Err(Error::request_with_hint("no experts were given", "name each one with `-m CKPT[:COEF]`"));
            }
            (true, false) => request.inputs.iter().map(unweighed).collect(),
            (false, true) => request.models.clone(),
        };
        choose_models(&models, &request.run, SourceOrder::Given, self)
    }
}
