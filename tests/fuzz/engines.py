"""What drives a target: a mutator with feedback from outcomes, and the verdict on each input."""

from __future__ import annotations

import random
import re
import sys
import time
import traceback
from typing import NamedTuple

from mutate import mutate

HANG_S = 1.0
"""Processor time of this thread for one input; a busy machine must not look like a hang."""
GROWTH_BYTES_MAX = 128 << 20
"""How far the peak of resident memory may rise during a run."""
CORPUS_MAX = 512
OUTCOMES_MAX = 20_000
"""Some parsers have as many outcomes as inputs: those after so many make no seeds, and fill no memory."""
KEPT_BYTES_MAX = 2048
"""Longer inputs become no seeds: they would only make all later ones longer."""
_PYTHON = re.compile(
    r"(?i)index out of range|codec can't|unpack requires|invalid literal|embedded null|NoneType|KeyError|"
    r"has no attribute|object is not|unsupported operand|not supported between|recursion|struct\.error|"
    r"buffer size|must be str,|takes \d+ positional|non-hexadecimal|int too|traceback"
)
"""Words of Python's own errors: a user can do nothing with them."""
_VARYING = re.compile(r"[0-9]+|'[^']*'|[0-9a-f]{8,}")


class Finding(NamedTuple):
    """An input that a target did not take as documented."""

    target: str
    data: bytes
    what: str
    trace: str


class Report(NamedTuple):
    """A run: how many inputs, how long, how many distinct outcomes were seen, and what was found."""

    target: str
    inputs: int
    seconds: float
    outcomes: int
    accepted: int
    findings: list[Finding]


def judge(target, data: bytes) -> tuple[str, Finding | None]:
    """(what became of the input, None or a finding)."""
    started = time.thread_time()
    try:
        said = target.run(data)
        outcome, found = f"accepted {said[:80]}" if isinstance(said, str) else "accepted", None
    except target.expected as error:
        outcome, found = f"{type(error).__name__}: {_VARYING.sub('N', str(error))[:80]}", None
        # What the input itself says stands in quotes.
        words = re.sub(r"'[^']*'|\"[^\"]*\"", "", getattr(error, "message", ""))
        if _PYTHON.search(words) and _PYTHON.search(words).group().encode() not in data:
            found = Finding(
                target.name, data, f"speaks Python: {words}"[:200], traceback.format_exc(limit=-4)
            )
    except Exception as error:  # noqa: BLE001 - whatever else comes out is what is looked for
        outcome = f"{type(error).__name__}: {_VARYING.sub('N', str(error))[:80]}"
        found = Finding(target.name, data, outcome, traceback.format_exc(limit=-12))
    took_s = time.thread_time() - started
    if found is None and took_s > HANG_S:
        found = Finding(target.name, data, f"took {took_s:.1f} s", "")
    return outcome, found


def run_mutator(target, inputs: int, seed: int, *, findings_max: int = 20) -> Report:
    """`inputs` mutations of the target's seeds. Inputs with a new outcome become seeds too."""
    rng = random.Random(f"{target.name} {seed}")
    sound = [*target.seeds()]
    corpus, known = list(sound), len(sound)
    kept_bytes_max = max(KEPT_BYTES_MAX, *map(len, sound))
    seen: set[str] = set()
    findings: dict[str, Finding] = {}
    accepted = 0
    peak_bytes = _peak_bytes()
    started = time.monotonic()
    for number in range(inputs):
        # Half of them begin with what was accepted: only that leads deep into the parser.
        parent = rng.choice(sound if number % 2 else corpus)
        data = sound[number] if number < known else mutate(parent, rng, corpus, target.kind, target.words)
        outcome, found = judge(target, data)
        fine = outcome.startswith("accepted")
        accepted += fine
        if found is not None:
            findings.setdefault(_place(found), found)
            if len(findings) >= findings_max:
                break
        elif (outcome not in seen and len(seen) < OUTCOMES_MAX) or (fine and rng.random() < 0.002):
            seen.add(outcome)
            if len(data) <= kept_bytes_max:
                for kept in (corpus, sound) if fine else (corpus,):
                    if len(kept) < CORPUS_MAX:
                        kept.append(data)
                    else:
                        kept[rng.randrange(known, len(kept))] = data
        if number % 512 == 0 and _peak_bytes() - peak_bytes > GROWTH_BYTES_MAX:
            what = f"memory has grown by {(_peak_bytes() - peak_bytes) >> 20} MiB by input {number}"
            findings.setdefault(what[:20], Finding(target.name, data, what, ""))
            peak_bytes = _peak_bytes()
    seconds = time.monotonic() - started
    return Report(target.name, number + 1, seconds, len(seen), accepted, list(findings.values()))


def _place(found: Finding) -> str:
    """Where it came out: findings of one place are one."""
    lines = [line.strip() for line in found.trace.splitlines() if line.strip().startswith("File")]
    return f"{found.what.split(':')[0]} {lines[-1] if lines else ''}"


def _peak_bytes() -> int:
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
