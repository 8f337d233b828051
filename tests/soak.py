"""The long runs: every failure of a grid of real processes many times over, each time at another moment.

    python3 dev.py soak [--rounds 20] [--seed N] [--only SCENARIO]... [--sim SEEDS] [--nemesis ROUNDS]
                          [--scale]

Each round is one run of a scenario below tests/system with a seed of its own; what failed is listed at the
end, with the line that plays it again. `--nemesis` plays so many rounds of several faults at once, ten on
each grid, before the scenarios (of which there are none then, unless `--rounds` or `--only` says so). Exit
code 1 if anything failed.
"""

import argparse
import collections
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

TESTS = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(TESTS)
SCENARIOS = (
    *("agent_killed", "agent_stopped", "medium_io_errors", "medium_gone"),
    *("manager_killed", "everything_killed", "manager_stopped", "catalog_killed"),
    *("agent_data_killed", "agent_control_killed", "host_cut_off"),
    *("medium_full", "medium_read_only", "medium_slow", "medium_replaced", "medium_corrupted"),
    *("dir_fsync_fails", "clock_jump", "fd_limit", "memory_limit"),
    *("client_killed", "client_disk_full", "two_clients_one_tree", "disk_full"),
)
NEMESIS = "nemesis"
NEMESIS_ROUNDS = 10
"""Rounds on one grid."""
ROUND_LIMIT_S = 900.0
END_LIMIT_S = 90.0
SIM_LIMIT_S = 6 * 3600.0
TAIL_LINES = 40
TOLD = re.compile(r"^rounds with \d+ faults or more: (\d+); faults: (\{.*\})", re.MULTILINE)
"""What a grid of the nemesis says at its end."""


def options(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds", type=int, help="of each scenario (default 20; 0 with --nemesis and without --only)"
    )
    parser.add_argument("--seed", type=int, help="the first seed; a random one if it is not given")
    parser.add_argument("--only", action="append", choices=available(), help="this scenario; may be repeated")
    parser.add_argument("--sim", type=int, default=0, metavar="SEEDS", help="also so many simulator seeds")
    parser.add_argument("--scale", action="store_true", help="also the memory at 10^6 files: hours")
    parser.add_argument(
        "--nemesis", type=int, default=0, metavar="ROUNDS", help="so many rounds of several faults at once"
    )
    parser.add_argument(
        "--keep-going", action="store_true", help="do not stop a scenario at its third failure"
    )
    args = parser.parse_args(arguments)
    if args.rounds is None:
        args.rounds = 0 if (args.nemesis or args.scale) and not args.only else 20
    return args


def available():
    system = os.path.join(TESTS, "system")
    return sorted(name for name in os.listdir(system) if os.path.isfile(test_of(name)))


def test_of(scenario):
    return os.path.join(TESTS, "system", scenario, f"test_{scenario}.py")


def command(scenario):
    words = f"-m pytest -q -x -s -p no:cacheprovider -o timeout={ROUND_LIMIT_S:g}".split()
    return [sys.executable, *words, test_of(scenario)]


def setting(scenario, seed):
    """What a round is told by the environment."""
    rounds = {"STADDLE_NEMESIS_ROUNDS": str(NEMESIS_ROUNDS)} if scenario == NEMESIS else {}
    return {"STADDLE_SEED": str(seed)} | rounds


def play(scenario, seed):
    """One round: whether it went well, and what it said."""
    with subprocess.Popen(
        command(scenario),
        cwd=ROOT,
        env=os.environ | setting(scenario, seed),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as running:
        late = ""
        try:
            said, _ = running.communicate(timeout=ROUND_LIMIT_S)
        except subprocess.TimeoutExpired:
            said, late = end(running), f"no end in {ROUND_LIMIT_S:g} s"
        except KeyboardInterrupt:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)  # whoever asks twice would leave the grid behind
            end(running)
            raise
    return not late and running.returncode == 0, f"{said.decode(errors='replace')}\n{late}"


def end(running):
    """Interrupt a round, so that it ends its grid; what it said."""
    if os.name == "posix":
        running.send_signal(signal.SIGINT)
    try:
        return running.communicate(timeout=END_LIMIT_S)[0]
    except subprocess.TimeoutExpired:
        running.kill()
        return running.communicate()[0]


def replay(scenario, seed):
    path = os.path.relpath(test_of(scenario), ROOT)
    words = " ".join(f"{name}={value}" for name, value in setting(scenario, seed).items())
    return f"{words} {os.path.relpath(sys.executable, ROOT)} -m pytest -s {path}"


def soak(scenario, seeds, *, keep_going, faults):
    """All rounds of a scenario: (rounds played, seconds, the seeds that failed). Counts `faults`."""
    began, failed, played = time.monotonic(), [], 0
    for number, seed in enumerate(seeds, 1):
        started = time.monotonic()
        well, said = play(scenario, seed)
        played = number
        for rounds, counts in TOLD.findall(said):
            faults.update(json.loads(counts) | {"rounds": int(rounds)})
        print(
            f"{scenario} {number}/{len(seeds)} seed {seed}: "
            f"{'well' if well else 'FAILED'}, {time.monotonic() - started:.1f} s",
            flush=True,
        )
        if not well:
            failed.append(seed)
            print("\n".join(said.splitlines()[-TAIL_LINES:]), f"replay: {replay(scenario, seed)}", sep="\n")
            if len(failed) >= 3 and not keep_going:
                print(f"{scenario}: enough, three rounds have failed", flush=True)
                break
    return played, time.monotonic() - began, failed


def simulate(count, first):
    """Simulator seeds from `first` on; True if all went well. It prints its own replay lines."""
    argv = [sys.executable, "-m", "staddle.testing.sim", "--seeds", str(count), "--start", str(first)]
    try:
        return subprocess.run(argv, cwd=ROOT, timeout=SIM_LIMIT_S, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        print(f"the simulator did not end in {SIM_LIMIT_S:g} s")
        return False


def main(arguments=None):
    args = options(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that a round ends its grid then, too
    first = args.seed if args.seed is not None else random.SystemRandom().getrandbits(31)
    print(f"soak: --seed {first} --rounds {args.rounds} --nemesis {args.nemesis}", flush=True)
    well, table, faults = True, [], collections.Counter()
    if args.sim:
        well = simulate(args.sim, first)
    if args.scale:
        argv = [sys.executable, os.path.join(TESTS, "scale", "scale.py")]
        well = subprocess.run(argv, cwd=ROOT, check=False).returncode == 0 and well
    parts = [(NEMESIS, -(-args.nemesis // NEMESIS_ROUNDS))] if args.nemesis > 0 else []
    parts += [(scenario, args.rounds) for scenario in args.only or SCENARIOS if args.rounds > 0]
    for scenario, rounds in parts:
        played, took_s, failed = soak(
            scenario, [first + n for n in range(rounds)], keep_going=args.keep_going, faults=faults
        )
        table.append((scenario, played, len(failed), took_s))
        well = well and not failed
    print(f"\n{'scenario':20} {'rounds':>6} {'failed':>6} {'s/round':>8}")
    for scenario, played, failures, took_s in table:
        print(f"{scenario:20} {played:6} {failures:6} {took_s / max(played, 1):8.1f}")
    if faults:
        print(f"\nnemesis: {faults.pop('rounds')} rounds in which two faults or more had begun")
        print(*(f"{count:6} {name}" for name, count in faults.most_common()), sep="\n")
    print("all is well" if well else "NOT all is well")
    return 0 if well else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("soak: interrupted; its grids were ended")
