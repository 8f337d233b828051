"""Fuzz one parser, or all: `python tests/fuzz/run.py --target NAME --inputs N --seed S [--engine atheris]`.

Engines: `mutator` (our own, structure-aware, feedback from outcomes) and `atheris` (guided by coverage; a
package of that name must be installed, and the same mutations are mixed in). Findings are written to --out;
one that is mended moves to tests/fuzz/regressions/ as TARGET--WHAT.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import random
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

MEMORY_BYTES_MAX = 4 << 30


def main() -> int:
    """The command line. Exit code 1: there are findings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", action="append", help="may be repeated; all of them by default")
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--engine", choices=("mutator", "atheris"), default="mutator")
    parser.add_argument("--out", default="fuzz-findings")
    parser.add_argument("--list", action="store_true", help="only say which targets there are")
    options = parser.parse_args()
    _bound_memory()
    if options.engine == "atheris":
        return _atheris(options)
    from targets import all_targets

    logging.disable(logging.CRITICAL)
    targets = all_targets()
    if options.list:
        print("\n".join(targets))
        return 0
    from engines import run_mutator

    print(f"seed {options.seed}")
    found = 0
    for name in options.target or targets:
        report = run_mutator(targets[name], options.inputs, options.seed)
        found += len(report.findings)
        rate = report.inputs / max(report.seconds, 1e-9)
        print(
            f"{name:22} {report.inputs:9,} inputs {report.seconds:7.1f} s {rate:8,.0f}/s "
            f"{report.outcomes:5} outcomes {report.accepted / report.inputs:4.0%} accepted "
            f"{len(report.findings)} findings",
            flush=True,
        )
        for finding in report.findings:
            _keep(options.out, finding)
    return 1 if found else 0


def _keep(directory: str, finding) -> None:
    os.makedirs(directory, exist_ok=True)
    path = os.path.join(directory, f"{finding.target}--{hashlib.sha256(finding.data).hexdigest()[:12]}")
    with open(path, "wb") as file:
        file.write(finding.data)
    print(f"  {finding.what}\n    input: {path}\n    {finding.trace.strip()[-1500:]}", flush=True)


def _bound_memory() -> None:
    """A parser that wants the whole machine gets MemoryError, which is a finding."""
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))


def _atheris(options) -> int:
    try:
        import atheris
    except ImportError:
        print("left out: the package atheris is not installed (pip install atheris)")
        return 0
    with atheris.instrument_imports(include=["staddle"]):
        from targets import all_targets

        targets = all_targets()  # which imports what they test
    from engines import judge
    from mutate import mutate

    logging.disable(logging.CRITICAL)
    (name,) = options.target or ["requests"]
    target = targets[name]
    seeds = target.seeds()
    corpus = os.path.join(options.out, f"corpus-{name}")
    os.makedirs(corpus, exist_ok=True)
    for data in seeds:
        with open(os.path.join(corpus, hashlib.sha256(data).hexdigest()[:16]), "wb") as file:
            file.write(data)

    def one(data: bytes) -> None:
        _, finding = judge(target, data)
        if finding is not None:
            _keep(options.out, finding)
            raise RuntimeError(finding.what)

    def custom(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.5:
            return atheris.Mutate(data, max_size)
        return mutate(data, rng, seeds, target.kind, target.words)[:max_size]

    words = [
        sys.argv[0],
        f"-runs={options.inputs}",
        f"-seed={options.seed % 2**31}",
        "-max_len=16384",
        "-print_final_stats=1",
    ]
    atheris.Setup([*words, corpus], one, custom_mutator=custom)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
