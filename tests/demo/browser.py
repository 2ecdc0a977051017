"""A Chromium that is there already, and what a visitor does in the demo."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PATIENCE_MS = 20_000
_COMMANDS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find_chromium() -> str | None:
    """Return the browser in QUEE_CHROMIUM, or else in PATH; `None` if there is none."""
    return os.environ.get("QUEE_CHROMIUM") or next(filter(None, map(shutil.which, _COMMANDS)), None)


@contextmanager
def open_chromium() -> Iterator[Any]:
    """Yield a headless browser of Playwright's."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # In containers there are neither user namespaces nor much shared memory.
        browser = playwright.chromium.launch(
            executable_path=find_chromium(), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        try:
            yield browser
        finally:
            browser.close()


class Visitor:
    """A tab with the demo, and what a person would do in it.

    Args:
        context: Of a browser, and not shared with other visitors.
        url: Of the demo.
    """

    def __init__(self, context: Any, url: str) -> None:
        self.strangers: list[str] = []  # addresses elsewhere that the page asked for
        self.errors: list[str] = []
        self.page = context.new_page()
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.route("**/*", self._let_pass(url))
        self.page.goto(url)
        self.page.locator("#image input[type=file]").wait_for(state="attached")

    def _let_pass(self, url: str) -> Any:
        def decide(route: Any) -> None:
            if route.request.url.startswith((url, "data:", "blob:")):
                route.continue_()
            else:
                self.strangers.append(route.request.url)
                route.abort()

        return decide

    def upload(self, file: Path) -> None:
        """Choose a file in the first tab, in place of the one that is there."""
        if (clear := self.page.locator("#image button[aria-label=Clear]")).count():
            clear.first.click()
        self.page.locator("#image input[type=file]").set_input_files(file)

    def slide(self, name: str, value: float) -> None:
        """Move a slider."""
        self.page.locator(f"#{name} input[type=range]").fill(str(value))

    def route_by(self, way: str) -> None:
        """Choose a way to route."""
        self.page.locator("#way").get_by_text(way, exact=True).click()

    def open_files(self) -> None:
        """Open the tab for many images."""
        self.page.get_by_role("tab", name="Many images").click()

    def wait_for(self, name: str, text: str) -> None:
        """Wait until a part of the page says something; nothing at all, if that is empty."""
        from playwright.sync_api import expect

        part = expect(self.page.locator(f"#{name}"))
        if text:
            part.to_contain_text(text, timeout=_PATIENCE_MS)
        else:
            part.to_have_text("", timeout=_PATIENCE_MS)
