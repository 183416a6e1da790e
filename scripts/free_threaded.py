"""Uses the package from many threads at once, without torch: for a free-threaded Python, and with the GIL too.

    scripts/python_free_threaded.sh PYTHON      builds the wheel for PYTHON and runs this
"""

import sys
import sysconfig
import threading
from pathlib import Path

import thalweg

RUN = Path(__file__).resolve().parent.parent / "fixtures/hf-sharded"
N_THREADS = 8
ROUNDS = 10


def bytes_of(merge):
    return {name: tensor.tobytes() for name, tensor in merge}


def in_threads(act):
    """Calls `act(i)` in many threads that start together; what failed in any of them fails here."""
    together = threading.Barrier(N_THREADS)
    failures = []

    def work(i):
        together.wait()
        try:
            for _ in range(ROUNDS):
                act(i)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(N_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for failure in failures:
        raise failure


def check_the_gil_stays_off():
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        assert not sys._is_gil_enabled(), "importing the package turned the GIL on"


def check_shared_and_own_merges():
    plans = [thalweg.plan(RUN, last=4, scheme=scheme) for scheme in ("sma", "wma")]
    expected = [bytes_of(thalweg.merge(plan)) for plan in plans]
    shared = [thalweg.merge(plan, threads=2) for plan in plans]

    def act(i):
        assert bytes_of(shared[i % 2]) == expected[i % 2]
        assert bytes_of(thalweg.merge(plans[i % 2], threads=1)) == expected[i % 2]

    in_threads(act)


def check_one_iterator_of_all_threads():
    merge = thalweg.merge(thalweg.plan(RUN, last=4))
    iterator, found = iter(merge), []

    def act(_):
        try:
            for name, tensor in iterator:
                found.append((name, tensor.tobytes()))
        except RuntimeError as error:
            assert "orrowed" in str(error), error

    in_threads(act)
    while len(found) < len(merge):
        found.append(next(iterator))
    assert sorted(name for name, _ in found) == merge.keys()


def check_callbacks_and_errors():
    plan = thalweg.plan(RUN, last=4)

    class Stop(Exception):
        pass

    def act(i):
        told = []
        list(thalweg.merge(plan, threads=1, progress=lambda *row: told.append(row)))
        assert told[-1][2] == "merge"

        def stop(*_):
            raise Stop

        for wanted, call in (
            (Stop, lambda: list(thalweg.merge(plan, progress=stop))),
            (thalweg.UsageError, lambda: thalweg.plan(RUN)),
            (thalweg.TrajectoryError, lambda: thalweg.plan(RUN, last=9)),
        ):
            try:
                call()
            except wanted:
                continue
            raise AssertionError(f"{wanted.__name__} was expected")

    in_threads(act)


def check_records_of_a_sweep():
    sweep = thalweg.sweep(RUN, [2, 3, 4], schemes=["sma", "wma"])
    trials = sweep.plans

    def act(i):
        for trial in trials[i % 2 :: 2]:
            trial.record({"text/nll": 1.0 + len(trial.name)})
            assert trial.scores == {"text/nll": 1.0 + len(trial.name)}
            repr(sweep.best())

    for trial in trials:
        trial.record({"text/nll": 9.0})
    in_threads(act)


def check_saves_while_others_read():
    from thalweg._thalweg import _Saves

    saves = _Saves(2)
    entries = [(f"layers.{i}", "F32", [64, 64]) for i in range(16)]
    is_over = threading.Event()

    def save():
        for step in range(1, 400):
            saves.keep(step, list(zip((name for name, _, _ in entries), saves.room(step, entries))))
        is_over.set()

    saver = threading.Thread(target=save)
    saver.start()

    def act(_):
        for step, tensors in saves.saves():
            assert all(not any(tensor.tobytes()) for _, tensor in tensors), step
        assert saves.steps == sorted(saves.steps)

    in_threads(act)
    saver.join()
    assert is_over.is_set() and saves.steps == [398, 399]
    assert len(saves.window().keys()) == 16


if __name__ == "__main__":
    for name, check in list(globals().items()):
        if name.startswith("check_"):
            check()
            check_the_gil_stays_off()
            print(f"ok  {name.removeprefix('check_').replace('_', ' ')}")
    print(f"Python {sys.version}")
