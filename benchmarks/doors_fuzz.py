"""Hostile bundles at every door: ``from_pretrained``, ``genaf verify``, ``genaf report``, the server's loader.

    python benchmarks/doors_fuzz.py [--cases 3000] [--seed 0] [--doors NAME ...] [--rows FILE]

Each case changes a copy of a sound bundle by chance (``tests/hostile.py`` says how) and lets it in by one door, by
turns. What must come of it is success or an error of this package, within 60 seconds of processor time, a quarter of
an hour by the clock and 8 GiB of addresses, without a file outside of the folder, the network or a process. Cases run
in a process that is replaced when it dies or hangs. Exits with 1 if a case fails. Case N of seed S is case 0 of seed
S + N at the same door.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import torch
from hostile import DOORS, attempt, small_bundle

SECONDS, WAITING, ADDRESSES = 60, 900, 8 * 2**30


def work(first: int, options: argparse.Namespace) -> None:
    """Run cases from the given one to the last, and append a row for each."""
    import resource

    torch.set_num_threads(1)
    faulthandler.register(signal.SIGPROF, chain=True)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory() as folder, options.rows.open("a", encoding="utf-8") as rows:
        scratch = Path(folder)
        sound, data = small_bundle(scratch / "sound")
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
        for number in range(first, options.cases):
            door, seed = options.doors[number % len(options.doors)], options.seed + number
            began, wrong = time.monotonic(), ""
            faulthandler.dump_traceback_later(WAITING, exit=True)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)  # whose signal ends the process
            try:
                outcome = attempt(door, sound, data, scratch, seed)
            except BaseException as error:  # whatever it is, it is what is looked for
                outcome, wrong = type(error).__name__, traceback.format_exc()[-3000:]
            signal.setitimer(signal.ITIMER_PROF, 0)
            faulthandler.cancel_dump_traceback_later()
            row = {"door": door, "seed": seed, "outcome": outcome, "seconds": round(time.monotonic() - began, 2)}
            rows.write(json.dumps(row | ({"wrong": wrong} if wrong else {})) + "\n")
            rows.flush()


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def run(options: argparse.Namespace) -> list[dict[str, object]]:
    """Run all cases, in another process after one that ended its own; return the rows."""
    while (done := len(read(options.rows))) < options.cases:
        command = [sys.executable, __file__, *sys.argv[1:], "--rows", str(options.rows), "--first", str(done)]
        ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace", check=False)  # noqa: S603
        if ended.returncode:
            number = len(read(options.rows))
            door, seed = options.doors[number % len(options.doors)], options.seed + number
            row = {"door": door, "seed": seed, "outcome": f"exit status {ended.returncode}", "seconds": SECONDS}
            with options.rows.open("a", encoding="utf-8") as rows:
                rows.write(json.dumps(row | {"wrong": ended.stderr[-3000:]}) + "\n")
    return read(options.rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--doors", nargs="+", choices=list(DOORS), default=list(DOORS), metavar="NAME")
    parser.add_argument("--rows", type=Path, help="JSON lines, one a case; an unfinished file is gone on with")
    parser.add_argument("--first", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.first is not None:
        work(options.first, options)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        options.rows = options.rows or Path(folder) / "rows.jsonl"
        rows = run(options)
    for door in options.doors:
        mine = [row for row in rows if row["door"] == door]
        counts = Counter(str(row["outcome"]) for row in mine).most_common()
        slowest = max((float(str(row["seconds"])) for row in mine), default=0.0)
        said = ", ".join(f"{count} {outcome}" for outcome, count in counts)
        print(f"{door:27} {len(mine)} cases, the slowest {slowest:.1f} s: {said}")
    failed = [row for row in rows if "wrong" in row]
    for row in failed[:20]:
        print(f"\n{row['door']}, seed {row['seed']}: {row['outcome']}\n{row['wrong']}")
    print(f"{len(rows)} cases, {len(failed)} failed")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
