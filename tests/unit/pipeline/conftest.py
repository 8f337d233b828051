"""One pipeline for each module, which must leave no thread and no buffer behind."""

import threading

import pytest

from staddle.data.pipeline import Pipeline

from .kit import SMALL


@pytest.fixture(scope="module")
def shared():
    before = set(threading.enumerate())
    pipeline = Pipeline(SMALL)
    yield pipeline
    assert pipeline.batches.in_use == pipeline.containers.in_use == 0
    pipeline.close()
    assert set(threading.enumerate()) <= before
