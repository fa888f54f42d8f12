from pathlib import Path

import pytest
from digits_folder import write_digits


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory):
    """An image folder of real images: 260 training and 130 test digits, 32x32 px."""
    return write_digits(tmp_path_factory.mktemp("data") / "digits", train=26, test=13)


@pytest.fixture(scope="session")
def examples():
    return Path(__file__).parents[3] / "examples"
