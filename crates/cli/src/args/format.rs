//! The values of `--format` and `--optimizer`.

use clap::ValueEnum;
use thalweg_merge::output_format::{OptimizerPolicy, OutputFormat, RequestedFormat};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormatChoice {
    Same,
    Safetensors,
    #[value(aliases = ["pt", "bin", "pytorch"])]
    Torch,
    Dcp,
    #[value(alias = "torch_dist")]
    MegatronDist,
    DeepspeedZero,
    DeepspeedUniversal,
    Npz,
    Gguf,
    Orbax,
    #[value(hide = true)]
    TorchCheckpointing,
    #[value(hide = true)]
    MegatronLegacy,
    #[value(hide = true)]
    Nanotron,
}

impl From<FormatChoice> for RequestedFormat {
    fn from(choice: FormatChoice) -> Self {
        match choice {
            FormatChoice::Same => Self::Same,
            FormatChoice::Safetensors => Self::Named(OutputFormat::Safetensors),
            FormatChoice::Torch => Self::Named(OutputFormat::Torch),
            FormatChoice::Dcp => Self::Named(OutputFormat::Dcp),
            FormatChoice::MegatronDist => Self::Named(OutputFormat::MegatronDist),
            FormatChoice::DeepspeedZero => Self::Named(OutputFormat::DeepspeedZero),
            FormatChoice::DeepspeedUniversal => Self::Named(OutputFormat::DeepspeedUniversal),
            FormatChoice::Npz => Self::Named(OutputFormat::Npz),
            FormatChoice::Gguf => Self::Named(OutputFormat::Gguf),
            FormatChoice::Orbax => Self::Named(OutputFormat::Orbax),
            FormatChoice::TorchCheckpointing => Self::OnlyRead("torch-checkpointing"),
            FormatChoice::MegatronLegacy => Self::OnlyRead("megatron-legacy"),
            FormatChoice::Nanotron => Self::OnlyRead("nanotron"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OptimizerChoice {
    Drop,
    Newest,
    Average,
}

impl From<OptimizerChoice> for OptimizerPolicy {
    fn from(choice: OptimizerChoice) -> Self {
        match choice {
            OptimizerChoice::Drop => Self::Drop,
            OptimizerChoice::Newest => Self::Newest,
            OptimizerChoice::Average => Self::Average,
        }
    }
}
