"""One Ray cluster a module."""

import pytest
from clusters import two_nodes


@pytest.fixture(scope="module")
def cluster():
    with two_nodes() as made:
        yield made
