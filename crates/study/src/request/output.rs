//! Outputs: what they are like, and the plan of one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use clap::builder::{PathBufValueParser, TypedValueParser};
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
use super::values::{dtype, format, one_of, parse_bytes, word};
use crate::Error;

/// How the files of an output are written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Output")]
pub struct FileOptions {
    /// Element type of floating tensors, also by the names float32, fp32, float, bfloat16, float16, fp16 and half; any
    /// but same also reads FP8 weights with block scales as the values that they stand for
    #[arg(long, value_parser = dtype(), default_value = "same", ignore_case = true)]
    pub dtype: OutputDtype,
    /// Largest shard: 5GB (the default), 5GiB, or bytes; a larger tensor gets a separate shard
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub out_shard_size: Option<u64>,
    /// Leave out tensors of this name; `*` matches anything; repeatable
    #[arg(long, value_name = "NAME")]
    pub drop: Vec<String>,
    /// Also copy code beside the tensors (`*.py`)
    #[arg(long)]
    pub code: bool,
    /// Hash of inputs and outputs; with none, verify compares sizes and headers only
    #[arg(long, value_parser = one_of(["blake3", "xxh3", "none"], word::<DigestChoice>), default_value = "blake3")]
    pub digest: DigestChoice,
    /// Write no README.md
    #[arg(long)]
    pub no_model_card: bool,
}

/// Whether an output gets Hugging Face names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Output")]
pub struct HuggingFaceOptions {
    /// Write a Llama of torchtitan as Hugging Face's: names, the order of the rows of queries and keys, `config.json`.
    /// `--rename` applies before it, `--drop` after it
    #[arg(long)]
    pub to_huggingface: bool,
    /// Folder with the model's `config.json` and tokenizer, which are copied: for checkpoints without, such as FSDP's
    /// [default: what is beside the tensors]
    #[arg(long, alias = "hf-assets-path", value_name = "DIR")]
    pub hf_assets: Option<PathBuf>,
}

/// What an output is like.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputOptions {
    /// How its files are written.
    #[command(flatten)]
    pub files: FileOptions,
    /// Format of the output; same is that of the newest checkpoint and keeps its other files, so that its
    /// trainer can resume from the output [default: same where it can be written, else safetensors]
    #[arg(long, value_parser = format())]
    pub format: Option<RequestedFormat>,
    /// State of the optimizer and of the training run: left out, taken from the newest checkpoint, or taken from
    /// it with the optimizer's moments averaged [default: newest where the output has its files]
    #[arg(long, value_parser = one_of(["drop", "newest", "average"], word::<OptimizerPolicy>))]
    pub optimizer: Option<OptimizerPolicy>,
    /// What to do with integers and booleans that differ
    #[arg(long, value_parser = one_of(["error", "newest"], word::<NonFloatPolicy>), default_value = "error")]
    pub non_float: NonFloatPolicy,
    /// How to merge routers and expert biases of a mixture of experts
    #[arg(long, value_parser = one_of(["average", "newest"], word::<RouterPolicy>), default_value = "average")]
    pub router: RouterPolicy,
    /// Waive a difference between configs or tokenizers, for these values only; the error shows the option to copy;
    /// repeatable
    #[arg(long, value_name = "KEY=VALUE,VALUE")]
    pub allow_config: Vec<String>,
    /// Take tensors of this name from the newest checkpoint (with --rule, the base); `*` matches anything; repeatable
    #[arg(long, value_name = "NAME")]
    pub take_newest: Vec<String>,
    /// Merge NaN and infinities by IEEE rules instead of refusing them
    #[arg(long)]
    pub allow_non_finite: bool,
    /// Whose config and tokenizer to copy: newest, or one of the checkpoints [default: newest]
    // By its full path, because clap would take `Option` for whether the option is given.
    #[arg(long, value_name = "newest|CKPT", default_value = "newest", hide_default_value = true)]
    #[arg(value_parser = PathBufValueParser::new().map(side_files_source))]
    pub side_files_from: std::option::Option<PathBuf>,
    /// Whether it gets Hugging Face names, which not every command asks.
    #[arg(skip)]
    pub huggingface: HuggingFaceOptions,
}

/// The checkpoint whose config and tokenizer are copied; `None` for the newest, which is the default.
pub(super) fn side_files_source(path: PathBuf) -> Option<PathBuf> {
    (path != Path::new("newest")).then_some(path)
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
        output.dtype = options.files.dtype;
        let averages_moments = options.optimizer == Some(OptimizerPolicy::Average);
        output.reading = ReadOptions { optimizer: averages_moments, ..self.reading.clone() };
        output.policy = self.policy((sources, newest), options)?;
        self.translate_names(&mut output, options)?;
        let chosen = self.output_format(&output, options)?;
        (output.format, output.policy.optimizer) = (chosen.format, chosen.optimizer);
        chosen.note.iter().for_each(|note| self.note(note));
        output.out_shard_bytes = options.files.out_shard_size.unwrap_or(DEFAULT_SHARD_BYTES);
        output.digest = options.files.digest;
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
        let option = match (options.huggingface.to_huggingface, &options.huggingface.hf_assets) {
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
        output.policy.hf_assets = options.huggingface.hf_assets.as_ref().map(|path| self.resolve(path)).transpose()?;
        if !options.huggingface.to_huggingface {
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
            shards: options.files.out_shard_size.is_some(),
            unreached_master: master.as_deref(),
        };
        let chosen = choose_format(request, &newest, output);
        Ok(chosen.map_err(thalweg_merge::Error::from)?)
    }

    fn policy(&self, (sources, newest): (&[SourceRef], usize), options: &OutputOptions) -> Result<MergePolicy, Error> {
        let side_files_from = match options.side_files_from.as_deref() {
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
            drop: sorted(&options.files.drop),
            take_newest: sorted(&options.take_newest),
            code: if options.files.code { CodePolicy::Copy } else { CodePolicy::Leave },
            allow_non_finite: options.allow_non_finite,
            side_files_from,
            model_card: !options.files.no_model_card,
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
