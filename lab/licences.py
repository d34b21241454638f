#!/usr/bin/env python3
"""Checks the licences of everything that is built against deny.toml, without cargo-deny.

cargo-deny takes minutes to build on a small machine; where it is not installed this reads the same
list and asks cargo itself. It knows AND and OR, not parentheses beyond one level.
"""

import json
import re
import subprocess
import sys
import tomllib

with open("deny.toml", "rb") as file:
    rules = tomllib.load(file)["licenses"]
allowed = set(rules["allow"])
exceptions = {e["crate"]: set(e["allow"]) for e in rules.get("exceptions", [])}
metadata = json.loads(subprocess.check_output(["cargo", "metadata", "--format-version", "1", "--locked"]))


def permitted(expression, extra):
    expression = expression.replace("/", " OR ").replace("(", " ").replace(")", " ")
    return any(
        all(term.strip() in allowed | extra for term in re.split(r"\bAND\b", choice))
        for choice in re.split(r"\bOR\b", expression)
    )


bad = [
    f"{p['name']} {p['version']}: {p['license']}"
    for p in metadata["packages"]
    if not permitted(p["license"] or "no licence", exceptions.get(p["name"], set()))
]
print(f"licences: {len(metadata['packages']) - len(bad)} packages permitted, {len(bad)} not")
for line in bad:
    print("  " + line)
sys.exit(bool(bad))
