# What runs/forget.sh and runs/replay.sh share: a small model, trained in phase A on stories and synthetic facts, and what
# it is asked about them. To be sourced in the repository's root. CORPORA names the folder of the corpora [default: corpora],
# THALWEG the binary.
thalweg=${THALWEG:-target/release/thalweg}
stories=$(realpath "${CORPORA:-corpora}")/stories/train.jsonl.zst
# Steps of phase A, and of phase B.
a=420
b=126

config() { # FILE SEED STEPS CHECKPOINTS: the config of a run, without its data; CHECKPOINTS says which ones it keeps
    cat > "$1" <<TOML
kind = "thalweg-train"
version = 1
seed = $2
steps = $3
sequence_length = 96
batch_sequences = 16
tokenizer = "bpe-512"
[model]
hidden = 64
layers = 3
heads = 4
intermediate = 128
[optimizer]
learning_rate = 5e-3
[schedule]
kind = "constant"
warmup_steps = 20
[checkpoints]
$4
TOML
}
data() { # CONFIG NAME SOURCE SHARE
    printf '[[data]]\nname = "%s"\nfrom = "%s"\nlimit = 2000\nshare = %s\n' "${@:2}" >> "$1"
}
train() { # CONFIG FOLDER
    [ -e "$2/done" ] && return
    rm -rf "$2"
    "$thalweg" train "$1" -o "$2" --quiet -j 1
    touch "$2/done"
}
train_a() { # SEED DIR CHECKPOINTS: DIR/facts.jsonl and DIR/titles.txt, and phase A in DIR/a
    [ -s "$2/titles.txt" ] || python3 runs/forget_facts.py "$1" 40 "$2"
    config "$2/a.toml" "$1" $a "$3"
    data "$2/a.toml" stories "$stories" 0.4
    data "$2/a.toml" facts "$2/facts.jsonl" 0.6
    train "$2/a.toml" "$2/a"
}
build_probes() { # SEED DIR: DIR/entities.jsonl and DIR/probes.jsonl
    local corpora=(--corpus "$2/facts.jsonl" --corpus "$stories")
    [ -s "$2/entities.jsonl" ] || "$thalweg" forget entities "${corpora[@]}" --reference "$stories" --titles "$2/titles.txt" \
        -o "$2/entities.jsonl" --quiet
    [ -s "$2/probes.jsonl" ] || "$thalweg" forget build "${corpora[@]}" --entities "$2/entities.jsonl" --like "$2/a/step-$a" \
        --prompt-tokens 32 --decode-tokens 24 --samples 40 --general 60 --seed "$1" -o "$2/probes.jsonl" --quiet
}
score() { # DIR NAME ARGUMENT...: DIR/scores-NAME.json, over what the end of phase A recalls
    local dir=$1 file=$1/scores-$2.json
    shift 2
    [ -s "$file" ] || "$thalweg" forget score "$@" --probes "$dir/probes.jsonl" --recalled-by "$dir/a/step-$a" -o "$file" --quiet -j 1
}
