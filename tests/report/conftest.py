import pytest
from make_run import make_run


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A made-up run of two categories with its report; not to be changed by a test."""
    from bikd_fast.report import write_report

    folder = make_run(tmp_path_factory.mktemp("report"))
    write_report(folder)
    return folder
