"""Shared by all tests: no display, one thread, which is as fast for networks this small, and no test fails by time.

With `--no-skips` a test that skips fails, so that a missing package or kernel cannot hide what it would have tested.
"""

import gc
import os
import re

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Workers of pytest-xdist are told how wide the terminal is; what the tests print goes to none.
os.environ.pop("COLUMNS", None)

settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

# What a reason begins with that no installation can mend.
_PLATFORM = re.compile(r"(Skipped: )?this (system|torch|Python)\b")


def pytest_addoption(parser):
    parser.addoption(
        "--no-skips",
        action="store_true",
        help='fail where a test or a module skips, unless the reason begins with "this system", "this torch" or '
        '"this Python"',
    )


def pytest_collection_finish():
    # What was imported to collect the tests stays until the end: no collection of garbage has to look at it again.
    gc.collect()
    gc.freeze()


def _without_skip(report, config):
    """Return the report, failed where it is a skip whose reason is not the platform."""
    if config.getoption("no_skips") and report.skipped and not hasattr(report, "wasxfail"):
        path, line, reason = report.longrepr
        if not _PLATFORM.match(reason):
            report.outcome, report.longrepr = "failed", f"{path}:{line}: under --no-skips nothing may skip: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    return _without_skip((yield), item.config)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    return _without_skip((yield), collector.config)
