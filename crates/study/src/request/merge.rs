//! Merges: from what is asked for to a plan. Which checkpoints, which coefficients, which policies.

use std::path::Path;

use thalweg_merge::Coefficients;
use thalweg_merge::plan::{CONVERT_SCHEME, MergePlan, NonFloatPolicy, OutputDtype, OutputPlan, SourceRef, newest_of};
use thalweg_merge::scheme::{CoefficientOrder, PowerSnapshot, Scheme, reconstruct_from_averages};

use super::sources::{SourceOrder, choose_checkpoints, choose_models, refuse_selection};
use super::weights::{Weighed, Weights, parse_ratio, weigh};
use super::{MergeRequest, OutputOptions, Resolver, SchemeOptions};
use crate::Error;

impl Resolver<'_> {
    /// The plan of one merge into `out`.
    ///
    /// # Errors
    /// `Request` for options that do not fit together; `Scheme`; those of opening runs and checkpoints.
    pub fn merge_plan(&self, request: &MergeRequest, out: &Path) -> Result<MergePlan, Error> {
        if let Some(rule) = &request.rule.rule {
            return self.rule_plan(request, rule, out);
        }
        request.rule.check_idle()?;
        if !request.scheme.from_averages.is_empty() {
            return self.reconstruction(request, out);
        }
        let order = request.scheme.coefficient_order()?;
        let (sources, weights) = self.ingredients(request, order)?;
        MergePlan::new(vec![self.weighed_output((&sources, &weights, order), &request.output, out)?])
            .map_err(Into::into)
    }

    /// The plan of one merge of a run's window by the options of a scheme.
    ///
    /// # Errors
    /// As [`merge_plan`](Self::merge_plan).
    pub fn window_plan(
        &self,
        window: &[SourceRef],
        scheme: &SchemeOptions,
        output: &OutputOptions,
        out: &Path,
    ) -> Result<MergePlan, Error> {
        let weights = Weights::Scheme(scheme.window_scheme()?);
        let weighed = (window, &weights, scheme.coefficient_order()?);
        MergePlan::new(vec![self.weighed_output(weighed, output, out)?]).map_err(Into::into)
    }

    /// One output: the merge of a run's window by a scheme.
    ///
    /// # Errors
    /// As [`merge_plan`](Self::merge_plan).
    pub(crate) fn scheme_output(
        &self,
        window: &[SourceRef],
        scheme: &Scheme,
        output: &OutputOptions,
        out: &Path,
    ) -> Result<OutputPlan, Error> {
        self.weighed_output((window, &Weights::Scheme(scheme.clone()), CoefficientOrder::AsIs), output, out)
    }

    /// The plan of one checkpoint in another form: a merge of one.
    ///
    /// # Errors
    /// As [`merge_plan`](Self::merge_plan).
    pub fn conversion_plan(&self, source: &Path, output: &OutputOptions, out: &Path) -> Result<MergePlan, Error> {
        let source = SourceRef { path: self.resolve_checkpoint(source)?, step: None, tokens: None };
        let one = Coefficients::new([1], 1)?;
        let options = OutputOptions {
            non_float: NonFloatPolicy::Newest,
            // Nothing is computed: values that are not finite are copied like any others.
            allow_non_finite: true,
            ..output.clone()
        };
        let output = self.output_plan((&[source], 0), (&one, CONVERT_SCHEME.to_owned()), &options, out)?;
        Ok(MergePlan::new(vec![output])?)
    }

    /// A plan that only names checkpoints: for geometry, which has no output.
    ///
    /// # Errors
    /// `Request` for fewer than two checkpoints.
    pub fn geometry_plan(&self, sources: &[SourceRef]) -> Result<MergePlan, Error> {
        if sources.len() < 2 {
            return Err(Error::request_with_hint(
                "geometry needs at least two checkpoints",
                "name a run with a window of two or more, such as `--last 10`, or several checkpoints",
            ));
        }
        let mean = Scheme::Sma.coefficients(sources.len())?;
        Ok(MergePlan::new(vec![self.unwritten("geometry", sources, &mean)])?)
    }

    /// A sum that is measured or scored and never written; `name` serves as its path.
    pub(crate) fn unwritten(&self, name: &str, sources: &[SourceRef], coefficients: &Coefficients) -> OutputPlan {
        let mut output = OutputPlan::new(name, "none", sources, coefficients);
        output.reading = self.reading.clone();
        // Sources are then read as numbers, whatever codes they hold.
        output.dtype = OutputDtype::F32;
        output.policy.non_float = NonFloatPolicy::Newest;
        output
    }

    fn weighed_output(
        &self,
        (sources, weights, order): (&[SourceRef], &Weights, CoefficientOrder),
        options: &OutputOptions,
        out: &Path,
    ) -> Result<OutputPlan, Error> {
        let Weighed { coefficients, name, notes } = weigh(weights, order, sources)?;
        notes.iter().for_each(|note| self.note(note));
        let newest = match order {
            CoefficientOrder::Given => sources.len().saturating_sub(1),
            _ => newest_of(sources),
        };
        self.output_plan((sources, newest), (&coefficients, name), options, out)
    }

    /// The checkpoints, and how they are weighed.
    fn ingredients(&self, request: &MergeRequest, order: CoefficientOrder) -> Result<(Vec<SourceRef>, Weights), Error> {
        let source_order = match order {
            CoefficientOrder::Given => SourceOrder::Given,
            _ => SourceOrder::BySteps { keep_option: Some("--order given") },
        };
        let scheme = &request.scheme;
        if request.models.is_empty() {
            let weights = Weights::Scheme(scheme.scheme()?);
            let from = (&request.selection, &request.run);
            return Ok((choose_checkpoints(&request.inputs, from, source_order, self)?, weights));
        }
        if !request.inputs.is_empty() {
            return Err(Error::request("give checkpoints either as plain arguments or with `-m`, not both"));
        }
        refuse_selection(&request.selection)?;
        let (sources, given) = choose_models(&request.models, &request.run, source_order, self)?;
        let Some(given) = given else { return Ok((sources, Weights::Scheme(scheme.scheme()?))) };
        if scheme.scheme.is_some() || !scheme.coefficients.is_empty() {
            return Err(Error::request("the checkpoints already have coefficients; a scheme would replace them"));
        }
        Ok((sources, Weights::Given(given, scheme.sum_rule())))
    }

    /// A power average of another width, from snapshots of online averages.
    fn reconstruction(&self, request: &MergeRequest, out: &Path) -> Result<MergePlan, Error> {
        let Some(target) = request.scheme.sigma_rel.as_deref() else {
            return Err(Error::request("`--from-averages` needs the width to reconstruct: `--sigma-rel`"));
        };
        let mut snapshots: Vec<(PowerSnapshot, SourceRef)> = Vec::new();
        for given in &request.scheme.from_averages {
            let Some((sigma, run)) = given.split_once('=') else {
                return Err(Error::request(format!(
                    "`--from-averages {given}`: SIGMA=RUN expected, such as 0.05=runs/ema05"
                )));
            };
            let sigma_rel = parse_ratio("from-averages", sigma)?;
            let trajectory = self.open_run(Path::new(run), &request.run)?;
            for source in self.select(&trajectory, &request.selection)? {
                let Some(step) = source.step else { continue };
                snapshots.push((PowerSnapshot { step, sigma_rel: sigma_rel.clone() }, source));
            }
        }
        let Some(last) = snapshots.iter().map(|(snapshot, _)| snapshot.step).max() else {
            return Err(Error::request("`--from-averages` found no snapshots"));
        };
        let target = PowerSnapshot { step: last, sigma_rel: parse_ratio("sigma-rel", target)? };
        let (profiles, sources): (Vec<PowerSnapshot>, Vec<SourceRef>) = snapshots.into_iter().unzip();
        let coefficients = reconstruct_from_averages(&profiles, &target)?;
        let name = format!("power-ema:{} from averages", target.sigma_rel);
        let newest = newest_of(&sources);
        let output = self.output_plan((&sources, newest), (&coefficients, name), &request.output, out)?;
        Ok(MergePlan::new(vec![output])?)
    }
}
