#!/usr/bin/env python3
"""Watches real runs while they train: one watcher undisturbed, one that is killed and restarted at random moments.

  watched_run.py THALWEG OUT [--train-with THALWEG] [--python PYTHON] [--seed N]

The first run is that of `thalweg train`: its checkpoints are pruned as it trains, and at its end it is rolled back and
its last steps are written again by a run of another seed. The second, if PYTHON has torch and transformers, is that of
Hugging Face's Trainer on the CPU, which prunes by `save_total_limit`. Both watchers hold checkpoints by links. At the end
their records, without times, and the digests of their merges must be equal, and each merge must verify.
"""
import argparse, json, os, pathlib, random, re, shutil, signal, subprocess, sys, time

EVERY = 100
TRAIN = """kind = "thalweg-train"
version = 1
seed = {seed}
steps = 2000
sequence_length = 64
batch_sequences = 4
tokenizer = "bpe-512"
[model]
hidden = 48
layers = 2
heads = 2
intermediate = 96
[[data]]
from = "stories"
limit = 400
[optimizer]
learning_rate = 0.01
[schedule]
kind = "wsd"
warmup_steps = 8
anneal_steps = 0
curve = "linear"
[checkpoints]
every_steps = {every}
keep_states = 0
"""

TRAINER = """
import sys, torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
config = LlamaConfig(hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2, vocab_size=256, max_position_embeddings=64)
torch.manual_seed(1)
model = LlamaForCausalLM(config)
data = [dict(input_ids=row, labels=row) for row in torch.randint(0, 256, (256, 64))]
Trainer(model, TrainingArguments(sys.argv[1], max_steps=60, save_steps=4, save_total_limit=6, logging_steps=4, report_to=[],
    per_device_train_batch_size=4, learning_rate=1e-3, lr_scheduler_type="constant", use_cpu=True), train_dataset=data).train()
"""


def steps_of(run):
    found = {int(re.sub(r"\D", "", path.name)): path for path in run.glob("*-[0-9]*") if re.fullmatch(r"\w+-\d+", path.name)}
    return dict(sorted(found.items()))


def record(out):
    """Lines by event and name, the last of each: without times. The order of merges of one look is not kept."""
    rows = [json.loads(line) for line in (out / "watch.jsonl").read_text().splitlines()]
    for row in rows:
        row.pop("unix_seconds")
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


class Watchers:
    def __init__(self, thalweg, run, work, dice):
        self.command = [thalweg, "watch", run, "--windows", "sma:4,wma:4", "--hold", "--poll", "100ms", "-q"]
        self.dice, self.work, self.run, self.n_kills = dice, work, run, 0
        self.outs = [work / "undisturbed", work / "killed"]
        self.logs = [open(work / f"{out.name}.log", "ab") for out in self.outs]
        self.until = work / "done"
        self.processes = [self.start(i) for i in range(2)]
        self.next_kill = time.monotonic() + 1

    def start(self, i):
        return subprocess.Popen([*self.command, "--until", self.until, "-o", self.outs[i]], stdout=self.logs[i], stderr=self.logs[i])

    def step(self):
        """Kills one of them now and then, and starts it again at once or a little later."""
        if time.monotonic() < self.next_kill:
            return
        if self.processes[1].poll() is None and self.dice.random() < 0.7:
            self.processes[1].send_signal(self.dice.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGINT]))
            self.processes[1].wait()
            self.n_kills += 1
            self.next_kill = time.monotonic() + self.dice.uniform(0, 0.3)
        else:
            if self.processes[1].poll() is not None:
                self.processes[1] = self.start(1)
            self.next_kill = time.monotonic() + self.dice.uniform(0.02, 4)

    def settle(self):
        """Waits until both have merged what is there. Nothing is killed meanwhile, so that both end somewhere."""
        if self.processes[1].poll() is not None:
            self.processes[1] = self.start(1)
        newest = f'"end_step":{max(steps_of(self.run))}'
        since, before = time.monotonic(), None
        end = since + 120
        while time.monotonic() < end:
            time.sleep(0.1)
            texts = [path.read_text() if path.exists() else "" for path in (out / "watch.jsonl" for out in self.outs)]
            if texts != before:
                since, before = time.monotonic(), texts
            if time.monotonic() > since + 3 and all(newest in text for text in texts):
                return
        sys.exit("the watchers do not come to rest")

    def finish(self, thalweg, what):
        if self.processes[1].poll() is not None:
            self.processes[1] = self.start(1)
        self.until.write_text("")
        codes = [process.wait(timeout=120) for process in self.processes]
        records = [record(out) for out in self.outs]
        only = [sorted(set(records[i]) - set(records[1 - i])) for i in range(2)]
        for i in range(2):
            for row in only[i][:5]:
                print(f"only {self.outs[i].name}: {row[:300]}")
        digests = [{p.parent.name: json.loads(p.read_text())["digest"] for p in out.glob("*/thalweg.json")} for out in self.outs]
        verified = [subprocess.run([thalweg, "verify", path.parent, "-q"], stdout=subprocess.DEVNULL).returncode for out in self.outs for path in out.glob("*/thalweg.json")]
        is_equal = codes == [0, 0] and records[0] == records[1] and digests[0] == digests[1] and not any(verified)
        print(f"{what}: {self.n_kills} kills, {len(digests[0])} merges, {len(records[0])} lines, exit codes {codes}, "
              f"records equal {records[0] == records[1]}, digests equal {digests[0] == digests[1]}, {len(verified)} verified, {sum(map(bool, verified))} bad")
        return is_equal


def prune(run, n_kept, is_safe):
    for step, path in list(steps_of(run).items())[:-n_kept]:
        if is_safe(step):
            shutil.rmtree(path, ignore_errors=True)


def own_run(thalweg, train, work, dice):
    run, other = work / "run", work / "other"
    for name, seed in (("run", 3), ("other", 4)):
        (work / f"{name}.toml").write_text(TRAIN.format(seed=seed, every=EVERY))
    subprocess.run([train, "train", work / "other.toml", "-o", other, "-q"], check=True)
    watchers = Watchers(thalweg, run, work, dice)
    trainer = subprocess.Popen([train, "train", work / "run.toml", "-o", run, "-q"])
    while trainer.poll() is None:
        watchers.step()
        time.sleep(0.02)
        # A trainer that keeps ten, on a machine where a watcher may be dead for seconds: it waits for the links.
        held = [{path.name for path in (out / "held").glob("*")} if (out / "held").exists() else set() for out in watchers.outs]
        # What neither needs any more, because all windows with it are made, may go as well.
        ends = lambda step: range(max(step, 4 * EVERY), step + 4 * EVERY, EVERY)
        is_made = lambda out, step: all((out / f"step{end:07}-n4-wma").exists() for end in ends(step))
        prune(run, 10, lambda step: all(f"step-{step}" in names or is_made(out, step) for names, out in zip(held, watchers.outs)))
    watchers.settle()
    # Rolled back by five checkpoints, whose steps recur with other bytes.
    steps = list(steps_of(run))
    for step in steps[-5:]:
        shutil.rmtree(run / f"step-{step}")
    for step in steps[-5:]:
        shutil.copytree(other / f"step-{step}", run / f".new-{step}")
        os.rename(run / f".new-{step}", run / f"step-{step}")
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            watchers.step()
            time.sleep(0.02)
    watchers.settle()
    return watchers.finish(thalweg, "thalweg train")


def trainer_run(thalweg, python, work, dice):
    run = work / "run"
    watchers = Watchers(thalweg, run, work, dice)
    trainer = subprocess.Popen([python, "-c", TRAINER, run], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while trainer.poll() is None:
        watchers.step()
        time.sleep(0.02)
    if trainer.returncode:
        sys.exit("the Trainer failed")
    watchers.settle()
    return watchers.finish(thalweg, "Hugging Face Trainer")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("thalweg")
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--train-with", metavar="THALWEG", help="another build that trains")
    parser.add_argument("--python")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    thalweg, dice = os.path.abspath(args.thalweg), random.Random(args.seed)
    shutil.rmtree(args.out, ignore_errors=True)
    results = []
    for name in ("own", "trainer"):
        work = args.out.resolve() / name
        work.mkdir(parents=True)
        if name == "own":
            results.append(own_run(thalweg, os.path.abspath(args.train_with or thalweg), work, dice))
        elif args.python:
            results.append(trainer_run(thalweg, args.python, work, dice))
    sys.exit(not all(results))


main()
