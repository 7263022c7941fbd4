"""A headless Chromium for the tests whose names have `browser` in them."""

import os
import shutil

import pytest

from rlhf_utils.show.pictures import BROWSERS

# the texts of a plotly figure that lie outside it
OUTSIDE = """plot => {
  const frame = plot.getBoundingClientRect();
  return [...plot.querySelectorAll('text')].filter(text => {
    const box = text.getBoundingClientRect();
    return box.width && (box.left < frame.left - 1 || box.right > frame.right + 1
      || box.top < frame.top - 1 || box.bottom > frame.bottom + 1);
  }).map(text => text.textContent);
}"""
MISSING = (
    "No Chromium on the PATH: install it from your system's packages (Debian, Ubuntu: apt install "
    "chromium), then run `make test` again."
)


def chromium_or_skip() -> str:
    """The browser's path. Without one the test is skipped, or fails with RLHF_REQUIRE_BROWSER."""
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    refuse = pytest.fail if os.environ.get("RLHF_REQUIRE_BROWSER") else pytest.skip
    refuse(MISSING)
