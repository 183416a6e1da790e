#!/usr/bin/env bash
# object_store 0.14.2: renaming an object to its own name deletes it, except on the local file system.
#
# Expected: nothing happens, as with `std::fs::rename`, or an error.
# Observed: a store that cannot rename copies the object and deletes the source. With equal names the copy does nothing, the deletion
# does, and the answer is Ok: so in `InMemory`. The clients of S3, GCS and Azure have the same default, and there it depends on
# whether the server refuses the copy (not tried here). On the local file system the file stays. A step that moves a result to its
# place, run a second time with that place as the source, loses it. The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export CARGO_HOME="$folder/packages" # what is installed and compiled goes to the folder
cargo init --quiet --vcs none --name renaming
cargo add --quiet object_store@=0.14.2
cargo add --quiet tokio@=1.54.1 --features macros,rt-multi-thread
cargo generate-lockfile --quiet
cat > src/main.rs <<'RUST'
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

#[tokio::main]
async fn main() {
    std::fs::create_dir("objects").unwrap();
    let stores: [(&str, Box<dyn ObjectStore>); 2] =
        [("memory", Box::new(InMemory::new())), ("local", Box::new(LocalFileSystem::new_with_prefix("objects").unwrap()))];
    for (name, store) in stores {
        let path = Path::from("model");
        store.put(&path, "weights".into()).await.unwrap();
        let renamed = store.rename(&path, &path).await.is_ok();
        println!("{name}: rename to itself ok: {renamed}, still there: {}", store.head(&path).await.is_ok());
    }
}
RUST
cargo install --quiet --locked --debug --path . --root "$folder/installed" --target-dir "$folder/built"
"$folder/installed/bin/renaming" > seen
cat seen
cat > expected << 'SEEN'
memory: rename to itself ok: true, still there: false
local: rename to itself ok: true, still there: true
SEEN
if ! diff expected seen; then
    echo "changed: a rename to itself does something else now" >&2
    exit 1
fi
