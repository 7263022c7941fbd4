"""What a page packs comes back whole, and nothing in it can end the script that holds it."""

import re
from pathlib import Path

import pytest
from plotly.offline import get_plotlyjs

from rlhf_utils.show import page

HOSTILE = "</script><script>alert(1)</script><!-- π \ud800 \0 ]]>"
TEMPLATE = """{% extends "page.html" %}{% block title %}{{ title }}{% endblock %}
{% block main %}<p>{{ title }}</p><i data-fragment=a></i>{% endblock %}"""


@pytest.fixture
def written(tmp_path):
    """A page with a hostile title and fragment."""
    (tmp_path / "t.html").write_text(TEMPLATE)
    text = page.render(
        tmp_path / "t.html", {}, {"a": f"<b title='{HOSTILE}'>in</b>"}, title=HOSTILE
    )
    path = tmp_path / "page.html"
    path.write_text(text, encoding="utf-8", errors="replace")
    return path


def test_what_is_packed_has_only_digits_that_a_script_may_hold(written):
    text = written.read_text(encoding="utf-8")
    inside = re.findall(r"id=packed\S* data-size=\d+>(.*?)</script>", text, re.DOTALL)
    assert len(inside) == 2 and len(set(page.DIGITS)) == 85 and "<" not in page.DIGITS
    assert all(set(one) <= set(page.DIGITS) and len(one) % 5 == 0 for one in inside)
    assert len(inside[0]) < 1_500_000 and HOSTILE not in text


def test_plotly_is_not_kept_a_second_time():
    folder = Path(page.__file__).parents[1]
    assert not [path for path in folder.rglob("*.js") if path.stat().st_size > 100_000]


def test_a_browser_unpacks_exactly_what_was_packed(chromium, written):
    context = chromium.new_context(offline=True)
    opened, wrong = context.new_page(), []
    opened.on("dialog", lambda dialog: (wrong.append("a dialog"), dialog.dismiss()))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.goto(written.as_uri())
    opened.locator("html[data-ready]").wait_for()
    script = opened.locator("head script").evaluate("own => own.textContent")
    assert script == get_plotlyjs()  # 4.8 million characters
    shown = opened.locator("[data-fragment=a] b")
    assert shown.text_content() == "in" and wrong == []
    expected = HOSTILE.replace("\ud800", "\ufffd").replace("\0", "\ufffd")
    assert shown.get_attribute("title").replace("\ud800", "\ufffd") == expected
    context.close()


def test_a_browser_says_so_where_what_is_packed_is_damaged(chromium, written):
    text = written.read_text(encoding="utf-8")
    written.write_text(re.sub(r"(id=packed data-size=)\d+", r"\g<1>7", text), encoding="utf-8")
    context = chromium.new_context(offline=True)
    opened = context.new_page()
    opened.goto(written.as_uri())
    opened.locator("html[data-ready]").wait_for()
    assert opened.locator(".no-script").is_visible() and opened.locator("p").count() == 2
    context.close()
