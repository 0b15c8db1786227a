"""A siege of the server on this machine: every limit in turn, for an hour, with a bystander who wants to be served.

    python benchmarks/serving_siege.py [--minutes 60] [--share 0.01 1.0] [--niceness 10] [--only ATTACK ...]

One attack after another, each in a process of its own, at a share of what the limits allow that is drawn anew every
time. Every 50 ms somebody asks for the server's health; after every attack, for a picture and a tensor. A round is all
attacks once; one that is not over after five minutes is ended. The first round, at full strength, is what the server's
memory is compared with afterwards: libraries load and pools fill in it. Exits with 1 if a bar is missed: memory grows
by more than 64 MiB, health fails or takes more than 100 ms (99 of 100), or a bystander is not answered.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "export" / "serve"))
from servers import our_server
from siege import ATTACKS, INFER, MIB, Bystander, Target, ask, children, picture, resident, storm, tensor_request
from tiny import make_bundle

LIMITS = {"max-body": 64 * MIB, "max-memory": 512 * MIB, "max-connections": 100, "timeout": 5}
MOST_MEMORY, MOST_SECONDS = 64, 0.1
SIDE = 224
"""Of the images of a second model, which 32 at once make gRPC messages of 18 MiB."""
QUIET = 8
"""Seconds after a round: by then what the allocator has kept is given back."""


@dataclass
class Findings:
    """What the bystander saw of one attack, over all rounds."""

    latencies: list[float] = field(default_factory=list)
    failures: int = 0
    unanswered: int = 0
    rounds: int = 0
    ended: int = 0
    peak: float = 0.0
    after: float = 0.0


def attack(name: str, target: Target, share: float, niceness: int, found: Findings) -> None:
    """Run one attack at a share of the limits and look on."""
    weaker = Target(
        target.http,
        target.rpc,
        target.process,
        max_body=max(int(target.max_body * share), 2 * MIB),
        max_message=max(int(target.max_message * share), 1000),
        max_pixels=max(int(target.max_pixels * share), 1000),
    )
    with Bystander(target) as bystander:
        found.ended += not storm(name, weaker, seconds=300, niceness=niceness)
    body, headers = tensor_request()
    served = [ask(target.http, "POST", "/classify", picture()), ask(target.http, "POST", INFER, body, headers)]
    found.latencies += bystander.latencies
    found.failures += len(bystander.failures)
    found.unanswered += sum(status != 200 for status, _ in served)
    found.rounds += 1
    found.peak = max(found.peak, bystander.peak)
    found.after = resident(target.process)


def besiege(target: Target, options: argparse.Namespace) -> tuple[float, float]:
    """Attack in rounds, print each; return how memory grew (MiB) and what health took, infinity where it failed."""
    chance, found = np.random.default_rng(0), {name: Findings() for name in options.only}
    until, started, number, grown = time.monotonic() + 60 * options.minutes, 0.0, 0, 0.0
    while number < 2 or time.monotonic() < until:
        for name in options.only:
            if number < 2 or time.monotonic() < until:
                share = chance.uniform(*options.share) if number else 1.0
                attack(name, target, share, options.niceness, found[name])
        time.sleep(QUIET)
        memory = resident(target.process)
        if number == 0:
            started = memory
            for each in found.values():
                each.latencies.clear()
        grown = max(grown, memory - started)
        workers = sum(map(resident, children(target.process)))
        print(f"round {number}: server {memory:.0f} MiB, its processes {workers:.0f} MiB", flush=True)
        number += 1
    for name, each in found.items():
        p50, p99, most = (1e3 * float(np.quantile(each.latencies or [0], share)) for share in (0.5, 0.99, 1.0))
        print(
            f"{name:14}  {each.rounds} times, health p50 {p50:.1f} p99 {p99:.1f} max {most:.0f} ms, "
            f"{each.failures} failures, {each.unanswered} of {2 * each.rounds} not served, {each.ended} ended, "
            f"memory at most {each.peak:.0f}, after {each.after:.0f} MiB"
        )
    together = [latency for each in found.values() for latency in each.latencies]
    bad = sum(each.failures + each.unanswered for each in found.values())
    p99 = float(np.quantile(together, 0.99))
    print(f"memory grew by {grown:.0f} MiB, health p99 {1e3 * p99:.1f} ms of {len(together)}, {bad} failures")
    return grown, float("inf") if bad else p99


def quiet(target: Target, seconds: float = 5) -> None:
    """Print what health takes when nobody attacks: what this machine is good for today."""
    with Bystander(target) as bystander:
        time.sleep(seconds)
    p50, p99 = (1e3 * float(np.quantile(bystander.latencies, share)) for share in (0.5, 0.99))
    print(f"no attack: health p50 {p50:.1f} p99 {p99:.1f} ms, server {resident(target.process):.0f} MiB", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--share", type=float, nargs=2, default=(0.01, 1.0), metavar=("LEAST", "MOST"))
    parser.add_argument("--niceness", type=int, default=10, help="of who attacks, beyond that of the server")
    parser.add_argument("--only", nargs="+", choices=list(ATTACKS), default=list(ATTACKS))
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} before the start")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        limits = [text for name, value in LIMITS.items() for text in (f"--{name}", str(value))]
        bundles = [str(make_bundle(folder / "tiny")), str(make_bundle(folder / "large", size=SIDE))]
        with our_server(*bundles, "--threads", "1", "--drain", "0", *limits, log=folder / "log") as (
            http,
            rpc,
            process,
        ):
            largest = 32 * 3 * SIDE * SIDE * 4
            target = Target(http, rpc, process.pid, max_body=LIMITS["max-body"], max_message=largest)
            quiet(target)
            grown, latency = besiege(target, options)
            process.terminate()
            began = time.monotonic()
            process.wait(60)
            print(f"stopped {time.monotonic() - began:.1f} s after SIGTERM")
    return int(grown > MOST_MEMORY or latency > MOST_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
