//! Outputs: what they are like, and the plan of one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use thalweg_checkpoint::{Checkpoint, Naming, ReadOptions, can_be_template, has_weights_end, naming_of};
use thalweg_merge::Coefficients;
use thalweg_merge::huggingface::heads_of_output;
use thalweg_merge::masters::unreached_masters;
use thalweg_merge::output_format::{
    ChosenFormat, FormatRequest, OptimizerPolicy, OutputFormat, RequestedFormat, choose_format,
};
use thalweg_merge::plan::{
    CodePolicy, DEFAULT_SHARD_BYTES, DigestChoice, MergePolicy, NonFloatPolicy, OutputDtype, OutputPlan, RouterPolicy,
    SourceRef,
};
use thalweg_merge::waiver::{ConfigWaiver, WaiverError};
use thalweg_storage::guard::output_path;
use thalweg_tensor::display_name;
use thalweg_trajectory::check_outside_checkpoints;

use super::Resolver;
use crate::Error;

/// What an output is like.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OutputOptions {
    /// Element type of floating tensors.
    pub dtype: OutputDtype,
    /// Largest shard, in bytes; the usual size if left out.
    pub out_shard_bytes: Option<u64>,
    /// Patterns of tensors that are left out.
    pub drop: Vec<String>,
    /// Whether code beside the tensors is copied.
    pub code: CodePolicy,
    /// Hash of inputs and outputs.
    pub digest: DigestChoice,
    /// Whether the model card is left out.
    pub no_model_card: bool,
    /// Format; that of the newest source where it can be written, if left out.
    pub format: Option<RequestedFormat>,
    /// State of the optimizer and of the training run; kept where the output has its files, if left out.
    pub optimizer: Option<OptimizerPolicy>,
    /// Integers and booleans that differ.
    pub non_float: NonFloatPolicy,
    /// Routers and expert biases of a mixture of experts.
    pub router: RouterPolicy,
    /// Waivers of differences between configs or tokenizers, `KEY=VALUE,VALUE`.
    pub allow_config: Vec<String>,
    /// Patterns of tensors that are taken from the newest source.
    pub take_newest: Vec<String>,
    /// Whether values that are not finite are merged by IEEE rules.
    pub allow_non_finite: bool,
    /// Whose config and tokenizer travel; those of the newest source, if left out.
    pub side_files_from: Option<PathBuf>,
    /// Whether the tensors get Hugging Face names.
    pub to_huggingface: bool,
    /// Folder of the config and tokenizer for those.
    pub hf_assets: Option<PathBuf>,
}

impl Resolver<'_> {
    /// The plan of one output; `newest` is a position in `sources`.
    ///
    /// # Errors
    /// `Request` for options that do not fit together or do not fit the sources; those of opening the newest source.
    pub(crate) fn output_plan(
        &self,
        (sources, newest): (&[SourceRef], usize),
        (coefficients, scheme): (&Coefficients, String),
        options: &OutputOptions,
        out: &Path,
    ) -> Result<OutputPlan, Error> {
        let mut output = OutputPlan::new(self.output_folder(out)?, scheme, sources, coefficients);
        output.dtype = options.dtype;
        let averages_moments = options.optimizer == Some(OptimizerPolicy::Average);
        output.reading = ReadOptions { optimizer: averages_moments, ..self.reading.clone() };
        output.policy = self.policy((sources, newest), options)?;
        self.translate_names(&mut output, options)?;
        let chosen = self.output_format(&output, options)?;
        (output.format, output.policy.optimizer) = (chosen.format, chosen.optimizer);
        chosen.note.iter().for_each(|note| self.note(note));
        output.out_shard_bytes = options.out_shard_bytes.unwrap_or(DEFAULT_SHARD_BYTES);
        output.digest = options.digest;
        Ok(output)
    }

    /// The absolute path of an output, which is a folder: a name that ends like a file's is refused.
    ///
    /// # Errors
    /// `Request` for such a name; `Storage`.
    pub fn output_folder(&self, out: &Path) -> Result<PathBuf, Error> {
        let is_file_end = |end: &&str| {
            let end = end.to_ascii_lowercase();
            has_weights_end(&format!(".{end}")) || ["ggml", "tar", "zip"].contains(&end.as_str())
        };
        let end = out.extension().and_then(|end| end.to_str()).filter(is_file_end);
        let Some(end) = end else {
            check_outside_checkpoints(&self.cx.storage, out)?;
            return Ok(output_path(self.storage(), out)?);
        };
        Err(Error::request_with_hint(
            format!("an output is a folder, but `{}` ends with `.{end}` like a file", out.display()),
            format!("leave out the extension: `-o {}`", out.with_extension("").display()),
        ))
    }

    /// Gives an output a folder's config and tokenizer, and Hugging Face names, if that was asked for.
    fn translate_names(&self, output: &mut OutputPlan, options: &OutputOptions) -> Result<(), Error> {
        let option = match (options.to_huggingface, &options.hf_assets) {
            (true, _) => "--to-huggingface",
            (false, Some(_)) => "--hf-assets",
            (false, None) => return Ok(()),
        };
        if options.format.is_some_and(|format| format != SAFETENSORS) {
            return Err(Error::request_with_hint(
                format!("`{option}` writes safetensors, but `--format` asks for another format"),
                "leave out `--format`",
            ));
        }
        if options.optimizer.is_some_and(|optimizer| optimizer != OptimizerPolicy::Drop) {
            return Err(Error::request_with_hint(
                format!("`{option}` writes a model without its training state"),
                "leave out `--optimizer`",
            ));
        }
        let Some(source) = output.sources.get(output.policy.side_files_from) else { return Ok(()) };
        let checkpoint = self.cx.pool.open(&source.path, &output.reading)?;
        output.policy.hf_assets = options.hf_assets.as_ref().map(|path| self.resolve(path)).transpose()?;
        if !options.to_huggingface {
            return check_own_names(&checkpoint);
        }
        let translated = self.translated_source(output, &checkpoint)?;
        let pair = (&*checkpoint, translated.as_deref().unwrap_or(&*checkpoint));
        output.reading.to_huggingface = Some(heads_of_output(output, pair, self.storage())?);
        Ok(())
    }

    /// A source whose names are torchtitan's, where `checkpoint` has Hugging Face's already and stays as it is.
    fn translated_source(
        &self,
        output: &OutputPlan,
        checkpoint: &Checkpoint,
    ) -> Result<Option<Arc<Checkpoint>>, Error> {
        if naming_of(checkpoint.catalog()) != Naming::HuggingFace {
            return Ok(None);
        }
        for source in output.sources.iter().filter(|source| source.path != checkpoint.path()) {
            let other = self.cx.pool.open(&source.path, &output.reading)?;
            if naming_of(other.catalog()) == Naming::TorchtitanLlama {
                return Ok(Some(other));
            }
        }
        Ok(None)
    }

    /// The format of an output: that of its newest source, unless another one was asked for or is all that works.
    fn output_format(&self, output: &OutputPlan, options: &OutputOptions) -> Result<ChosenFormat, Error> {
        let is_model = output.reading.to_huggingface.is_some() || output.policy.hf_assets.is_some();
        let asked = options.format.or(is_model.then_some(SAFETENSORS));
        let Some(newest) = output.newest_source() else { return Err(Error::request("no checkpoints to merge")) };
        let newest = self.cx.pool.open(&newest.path, &output.reading_options())?;
        // Other formats hold the tensors alone.
        let may_keep = match asked {
            Some(RequestedFormat::Named(format)) => OutputFormat::of(&newest) == Some(format),
            Some(RequestedFormat::OnlyRead(_)) => false,
            Some(RequestedFormat::Same) | None => can_be_template(newest.format_name()),
        };
        let master = match may_keep {
            true => unreached_masters(&self.cx.storage, &newest, &output.reading)?,
            false => None,
        };
        let request = FormatRequest {
            format: asked,
            optimizer: options.optimizer,
            shards: options.out_shard_bytes.is_some(),
            unreached_master: master.as_deref(),
        };
        let chosen = choose_format(request, &newest, output);
        Ok(chosen.map_err(thalweg_merge::Error::from)?)
    }

    fn policy(&self, (sources, newest): (&[SourceRef], usize), options: &OutputOptions) -> Result<MergePolicy, Error> {
        let side_files_from = match &options.side_files_from {
            None => newest,
            Some(path) => {
                let path = self.resolve_checkpoint(path)?;
                sources.iter().position(|one| one.path == path).ok_or_else(|| {
                    Error::request_with_hint(
                        format!("`--side-files-from {}` is not one of the checkpoints", path.display()),
                        "name one of the merged checkpoints, or `newest`",
                    )
                })?
            }
        };
        let waivers = sorted(&options.allow_config).iter().map(|text| parse_waiver(text)).collect::<Result<_, _>>()?;
        Ok(MergePolicy {
            non_float: options.non_float,
            router: options.router,
            allow_config: waivers,
            drop: sorted(&options.drop),
            take_newest: sorted(&options.take_newest),
            code: options.code,
            allow_non_finite: options.allow_non_finite,
            side_files_from,
            model_card: !options.no_model_card,
            ..MergePolicy::defaults(newest)
        })
    }
}

/// Refuses a config for tensors that have the names of a trainer: what loads the output would find none of them.
fn check_own_names(checkpoint: &Checkpoint) -> Result<(), Error> {
    let naming = naming_of(checkpoint.catalog());
    let hint = match (naming, naming.exporter()) {
        (Naming::TorchtitanLlama, _) => "add `--to-huggingface`, which gives them Hugging Face's".to_owned(),
        (_, Some(exporter)) => format!("leave out `--hf-assets`, and export the output with {exporter}"),
        (_, None) => return Ok(()),
    };
    let path = checkpoint.path().display();
    Err(Error::request_with_hint(
        format!("the tensors of `{path}` have the names of its trainer, not Hugging Face's"),
        hint,
    ))
}

const SAFETENSORS: RequestedFormat = RequestedFormat::Named(OutputFormat::Safetensors);

fn sorted(list: &[String]) -> Vec<String> {
    let mut list = list.to_vec();
    list.sort();
    list.dedup();
    list
}

/// Parses `KEY=VALUE,VALUE`. A key alone is refused: it would waive values that the user has not seen.
fn parse_waiver(text: &str) -> Result<ConfigWaiver, Error> {
    text.parse().map_err(|error: WaiverError| {
        Error::request_with_hint(
            format!("`--allow-config {}`: {error}", display_name(text)),
            "leave out the option: the error then shows the option to copy, with the values that differ",
        )
    })
}
