"""First paint and update of the live page with many points, in headless Chromium.

    python3 bench/live_page.py [--thalweg target/release/thalweg] [--ends 3400] [--repeats 5]

Makes a watcher's record of one raw checkpoint and two merges at each end (10,200 points for 3,400 ends), serves it, and
measures in the browser: the first contentful paint after navigation, the request for new content, its replacement by the
script, and the time from its arrival to the end of the next frame, with layout. Needs Chromium and nothing else.
"""

import argparse
import json
import math
import os
import pathlib
import random
import select
import signal
import subprocess
import tempfile
import time

MERGES = (("sma", 10), ("wma", 10))


def write_record(folder, n_ends):
    """A record whose last end is `n_ends`, and what is known about the run."""
    draw = random.Random(1)
    last = n_ends * 10

    def smooth(step):
        return 1.9 + 4 * math.exp(-step / (last * 0.06)) + 0.6 * math.exp(-step / (last * 0.45))

    def scores(value, gain=None):
        row = dict(suite="made-up", task="text", measure="nats_per_token", value=value, standard_error=0.012, n=240, higher_is_better=False)
        return [row | ({"gain": {"value": gain, "interval_95": [gain - 0.006, gain + 0.006]}} if gain else {})]

    rows = []
    for i in range(1, n_ends + 1):
        step, raw = i * 10, smooth(i * 10) + 0.05 + 0.02 * draw.uniform(-1, 1)
        head = dict(kind="thalweg-watch", version=1, end_step=step, unix_seconds=1, end_tokens=step * 500_000)
        rows.append(head | dict(event="scored", name=f"step-{step}", scheme="raw", n_checkpoints=1, steps=[step], digest=f"blake3:{i:064x}", scores=scores(raw)))
        for scheme, n in MERGES:
            if i < n:
                continue
            value = smooth(step) + 0.02 + 0.003 * draw.uniform(-1, 1)
            merge = dict(name=f"step{step:07}-n{n}-{scheme}", scheme=scheme, n_checkpoints=n, digest=f"blake3:{i * 7 + len(scheme):064x}")
            merge["steps"] = [step - (n - 1 - j) * 10 for j in range(n)]
            rows.append(head | merge | dict(event="merged"))
            rows.append(head | merge | dict(event="scored", scores=scores(value, raw - value)))
    run = dict(kind="thalweg-study", version=2, tool="made up", command="thalweg watch run", title="made up, watched", run_path="run")
    run["training"] = [dict(step=step, nll_nats=smooth(step) + draw.gauss(0.06, 0.05), learning_rate=3e-4) for step in range(10, last + 1, 10)]
    run["checkpoints"] = [dict(step=i * 10, tokens=i * 5_000_000, seconds=i * 60.0) for i in range(1, n_ends + 1)]
    run["cost"] = dict(bytes_read=0, n_evaluations=0, n_tokens=0, seconds=0.0)
    for name, text in (("watch-run.json", json.dumps(run)), ("watch.jsonl", "".join(json.dumps(row) + "\n" for row in rows))):
        beside = folder / (name + ".new")
        beside.write_text(text)
        beside.rename(folder / name)


class Chromium:
    """Spoken to over two pipes, as `--remote-debugging-pipe` wants it."""

    def __init__(self):
        to_read, self.to = os.pipe()
        self.back, to_write = os.pipe()
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        line = 'exec chromium --headless --no-sandbox --remote-debugging-pipe "--user-data-dir=$0" about:blank 3<&0 4>&1 0</dev/null 1>/dev/null 2>/dev/null'
        self.process = subprocess.Popen(["sh", "-c", line, self.profile.name], stdin=to_read, stdout=to_write, start_new_session=True)
        self.held, self.n_calls, self.session = b"", 0, None
        page = next(one for one in self.call("Target.getTargets")["targetInfos"] if one["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        self.call("Page.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=1280, height=900, deviceScaleFactor=1, mobile=False)

    def call(self, method, **parameters):
        self.n_calls += 1
        message = dict(id=self.n_calls, method=method, params=parameters) | ({"sessionId": self.session} if self.session else {})
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.held:
                if not select.select([self.back], [], [], 60)[0]:
                    raise TimeoutError(method)
                self.held += os.read(self.back, 1 << 20)
            answer, self.held = self.held.split(b"\0", 1)
            answer = json.loads(answer)
            if answer.get("id") == self.n_calls:
                return answer["result"]

    def value(self, expression):
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)["result"].get("value")

    def until(self, expression):
        end = time.monotonic() + 120
        while not (value := self.value(expression)):
            if time.monotonic() > end:
                raise TimeoutError(expression)
            time.sleep(0.02)
        return value

    def close(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


HEAR = """
(function () {
  window.heard = [];
  var replace = new MutationObserver(function () {
    requestAnimationFrame(function () { setTimeout(function () {
      var request = performance.getEntriesByType("resource").filter(function (one) { return one.name.endsWith("/content"); }).pop();
      var update = performance.getEntriesByName("update").pop();
      window.heard.push({ request: request.duration, replace: update.duration, shown: performance.now() - update.startTime });
    }); });
  });
  replace.observe(document.getElementById("content"), { childList: true });
})()
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--thalweg", default="target/release/thalweg")
    parser.add_argument("--ends", type=int, default=3400)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        write_record(folder, args.ends)
        server = subprocess.Popen([args.thalweg, "serve", folder, "--json", "--port", "0"], stdout=subprocess.PIPE, text=True)
        browser = Chromium()
        try:
            url = json.loads(server.stdout.readline())["url"]
            paints = []
            for _ in range(args.repeats):
                browser.call("Page.navigate", url=url)
                browser.until("document.getElementById('live') && document.getElementById('live').textContent === 'Live'")
                paints.append(browser.until("(performance.getEntriesByName('first-contentful-paint')[0] || {}).startTime"))
            n_bytes = browser.value("document.getElementById('content').innerHTML.length")
            n_marks = browser.value("document.querySelectorAll('.mark').length")
            browser.value(HEAR)
            heard, waits = [], []
            for i in range(args.repeats):
                write_record(folder, args.ends + i + 1)
                begun = time.monotonic()
                heard.append(browser.until(f"window.heard.length > {i} && window.heard[{i}]"))
                waits.append((time.monotonic() - begun) * 1000)
        finally:
            browser.close()
            server.send_signal(signal.SIGINT)
            server.wait()
    middle = lambda values: sorted(values)[len(values) // 2]
    print(f"{3 * args.ends - 18} points, {n_marks} marks, {n_bytes / 1e3:.0f} kB of content; medians of {args.repeats}, in ms")
    print(f"first contentful paint {middle(paints):.0f} ({min(paints):.0f} to {max(paints):.0f})")
    for name, what in (("request", "new content over HTTP"), ("replace", "content replaced"), ("shown", "from the arrived content to the end of the next frame")):
        values = [one[name] for one in heard]
        print(f"{what} {middle(values):.0f} ({min(values):.0f} to {max(values):.0f})")
    print(f"from the new record on disk to the new page {middle(waits):.0f} ({min(waits):.0f} to {max(waits):.0f})")


if __name__ == "__main__":
    main()
