//! Do the sources agree? Everything that headers, configs and tokenizers show is reported before the sum begins.
//!
//! Reads no tensors, except the beginnings of codes that must be equal, and decides nothing that is not in the plan's
//! policy. `contents` looks inside one source; `difference` has the messages.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;
use thalweg_checkpoint::{Checkpoint, LlamaHeads, compare_configs, compare_tokenizer_files, is_optimizer_state};
use thalweg_storage::Storage;
use thalweg_tensor::{
    Dtype, DtypeClass, Shape, TensorCatalog, TensorEntry, TensorSource, counted_are, display_name, to_index,
};

use crate::Error;
use crate::contents::find_obstacles;
pub use crate::difference::{Difference, NewestHas, Relation};
use crate::difference::{common_prefix_difference, idle_patterns};
use crate::huggingface::check_configs;
pub use crate::merge_layout::MergeLayout;
use crate::moments::{check_signs, describe_state, find_missing, join_state, state_class};
use crate::name_rule::removing_rule;
pub use crate::open_source::OpenSource;
use crate::output_kind::OptimizerPolicy;
use crate::pattern::fits_any;
use crate::plan::{CONVERT_SCHEME, MergePlan, NonFloatPolicy, OutputDtype, OutputPlan, RouterPolicy};
use crate::router::is_router;
use crate::row_order::{find_row_order, row_order_note};
pub use crate::tensor_class::TensorClass;
pub use crate::view::SourceView;
use crate::view::{Places, can_be_read_as};
use crate::waiver::ConfigWaiver;

/// Whether a shape has two dimensions or more that are longer than 1.
fn is_table(shape: &Shape) -> bool {
    shape.0.iter().filter(|&&len| len > 1).count() > 1
}

/// What a tensor is. The plan takes tensors that fit `take_newest` from the newest source.
pub(crate) fn classify(entry: &TensorEntry, take_newest: &[String], optimizer: OptimizerPolicy) -> TensorClass {
    if fits_any(take_newest, &entry.name) {
        return TensorClass::Newest;
    }
    if let Some(class) = state_class(entry, optimizer) {
        return class;
    }
    if entry.name.ends_with("_extra_state") {
        return TensorClass::ExtraState;
    }
    match entry.dtype.class() {
        DtypeClass::Mergeable if is_router(&entry.name) => TensorClass::Router,
        DtypeClass::Mergeable => TensorClass::Float,
        // Counters are numbers or lists. A table of whole numbers that changes in training holds codes of a quantised
        // weight, whose newest value means nothing beside averaged scales.
        DtypeClass::Discrete if is_table(&entry.shape) => TensorClass::Opaque,
        DtypeClass::Discrete => TensorClass::Discrete,
        DtypeClass::Refused => TensorClass::Opaque,
    }
}

/// Tensors that cannot be read. Leaving them out silently would make another model.
fn unreadable(sources: &[OpenSource], policy: &Policy<'_>) -> Vec<Difference> {
    let of_source = |source: &OpenSource| {
        let label = source.label();
        let found = source.checkpoint.findings().unreadable.clone().into_iter();
        let found = found.filter(|one| !policy.is_dropped(&one.name));
        found
            .map(move |one| Difference::Unreadable { tensor: one.name, source: label.clone(), reason: one.reason })
            .collect::<Vec<_>>()
    };
    sources.iter().flat_map(of_source).collect()
}

/// Establishes that all sources of `plan` hold the same tensors and the same function.
///
/// `storage` is where the sources were opened; their tokenizers are read from it.
///
/// # Errors
/// `NotAligned` with every difference; `NothingToMerge` when there is no tensor; `Checkpoint` or `Access` when a
/// tokenizer or the beginning of a tensor cannot be read.
pub fn align_sources(sources: &[OpenSource], plan: &MergePlan, storage: &dyn Storage) -> Result<MergeLayout, Error> {
    let Some(first) = sources.first() else {
        return Err(Error::NothingToMerge { path: PathBuf::new() });
    };
    check_signs(plan, sources)?;
    if let Some(cut) = compare_cuts(sources, plan) {
        return Err(Error::NotAligned { differences: vec![cut], relation: relation_of(plan) });
    }
    let policy = Policy::of(plan, sources);
    let mut differences = unreadable(sources, &policy);
    differences.extend(find_contents(sources, plan, &policy));
    differences.extend(find_row_order(sources, plan));
    let groups = group_by_catalog(sources);
    differences.extend(find_idle_patterns(sources, &groups, &policy));
    differences.extend(compare_catalogs(sources, &groups, &policy));
    let (config_differences, harmless) = compare_source_configs(sources, plan);
    differences.extend(config_differences);
    differences.extend(compare_tokenizers(sources, plan, storage)?);
    if policy.averages_moments() {
        differences.extend(find_missing(sources, &policy.newest));
        differences = join_state(differences);
    }
    if !differences.is_empty() {
        return Err(Error::NotAligned { differences, relation: relation_of(plan) });
    }
    let layout = lay_out(sources, &groups, &policy);
    if layout.catalog.entries().is_empty() {
        if groups.iter().any(|(catalog, _)| !catalog.entries().is_empty()) {
            return Err(Error::AllDropped);
        }
        return Err(Error::NothingToMerge { path: first.path.clone() });
    }
    let differences = first_look_at_codes(sources, &layout)?;
    if !differences.is_empty() {
        return Err(Error::NotAligned { differences, relation: relation_of(plan) });
    }
    check_configs(plan, sources, &layout.catalog, storage)?;
    let mut notes = collect_notes(sources, &layout, plan);
    notes.extend(harmless);
    Ok(MergeLayout { notes, ..layout })
}

/// Whether all models are whole, or cut into the same files of ranks: only then have tensors of one name the same part.
/// Kept sums have the names of what they are sums of.
fn compare_cuts(sources: &[OpenSource], plan: &MergePlan) -> Option<Difference> {
    let planned = plan.outputs.iter().flat_map(|output| &output.sources);
    let sums: BTreeSet<&PathBuf> = planned.filter(|one| one.is_sum).map(|one| &one.path).collect();
    if sources.iter().all(|source| source.checkpoint.findings().n_ranks == 0) {
        return None;
    }
    let files_of = |source: &OpenSource| -> Vec<String> {
        let is_cut = source.checkpoint.findings().n_ranks > 0;
        source.checkpoint.files().iter().filter(|_| is_cut).map(|file| file.name.clone()).collect()
    };
    let mut kinds: Vec<(Vec<String>, String)> = Vec::new();
    for source in sources.iter().filter(|source| !sums.contains(&source.path)) {
        let files = files_of(source);
        if kinds.iter().all(|(known, _)| *known != files) {
            kinds.push((files, source.label()));
        }
    }
    let row = |(files, label): (Vec<String>, String)| (label, files.len(), files.last().cloned().unwrap_or_default());
    (kinds.len() > 1).then(|| Difference::Cut { rows: kinds.into_iter().map(row).collect() })
}

fn relation_of(plan: &MergePlan) -> Relation {
    match plan.outputs.iter().any(|output| output.rule.is_some()) {
        true => Relation::Experts,
        false => Relation::Checkpoints,
    }
}

/// What the outputs of a plan say about tensors. All outputs of a plan drop and take the same ones.
struct Policy<'a> {
    drop: &'a [String],
    take_newest: &'a [String],
    /// Whether every output states its element type.
    states_dtype: bool,
    /// Whether every output takes differing integers from its newest source.
    non_float: NonFloatPolicy,
    router: RouterPolicy,
    optimizer: OptimizerPolicy,
    /// Positions of the outputs' newest sources.
    newest: BTreeSet<usize>,
}

impl<'a> Policy<'a> {
    fn of(plan: &'a MergePlan, sources: &[OpenSource]) -> Self {
        let first = plan.outputs.first().map(|output| &output.policy);
        let all_newest = |is_newest: &dyn Fn(&crate::plan::MergePolicy) -> bool| {
            plan.outputs.iter().all(|output| is_newest(&output.policy))
        };
        let newest = plan.outputs.iter().filter_map(|output| {
            let path = &output.newest_source()?.path;
            sources.iter().position(|source| source.path == *path)
        });
        let non_float = all_newest(&|policy| policy.non_float == NonFloatPolicy::Newest);
        let router = all_newest(&|policy| policy.router == RouterPolicy::Newest);
        Self {
            drop: first.map_or(&[], |policy| &policy.drop),
            take_newest: first.map_or(&[], |policy| &policy.take_newest),
            states_dtype: plan.outputs.iter().all(|output| output.dtype != OutputDtype::Same),
            non_float: if non_float { NonFloatPolicy::Newest } else { NonFloatPolicy::Error },
            optimizer: first.map_or(OptimizerPolicy::Drop, |policy| policy.optimizer),
            router: if router { RouterPolicy::Newest } else { RouterPolicy::Average },
            newest: newest.collect(),
        }
    }

    fn is_dropped(&self, name: &str) -> bool {
        fits_any(self.drop, name)
    }

    fn classify(&self, entry: &TensorEntry) -> TensorClass {
        classify(entry, self.take_newest, self.optimizer)
    }

    fn averages_moments(&self) -> bool {
        self.optimizer == OptimizerPolicy::Average
    }

    /// Whether a tensor belongs to a state that was asked for.
    fn is_state(&self, name: &str) -> bool {
        self.averages_moments() && is_optimizer_state(name)
    }

    /// The element type in which a tensor is read: doubles, if a source has products in its place.
    fn read_as(&self, entry: &TensorEntry, products: &BTreeSet<&str>) -> Dtype {
        let is_widened = products.contains(&*entry.name)
            && can_be_read_as(entry.dtype, Dtype::F64)
            && !self.is_taken(self.classify(entry));
        if is_widened { Dtype::F64 } else { entry.dtype }
    }

    /// Whether only the newest source's tensor matters.
    fn is_taken(&self, class: TensorClass) -> bool {
        match class {
            TensorClass::Newest | TensorClass::ExtraState => true,
            TensorClass::Discrete => self.non_float == NonFloatPolicy::Newest,
            TensorClass::Router => self.router == RouterPolicy::Newest,
            // What the sources' optimizers keep must agree, even where only the newest one's is taken.
            TensorClass::Float | TensorClass::Opaque | TensorClass::Moment | TensorClass::OptimizerState => false,
        }
    }
}

/// Obstacles inside the sources, each reported once with the sources that have it. Only codes are an obstacle to a
/// copy, and only if it changes the element type of their scales.
fn find_contents(sources: &[OpenSource], plan: &MergePlan, policy: &Policy<'_>) -> Vec<Difference> {
    let is_copy = plan.is_copy();
    if is_copy && plan.outputs.iter().all(|output| output.dtype == OutputDtype::Same) {
        return Vec::new();
    }
    let is_averaged =
        |name: &str| !policy.is_dropped(name) && !fits_any(policy.take_newest, name) && !policy.is_state(name);
    let mut found: Vec<(crate::contents::Obstacle, Vec<String>)> = Vec::new();
    for source in sources {
        for obstacle in find_obstacles(&source.checkpoint, &is_averaged) {
            match found.iter_mut().find(|(known, _)| *known == obstacle) {
                Some((_, labels)) => labels.push(source.label()),
                None => found.push((obstacle, vec![source.label()])),
            }
        }
    }
    let difference = |(obstacle, sources): (crate::contents::Obstacle, _)| match is_copy {
        false => Some(Difference::Contents { sources, obstacle }),
        true => obstacle.is_codes().then_some(Difference::CopiedCodes { sources, obstacle }),
    };
    found.into_iter().filter_map(difference).collect()
}

/// Sources by their lists of tensors. Sources of one run share a list in memory, so grouping is cheap for any number.
type Groups<'a> = Vec<(&'a Arc<TensorCatalog>, Vec<usize>)>;

fn group_by_catalog(sources: &[OpenSource]) -> Groups<'_> {
    let mut groups: Groups<'_> = Vec::new();
    for (i, source) in sources.iter().enumerate() {
        let catalog = source.checkpoint.catalog();
        match groups.iter_mut().find(|(known, _)| Arc::ptr_eq(known, catalog)) {
            Some((_, members)) => members.push(i),
            None => groups.push((catalog, vec![i])),
        }
    }
    groups
}

fn find_idle_patterns(sources: &[OpenSource], groups: &Groups<'_>, policy: &Policy<'_>) -> Vec<Difference> {
    let idle_renames = |source: &OpenSource| source.checkpoint.findings().idle_renames.clone();
    let mut idle_rules = sources.first().map(idle_renames).unwrap_or_default();
    idle_rules.retain(|rule| sources.iter().all(|source| source.checkpoint.findings().idle_renames.contains(rule)));
    let rules = idle_rules.into_iter().map(|pattern| Difference::IdlePattern { option: "--rename", pattern });
    if policy.drop.is_empty() && policy.take_newest.is_empty() {
        return rules.collect();
    }
    let names = groups.iter().flat_map(|(catalog, _)| catalog.entries()).map(|entry| &*entry.name);
    let unreadable = sources.iter().flat_map(|source| &source.checkpoint.findings().unreadable);
    let names: Vec<&str> = names.chain(unreadable.map(|one| one.name.as_str())).collect();
    let idle = idle_patterns("--drop", policy.drop, &names);
    rules.chain(idle).chain(idle_patterns("--take-newest", policy.take_newest, &names)).collect()
}

/// One catalog for all: that of a newest source, without the dropped tensors.
fn lay_out(sources: &[OpenSource], groups: &Groups<'_>, policy: &Policy<'_>) -> MergeLayout {
    let newest = policy.newest.first().copied().unwrap_or(0);
    let base = sources[newest].checkpoint.catalog();
    let products = doubled_names(sources, groups, policy);
    let dtype_of = |entry: &TensorEntry| policy.read_as(entry, &products);
    let is_kept = |entry: &TensorEntry| !policy.is_dropped(&entry.name) && dtype_of(entry) == entry.dtype;
    let catalog = if base.entries().iter().all(is_kept) {
        Arc::clone(base)
    } else {
        let kept = base.entries().iter().filter(|entry| !policy.is_dropped(&entry.name));
        let kept = kept.map(|entry| TensorEntry { dtype: dtype_of(entry), ..entry.clone() }).collect();
        // Names in a catalog are unique, so this cannot fail.
        Arc::new(TensorCatalog::new(kept).unwrap_or_default())
    };
    let (mut places, mut widened) = (vec![None; sources.len()], BTreeSet::new());
    for (theirs, members) in groups {
        let is_same = theirs.entries().len() == catalog.entries().len()
            && theirs.entries().iter().zip(catalog.entries()).all(|(a, b)| a.name == b.name);
        let is_other = |entry: &TensorEntry| {
            theirs.find(&entry.name).is_some_and(|place| theirs.entries()[place].dtype != entry.dtype)
        };
        if !Arc::ptr_eq(theirs, &catalog) && catalog.entries().iter().any(is_other) {
            widened.extend(members.iter().copied());
        }
        if !is_same {
            let own: Arc<Places> = catalog.entries().iter().map(|entry| theirs.find(&entry.name)).collect();
            members.iter().for_each(|&i| places[i] = Some(Arc::clone(&own)));
        }
    }
    let classes = catalog.entries().iter().map(|entry| policy.classify(entry)).collect();
    MergeLayout { catalog, classes, notes: Vec::new(), places, widened }
}

/// Names of the tensors that are read as doubles: some source holds products of codes and scales in their place, or
/// doubles where others hold something narrower and the outputs' element type is stated.
fn doubled_names<'a>(sources: &[OpenSource], groups: &Groups<'a>, policy: &Policy<'_>) -> BTreeSet<&'a str> {
    let of_group = |(catalog, members): &(&'a Arc<TensorCatalog>, Vec<usize>)| {
        let mut seen = members.iter().map(|&i| &sources[i].checkpoint);
        let seen = seen.find(|checkpoint| checkpoint.dequantised_weights().is_some());
        let is_product = |t: usize| seen.is_some_and(|checkpoint| checkpoint.is_dequantised(t));
        let is_double = |entry: &TensorEntry| policy.states_dtype && entry.dtype == Dtype::F64;
        let entries = catalog.entries().iter().enumerate().filter(|(t, entry)| is_product(*t) || is_double(entry));
        entries.map(|(_, entry)| &*entry.name).collect::<Vec<_>>()
    };
    groups.iter().flat_map(of_group).collect()
}

/// Compares the beginnings of codes that must be equal, so that most differences are reported before the merge.
fn first_look_at_codes(sources: &[OpenSource], layout: &MergeLayout) -> Result<Vec<Difference>, Error> {
    const LOOK_BYTES: u64 = 64 << 10;
    const MAX_TOLD: usize = 20;
    let views = layout.views(sources);
    let mut differences = Vec::new();
    let opaque = layout.classes.iter().enumerate().filter(|(_, class)| **class == TensorClass::Opaque);
    for (t, _) in opaque {
        let entry = &layout.catalog.entries()[t];
        // A multiple of eight elements fills whole bytes in every element type.
        let n_elements = entry.n_elements().min(LOOK_BYTES * 8 / u64::from(entry.dtype.bits()).max(1) / 8 * 8);
        let n_elements = if entry.dtype.bytes_of(n_elements).is_some() { n_elements } else { entry.n_elements() };
        let read = |view: &SourceView<'_>| -> Result<Vec<u8>, Error> {
            let mut bytes = vec![0; to_index(entry.dtype.bytes_of(n_elements).unwrap_or(0))];
            view.read_elements(t, 0..n_elements, &mut bytes)
                .map_err(|source| Error::Access { tensor: display_name(&entry.name), source })?;
            Ok(bytes)
        };
        let Some((first, others)) = views.split_first() else { break };
        let first = read(first)?;
        for other in others {
            if read(other)? != first {
                differences.push(Difference::Refused { tensor: entry.name.to_string(), dtype: entry.dtype });
                break;
            }
        }
        if differences.len() >= MAX_TOLD {
            break;
        }
    }
    Ok(differences)
}

fn collect_notes(sources: &[OpenSource], layout: &MergeLayout, plan: &MergePlan) -> Vec<String> {
    let mut notes: Vec<String> = Vec::new();
    for (i, source) in sources.iter().enumerate() {
        for note in source.checkpoint.notes() {
            let has_it = |other: &OpenSource| other.checkpoint.notes().contains(note);
            if sources.len() == 1 || !sources.iter().all(has_it) {
                notes.push(format!("`{}`: {note}", source.path.display()));
            } else if i == 0 {
                notes.push(format!("each source: {note}"));
            }
        }
    }
    let mut first_by_file: BTreeMap<(u64, u64), usize> = BTreeMap::new();
    for (i, source) in sources.iter().enumerate() {
        let Some(file) = source.checkpoint.files().first().filter(|file| file.info.id != (0, 0)) else { continue };
        if let Some(&other) = first_by_file.get(&file.info.id) {
            let other = sources[other].path.display();
            notes.push(format!("`{other}` and `{}` are the same file", source.path.display()));
        }
        first_by_file.entry(file.info.id).or_insert(i);
    }
    notes.extend(unstored_notes(sources));
    notes.extend(row_order_note(sources, plan));
    let heads = plan.reading().to_huggingface;
    notes.extend(heads.map(|heads| {
        let LlamaHeads { num_attention_heads, num_key_value_heads, head_dim } = heads;
        format!(
            "the tensors get Hugging Face names, and the rows of {num_attention_heads} heads of queries and \
             {num_key_value_heads} of keys, of {head_dim} rows each, its order"
        )
    }));
    // A conversion is known to be a copy.
    let is_same =
        |output: &OutputPlan| output.is_copy() && output.dtype == OutputDtype::Same && output.scheme != CONVERT_SCHEME;
    if heads.is_none() && plan.outputs.iter().any(is_same) {
        notes.push("one source: the merge equals it".to_owned());
    }
    let count = |wanted| layout.classes.iter().filter(|&&class| class == wanted).count();
    let n_routers = count(TensorClass::Router);
    if n_routers > 0 {
        let newest = plan.outputs.iter().any(|output| output.policy.router == RouterPolicy::Newest);
        let how = if newest { "taken from the newest source" } else { "averaged" };
        notes.push(format!("{} {how} (`--router`)", counted_are(n_routers, "router tensor")));
    }
    notes.extend(describe_state(layout));
    notes.extend(codes_note(layout, plan));
    let n_taken = count(TensorClass::Newest);
    if n_taken > 0 {
        notes.push(format!("{} taken from the newest source (`--take-newest`)", counted_are(n_taken, "tensor")));
    }
    let drop = plan.outputs.first().map_or(&[][..], |output| &output.policy.drop);
    if !drop.is_empty() {
        let entries = sources.iter().flat_map(|source| source.checkpoint.catalog().entries());
        let dropped: BTreeSet<&str> = entries.map(|entry| &*entry.name).filter(|name| fits_any(drop, name)).collect();
        notes.push(format!("{} left out (`--drop`)", counted_are(dropped.len(), "tensor")));
    }
    notes
}

/// Codes without known scales keep their element type, whatever was asked for.
fn codes_note(layout: &MergeLayout, plan: &MergePlan) -> Option<String> {
    let is_converted = |output: &OutputPlan| !matches!(output.dtype, OutputDtype::Same | OutputDtype::F64);
    let tensors = layout.catalog.entries().iter().zip(&layout.classes);
    // Tables of whole numbers are left as they are, too, but `--dtype` never speaks of them.
    let is_code = |(entry, class): &(&TensorEntry, &TensorClass)| {
        **class == TensorClass::Opaque && entry.dtype.class() == DtypeClass::Refused
    };
    let codes: Vec<&str> = tensors.filter(is_code).map(|(entry, _)| entry.dtype.name()).collect();
    let names: BTreeSet<&str> = codes.iter().copied().collect();
    let names: Vec<&str> = names.into_iter().collect();
    (!codes.is_empty() && plan.outputs.iter().any(is_converted)).then(|| {
        format!(
            "{} left as before ({}): `--dtype` changes floating types, and FP8 that has block scales",
            counted_are(codes.len(), "tensor"),
            names.join(", ")
        )
    })
}

/// Arrays of which nothing is stored in one source and something in another: zeros beside numbers.
fn unstored_notes(sources: &[OpenSource]) -> Option<String> {
    let is_absent = |source: &OpenSource, name: &str| {
        let unstored = &source.checkpoint.findings().unstored;
        unstored.iter().any(|array| array.name == name && array.n_missing == array.n_chunks)
    };
    let unstored = sources.iter().flat_map(|source| source.checkpoint.findings().unstored.iter());
    let names: BTreeSet<&str> = unstored.map(|array| array.name.as_str()).collect();
    let mut in_some = names.into_iter().filter(|name| {
        let n_absent = sources.iter().filter(|source| is_absent(source, name)).count();
        n_absent > 0 && n_absent < sources.len()
    });
    let first = in_some.next()?;
    let lacking = sources.iter().find(|source| is_absent(source, first))?.path.display();
    let more = match in_some.count() {
        0 => String::new(),
        1 => " and of another array".to_owned(),
        n => format!(" and of {n} more arrays"),
    };
    Some(format!(
        "`{lacking}` stores nothing of `{}`{more}, but other sources do: it is read as zeros there; if this is a copy, \
         compare its files with the original",
        display_name(first)
    ))
}

fn compare_catalogs(sources: &[OpenSource], groups: &Groups<'_>, policy: &Policy<'_>) -> Vec<Difference> {
    if groups.len() < 2 {
        return Vec::new();
    }
    let names: BTreeSet<&str> = groups
        .iter()
        .flat_map(|(catalog, _)| catalog.entries())
        .map(|entry| &*entry.name)
        .filter(|name| !policy.is_dropped(name))
        .collect();
    let products = doubled_names(sources, groups, policy);
    let mut found: Vec<Difference> =
        names.into_iter().filter_map(|name| compare_tensor((name, &products), sources, groups, policy)).collect();
    if let Some(prefix) = find_prefix(sources, groups, policy) {
        let is_told = |difference: &Difference| match difference {
            Difference::Presence { tensor, .. } => !policy.is_state(tensor),
            _ => false,
        };
        found.retain(|difference| !is_told(difference));
        found.insert(0, prefix);
    }
    found
}

/// The prefix by which all names of two lists differ, so that one line reports it instead of one for each tensor.
fn find_prefix(sources: &[OpenSource], groups: &Groups<'_>, policy: &Policy<'_>) -> Option<Difference> {
    let [(a, a_members), (b, b_members)] = groups.as_slice() else { return None };
    let only_in = |one: &Arc<TensorCatalog>, other: &Arc<TensorCatalog>| -> Vec<String> {
        let entries = one.entries().iter().filter(|entry| other.find(&entry.name).is_none());
        let is_compared = |name: &str| !policy.is_dropped(name) && !policy.is_state(name);
        entries.filter(|entry| is_compared(&entry.name)).map(|entry| entry.name.to_string()).collect()
    };
    let (only_a, only_b) = (only_in(a, b), only_in(b, a));
    let refs_a: Vec<&str> = only_a.iter().map(String::as_str).collect();
    let refs_b: Vec<&str> = only_b.iter().map(String::as_str).collect();
    let labels = |members: &[usize]| members.iter().map(|&i| sources[i].label()).collect();
    let make = |(with, with_names): (&[usize], &[&str]), (without, without_names): (&[usize], &[&str])| {
        let prefix = common_prefix_difference(with_names, without_names)?;
        let rule = removing_rule(&prefix, with_names, without_names);
        Some(Difference::Prefix {
            prefix,
            with: labels(with),
            without: labels(without),
            n_tensors: with_names.len(),
            rule,
        })
    };
    let (a, b) = ((a_members.as_slice(), refs_a.as_slice()), (b_members.as_slice(), refs_b.as_slice()));
    make(a, b).or_else(|| make(b, a))
}

fn compare_tensor(
    (name, products): (&str, &BTreeSet<&str>),
    sources: &[OpenSource],
    groups: &Groups<'_>,
    policy: &Policy<'_>,
) -> Option<Difference> {
    let (mut present, mut absent, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    let mut newest: Vec<Option<(&Shape, Dtype)>> = Vec::new();
    // In every source: otherwise an integer in one source and a float in another would be summed as floats.
    let mut is_taken = true;
    for (catalog, members) in groups {
        let entry = catalog.find(name).map(|i| &catalog.entries()[i]);
        let of_newest = members.iter().filter(|i| policy.newest.contains(i));
        newest.extend(of_newest.map(|_| entry.map(|entry| (&entry.shape, entry.dtype))));
        let Some(entry) = entry else {
            absent.extend_from_slice(members);
            continue;
        };
        is_taken &= policy.is_taken(policy.classify(entry));
        present.extend_from_slice(members);
        let read_as = policy.read_as(entry, products);
        let is_known = rows
            .iter()
            .any(|(_, shape, dtype, _): &(usize, Shape, Dtype, _)| *shape == entry.shape && *dtype == read_as);
        if !is_known {
            let source = &sources[members[0]];
            let file = entry.pieces.first().and_then(|piece| source.checkpoint.files().get(piece.file_idx as usize));
            let file = file.map_or_else(String::new, |file| file.path.display().to_string());
            rows.push((members[0], entry.shape.clone(), read_as, file));
        }
    }
    let tensor = name.to_owned();
    if is_taken && newest.windows(2).any(|pair| pair[0] != pair[1]) {
        return Some(Difference::NewestDiffer { tensor });
    }
    let newest_has = newest.iter().all(Option::is_some);
    // A layer's private state follows the newest source, even where that source has none.
    let follows_newest = is_taken && (newest_has || name.ends_with("_extra_state"));
    let labels = |mut members: Vec<usize>| {
        members.sort_unstable();
        members.into_iter().map(|i| sources[i].label()).collect()
    };
    if !absent.is_empty() && !follows_newest {
        let newest = if newest_has { NewestHas::Yes } else { NewestHas::No };
        return Some(Difference::Presence { tensor, present: labels(present), absent: labels(absent), newest });
    }
    (rows.len() > 1 && !is_taken).then(|| {
        rows.sort_by_key(|row| row.0);
        let rows = rows.into_iter().map(|(i, shape, dtype, file)| (sources[i].label(), shape, dtype, file));
        Difference::Tensor { tensor, rows: rows.collect() }
    })
}

/// Whether every output waives this difference. A waiver covers the values that it lists, and no others.
pub(crate) fn is_waived(plan: &MergePlan, key: &str, rows: &[(String, Option<Value>)]) -> bool {
    let covers = |waiver: &ConfigWaiver| waiver.covers(key, rows.iter().map(|(_, value)| value));
    plan.outputs.iter().all(|output| output.policy.allow_config.iter().any(covers))
}

/// Differences that stop a merge, and a note about those that do not.
fn compare_source_configs(sources: &[OpenSource], plan: &MergePlan) -> (Vec<Difference>, Option<String>) {
    let configs: Vec<(String, &Value)> =
        sources.iter().filter_map(|source| Some((source.label(), source.checkpoint.config()?))).collect();
    let labelled: Vec<(&str, &Value)> = configs.iter().map(|(label, config)| (label.as_str(), *config)).collect();
    let (mut differences, mut harmless) = (Vec::new(), Vec::new());
    for difference in compare_configs(&labelled) {
        let rows = first_of_each(difference.values);
        if !difference.changes_function {
            harmless.push(format!("`{}`", display_name(&difference.key)));
        } else if !is_waived(plan, &difference.key, &rows) {
            differences.push(Difference::Config { key: difference.key, rows });
        }
    }
    let note = (!harmless.is_empty()).then(|| {
        format!("the configs differ in keys that do not change what a model computes: {}", harmless.join(", "))
    });
    (differences, note)
}

/// The first source of each value, so that fifty checkpoints make two lines.
pub(crate) fn first_of_each(values: Vec<(String, Option<Value>)>) -> Vec<(String, Option<Value>)> {
    let mut rows: Vec<(String, Option<Value>)> = Vec::new();
    for (label, value) in values {
        if rows.iter().all(|(_, known)| *known != value) {
            rows.push((label, value));
        }
    }
    rows
}

/// Tokenizers that split a text into different tokens: the same embeddings then belong to different tokens.
fn compare_tokenizers(
    sources: &[OpenSource],
    plan: &MergePlan,
    storage: &dyn Storage,
) -> Result<Vec<Difference>, Error> {
    let checkpoints: Vec<&Checkpoint> = sources.iter().map(|source| &*source.checkpoint).collect();
    let found = compare_tokenizer_files(&checkpoints, storage)?.into_iter().map(|difference| {
        let values = sources.iter().zip(difference.values);
        let values = values.filter_map(|(source, value)| Some((source.label(), Some(Value::from(value?)))));
        (difference.key, first_of_each(values.collect()))
    });
    Ok(found
        .filter(|(key, rows)| !is_waived(plan, key, rows))
        .map(|(key, rows)| Difference::Tokenizer { key, rows })
        .collect())
}
