"""One bundle a test, and one running server for all tests that only talk to it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from servers import our_server
from tiny import AREA, COUNT, FILL, make_bundle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "tiny")


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    """HTTP and gRPC port of a server with the models ``tiny`` and ``bytes``; bodies of up to 2 MiB, batches up to 8."""
    folder = tmp_path_factory.mktemp("served")
    bundles = [str(make_bundle(folder / "tiny")), str(make_bundle(folder / "bytes", uint8_input=True))]
    limits = ["--max-batch", "8", "--max-body", str(2 * 2**20), "--threads", "1", "--drain", "0"]
    with our_server(*bundles, *limits, log=folder / "log") as (http, rpc, _):
        yield http, rpc
    log = (folder / "log").read_text()
    assert '"error"' not in [json.loads(line)["level"] for line in log.splitlines()]
    assert json.loads(log.splitlines()[-1])["event"] == "stopped"


@pytest.fixture(scope="session")
def certifying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int, Path]]:
    """HTTP and gRPC port of a server like ``served`` that certifies, and the folder of ``tiny``."""
    folder = tmp_path_factory.mktemp("certifying")
    bundles = [make_bundle(folder / "tiny"), make_bundle(folder / "bytes", uint8_input=True)]
    options = ["--certify", str(AREA), "--certify-masks", str(COUNT), "--certify-fill", ",".join(map(str, FILL))]
    limits = ["--max-batch", "8", "--threads", "1", "--drain", "0"]
    with our_server(*map(str, bundles), *options, *limits, log=folder / "log") as (http, rpc, _):
        yield http, rpc, bundles[0]
    assert '"level": "ERROR"' not in (folder / "log").read_text()
