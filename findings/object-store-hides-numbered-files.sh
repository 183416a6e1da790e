#!/usr/bin/env bash
# object_store 0.14.2, local file system: a file whose name ends in # and digits is not listed and cannot be read or written.
#
# Expected: what is in the folder is listed, as by `ls`.
# Observed: such names are those of the store's own unfinished uploads. `list` leaves out `run#2` without a word, but has `run#2a`; a
# direct read of it is an error. And `Path::from("run#2")`, the usual way to make a path, encodes the # and names another file, `run%232`,
# which is written and read without an error and seen under that name by every other program. The same holds for `~`, `?`, `[` and all
# letters beyond ASCII; `Path::parse` takes names as they are. The script fails when one of these changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export CARGO_HOME="$folder/packages" # what is installed and compiled goes to the folder
cargo init --quiet --vcs none --name listing
cargo add --quiet object_store@=0.14.2
cargo add --quiet tokio@=1.54.1 --features macros,rt-multi-thread
cargo generate-lockfile --quiet
cat > src/main.rs <<'RUST'
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

#[tokio::main]
async fn main() {
    std::fs::create_dir("objects").unwrap();
    for name in ["run#2", "run#2a", "run~2"] {
        std::fs::write(format!("objects/{name}"), "weights").unwrap();
    }
    let store = LocalFileSystem::new_with_prefix("objects").unwrap();
    let listed = store.list_with_delimiter(None).await.unwrap();
    let mut names: Vec<_> = listed.objects.iter().map(|object| object.location.to_string()).collect();
    names.sort();
    println!("listed: {names:?}");
    for name in ["run#2", "run#2a", "run~2"] {
        let (parsed, encoded) = (Path::parse(name).unwrap(), Path::from(name));
        println!("{name}: parse reads it: {}, from reads it: {}", store.get(&parsed).await.is_ok(), store.get(&encoded).await.is_ok());
    }
    store.put(&Path::from("run#2"), "others".into()).await.unwrap();
    println!("after a put to Path::from(\"run#2\"): {:?}, {}", std::fs::read_to_string("objects/run#2").unwrap(), std::fs::exists("objects/run%232").unwrap());
}
RUST
cargo install --quiet --locked --debug --path . --root "$folder/installed" --target-dir "$folder/built"
"$folder/installed/bin/listing" > seen
cat seen
cat > expected << 'SEEN'
listed: ["run#2a", "run~2"]
run#2: parse reads it: false, from reads it: false
run#2a: parse reads it: true, from reads it: false
run~2: parse reads it: true, from reads it: false
after a put to Path::from("run#2"): "weights", true
SEEN
if ! diff expected seen; then
    echo "changed: names are treated otherwise now" >&2
    exit 1
fi
