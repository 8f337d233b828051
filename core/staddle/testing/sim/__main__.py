"""`python -m staddle.testing.sim --seed N [--mutant NAME] [-v]` plays one seed; `--seeds COUNT` many."""

from __future__ import annotations

import argparse
import sys
import time

from staddle.testing.sim.mutants import MUTANTS
from staddle.testing.sim.run import run_seed, run_seeds


def main() -> int:
    """Run what the command line asks for; 1 if a rule was broken."""
    parser = argparse.ArgumentParser(prog="python -m staddle.testing.sim", description=__doc__)
    parser.add_argument("--seed", type=int, help="play this one seed")
    parser.add_argument("--seeds", type=int, default=2000, help="play so many seeds")
    parser.add_argument("--start", type=int, default=0, help="the first of them")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), default="", help="break one rule on purpose")
    parser.add_argument("-v", "--verbose", action="store_true", help="print the trace")
    args = parser.parse_args()
    if args.seed is not None:
        outcome = run_seed(args.seed, mutant_name=args.mutant, verbose=args.verbose)
        sys.stdout.write(f"{outcome}\n")
        return 1 if outcome.violation else 0
    began = time.perf_counter()
    failures = run_seeds(args.start, args.seeds, mutant_name=args.mutant)
    took_s = time.perf_counter() - began
    for outcome in failures:
        sys.stdout.write(f"seed {outcome.seed}: {outcome.violation}\n")
    sys.stdout.write(f"{args.seeds} seeds from {args.start}: {len(failures)} failed, {took_s:.1f} s\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
