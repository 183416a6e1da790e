//! What can be typed for `serve`.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  thalweg serve merged                               the page of a watcher's folder, on this machine
  thalweg serve studies --port 8000                  each study in a folder that holds several
  thalweg serve merged --bind 0.0.0.0                for other machines, with a token in the address
  ssh -L 4840:127.0.0.1:4840 login.cluster           the port of another machine on this one

The page updates itself. It is read-only, serves no files and loads nothing from elsewhere.
If a proxy passes requests on under its own name, give that name with --allow-host.
`thalweg report DIR` writes the same page as one file.")]
pub(crate) struct ServeArgs {
    /// Folder of a study or a watcher, or one that holds several of them
    #[arg(value_name = "DIR")]
    pub(crate) path: PathBuf,
    #[command(flatten)]
    pub(crate) at: ServeAtArgs,
    /// Port; 0 takes any free port [default: 4840, or any if that is taken]
    #[arg(long, value_name = "PORT", help_heading = "Page")]
    pub(crate) port: Option<u16>,
}

/// Where a page is served, and to whom.
#[derive(Debug, Args)]
pub(crate) struct ServeAtArgs {
    /// Address to listen on; anything but loopback needs a token, which is generated if none is given
    #[arg(long, value_name = "ADDRESS", help_heading = "Page", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub(crate) bind: IpAddr,
    /// Require a token on loopback too, where other users of the machine could see the page
    #[arg(long, help_heading = "Page")]
    pub(crate) token: bool,
    /// Take the token from the first line of this file, so that it stays the same over restarts
    #[arg(long, value_name = "FILE", help_heading = "Page")]
    pub(crate) token_file: Option<PathBuf>,
    /// Accept another host name for the page, such as that of a proxy; repeatable
    #[arg(long, value_name = "NAME", help_heading = "Page")]
    pub(crate) allow_host: Vec<String>,
}

impl ServeAtArgs {
    /// Whether nothing was asked for.
    pub(crate) fn is_default(&self) -> bool {
        self.bind.is_loopback() && !self.token && self.token_file.is_none() && self.allow_host.is_empty()
    }
}
