//! The table of rules finds every name.

use super::*;

#[test]
fn every_rule_has_one_line_that_finds_it() {
    for entry in &RULES {
        assert_eq!(entry.kind.entry().name, entry.name);
        for name in entry.aliases.iter().chain([&entry.name]) {
            assert_eq!(name.parse::<RuleKind>().unwrap(), entry.kind, "{name}");
        }
        let json = serde_json::to_string(&entry.kind).unwrap();
        assert_eq!(json, format!("\"{}\"", entry.name));
    }
    let error = "tise".parse::<RuleKind>().unwrap_err();
    assert_eq!(error.hint().as_deref(), Some("did you mean `ties`?"));
}
