//! The policy of a start point, told to people.

use std::fmt::Write;

use thalweg_study::start_policy::StatePolicy;
use thalweg_study::text::name_of;
use thalweg_tensor::counted;

/// The policy and what to do in each trainer.
pub(crate) fn describe_policy(text: &mut String, policy: &StatePolicy) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "\nmoments: {}", name_of(policy.moments));
    let _ = writeln!(text, "learning rate: {}", policy.learning_rate.advice);
    let _ = match (policy.step(), policy.skip_data_steps) {
        (None, _) => writeln!(text, "steps: from 0"),
        (Some(step), 0) => writeln!(text, "steps: from {step}; data: replayed from there"),
        (Some(step), n) => {
            let skipped = counted(n, "step");
            writeln!(text, "steps: from {step}; data: skip {skipped} and resume with those of step {}", step + n + 1)
        }
    };
    for one in policy.instructions() {
        let _ = writeln!(text, "\n{}:", one.trainer);
        for line in &one.lines {
            let _ = writeln!(text, "  {line}");
        }
    }
}
