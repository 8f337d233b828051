"""K3: how long a manager may serve. Pure: the driver passes the times in.

`now_ns` is a clock that counts suspend (CLOCK_BOOTTIME where there is one): a laptop's lid, or a stopped
virtual machine, must not stretch a lease.
"""

from __future__ import annotations

from staddle.errors import Fenced


class LeaseLapsed(Fenced):
    """The lease was not renewed in time; nobody is known to have taken it: another term may be asked for."""


class ManagerLease:
    """The manager's lease, seen from its holder.

    Args:
        epoch: granted by the cluster manager; it only grows (K1).
        ttl_ns: of the lease.
        margin_ns: stopped serving this long before the lease can have run out.
    """

    def __init__(self, epoch: int, ttl_ns: int, margin_ns: int) -> None:
        if not 0 < margin_ns < ttl_ns:
            raise ValueError("the margin is shorter than the lease")
        self.epoch = epoch
        self.ttl_ns = ttl_ns
        self.margin_ns = margin_ns
        self._renewed_ns: int | None = None
        self.lost = False

    def renewed(self, started_ns: int) -> None:
        """A renewal that was *sent* at `started_ns` has succeeded. Its answer's time does not count."""
        if self._renewed_ns is None or started_ns > self._renewed_ns:
            self._renewed_ns = started_ns

    def fenced(self) -> None:
        """The cluster manager, a replica or an agent knows a later epoch: never serve again."""
        self.lost = True

    @property
    def until_ns(self) -> int:
        """The last moment of service; 0 before the first renewal."""
        return 0 if self._renewed_ns is None else self._renewed_ns + self.ttl_ns - self.margin_ns

    @property
    def renew_at_ns(self) -> int:
        """When the next renewal is due: after a third of the lease."""
        return 0 if self._renewed_ns is None else self._renewed_ns + self.ttl_ns // 3

    def may_serve(self, now_ns: int) -> bool:
        """Is the lease surely still ours?"""
        return not self.lost and now_ns < self.until_ns

    def check(self, now_ns: int) -> None:
        """Raise Fenced unless `may_serve`. Called before a change and again after it is durable."""
        if self.may_serve(now_ns):
            return
        message = f"manager epoch {self.epoch}: the lease can't be proved any more"
        if self.lost:
            raise Fenced(message, hint="this manager stops; the one with the later epoch serves")
        raise LeaseLapsed(message, hint="another term is asked for; whoever serves by now goes on serving")
