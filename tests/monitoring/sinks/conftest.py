"""What the tests of sinks share."""

import pytest


@pytest.fixture
def every_write_is_taken(caplog):
    """At the end, no sink has failed: a failure is but one warning to the run."""
    yield
    assert [record.message for record in caplog.records if "sink" in record.message] == []
