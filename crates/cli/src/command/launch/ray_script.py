#!/usr/bin/env python3
# A merge by thalweg as tasks of Ray.
#
#   python3 SCRIPT            runs all shares and the last step
#   python3 SCRIPT 2,5-7      runs only these shares, and the last step
#
# On the cluster of RAY_ADDRESS, or of the job that runs it; without one on this machine alone. Finished shares are
# skipped, so it may be run again at any time.
import ctypes
import os
import shlex
import signal
import subprocess
import sys

import ray

PLAN = @PLAN@
PROGRAM = os.environ.get("THALWEG", @PROGRAM@)
SHARES = @SHARES@
CPUS = @CPUS@
RETRIES = @RETRIES@


def end_with_worker():
    """Called in the new process: a task that Ray runs again must not find its first attempt still running."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def merge(*words):
    # Ray lets libraries use one thread; the number of threads is said here.
    command = [PROGRAM, "merge", "--plan", PLAN, *words, "-j", str(CPUS)]
    return subprocess.run(command, capture_output=True, text=True, preexec_fn=end_with_worker)


# An exception is retried only if that is said. A crash of the worker is retried in any case.
@ray.remote(num_cpus=CPUS, max_retries=RETRIES, retry_exceptions=True, scheduling_strategy="SPREAD")
def share(number):
    done = merge("-q", "--shard", f"{number}/{SHARES}")
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RuntimeError(next((line for line in said if line.startswith("error:")), said[-1]))


@ray.remote(num_cpus=CPUS, max_retries=RETRIES)
def finish():
    done = merge("--finish", "--json")
    return done.returncode, done.stdout, done.stderr


def numbers(expression):
    for part in expression.split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def main():
    wanted = list(numbers(sys.argv[1])) if len(sys.argv) > 1 else list(range(SHARES))
    if not all(number < SHARES for number in wanted):
        sys.exit(f"there are {SHARES} shares, from 0 to {SHARES - 1}")
    ray.init(log_to_driver=False)
    tasks = {share.remote(number): number for number in wanted}
    pending = list(tasks)
    while pending:
        [task], pending = ray.wait(pending, num_returns=1)
        n_done = len(tasks) - len(pending)
        try:
            ray.get(task)
            print(f"share {tasks[task]} is done: {n_done} of {len(tasks)}", file=sys.stderr, flush=True)
        except ray.exceptions.RayError as error:
            why = str(error).strip().splitlines()[-1].removeprefix("RuntimeError: ")
            print(f"share {tasks[task]} failed: {why}", file=sys.stderr, flush=True)
    # In any case: it checks every share itself.
    status, document, said = ray.get(finish.remote())
    print(document, end="")
    print(said, end="", file=sys.stderr)
    if status != 0:
        missing = [line.split('"')[3] for line in document.splitlines() if line.startswith('  "rerun": "')]
        words = [sys.executable, os.path.abspath(__file__), *missing]
        print(f"to run what is missing: {shlex.join(words)}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
