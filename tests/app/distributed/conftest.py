"""A Ray on this machine, which ends with the module."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import suppress

import pytest

with warnings.catch_warnings(), suppress(ImportError):
    warnings.simplefilter("ignore")  # Ray's modules warn when they are imported, and warnings are errors here
    import ray
    import ray.data
    import ray.serve


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """Four CPUs, as Ray counts them."""
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=100 << 20,
        logging_level=logging.WARNING,
        log_to_driver=False,
    )
    yield
    ray.shutdown()
