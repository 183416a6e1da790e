//! Lists in messages.

/// How many names a list shows.
const MAX_NAMES: usize = 8;

/// A list of names, with the number of those that are left out.
pub(crate) fn shorten(mut names: Vec<String>) -> String {
    let n_more = names.len().saturating_sub(MAX_NAMES);
    names.truncate(MAX_NAMES);
    let more = if n_more > 0 { format!(" and {n_more} more") } else { String::new() };
    format!("{}{more}", names.join(", "))
}
