//! `thalweg serve`: the pages of studies and watchers, kept current in a browser.

use serde_json::json;
use thalweg_tensor::counted;

use crate::args::ServeArgs;
use crate::command::Outcome;
use crate::error::Error;
use crate::host::World;
use crate::serve::Waits;
use crate::serve::open::open_server;

pub(crate) fn run(args: &ServeArgs, world: &World<'_>) -> Result<Outcome, Error> {
    let server = open_server(&args.path, &args.at, args.port, (Waits::No, world))?;
    world.messages.json_line(&json!({
        "kind": "thalweg-serve", "version": 1, "path": args.path, "url": server.url, "n_studies": server.site().n_studies(),
    }));
    world.messages.text(&format!(
        "{} in `{}` at {} (read-only; press Ctrl-C to stop)\n",
        counted(server.site().n_studies(), "study"),
        args.path.display(),
        server.url
    ));
    world.wait_for_stop();
    Ok(Outcome::Done)
}
