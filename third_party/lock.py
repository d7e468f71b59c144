#!/usr/bin/env python3
"""Prints a requirements file with every version pinned and every wheel hashed, for x86-64 Linux.

    third_party/lock.py torch==2.11.0 > third_party/requirements.txt
    third_party/lock.py --base third_party/requirements.txt transformers==X numpy==Y > tests/python/requirements.txt

pip resolves the packages once for each Python that the supported distributions ship. With --base, packages
pinned in that file keep their versions and are left out of the output; install both files with one pip command.
"""

import argparse
import collections
import json
import re
import subprocess
import sys
import tempfile

PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
# pip takes these names literally, so every glibc up to 2.34 that wheels are tagged with is listed.
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(34, 4, -1)]
PLATFORMS += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]


def normalised(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pins_of(path, python):
    """The name==version lines of `path` that hold for `python`."""
    pins = []
    for line in open(path, encoding="utf-8"):
        match = re.match(r"([A-Za-z0-9._-]+)==([^\s;\\]+)\s*(?:;\s*python_version\s*([<>=]+)\s*\"([0-9.]+)\")?", line)
        if not match:
            continue
        name, version, operator, bound = match.groups()
        minor, limit = int(python.split(".")[1]), int(bound.split(".")[1]) if bound else 0
        if operator is None or {"==": minor == limit, ">=": minor >= limit, "<": minor < limit}[operator]:
            pins.append(f"{normalised(name)}=={version}")
    return pins


def resolve(packages, pins, python):
    """What pip would install for `python`: a list of (name, version, sha256)."""
    tag = "cp" + python.replace(".", "")
    with tempfile.NamedTemporaryFile(suffix=".json") as report, tempfile.NamedTemporaryFile("w", suffix=".txt") as limits:
        limits.write("\n".join(pins))
        limits.flush()
        command = [sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed", "--only-binary=:all:",
                   "--report", report.name, "--constraint", limits.name, "--target", tempfile.gettempdir(),
                   "--python-version", python, "--implementation", "cp"]
        command += [part for abi in (tag, "abi3", "none") for part in ("--abi", abi)]
        command += [part for platform in PLATFORMS for part in ("--platform", platform)]
        subprocess.run(command + packages, check=True, stdout=sys.stderr)
        items = json.load(open(report.name, encoding="utf-8"))["install"]
    return [(normalised(item["metadata"]["name"]), item["metadata"]["version"],
             item["download_info"]["archive_info"]["hashes"]["sha256"]) for item in items]


def marker(versions):
    """The environment marker for a run of PYTHONS, or nothing where all of them agree."""
    if versions == PYTHONS:
        return ""
    if versions == PYTHONS[-len(versions):]:
        return f' ; python_version >= "{versions[0]}"'
    if versions == PYTHONS[:len(versions)]:
        return f' ; python_version < "{PYTHONS[len(versions)]}"'
    if len(versions) == 1:
        return f' ; python_version == "{versions[0]}"'
    sys.exit(f"cannot write a marker for Python {versions}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", help="requirements file whose pins hold and are not repeated")
    parser.add_argument("--since", choices=PYTHONS, default=PYTHONS[0], help="the oldest Python that the packages support")
    parser.add_argument("packages", nargs="+", help="requirements, such as torch==2.11.0")
    arguments = parser.parse_args()

    hashes = collections.defaultdict(dict)  # (name, version) -> {sha256: None}, in the order of PYTHONS
    pythons = collections.defaultdict(list)  # (name, version) -> Python versions
    supported = PYTHONS[PYTHONS.index(arguments.since):]
    for python in supported:
        pins = pins_of(arguments.base, python) if arguments.base else []
        known = {pin.split("==")[0] for pin in pins}
        for name, version, digest in resolve(arguments.packages, pins, python):
            if name not in known:
                hashes[name, version][digest] = None
                pythons[name, version].append(python)

    options = f"--base {arguments.base} " if arguments.base else ""
    options += f"--since {arguments.since} " if arguments.since != PYTHONS[0] else ""
    print(f"# Made by: third_party/lock.py {options}{' '.join(arguments.packages)}")
    print("# x86-64 Linux, Python " + ", ".join(supported))
    for key in sorted(hashes):
        lines = [f"{key[0]}=={key[1]}{marker(pythons[key])}"] + [f"    --hash=sha256:{digest}" for digest in hashes[key]]
        print(" \\\n".join(lines))


if __name__ == "__main__":
    main()
