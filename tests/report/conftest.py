"""A Chromium without a window, for tests that open a report as a person does."""

import shutil

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def browser():
    """The browser that is installed; skips where there is none."""
    path = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser is installed: none of {', '.join(_NAMES)} was found")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=_FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser):
    """Opens a file; when the test ends, nothing must have failed or been loaded in any page."""
    contexts, troubles = [], []

    def open_file(path, width=1280, colour_scheme="light"):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=colour_scheme
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: troubles.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.resolve().as_uri())
        return page

    requests = []
    yield open_file
    for context in contexts:
        context.close()
    assert troubles == []
    assert {url.partition(":")[0] for url in requests} <= {"file", "data"}
