"""A headless Chromium for the tests whose names have `browser` in them."""

import os
import shutil

import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)
MISSING = "No Chromium on the PATH: install it from your system's packages (Debian, Ubuntu: apt install chromium), then run `make test` again."


def chromium_or_skip() -> str:
    """The browser's path; without one the test is skipped, or fails where RLHF_REQUIRE_BROWSER is set, as in .ci/run."""
    if CHROMIUM is None:
        (pytest.fail if os.environ.get("RLHF_REQUIRE_BROWSER") else pytest.skip)(MISSING)
    return CHROMIUM
