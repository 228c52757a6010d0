"""A user of the console's page in a real Chromium."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, ConsoleMessage, Locator, Page

CHROMIUM = Path("/usr/bin/chromium")
PATIENCE_MS = 15_000


@dataclass
class Visitor:
    page: Page
    complaints: list[str] = field(default_factory=list)
    """Errors and warnings in the browser's console, and uncaught exceptions."""

    def section(self, name: str) -> Locator:
        return self.page.locator(f"section#{name}")

    def row(self, path: str) -> Locator:
        return self.page.locator(f"#paths-body tr[data-path='{path}']")

    def answer(self, path: str) -> Locator:
        return self.page.locator(f".answer[data-path='{path}']")

    def alias(self, name: str) -> Locator:
        return self.page.locator(f".alias[data-alias='{name}']")

    async def ask(self, text: str, answers: str = "considered") -> None:
        await self.page.get_by_label("Request", exact=True).fill(text)
        await self.page.get_by_label("Answers from").select_option(answers)
        await self.page.get_by_role("button", name="Ask", exact=True).click()

    async def overflow(self) -> int:
        """Returns by how many pixels the page is wider than its screen."""
        wide: int = await self.page.evaluate(OVERFLOW)
        return wide

    async def crowded(self) -> list[str]:
        """Returns the texts of table cells whose content is wider than the cell, so that it may cover the next."""
        texts: list[str] = await self.page.evaluate(CROWDED)
        return texts

    async def tab_to(self, label: str, most: int = 120) -> None:
        """Presses the Tab key until the element `label` has the focus, at most `most` times; the focus must be visible
        at every step.
        """
        for _ in range(most):
            await self.page.keyboard.press("Tab")
            focused: dict[str, Any] = await self.page.evaluate(FOCUSED)
            assert focused["outlined"], focused
            if focused["label"] == label:
                return
        raise AssertionError(f"Tab does not lead to '{label}'")


OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"

CROWDED = """[...document.querySelectorAll("td, tbody th")]
  .filter((cell) => cell.scrollWidth > cell.clientWidth + 1)
  .map((cell) => `${cell.dataset.name}: ${cell.textContent}`)"""

FOCUSED = """() => {
  const at = document.activeElement, style = getComputedStyle(at);
  return {
    label: at.getAttribute("aria-label") || at.labels?.[0]?.textContent || at.textContent.trim(),
    outlined: at === document.body || (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0),
  };
}"""


@asynccontextmanager
async def visiting(
    browser: Browser, url: str, width: int, quiet: bool = True, scheme: str = "light"
) -> AsyncIterator[Visitor]:
    """Opens the page for the length of the block. With `quiet`, errors and warnings in the browser's console fail the
    test; a rejected request is one of them.
    """
    context = await browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=scheme,  # type: ignore[arg-type]  # "light" or "dark"
    )
    context.set_default_timeout(PATIENCE_MS)
    page = await context.new_page()
    visitor = Visitor(page)
    page.on("pageerror", lambda error: visitor.complaints.append(str(error)))

    def note(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            visitor.complaints.append(message.text)

    page.on("console", note)
    await page.goto(f"{url}/console")
    yield visitor
    await context.close()
    if quiet:
        assert visitor.complaints == []
