"""Repair: a copy that is damaged, missing or owed is made again from a good one; then the bad one goes.

The order keeps what there is: the new copy is planned in the log, made, durable and logged, and only when the
object has all its copies again are its bad placements doomed, as orphans are. Without a good copy nothing is
removed: most of a damaged container can still be read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from staddle.engine import ops
from staddle.engine.gc import DELETED
from staddle.engine.messages import CopyOf
from staddle.engine.tables import MediumStatus, Object, ObjectState, Tables

_GONE = frozenset({MediumStatus.LOST, MediumStatus.RETIRED})


def sources(t: Tables, item: Object) -> list[CopyOf]:
    """Copies that count, on media that are up."""
    return [copy for copy in item.copies if t.media[copy.medium].state is MediumStatus.UP]


def missing_copies(t: Tables, item: Object) -> int:
    """How many copies are to be made. One on a medium that is offline is not missing: it may come back.

    One on a medium that was taken out of all pools is: that medium is to be emptied. Where the pools have
    become smaller than an object's wish there is no place for more.
    """
    return _missing(t, item, _pooled(t, item.domain))


def _missing(t: Tables, item: Object, pooled: set[str]) -> int:
    if item.state is not ObjectState.LIVE:
        return 0
    domains = {t.media[name].failure_domain for name in pooled}
    return max(min(item.want, len(domains) or item.want) - len(_kept_domains(t, item, pooled)), 0)


def targets(t: Tables, item: Object) -> list[str]:
    """Media that may take a new copy, the best first: where the bad one lies, then in the pools' order.

    They are up, in pools of the object's dedup domain, and in failure domains without a copy that counts.
    """
    allowed = _pooled(t, item.domain)
    kept = _kept_domains(t, item, allowed)
    named = [copy.medium for copy in item.bad]
    named += [name for pool in t.pools.values() if pool.domain == item.domain for name in pool.media]
    return [
        name
        for name in dict.fromkeys(named)
        if name in allowed
        and t.media[name].state is MediumStatus.UP
        and t.media[name].failure_domain not in kept
    ]


def in_debt(t: Tables) -> list[bytes]:
    """Objects that lack copies. Looks at all of them."""
    pooled = {pool.domain: _pooled(t, pool.domain) for pool in t.pools.values()}
    return [item.id for item in t.objects.values() if _missing(t, item, pooled.get(item.domain, set()))]


def left_on(t: Tables, medium: str) -> int:
    """Objects with a copy on this medium, if a bad one, that lack copies elsewhere. Looks at all of them."""
    return sum(
        any(copy.medium == medium for copy in item.placements()) and missing_copies(t, item) > 0
        for item in t.objects.values()
    )


def stranded(t: Tables) -> Counter[str]:
    """By medium that was taken out: live objects with no copy elsewhere. Looks at all if there is one."""
    found: Counter[str] = Counter()
    retired = {name for name, medium in t.media.items() if medium.state is MediumStatus.RETIRED}
    for item in t.objects.values() if retired else ():
        there = {copy.medium for copy in item.placements()}
        if item.state is ObjectState.LIVE and all(t.media[name].state in _GONE for name in there):
            found.update(there & retired)
    return found


def lost_for_good(t: Tables) -> list[bytes]:
    """Live objects that have only damaged copies left."""
    found = (t.objects[item] for item in t.damaged)
    return [item.id for item in found if not item.copies and item.state is ObjectState.LIVE]


def stale_plans(t: Tables, before_ns: int) -> Iterator[tuple[str, str]]:
    """(medium, name) of copies that were planned before a moment and never came about."""
    for medium, plans in t.planned.items():
        for name, plan in plans.items():
            if plan.at_ns < before_ns:
                yield medium, name


def decide_copy_whole(t: Tables, item_id: bytes, copy: CopyOf) -> list[ops.Op]:
    """A copy that was called bad was read again, and every byte of it is right: it counts again."""
    item = t.objects.get(item_id)
    if item is None or copy not in item.bad or item.state is ObjectState.DELETING:
        return []
    return [ops.CopyAdded(object=item_id, copy=copy)]


def decide_bad_dropped(t: Tables, item_id: bytes) -> list[ops.Op]:
    """The object has all its copies on media that are up: its bad ones are doomed, as orphans are.

    Never before, and so never the last copy. A crash between the two records leaves an orphan.
    """
    item = t.objects.get(item_id)
    if item is None or item.state is not ObjectState.LIVE or t.copies_present(item) < max(item.want, 1):
        return []
    decided: list[ops.Op] = []
    for copy in item.bad:
        decided.append(ops.CopyDropped(object=item_id, copy=copy, reason=DELETED))
        if t.media[copy.medium].state not in _GONE:
            decided.append(ops.OrphansDoomed(medium=copy.medium, names=[copy.name]))
    return decided


def _kept_domains(t: Tables, item: Object, pooled: set[str]) -> set[str]:
    return {
        t.media[copy.medium].failure_domain
        for copy in item.copies
        if t.media[copy.medium].state not in _GONE and (copy.medium in pooled or not pooled)
    }


def _pooled(t: Tables, domain: str) -> set[str]:
    """The media of a dedup domain's pools, as far as they were ever there."""
    named = {name for pool in t.pools.values() if pool.domain == domain for name in pool.media}
    return named & t.media.keys()
