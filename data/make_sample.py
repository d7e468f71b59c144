#!/usr/bin/env python3
"""Makes the sample sets in data/ from two files of documents (jsonl, each with its licence in meta).

usage: make_sample.py slimpajama.jsonl.zst proofpile.jsonl.gz [folder]

Leaves out documents whose licence does not follow from their package, divides the rest into training and held-out
documents by a hash of their origin, and writes them under the public sets' own names. The same input gives the same
files byte for byte (zstd 1.5).
"""
import collections
import gzip
import hashlib
import json
import pathlib
import subprocess
import sys

HELD_OUT_SHARE = 0.06
LONG_BYTES = 120_000  # at least 32,768 tokens of the sample's tokenizer
HELD_OUT_LONG = 3     # long documents held out in each set, whatever the hash says
# These packages carry contributions under other terms; only folders under the package's own licence are taken.
OWN_FOLDERS = {
    "hol-light": ("", "100", "Library", "Multivariate", "Examples", "Tutorial", "Logic", "EC"),
}


def read(path):
    command = ["zstd", "-dc", "--long=31", path] if path.endswith(".zst") else ["gzip", "-dc", path]
    return [json.loads(line) for line in subprocess.run(command, check=True, capture_output=True).stdout.splitlines()]


def licence_is_clear(document):
    meta = document["meta"]
    if meta["source"] in OWN_FOLDERS:
        inside = meta["file"].split("/usr/share/" + meta["source"] + "/", 1)[1]
        return (inside.split("/")[0] if "/" in inside else "") in OWN_FOLDERS[meta["source"]]
    if meta["source"] == "acl2-books":
        return "/workshops/" not in meta["file"]
    return "GPL-2" not in meta["licence"] and "/FAQ/" not in meta["file"]


def draw(document):
    digest = hashlib.sha256((document["meta"]["source"] + "\n" + document["meta"]["file"]).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def divide(documents):
    """(training, held out); of the long documents the first few in order of the draw, of the others by the draw."""
    size = lambda document: len(document["text"].encode())
    long_ones = sorted((d for d in documents if size(d) >= LONG_BYTES), key=lambda d: (size(d) > 260_000, draw(d)))
    held_long = {id(d) for d in long_ones[:HELD_OUT_LONG]}
    held = lambda d: id(d) in held_long if size(d) >= LONG_BYTES else draw(d) < HELD_OUT_SHARE
    return [d for d in documents if not held(d)], [d for d in documents if held(d)]


def write(path, documents):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(d, ensure_ascii=False) + "\n" for d in documents).encode()
    if path.suffix == ".zst":
        subprocess.run(["zstd", "-q", "-f", "-19", "--long=27", "-o", str(path)], input=lines, check=True)
    else:
        path.write_bytes(gzip.compress(lines, 9, mtime=0))
    print(f"{path}: {len(documents)} documents, {len(lines)} bytes, {path.stat().st_size} compressed")


def main():
    slim, pile = ([d for d in read(path) if licence_is_clear(d)] for path in sys.argv[1:3])
    folder = pathlib.Path(sys.argv[3] if len(sys.argv) > 3 else pathlib.Path(__file__).parent)
    train, held = divide(slim)
    for part in range(4):
        write(folder / f"slimpajama/train/chunk{part // 2 + 1}/example_train_{part}.jsonl.zst", train[part::4])
    write(folder / "slimpajama/validation/chunk1/example_holdout_0.jsonl.zst", held)
    train, held = divide(pile)
    for part in range(2):
        write(folder / f"proof-pile/train/proofpile_train_{part}.jsonl.gz", train[part::2])
    write(folder / "proof-pile/test/proofpile_test.jsonl.gz", held)
    table = collections.defaultdict(lambda: [0, 0])
    for d in slim + pile:
        row = table[d["meta"]["source"], d["meta"]["licence"]]
        row[0] += 1
        row[1] += len(d["text"].encode())
    for (source, licence), (count, size) in sorted(table.items()):
        print(f"| {source} | {licence} | {count} | {size} |")


if __name__ == "__main__":
    main()
