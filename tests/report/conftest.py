import pytest
from building.browser import launched


@pytest.fixture(scope="module")
def chromium():
    with launched() as browser:
        yield browser
