"""Ops of the grid's configuration: agents, media, pools, clients, the owner map."""

from __future__ import annotations

from staddle.engine import ops
from staddle.engine.placement import POLICIES
from staddle.engine.tables import Agent, Client, Medium, MediumStatus, Pool, Tables
from staddle.errors import ConfigError, NotFound


def decide_agent(t: Tables, op: ops.AgentSet) -> list[ops.Op]:
    """Create or alter an agent; nothing if it is that already."""
    known = t.agents.get(op.name)
    wanted = Agent(name=op.name, urls=op.urls, streams_max=op.streams_max, enabled=op.enabled)
    return [] if known == wanted else [op]


def decide_medium(t: Tables, op: ops.MediumSet) -> list[ops.Op]:
    """Create or alter a medium. Its volume can't change: another volume is another medium."""
    known = t.media.get(op.name)
    if known is None:
        return [op]
    if known.volume != op.volume:
        raise ConfigError(
            f"medium {op.name!r} was labelled with volume {known.volume.hex()}, not {op.volume.hex()}",
            hint="give the new volume a medium name of its own",
        )
    same = (known.plugin, known.failure_domain, known.agents) == (op.plugin, op.failure_domain, op.agents)
    return [] if same else [op]


def decide_medium_state(
    t: Tables, name: str, state: MediumStatus, message: str, wall_ns: int
) -> list[ops.Op]:
    """A medium went away, came back, was declared lost or retired. Raises NotFound."""
    if name not in t.media:
        raise NotFound(f"no medium {name!r}", hint="`staddle medium list` shows them")
    if t.media[name].state is state:
        return []
    return [ops.MediumChanged(name=name, state=state.value, message=message, at_ns=wall_ns)]


def decide_pool(t: Tables, op: ops.PoolSet) -> list[ops.Op]:
    """Create or alter a pool. Raises ConfigError for one that could never take a backup."""
    missing = [name for name in op.media if name not in t.media]
    missing += [name for name in op.agents if name not in t.agents]
    if missing or not op.media:
        raise ConfigError(f"pool {op.name!r}: unknown {', '.join(missing) or 'media (none are named)'}")
    domains = {t.media[name].failure_domain for name in op.media}
    if not 1 <= op.min_copies <= op.copies <= len(domains):
        raise ConfigError(
            f"pool {op.name!r}: {op.min_copies} to {op.copies} copies in {len(domains)} failure domains",
            hint="1 <= min_copies <= copies <= number of distinct failure domains",
        )
    if op.policy not in POLICIES:
        raise ConfigError(f"pool {op.name!r}: policy {op.policy!r}", hint="one of " + ", ".join(POLICIES))
    known = t.pools.get(op.name)
    if known is not None and known.domain != op.domain:
        raise ConfigError(
            f"pool {op.name!r} deduplicates in domain {known.domain!r}, which can't change",
            hint="make a new pool for another domain",
        )
    return [] if known == _pool(op) else [op]


def decide_client(t: Tables, name: str, wall_ns: int) -> list[ops.Op]:
    """A client joins; again is no change."""
    return [] if name in t.clients else [ops.ClientSet(name=name, joined_ns=wall_ns)]


def decide_owner_map(t: Tables, version: int, owners: bytes) -> list[ops.Op]:
    """A newer owner map; an older one changes nothing."""
    return [ops.OwnerMapSet(version=version, owners=owners)] if version > t.owner_map_version else []


def _pool(op: ops.PoolSet) -> Pool:
    return Pool(
        name=op.name,
        media=op.media,
        domain=op.domain,
        copies=op.copies,
        min_copies=op.min_copies,
        policy=op.policy,
        agents=op.agents,
        wait_busy_s=op.wait_busy_s,
        wait_offline_s=op.wait_offline_s,
        segment_bytes=op.segment_bytes,
    )


# --- appliers -----------------------------------------------------------------------------------


def apply_grid_created(t: Tables, op: ops.GridCreated) -> None:
    """The grid has its id."""
    t.grid = op.grid


def apply_epoch_begun(t: Tables, op: ops.EpochBegun) -> None:
    """A manager's term begins."""
    t.epoch = op.epoch
    t.began_ns = t.began_ns or op.at_ns


def apply_agent_set(t: Tables, op: ops.AgentSet) -> None:
    """An agent is made or altered."""
    t.agents[op.name] = Agent(name=op.name, urls=op.urls, streams_max=op.streams_max, enabled=op.enabled)


def apply_medium_set(t: Tables, op: ops.MediumSet) -> None:
    """A medium is made or altered."""
    known = t.media.get(op.name)
    t.media[op.name] = Medium(
        name=op.name,
        plugin=op.plugin,
        volume=op.volume,
        failure_domain=op.failure_domain,
        agents=op.agents,
        state=known.state if known else MediumStatus.UP,
        message=known.message if known else "",
    )


def apply_medium_changed(t: Tables, op: ops.MediumChanged) -> None:
    """A medium's state."""
    medium = t.media[op.name]
    medium.state, medium.message = MediumStatus(op.state), op.message


def apply_pool_set(t: Tables, op: ops.PoolSet) -> None:
    """A pool is made or altered."""
    t.pools[op.name] = _pool(op)


def apply_client_set(t: Tables, op: ops.ClientSet) -> None:
    """A client is known."""
    t.clients[op.name] = Client(name=op.name, joined_ns=op.joined_ns)


def apply_owner_map_set(t: Tables, op: ops.OwnerMapSet) -> None:
    """A newer owner map."""
    t.owner_map, t.owner_map_version = op.owners, op.version
