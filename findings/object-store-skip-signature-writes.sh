#!/usr/bin/env bash
# object_store 0.14.2, Google Cloud Storage: `with_skip_signature(true)` spares reads the search for credentials, not writes.
#
# Expected: a client that signs nothing, for example for an emulator, needs no credentials.
# Observed: get() asks the server at once. put() first asks the metadata server of Google's machines for a token and fails
# where there is none. `Request::send` calls `credentials.get_credential()`, and not the method beside it that looks at
# `skip_signature`. `with_bearer_token("anything")` avoids it. The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export CARGO_HOME="$folder/packages" # what is installed and compiled goes to the folder
cargo init --quiet --vcs none --name finding
cargo add --quiet object_store@=0.14.2 --features gcp
cargo add --quiet tokio@=1.54.1 --features macros,rt-multi-thread
cargo generate-lockfile --quiet
cat > src/main.rs <<'RUST'
use std::io::{Read, Write};

use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::{ClientOptions, ObjectStoreExt, RetryConfig};

#[tokio::main]
async fn main() {
    // A server that has nothing, and counts how often it is asked.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let _ = stream.write_all(b"HTTP/1.1 404 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    let asked = || asked.load(std::sync::atomic::Ordering::Relaxed);
    let store = GoogleCloudStorageBuilder::new()
        .with_bucket_name("bucket")
        .with_base_url(&url)
        .with_skip_signature(true)
        .with_client_options(ClientOptions::new().with_allow_http(true))
        .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
        .build()
        .unwrap();
    let path = object_store::path::Path::from("key");
    eprintln!("get: {}", store.get(&path).await.unwrap_err());
    println!("get() asked the server {} times", asked());
    let before = asked();
    eprintln!("put: {}", store.put(&path, "x".into()).await.unwrap_err());
    println!("put() asked the server {} times", asked() - before);
}
RUST
cargo install --quiet --locked --debug --path . --root "$folder/installed" --target-dir "$folder/built"
# Without the credentials that the user may have.
env -u GOOGLE_APPLICATION_CREDENTIALS HOME="$folder" "$folder/installed/bin/finding" > seen
cat seen
cat > expected << 'SEEN'
get() asked the server 1 times
put() asked the server 0 times
SEEN
if ! diff expected seen; then
    echo "changed: writes are treated differently now" >&2
    exit 1
fi
