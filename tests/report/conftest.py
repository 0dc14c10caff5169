"""Made-up runs, their pages, and a browser to open them in."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from benchmarks.report import made_up_run

# What a folder may be called, and what must not happen then.
ODD = (
    "<script>window.harm = 1</script>",
    "a & b <i>x</i>",
    '"q"\'s',
    "${7*7}",
    "{{ 7*7 }}",
    "日本",
    "a",
    "b",
    "c",
    "d",
)


@pytest.fixture(scope="session")
def odd_run(tmp_path_factory):
    """Ten classes with awkward names."""
    return made_up_run(tmp_path_factory.mktemp("odd") / "run", 10, 300, 150, 50, names=ODD, strength=0.5)


@pytest.fixture(scope="session")
def browser(chromium):
    """A context manager that opens a page in a headless browser and fails if it complains."""

    @contextmanager
    def opened(
        path,
        width=1440,
        scheme="light",
        wait="[...document.querySelectorAll('.canvas')].every(c => c.dataset.drawn === '')",
    ):
        complaints = []
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type != "log" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda request: complaints.append(request.url) if request.url[:4] not in ("file", "data") else None,
        )
        page.goto(path.as_uri())
        page.wait_for_function(wait)
        yield page
        context.close()
        assert complaints == []

    return opened
