//! A server as arguments describe it: its folder, its address and the token of its readers.

use std::path::Path;
use std::sync::Arc;

use crate::args::ServeAtArgs;
use crate::error::Error;
use crate::host::World;
use crate::serve::{MIN_TOKEN_CHARS, ServeOptions, Server, Site, Waits, make_token};

/// A token has one line.
const MAX_TOKEN_BYTES: u64 = 4096;

/// Starts the server of a folder.
pub(crate) fn open_server(
    folder: &Path,
    at: &ServeAtArgs,
    port: Option<u16>,
    (waits, world): (Waits, &World<'_>),
) -> Result<Server, Error> {
    let token = token(at, world)?;
    let site = Site::open(Arc::clone(&world.storage), folder, waits)?;
    Server::start(site, ServeOptions { address: at.bind, port, token, hosts: at.allow_host.clone() })
}

/// The token that readers need, if they need one.
fn token(at: &ServeAtArgs, world: &World<'_>) -> Result<Option<String>, Error> {
    if let Some(path) = &at.token_file {
        let bytes = world.storage.read_file(path, MAX_TOKEN_BYTES)?;
        let text = String::from_utf8_lossy(&bytes);
        let token = text.lines().next().unwrap_or("").trim();
        if token.len() < MIN_TOKEN_CHARS || !token.chars().all(|c| c.is_ascii_alphanumeric() || "-_.~".contains(c)) {
            return Err(Error::usage_with_hint(
                format!(
                    "the first line of `{}` is not a token: it needs {MIN_TOKEN_CHARS} letters, digits or any of `-_.~`",
                    path.display()
                ),
                format!("make one with `openssl rand -hex 24 > {}`", thalweg_tensor::shell_path(path)),
            ));
        }
        return Ok(Some(token.to_owned()));
    }
    if !at.token && at.bind.is_loopback() {
        return Ok(None);
    }
    let made = make_token();
    made.map(Some).map_err(|error| {
        Error::usage_with_hint(format!("cannot make a token: {error}"), "give one with `--token-file FILE`")
    })
}
