"""Decorators round a driver: retry, throttle, metrics, deadline, fault. No driver does this work itself."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from staddle.api.media import Medium
from staddle.config_model import MediumSettings
from staddle.wrap.deadline import DeadlineLayer
from staddle.wrap.fault import FaultLayer
from staddle.wrap.layers import Layer, WrappedMedium
from staddle.wrap.metrics import MetricsLayer
from staddle.wrap.retry import RetryLayer
from staddle.wrap.throttle import ThrottleLayer

__all__ = ["MetricsLayer", "WrappedMedium", "wrap"]


def wrap(
    medium: Medium,
    settings: MediumSettings,
    *,
    metrics: MetricsLayer | None = None,
    sleep: Callable[[float], None] = time.sleep,
    jitter: Callable[[], float] = random.random,
) -> WrappedMedium:
    """A driver with everything that the core puts round it, from the outside in.

    1. retry: each attempt passes all the others, as a call of its own;
    2. throttle: outside the metrics, since a wait for tokens is not the backend's latency;
    3. metrics: outside the deadline, so that a call that hangs is counted when its caller leaves;
    4. deadline: outside the faults, so that an injected hang is met like a real one;
    5. fault, if there is a control file: nearest to the driver, which it stands for.

    Args:
        medium: the driver.
        settings: its table in the configuration.
        metrics: where to count; the wrapper makes its own otherwise.
        sleep: waits for seconds (retry and throttle).
        jitter: a number in [0, 1).
    """
    layers: list[Layer] = [RetryLayer(sleep=sleep, jitter=jitter)]
    if settings.throttle_bytes_per_s is not None:
        layers.append(ThrottleLayer(settings.throttle_bytes_per_s, sleep=sleep))
    layers += [metrics or MetricsLayer(), DeadlineLayer(settings.name)]
    if settings.fault_file is not None:
        layers.append(FaultLayer(settings.fault_file))
    return WrappedMedium(medium, settings.name, layers, settings.deadline_s)
