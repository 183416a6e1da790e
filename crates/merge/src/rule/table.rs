//! The table of rules: names, equations, sources, and which parameters each has.

use std::fmt;

use serde::{Deserialize, Serialize};
use thalweg_tensor::kernel::Election;

/// A rule by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RuleKind {
    /// The base and the weighted sum of the deltas.
    TaskArithmetic,
    /// The largest elements of each delta, those that agree in sign.
    Ties,
    /// Elements of each delta by chance, rescaled, summed.
    Dare,
    /// Elements of each delta by chance, rescaled, those that agree in sign.
    DareTies,
    /// Elements by chance that favours large ones, those that agree in sign.
    Della,
    /// Elements by chance that favours large ones, summed.
    DellaLinear,
    /// Elements of middle magnitude, summed.
    Breadcrumbs,
    /// Elements of middle magnitude, those that agree in sign.
    BreadcrumbsTies,
    /// Elements in which the experts differ most, weighted by the squares of each expert's, those that agree in sign.
    Sce,
    /// On the arc from the base to one expert.
    Slerp,
    /// Weighted mean in the tangent space of a sphere.
    MultiSlerp,
    /// Weighted Karcher mean on a sphere.
    Karcher,
    /// Between the base and the mean of the experts, by their angles.
    ModelStock,
}

/// How a rule's elements are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sparsity {
    /// All are kept.
    None,
    /// The largest.
    Largest,
    /// By chance.
    Random,
    /// By chance, with a probability that follows the rank in the row.
    RandomByRank,
    /// The largest after the outliers.
    Middle,
    /// Those whose variance over the experts is largest.
    Spread,
}

/// How a rule is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// Element by element from deltas.
    Delta {
        /// What is kept of a delta.
        sparsity: Sparsity,
        /// Which kept elements are added.
        election: Election,
    },
    /// By coefficients for each tensor, from inner products.
    Geometry,
}

/// Whose definition is followed where they differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Convention {
    /// That of the rule's paper.
    #[default]
    Paper,
    /// That of mergekit 0.1.5.
    Mergekit,
}

/// How kept elements make up for dropped ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rescale {
    /// Not at all.
    None,
    /// Each is divided by its probability.
    Inverse,
    /// Each delta gets its L1 norm back, tensor by tensor.
    L1,
}

/// What the table says about a rule.
#[derive(Debug, Clone, Copy)]
pub struct RuleEntry {
    /// The rule.
    pub kind: RuleKind,
    /// Its name on the command line.
    pub name: &'static str,
    /// Other names.
    pub aliases: &'static [&'static str],
    /// One line of help.
    pub help: &'static str,
    /// What it computes.
    pub equation: &'static str,
    /// Where it comes from.
    pub source: &'static str,
    /// How often the sources are read, in words.
    pub passes: &'static str,
}

/// Every rule, in the order of the help.
pub static RULES: [RuleEntry; 13] = [
    RuleEntry {
        kind: RuleKind::TaskArithmetic,
        name: "task-arithmetic",
        aliases: &["task_arithmetic", "ta"],
        help: "the base and the weighted sum of the deltas",
        equation: "b + L sum_i w_i d_i",
        source: "Ilharco et al. 2023, arXiv 2212.04089",
        passes: "1: the exact sum, rounded once",
    },
    RuleEntry {
        kind: RuleKind::Ties,
        name: "ties",
        aliases: &[],
        help: "the largest elements of each delta; of these, the mean of those that agree with the sign of their sum",
        equation: "b + L sum_A w_i t_i / sum_A w_i, t_i = d_i where |d_i| is among the largest, A = {i: sgn(w_i t_i) = sgn(sum_j w_j t_j)}",
        source: "Yadav et al. 2023, arXiv 2306.01708, algorithm 1",
        passes: "3; 4 in mergekit's convention",
    },
    RuleEntry {
        kind: RuleKind::Dare,
        name: "dare",
        aliases: &["dare-linear", "dare_linear"],
        help: "random elements of each delta, divided by the density",
        equation: "b + L sum_i w_i m_i d_i / density, m_i = 1 with probability density, else 0",
        source: "Yu et al. 2024, arXiv 2311.03099",
        passes: "1; 2 in mergekit's convention",
    },
    RuleEntry {
        kind: RuleKind::DareTies,
        name: "dare-ties",
        aliases: &["dare_ties"],
        help: "as dare, then only the elements that agree in sign, as in ties",
        equation: "b + L sum_A w_i t_i / sum_A w_i, t_i = m_i d_i / density, A as for ties",
        source: "Yu et al. 2024, arXiv 2311.03099, with Yadav et al. 2023",
        passes: "1; 2 in mergekit's convention",
    },
    RuleEntry {
        kind: RuleKind::Della,
        name: "della",
        aliases: &[],
        help: "random elements, with higher probability for large ones in their row, then those that agree in sign",
        equation: "as dare-ties with t_i = m_i d_i / (1 - p_i), p_i = 1 - density - epsilon/2 + epsilon r_i / n, r_i = 0 for the largest in a row of n",
        source: "Deep et al. 2024, arXiv 2406.11617",
        passes: "2, rows sorted; 4 in mergekit's convention",
    },
    RuleEntry {
        kind: RuleKind::DellaLinear,
        name: "della-linear",
        aliases: &["della_linear"],
        help: "as della, all kept elements summed",
        equation: "b + L sum_i w_i t_i, t_i as for della",
        source: "Deep et al. 2024, arXiv 2406.11617, without election",
        passes: "2, rows sorted; 4 in mergekit's convention",
    },
    RuleEntry {
        kind: RuleKind::Breadcrumbs,
        name: "breadcrumbs",
        aliases: &[],
        help: "elements of middle magnitude: without the largest (gamma), then the largest density of each tensor",
        equation: "b + L sum_i w_i m_i d_i, m_i = 0 for the largest gamma and the smallest 1 - density - gamma of a tensor, else 1",
        source: "Davari and Belilovsky 2024, arXiv 2312.06795",
        passes: "4",
    },
    RuleEntry {
        kind: RuleKind::BreadcrumbsTies,
        name: "breadcrumbs-ties",
        aliases: &["breadcrumbs_ties"],
        help: "as breadcrumbs, then only the elements that agree in sign, as in ties",
        equation: "as ties with t_i = m_i d_i, m_i as for breadcrumbs",
        source: "mergekit; Davari and Belilovsky 2024 with Yadav et al. 2023",
        passes: "4",
    },
    RuleEntry {
        kind: RuleKind::Sce,
        name: "sce",
        aliases: &[],
        help: "the elements in which the experts differ most; experts weighted by the squares of theirs; of these, those that agree in sign",
        equation: "b + L sum_A e_i t_i / sum_A e_i, t_i = d_i where the variance of d over the experts is among the largest density of those above 0, e_i = sum t_i^2 / sum_j sum t_j^2, A = {i: sgn(t_i) = sgn(sum_j t_j)}, tensor by tensor",
        source: "Wan et al. 2024, arXiv 2408.07990, by its authors' code in mergekit",
        passes: "6",
    },
    RuleEntry {
        kind: RuleKind::Slerp,
        name: "slerp",
        aliases: &[],
        help: "a point on the arc from the base to one expert; the expert's coefficient says how far along",
        equation: "sin((1-t)a)/sin(a) b + sin(ta)/sin(a) x, a the angle of b and x, tensor by tensor",
        source: "Shoemake 1985, SIGGRAPH, p. 247",
        passes: "2",
    },
    RuleEntry {
        kind: RuleKind::MultiSlerp,
        name: "multi-slerp",
        aliases: &["multislerp", "multi_slerp"],
        help: "weighted mean of several experts in the tangent space of a sphere around the base, or around zero",
        equation: "b + r exp_m(sum_i v_i log-plane_m(u_i)), u_i = d_i/|d_i|, v_i = w_i/sum w, m = sum v_i u_i normalised, r = sum v_i |d_i|",
        source: "Goddard 2025, goddard.blog/posts/multislerp-wow-what-a-cool-idea",
        passes: "2",
    },
    RuleEntry {
        kind: RuleKind::Karcher,
        name: "karcher",
        aliases: &[],
        help: "the point of a sphere with the least weighted sum of squared angles to the experts",
        equation: "r m, 0 = sum_i v_i log_m(u_i), u_i = x_i/|x_i|, r = sum v_i |x_i|, tensor by tensor",
        source: "Karcher 1977, Comm. Pure Appl. Math. 30; arXiv 2603.04972",
        passes: "2",
    },
    RuleEntry {
        kind: RuleKind::ModelStock,
        name: "model-stock",
        aliases: &["model_stock"],
        help: "a point between the base and the mean of two or more experts, chosen by the angle of their deltas",
        equation: "t mean(x) + (1-t) b, t = n cos / (1 + (n-1) cos), cos the mean cosine of pairs of deltas, tensor by tensor",
        source: "Jang et al. 2024, arXiv 2403.19522",
        passes: "2",
    },
];

impl RuleKind {
    /// What the table says about it.
    pub fn entry(self) -> &'static RuleEntry {
        // Every kind is in the table; a test holds that.
        RULES.iter().find(|entry| entry.kind == self).unwrap_or(&RULES[0])
    }

    /// How often the sources are read, in a convention.
    pub fn passes(self, convention: Convention) -> &'static str {
        let all = self.entry().passes;
        match (all.split_once("; "), convention) {
            (Some((paper, _)), Convention::Paper) => paper,
            (Some((_, mergekit)), Convention::Mergekit) => mergekit.trim_end_matches(" in mergekit's convention"),
            (None, _) => all,
        }
    }

    pub(crate) fn family(self) -> Family {
        let delta = |sparsity, election| Family::Delta { sparsity, election };
        match self {
            Self::TaskArithmetic => delta(Sparsity::None, Election::None),
            Self::Ties => delta(Sparsity::Largest, Election::Weighted),
            Self::Dare => delta(Sparsity::Random, Election::None),
            Self::DareTies => delta(Sparsity::Random, Election::Weighted),
            Self::Della => delta(Sparsity::RandomByRank, Election::Weighted),
            Self::DellaLinear => delta(Sparsity::RandomByRank, Election::None),
            Self::Breadcrumbs => delta(Sparsity::Middle, Election::None),
            Self::BreadcrumbsTies => delta(Sparsity::Middle, Election::Weighted),
            Self::Sce => delta(Sparsity::Spread, Election::Plain),
            Self::Slerp | Self::MultiSlerp | Self::Karcher | Self::ModelStock => Family::Geometry,
        }
    }

    /// What is kept of a delta.
    pub(crate) fn sparsity(self) -> Sparsity {
        match self.family() {
            Family::Delta { sparsity, .. } => sparsity,
            Family::Geometry => Sparsity::None,
        }
    }

    /// Whether the rule has densities.
    pub fn has_density(self) -> bool {
        self.sparsity() != Sparsity::None
    }

    /// Whether the rule has a share of outliers.
    pub(crate) fn has_gamma(self) -> bool {
        self.sparsity() == Sparsity::Middle
    }

    /// Whether the rule has a range of probabilities.
    pub(crate) fn has_epsilon(self) -> bool {
        self.sparsity() == Sparsity::RandomByRank
    }

    /// Whether the rule draws by chance.
    pub fn has_seed(self) -> bool {
        matches!(self.sparsity(), Sparsity::Random | Sparsity::RandomByRank)
    }

    /// Whether the rule adds deltas, scaled by lambda.
    pub(crate) fn has_lambda(self) -> bool {
        matches!(self.family(), Family::Delta { .. })
    }

    /// Whether the experts have coefficients.
    pub(crate) fn has_coefficients(self) -> bool {
        !matches!(self, Self::ModelStock | Self::Sce)
    }

    /// Whether it works without a base.
    pub fn works_without_base(self) -> bool {
        matches!(self, Self::MultiSlerp | Self::Karcher)
    }

    /// Least and greatest number of experts.
    pub fn n_experts(self) -> (usize, usize) {
        match self {
            Self::Slerp => (1, 1),
            Self::ModelStock | Self::Sce => (2, usize::MAX),
            _ => (1, usize::MAX),
        }
    }

    /// Whether the sum is divided by the sum of the coefficients that took part, by default.
    pub fn divides(self, convention: Convention) -> bool {
        match self {
            Self::Ties | Self::Della | Self::Sce => true,
            Self::DareTies | Self::BreadcrumbsTies => convention == Convention::Paper,
            _ => false,
        }
    }

    /// How kept elements make up for dropped ones, by default.
    pub fn rescale(self, convention: Convention) -> Rescale {
        match (self.has_seed(), convention) {
            (false, _) => Rescale::None,
            (true, Convention::Paper) => Rescale::Inverse,
            (true, Convention::Mergekit) => Rescale::L1,
        }
    }
}

impl fmt::Display for RuleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.entry().name)
    }
}
