//! What can be measured on a set: names, units, directions, and which rows they need.

/// Form of a task's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskKind {
    /// Documents; every token after the start is scored.
    Text,
    /// One of several continuations of a context is right.
    Choice,
    /// Two whole sentences; the first is right.
    Pair,
    /// One continuation of several contexts; one context is right.
    Partial,
    /// The word that must follow.
    LastWord,
    /// A target after a context.
    Gold,
    /// Sentences with marked spans.
    EntitySpans,
}

impl TaskKind {
    /// Names as a suite has them.
    pub const ALL: [Self; 7] =
        [Self::Text, Self::Choice, Self::Pair, Self::Partial, Self::LastWord, Self::Gold, Self::EntitySpans];

    /// How far windows over long texts advance, unless the suite says it: texts are cut into windows that touch, and
    /// tokens after a context see at least half a window.
    pub(crate) const fn stride_in(self, context_length: usize) -> usize {
        match self {
            Self::Text => context_length,
            _ => context_length.div_ceil(2),
        }
    }

    /// The name in a suite.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Choice => "choice",
            Self::Pair => "pair",
            Self::Partial => "partial",
            Self::LastWord => "lastword",
            Self::Gold => "gold",
            Self::EntitySpans => "entity_spans",
        }
    }

    /// Measures of this kind; the first ones are taken where a suite names none.
    pub const fn measures(self) -> &'static [Measure] {
        match self {
            Self::Text => &[Measure::BitsPerByte, Measure::NatsPerToken],
            Self::Choice => &[Measure::Acc, Measure::AccNorm, Measure::BitsPerByte],
            Self::Pair => &[Measure::Acc, Measure::AccNorm],
            Self::Partial => &[Measure::Acc],
            Self::LastWord => &[Measure::Acc, Measure::Perplexity, Measure::BitsPerByte],
            Self::Gold => &[Measure::BitsPerByte],
            Self::EntitySpans => &[Measure::NatsInSpans, Measure::NatsOutside],
        }
    }

    /// How many of [`TaskKind::measures`] are taken by default.
    pub(crate) const fn n_default_measures(self) -> usize {
        match self {
            Self::Partial | Self::Gold | Self::Pair => 1,
            _ => 2,
        }
    }

    /// What separates context and continuation where the suite says nothing.
    pub(crate) const fn default_delimiter(self) -> &'static str {
        match self {
            Self::Text | Self::Pair | Self::EntitySpans => "",
            Self::Choice | Self::Partial | Self::LastWord | Self::Gold => " ",
        }
    }
}

/// One measured thing. A value is a ratio of two sums over items, which for most measures is a plain mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Measure {
    /// Share of right answers by summed log-probability. A tie for the best is wrong, so that equal choices earn
    /// nothing.
    Acc,
    /// The same with each log-probability divided by the choice's length in UTF-8 bytes.
    AccNorm,
    /// Bits for each byte of text: sum of bits over sum of bytes.
    BitsPerByte,
    /// Nats for each token. Compares only models with one tokenizer.
    NatsPerToken,
    /// Exponential of the mean nats of a last word.
    Perplexity,
    /// Nats for each token that overlaps a span.
    NatsInSpans,
    /// Nats for each token that overlaps none.
    NatsOutside,
}

impl Measure {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Acc,
        Self::AccNorm,
        Self::BitsPerByte,
        Self::NatsPerToken,
        Self::Perplexity,
        Self::NatsInSpans,
        Self::NatsOutside,
    ];

    /// The name in suites and results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Acc => "acc",
            Self::AccNorm => "acc_norm",
            Self::BitsPerByte => "bits_per_byte",
            Self::NatsPerToken => "nats_per_token",
            Self::Perplexity => "perplexity",
            Self::NatsInSpans => "nats_in_spans",
            Self::NatsOutside => "nats_outside",
        }
    }

    /// The measure of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|measure| measure.name() == name)
    }

    /// Whether more is better.
    pub const fn higher_is_better(self) -> bool {
        matches!(self, Self::Acc | Self::AccNorm)
    }

    /// Whether the value is the exponential of the ratio.
    pub const fn is_exponential(self) -> bool {
        matches!(self, Self::Perplexity)
    }
}
