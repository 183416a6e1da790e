//! What to train for a search by merging: the components, what they cost, and when that pays.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use thalweg_lab::config::TrainConfig;

use super::space::MixSpace;
use crate::Error;
use crate::train_config::{make_absolute, resume};

/// What is planned.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanRequest {
    /// Names of the data sets, and which is general, with the share of it in every component.
    pub space: MixSpace,
    /// Tokens that each component is trained on.
    pub component_tokens: u64,
    /// Mixtures that would be tried.
    pub n_proxies: u64,
    /// Tokens that one small run for each mixture would take instead; as many as a component, if left out.
    pub proxy_tokens: Option<u64>,
    /// Tokens that scoring one merge costs, in tokens of training.
    pub score_tokens: u64,
}

/// One component.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ComponentPlan {
    /// Its name.
    pub name: String,
    /// What it trains on.
    pub data_shares: BTreeMap<String, f64>,
    /// Tokens.
    pub tokens: u64,
    /// Its config, where one was written.
    pub config: Option<PathBuf>,
}

/// Components and their bill.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MixPlan {
    /// The general data set.
    pub general: String,
    /// Share of it in the other components.
    pub beta: f64,
    /// The least share of general data that a mixture of these components can stand for.
    pub least_general_share: f64,
    /// What to train.
    pub components: Vec<ComponentPlan>,
    /// Tokens of all components.
    pub component_tokens_total: u64,
    /// The same with scores of all mixtures.
    pub merged_total: u64,
    /// Tokens of a small run for each mixture.
    pub trained_total: u64,
    /// Mixtures from which merging is the cheaper way; nothing where it never is.
    pub break_even_proxies: Option<u64>,
}

/// Makes the table of components and the bill.
///
/// # Errors
/// `Request` for numbers that do not fit into 64 bits.
pub fn plan_components(request: &PlanRequest) -> Result<MixPlan, Error> {
    let space = &request.space;
    let n = space.names().len();
    let components = (0..n).map(|i| {
        let alone: Vec<f64> = (0..n).map(|j| if i == j { 1.0 } else { 0.0 }).collect();
        let mut shares = space.by_name(&space.data_shares(&alone));
        shares.retain(|_, share| *share > 0.0);
        ComponentPlan {
            name: space.names()[i].clone(),
            data_shares: shares,
            tokens: request.component_tokens,
            config: None,
        }
    });
    let too_large = || Error::request("the bill is more than 64 bits of tokens");
    let total = request.component_tokens.checked_mul(n as u64).ok_or_else(too_large)?;
    let proxy_tokens = request.proxy_tokens.unwrap_or(request.component_tokens);
    let scores = request.score_tokens.checked_mul(request.n_proxies).ok_or_else(too_large)?;
    let saved = proxy_tokens.checked_sub(request.score_tokens).filter(|saved| *saved > 0);
    Ok(MixPlan {
        general: space.general().to_owned(),
        beta: space.beta(),
        least_general_share: space.beta(),
        components: components.collect(),
        component_tokens_total: total,
        merged_total: total.checked_add(scores).ok_or_else(too_large)?,
        trained_total: proxy_tokens.checked_mul(request.n_proxies).ok_or_else(too_large)?,
        break_even_proxies: saved.map(|saved| total / saved + 1),
    })
}

impl ComponentPlan {
    /// The config that trains this component from `base`, after `like`, a config in `folder` that has all data sets.
    ///
    /// # Errors
    /// `Request` for a data set that the config does not have.
    pub fn config(&self, like: &TrainConfig, folder: &Path, base: &Path, base_step: u64) -> Result<TrainConfig, Error> {
        let mut config = like.clone();
        let name_of = |section: &thalweg_lab::config::DomainSection| section.domain_name();
        if let Some(missing) = self.data_shares.keys().find(|name| config.data.iter().all(|one| name_of(one) != **name))
        {
            let known: Vec<String> = config.data.iter().map(|one| format!("`{}`", name_of(one))).collect();
            return Err(Error::request_with_hint(
                format!("the config has no data set `{missing}`"),
                format!("it has {}; `name` in a `[[data]]` section names one", known.join(", ")),
            ));
        }
        config.data.retain(|one| self.data_shares.contains_key(&name_of(one)));
        for section in &mut config.data {
            section.share = self.data_shares[&name_of(section)];
            section.name = Some(name_of(section));
            make_absolute(section, folder);
        }
        let n_steps = self.tokens.div_ceil(config.tokens_per_step().max(1));
        resume(&mut config, base, base_step.saturating_add(n_steps));
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(component_tokens: u64, proxy_tokens: Option<u64>, score_tokens: u64) -> PlanRequest {
        let names = ["web", "math", "code"].map(str::to_owned);
        let space = MixSpace::new(&names, "web", 0.5).unwrap();
        PlanRequest { space, component_tokens, n_proxies: 112, proxy_tokens, score_tokens }
    }

    #[test]
    fn the_bill_is_components_and_scores_against_a_run_for_each_mixture() {
        let plan = plan_components(&request(30, Some(12), 1)).unwrap();
        assert_eq!((plan.component_tokens_total, plan.merged_total, plan.trained_total), (90, 202, 1344));
        // 90 + n < 12 n from n = 9 on: 90 + 9 = 99 < 108, and 90 + 8 = 98 is not below 96.
        assert_eq!(plan.break_even_proxies, Some(9));
        assert_eq!(plan.components[1].data_shares, [("web".to_owned(), 0.5), ("math".to_owned(), 0.5)].into());
        assert_eq!(plan.components[0].data_shares, [("web".to_owned(), 1.0)].into());
        // A score that costs as much as a run never pays.
        assert_eq!(plan_components(&request(30, Some(1), 1)).unwrap().break_even_proxies, None);
        assert!(plan_components(&request(u64::MAX, None, 0)).is_err());
    }
}
