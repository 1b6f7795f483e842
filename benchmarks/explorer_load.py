"""Do eight users at once, each with a sentence every two seconds, wait much longer than one alone?

    python benchmarks/explorer_load.py [--users 8] [--seconds 60] [--every 2]

The real server in a process of its own, with the bundled model. A user does what the page does: a
sentence is read, its last token's prediction and one head are looked at, and the sentence before is
closed. What is timed is all of that. Users start at different moments of the interval, and every answer
is compared with the sentence that was asked for.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import statistics
import subprocess
import sys
import threading
import time

SENTENCES = ["I love you", "The cat chased the mouse", "Once upon a time there was a little girl",
             "My dog likes to play in the park", "The animal didn't cross the street because it was too tired",
             "She put her red hat on the table and smiled"]


class User:
    """One browser: its cookie, its connection, and the times of its sentences."""

    def __init__(self, port: int, cookie: str) -> None:
        self._server = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._headers = {"Cookie": cookie, "Content-Type": "application/json", "Origin": f"http://127.0.0.1:{port}"}
        self.times: list[float] = []
        self.errors: list[str] = []
        self._open: str | None = None

    def ask(self, method: str, path: str, body: dict | None = None) -> bytes:
        self._server.request(method, path, json.dumps(body) if body else None, self._headers)
        answer = self._server.getresponse()
        found = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{method} {path}: {answer.status} {found[:200]!r}")
        return found

    def sentence(self, text: str) -> None:
        """Read a text and look at it as the page does."""
        message = self.ask("POST", "/api/traces", {"text": text, "model": "chat"})
        length = int.from_bytes(message[:8], "little")
        trace = json.loads(json.loads(message[8:8 + length])["__metadata__"]["klieg"])
        if trace["text"] != text:
            raise RuntimeError(f"asked for {text!r}, and got {trace['text']!r}")
        self.ask("GET", f"/api/traces/{trace['id']}/heads/0/0")
        self.ask("GET", f"/api/traces/{trace['id']}/next/{len(trace['tokens']) - 1}")
        if self._open:
            self.ask("DELETE", f"/api/traces/{self._open}")
        self._open = trace["id"]

    def live(self, began: float, seconds: float, every: float, first: int) -> None:
        """A sentence at every multiple of `every`, until the time is over; one that is late is asked for at once."""
        for n in range(int(seconds / every)):
            time.sleep(max(0.0, began + n * every - time.monotonic()))
            started = time.monotonic()
            try:
                self.sentence(SENTENCES[(first + n) % len(SENTENCES)])
            except (OSError, RuntimeError, ValueError, http.client.HTTPException) as e:
                self.errors.append(str(e))
            self.times.append(time.monotonic() - started)


def cookie(port: int, token: str) -> str:
    """What the first visit with a token gives."""
    asking = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    asking.request("GET", f"/?token={token}")
    answer = asking.getresponse()
    assert answer.status == 303, answer.status
    return answer.headers["Set-Cookie"].partition(";")[0]


def run(port: int, key: str, users: int, seconds: float, every: float) -> list[User]:
    """So many users at once, spread over one interval."""
    found = [User(port, key) for _ in range(users)]
    began = time.monotonic() + 0.1
    threads = [threading.Thread(target=user.live, args=(began + n * every / users, seconds, every, n), daemon=True)
               for n, user in enumerate(found)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 120)
    return found


def row(name: str, users: list[User]) -> float:
    """Print one line of the table; the 95th percentile."""
    times = sorted(t for user in users for t in user.times)
    p95 = statistics.quantiles(times, n=20, method="inclusive")[-1] if len(times) > 1 else times[0]
    errors = [line for user in users for line in user.errors]
    median, most = statistics.median(times), times[-1]
    print(f"| {name} | {len(times)} | {1000 * median:.0f} | {1000 * p95:.0f} | {1000 * most:.0f} | {len(errors)} |", flush=True)
    for line in errors[:3]:
        print(line, file=sys.stderr)
    return p95


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--every", type=float, default=2)
    given = parser.parse_args()
    server = subprocess.Popen([sys.executable, "-m", "klieg", "serve", "--no-browser", "--port", "0", "--model", "chat"],
                              stdout=subprocess.PIPE, text=True, encoding="utf-8")
    try:
        found = re.search(r"127\.0\.0\.1:(\d+)/\?token=([\w-]+)", server.stdout.readline())
        port, token = int(found[1]), found[2]
        key = cookie(port, token)
        User(port, key).sentence(SENTENCES[0])  # the model is loaded
        print("| who | sentences | median, ms | p95, ms | longest, ms | errors |\n|---|---|---|---|---|---|", flush=True)
        alone = row("one user alone", run(port, key, 1, given.seconds, given.every))
        together = row(f"{given.users} users at once", run(port, key, given.users, given.seconds, given.every))
        print(f"\np95 of {given.users} users: {together / alone:.2f} x that of one alone (bar: 3)")
    finally:
        server.terminate()
        server.wait(20)


if __name__ == "__main__":
    main()
