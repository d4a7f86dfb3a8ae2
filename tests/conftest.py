"""Shared by all tests: shapes and types are checked at every call, and nothing is left behind."""

import gc
import os
import tempfile
from pathlib import Path

import hypothesis
import jax
import jaxtyping
import pytest
from hypothesis.configuration import set_hypothesis_home_dir

# Most of the time goes into compiling programs that run for milliseconds: unoptimised, they take half of it.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"

# Before anything of cnnjax is imported. An int may stand for a float, as in every type checker.
jaxtyping.install_import_hook("cnnjax", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

# The same examples in every run of the same files: a failure that comes and goes teaches nothing.
hypothesis.settings.register_profile("cnnjax", derandomize=True, deadline=None)
hypothesis.settings.load_profile("cnnjax")
set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "cnnjax-hypothesis")  # it writes before any fixture


def pytest_collection_finish():
    """Less looking for garbage among what stays anyway, such as modules and the tests themselves: it takes time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


@pytest.fixture(scope="session", autouse=True)
def _storage(tmp_path_factory):
    """The user's caches stay as they are; compiled programs are shared by the whole session."""
    directory = tmp_path_factory.mktemp("cache")
    jax.config.update("jax_compilation_cache_dir", str(directory / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CNNJAX_CACHE", str(directory))
        yield


@pytest.fixture
def unchecked():
    """Turns the checks of types off: how the code itself refuses a value of the wrong type."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
