"""Run commands of `genaf`, then every command that their output tells people to run, and so on; stop at a surprise.

    python tools/suggested.py demo "certify demo-output --samples 5"

What is suggested stands between backticks, as in "`genaf serve demo-output` serves it". A server is asked whether it is
ready and stopped. A command with a placeholder in capitals, such as FOLDER, is not run.
"""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.request

SUGGESTED = re.compile(r"`genaf ([^`]+)`")
PLACEHOLDER = re.compile(r"\b[A-Z]{3,}\b|\.\.\.")
READY = "http://127.0.0.1:8000/v2/health/ready"
SECONDS = 300.0
"""How long a server may take to be ready, on a machine that others use as well."""


def run(line: str) -> str:
    """Run one command and return what it printed.

    Raises:
        RuntimeError: It failed, or a server was not ready in time.
    """
    command = [sys.executable, "-m", "genaf_sdk", *shlex.split(line)]
    print(f"$ genaf {line}", flush=True)
    if command[3] == "serve":
        return _served(command)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"genaf {line}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def _served(command: list[str]) -> str:
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        end = time.monotonic() + SECONDS
        ready = False
        while not ready and server.poll() is None and time.monotonic() < end:
            try:
                ready = urllib.request.urlopen(READY, timeout=2).status == 200
            except OSError:
                time.sleep(0.2)
        server.send_signal(signal.SIGTERM)
        said = server.communicate(timeout=SECONDS)[0]
    if not ready or server.returncode:
        raise RuntimeError(f"{shlex.join(command)}: ready {ready}, exit code {server.returncode}\n{said}")
    return said


def follow(*first: str) -> list[str]:
    """Run commands and all that follows from them, each once, and return them in their order."""
    waiting, done = [*first], list[str]()
    while waiting:
        line = waiting.pop(0)
        if line in done:
            continue
        done.append(line)
        found = SUGGESTED.findall(" ".join(run(line).split()))
        waiting += [each for each in found if not PLACEHOLDER.search(each)]
    return done


if __name__ == "__main__":
    print(f"{len(follow(*sys.argv[1:]))} commands, no surprise")
