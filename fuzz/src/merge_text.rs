//! Recipes, receipts and plans.

use std::path::Path;

use thalweg_merge::plan::MergePlan;
use thalweg_merge::receipt::MergeReceipt;
use thalweg_merge::recipe::{Recipe, RecipeDialect, RecipeKind, native_equivalent, parse_recipe};

use crate::check_message;

/// A recipe in TOML.
pub(crate) fn check_recipe_toml(bytes: &[u8]) {
    check_recipe(bytes, RecipeKind::Toml);
}

/// A recipe in YAML, in our words or in mergekit's.
pub(crate) fn check_recipe_yaml(bytes: &[u8]) {
    check_recipe(bytes, RecipeKind::Yaml);
}

/// An accepted recipe means the same when it is written in the native dialect; a refused one shows where it is wrong.
fn check_recipe(bytes: &[u8], kind: RecipeKind) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let recipe = match parse_recipe(text, kind) {
        Ok(recipe) => recipe,
        Err(error) => {
            assert!(!error.problems.is_empty());
            // YAML breaks lines at a lone carriage return too.
            let n_lines = text.split(['\n', '\r']).count();
            for problem in &error.problems {
                assert!((1..=n_lines + 1).contains(&problem.line), "line {} of {n_lines}", problem.line);
                assert!(problem.column >= 1);
            }
            check_message(&error);
            assert!(error.to_string().len() < 20_000, "{} bytes of message", error.to_string().len());
            return;
        }
    };
    let native = native_equivalent(&recipe);
    let again = parse_recipe(&native, RecipeKind::Toml).unwrap_or_else(|error| panic!("{native}\n{error}"));
    assert_eq!(again.dialect, RecipeDialect::Native);
    // Notices are of the translation; what mergekit casts to is a comment of the native recipe.
    let expected =
        Recipe { notices: again.notices.clone(), input_dtype: None, dialect: RecipeDialect::Native, ..recipe };
    assert_eq!(again, expected, "{native}");
    assert_eq!(native_equivalent(&again), native_equivalent(&expected));
}

/// Receipts and plans read back as they are printed, and a plan keeps its digest: that says whether an output is done.
pub(crate) fn check_receipt_and_plan(bytes: &[u8]) {
    match MergeReceipt::from_json(bytes, Path::new("thalweg.json")) {
        Ok(receipt) => {
            let printed = serde_json::to_vec_pretty(&receipt).unwrap();
            assert_eq!(MergeReceipt::from_json(&printed, Path::new("thalweg.json")).unwrap(), receipt);
            let _may_be_missing = (receipt.distance_to_newest(), receipt.max_abs_change());
        }
        Err(error) => check_message(&error),
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match MergePlan::from_json(text) {
        Ok(plan) => {
            let again = MergePlan::from_json(&plan.to_json().unwrap()).unwrap();
            assert_eq!(again, plan);
            assert!(!plan.source_paths().is_empty());
            for (output, again) in plan.outputs.iter().zip(&again.outputs) {
                assert_eq!(output.digest().unwrap(), again.digest().unwrap());
                assert_eq!(output.coefficients().unwrap(), again.coefficients().unwrap());
                assert!(output.newest_source().is_some());
            }
        }
        Err(error) => check_message(&error),
    }
}
