"""The page for people who use a keyboard or a screen reader, and its header on each width."""

from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from tests.console.services import TRIAGE_NEXT, ConsoleServices
from tests.console.visitor import Visitor, visiting
from tests.gateway.doubles.config_folder import IN_TRIAGE

pytestmark = pytest.mark.asyncio(loop_scope="session")

MAX_LINE_PIXELS = 80
MIN_CONTRAST = 4.5
"""Of text, as WCAG 2.2 requires at level AA."""

CHECKS = (Path(__file__).parent / "accessible.js").read_text()
"""An object of JavaScript whose functions examine the page."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_everything_has_a_name_and_enough_contrast(
    browser: Browser, services: ConsoleServices, scheme: str
) -> None:
    async with visiting(browser, services.url, 1400, scheme=scheme) as visitor:
        await visitor.ask(IN_TRIAGE)
        await expect(visitor.page.locator(".answer .rating").first).to_be_visible()
        await expect(visitor.page.locator("#spend-total")).to_be_visible()
        await expect(visitor.page.locator("[data-decision]").first).to_be_visible()
        assert await visitor.page.evaluate(f"{CHECKS}.unnamed()") == []
        assert await visitor.page.evaluate(f"{CHECKS}.pale({MIN_CONTRAST})") == []
        seen = await visitor.page.evaluate(f"{CHECKS}.structure()")
    assert all(seen.pop("landmarks"))
    assert seen == {"repeated": [], "jumps": [], "firsts": 1, "uncaptioned": 0, "unscoped": 0}


async def test_changes_are_announced_to_screen_readers(visitor: Visitor) -> None:
    for name in ("ask-status", "find-status", "adapters-outcome", "keys-outcome"):
        assert await visitor.page.locator(f"#{name}").get_attribute("role") == "status", name
    assert await visitor.page.locator("#banner").get_attribute("role") == "alert"


@pytest.mark.parametrize("width", [1280, 1400, 1600])
async def test_the_header_is_one_line(browser: Browser, services: ConsoleServices, width: int) -> None:
    async with visiting(browser, services.url, width) as visitor:
        await expect(visitor.page.locator("#standing")).to_contain_text("local ready")
        brand = await visitor.page.locator(".brand").bounding_box()
        button = await visitor.page.locator("#theme-button").bounding_box()
        links = await visitor.page.locator("nav a").evaluate_all("links => links.map((one) => one.offsetTop)")
    assert brand is not None
    assert button is not None
    assert brand["y"] < button["y"] + button["height"] / 2 < brand["y"] + brand["height"]
    assert len(set(links)) == 1
    assert width - 80 < button["x"] + button["width"] <= width


async def test_measurements_of_adapters_have_names(visitor: Visitor) -> None:
    measured = visitor.page.locator(f"tr[data-version='{TRIAGE_NEXT}'] [data-name='measured']")
    for words in ("exact 0.83, prompting 0.72", "loss 5.88 before, 0.0411 after", "on 24 held-out rows"):
        await expect(measured).to_contain_text(words)


async def test_examples_are_those_of_the_configuration(visitor: Visitor, services: ConsoleServices) -> None:
    buttons = visitor.page.get_by_role("group", name="Examples from the configuration").get_by_role("button")
    await expect(buttons).to_have_count(3)
    texts = await buttons.all_inner_texts()
    configured = "".join(file.read_text() for file in (services.folder / "config").rglob("*.jsonl"))
    assert all(text.removesuffix("…") in configured for text in texts)
    await buttons.first.click()
    await expect(visitor.page.locator(".answer .rating").first).to_be_visible()


async def test_a_task_without_ratings_has_a_line_instead_of_an_empty_chart(stranger: Visitor, plain_key: str) -> None:
    await stranger.page.get_by_role("dialog").get_by_label("Key").fill(plain_key)
    await stranger.page.keyboard.press("Enter")
    empty = stranger.page.locator("[data-task='triage'] .empty")
    await expect(empty).to_contain_text("pointsman eval --as-ratings draws quality against cost here")
    box = await empty.bounding_box()
    assert box is not None
    assert box["height"] < MAX_LINE_PIXELS
    await expect(stranger.page.locator("[data-task='triage'] .plot")).to_have_count(0)
