//! `thalweg forget`: entities that training forgets, and whether merges keep them.

mod curve;
mod replay;
mod score;

use serde_json::json;
use thalweg_eval::recall::{MAX_TOKENS, ProbeOptions};
use thalweg_storage::publish::publish_file;
use thalweg_study::forget::{
    BuildOptions, ENTITIES, PROBES, build_probes, choose_entities, open_tokenizer, read_entities,
};
use thalweg_tensor::shell_path;
use thalweg_tensor::{counted, display_name};
use thalweg_trajectory::check_new_document;

use crate::args::{ForgetArgs, ForgetBuildArgs, ForgetCommand, ForgetEntitiesArgs, ProbeTokensArgs};
use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;
use crate::messages::{document_of, with_fields};

pub(crate) fn run(args: &ForgetArgs, world: &World<'_>) -> Result<Outcome, Error> {
    match &args.what {
        ForgetCommand::Entities(args) => entities(args, world),
        ForgetCommand::Build(args) => build(args, world),
        ForgetCommand::Score(args) => score::run(args, world),
        ForgetCommand::Curve(args) => curve::run(args, world),
        ForgetCommand::Replay(args) => replay::run(args, world),
    }
}

/// Prompts and continuations as asked for, or else as the probes were cut.
fn probe_options(args: ProbeTokensArgs, cut: Option<ProbeOptions>) -> Result<ProbeOptions, Error> {
    let ProbeOptions { prompt_tokens, decode_tokens } = cut.unwrap_or_default();
    let read = |name: &str, asked: Option<usize>, usual: usize| match asked.unwrap_or(usual) {
        n if (1..=MAX_TOKENS).contains(&n) => Ok(n),
        n => Err(Error::usage_with_hint(
            format!("`{name} {n}` is not between 1 and {MAX_TOKENS}"),
            format!("leave it out for {usual}"),
        )),
    };
    Ok(ProbeOptions {
        prompt_tokens: read("--prompt-tokens", args.prompt_tokens, prompt_tokens)?,
        decode_tokens: read("--decode-tokens", args.decode_tokens, decode_tokens)?,
    })
}

fn entities(args: &ForgetEntitiesArgs, world: &World<'_>) -> Result<Outcome, Error> {
    check_new_document(&world.storage, &args.out, ENTITIES.file())?;
    let found = choose_entities(&args.corpus, &args.reference, &args.titles, &*world.storage)?;
    let line = |one| format!("{}\n", serde_json::to_value(one).unwrap_or_default());
    let lines: String = found.entities.iter().map(line).collect();
    let n = found.entities.len();
    if n > 0 {
        publish_file(&*world.storage, &args.out, lines.as_bytes(), ENTITIES.file())?;
    }
    let document = document_of("thalweg-forget-entities-summary", &json!({"path": args.out, "n_entities": n}));
    let document = with_fields(document, &found);
    let (titles, n_found) = (counted(found.n_titles, "title"), found.n_found);
    if n == 0 {
        let text = format!(
            "none of {titles} of which {n_found} are in the corpus is frequent in the corpus and rare in the reference\n"
        );
        world.answer(&document, &text);
        return Ok(Outcome::No);
    }
    let (n, out) = (counted(n, "entity"), args.out.display());
    let mut text = format!("{n} of {titles}, of which {n_found} are in the corpus, into `{out}`\n");
    text.push_str(&format!("{:>10} {:>10}  {}\n", "corpus", "reference", "most frequent"));
    for one in found.entities.iter().take(10) {
        text.push_str(&format!("{:>10} {:>10}  {}\n", one.n_corpus, one.n_reference, display_name(&one.entity)));
    }
    let out = shell_path(&args.out);
    text.push_str(&format!("next: `thalweg forget build --entities {out} --corpus ... --like CKPT -o probes.jsonl`\n"));
    Ok(world.answer(&document, &text))
}

fn build(args: &ForgetBuildArgs, world: &World<'_>) -> Result<Outcome, Error> {
    let tokens = probe_options(args.tokens, None)?;
    check_new_document(&world.storage, &args.out, PROBES.file())?;
    let entities = read_entities(&*world.storage, &args.entities)?;
    let (like, named) = (args.like.as_deref(), args.tokenizer.as_deref());
    let tokenizer = open_tokenizer(named, like, &world.resolver(), &*world.storage)?;
    let options = BuildOptions { tokens, n_probes: args.samples, n_general: args.general, seed: args.seed };
    let built = build_probes(&args.corpus, &entities, &tokenizer, &options, &*world.storage)?;
    publish_file(&*world.storage, &args.out, built.lines.as_bytes(), PROBES.file())?;
    let tokens = json!({"prompt_tokens": tokens.prompt_tokens, "decode_tokens": tokens.decode_tokens});
    let document = document_of("thalweg-forget-probes-summary", &json!({"path": args.out}));
    let document = with_fields(with_fields(document, &built), &tokens);
    let out = args.out.display();
    let text = format!(
        "{} of {} and {} of the whole corpus into `{out}`\n({} of entities in {})\nnext: `thalweg forget score RUN --probes {}`\n",
        counted(built.n_probes, "sample"),
        counted(built.n_entities, "entity"),
        built.n_general,
        counted(built.n_places, "place"),
        counted(built.n_documents, "document"),
        shell_path(&args.out)
    );
    Ok(world.answer(&document, &text))
}
