"""Hold what this project may be installed with against published holes: no network is needed.

    python tools/audit.py                the bounds and locks of the repository; exit code 1 where one admits a hole
    python tools/audit.py --installed    what is installed here, too; then pip-audit, where it can be reached

`advisories.json`, beside this file, names for each hole the package and the first version without it. It holds what
concerns packages that this project asks for, and is kept by hand: pip-audit knows more, and needs the network.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
NO_NETWORK = re.compile(r"ConnectionError|Connection(?: aborted| refused| reset)|Max retries|resolve|timed? ?out", re.I)


@dataclass(frozen=True)
class Advisory:
    """Holes of one package, and the first version without them."""

    package: str
    fixed: Version
    ids: tuple[str, ...]
    about: str


@dataclass(frozen=True)
class Asked:
    """A requirement, and where it is stated."""

    place: str
    requirement: Requirement


def advisories() -> list[Advisory]:
    """Read the list."""
    content = json.loads((ROOT / "tools" / "advisories.json").read_text(encoding="utf-8"))
    return [
        Advisory(entry["package"], Version(entry["fixed"]), tuple(entry["ids"]), entry["about"])
        for entry in content["advisories"]
    ]


def asked() -> list[Asked]:
    """Return every requirement of the package, of building it, of the server's image and of the locks."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    stated = {
        "pyproject.toml, build": settings["build-system"]["requires"],
        "pyproject.toml, base": settings["project"]["dependencies"],
    }
    stated |= {
        f"pyproject.toml, extra {name}": lines for name, lines in settings["project"]["optional-dependencies"].items()
    }
    for path in [*sorted((ROOT / "export" / "serve").glob("requirements-*.txt")), ROOT / "requirements.lock"]:
        stated[path.relative_to(ROOT).as_posix()] = lines_of(path)
    return [Asked(place, Requirement(line)) for place, lines in stated.items() for line in lines]


def lines_of(path: Path) -> list[str]:
    """Return the requirements of a file, without hashes and comments."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [re.sub(r"\s--hash=\S+|\s*#.*", "", line).strip() for line in text.splitlines()]
    return [line for line in lines if line]


def lowest(requirement: Requirement) -> Version | None:
    """Return the oldest version that a requirement names, or None where it has no lower bound."""
    bounds = [Version(part.version) for part in requirement.specifier if part.operator in (">=", "==", "~=")]
    return max(bounds, default=None)


def admitted(requirements: list[Asked], known: list[Advisory]) -> list[str]:
    """Return a line for every requirement that lets in a version with a hole."""
    lines = []
    for entry in requirements:
        bound = lowest(entry.requirement)
        for advisory in known:
            same = canonicalize_name(entry.requirement.name) == advisory.package
            if same and (bound is None or bound < advisory.fixed):
                stated = str(entry.requirement.specifier) or "no bound"
                lines.append(
                    f"{entry.place}: {entry.requirement.name} {stated} admits {', '.join(advisory.ids)} "
                    f"({advisory.about}); fixed in {advisory.fixed}"
                )
    return lines


def installed(known: list[Advisory]) -> list[str]:
    """Return a line for every package of this environment that has a hole."""
    lines = []
    for advisory in known:
        try:
            version = importlib.metadata.version(advisory.package)
        except importlib.metadata.PackageNotFoundError:
            continue
        if Version(version) < advisory.fixed:
            lines.append(f"installed: {advisory.package} {version} has {', '.join(advisory.ids)} ({advisory.about})")
    return lines


def pip_audit() -> str:
    """Run pip-audit on this environment and return what it says, or why it said nothing."""
    if importlib.util.find_spec("pip_audit") is None:
        return "pip-audit is not installed: pip install pip-audit"
    command = [sys.executable, "-m", "pip_audit", "--progress-spinner", "off", "--skip-editable", "--timeout", "10"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    except subprocess.TimeoutExpired:
        return "pip-audit got no answer in four minutes"
    if done.returncode and NO_NETWORK.search(done.stderr):
        return "pip-audit cannot reach its database"
    lines = (done.stdout + done.stderr).strip().splitlines()
    unknown = [line for line in lines if "could not be audited" in line]
    if unknown:  # as of an index that has no advisories
        lines = [line for line in lines if line not in unknown]
        lines.append(f"pip-audit could not look up {len(unknown)} packages: its answer covers the others alone")
    return "\n".join(lines)


def main() -> int:
    """Print what was found; return 1 where a bound or a lock admits a hole."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--installed", action="store_true", help="look at this environment, too")
    options = parser.parse_args()
    known = advisories()
    requirements = asked()
    found = admitted(requirements, known)
    print(f"{len(requirements)} requirements, {len(known)} advisories: {len(found)} holes admitted")
    for line in found:
        print(line)
    if options.installed:
        here = installed(known)
        print("\n".join(here) or "nothing installed here has a hole of the list")
        print(pip_audit())
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
