"""Decisions are searched and filtered, and their stored answers compared side by side."""

import re

import pytest
from playwright.async_api import Browser, expect

from tests.console.services import SAID, TRIAGE, VOICE, ConsoleServices
from tests.console.visitor import Visitor, visiting
from tests.gateway.doubles.config_folder import IN_CHAT, IN_TRIAGE

pytestmark = pytest.mark.asyncio(loop_scope="session")

QUESTION = "My hedgehog travels in a shoebox"


async def search(visitor: Visitor, text: str) -> None:
    await visitor.page.get_by_label("Text", exact=True).fill(text)
    await visitor.page.get_by_role("button", name="Search").click()


async def test_a_decision_is_found_by_its_request_or_its_answer(visitor: Visitor, services: ConsoleServices) -> None:
    page, rows = visitor.page, visitor.page.locator("#decisions-body [data-decision]")
    name = await services.ask(f"{IN_TRIAGE} {QUESTION}")
    await search(visitor, QUESTION.upper())
    await expect(rows).to_have_count(1)
    await expect(rows).to_have_attribute("data-decision", name)
    await expect(page.locator("#find-status")).to_have_text("1 decision found in the whole request log.")
    await search(visitor, "glad to help you with your journey")
    await expect(rows.filter(has_text="small_talk").first).to_be_visible()
    await expect(rows.filter(has_text="triage_adapter")).to_have_count(0)  # its answers do not say that
    await search(visitor, "nobody ever wrote this")
    await expect(page.locator("#decisions-body")).to_have_text("No decision fits.")
    await page.get_by_role("button", name="Show all").click()
    await expect(page.locator(f"[data-decision='{name}']")).to_be_visible()
    await expect(page.locator("#find-status")).to_have_text("")


async def test_filters_combine_and_what_was_found_stays(visitor: Visitor, services: ConsoleServices) -> None:
    page = visitor.page
    await expect(page.locator("#decisions-body [data-decision]").first).to_be_visible()
    form = page.get_by_role("search", name="Decisions")
    await form.get_by_label("Path").select_option("letter")
    await form.get_by_label("Ended").select_option("ok")
    await expect(page.locator("#find-status")).to_contain_text("found in the whole request log")
    paths = page.locator("#decisions-body [data-name='path']")
    assert set(await paths.all_inner_texts()) == {"letter"}
    before = await paths.count()
    await services.ask(IN_CHAT, "path:letter")
    await page.wait_for_timeout(2500)  # the page would have read the list again by then
    await expect(paths).to_have_count(before)
    await form.get_by_label("Ended").select_option("failed")
    await expect(page.locator("#decisions-body")).to_have_text("No decision fits.")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [420, 1400])
async def test_stored_answers_are_compared_side_by_side(
    browser: Browser, services: ConsoleServices, width: int, scheme: str
) -> None:
    named = [await services.ask(f"{IN_TRIAGE} {scheme} {width}", f"path:{path}") for path in ("letter", "small_talk")]
    chosen = await services.ask(f"{IN_TRIAGE} {scheme} {width}", rating=1.0)
    async with visiting(browser, services.url, width, scheme=scheme) as visitor:
        page, compare = visitor.page, visitor.page.locator("#compare-button")
        await page.locator(f"#pick-{chosen}").check()
        await expect(compare).to_have_text("Compare answers (choose 1 more)")
        await expect(compare).to_be_disabled()
        for name in named:
            await page.locator(f"#pick-{name}").check()
        await compare.focus()
        await page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog", name="Answers side by side")
        cards = dialog.locator("article")
        await expect(cards).to_have_count(3)
        await expect(dialog.locator(".message")).to_contain_text(f"{IN_TRIAGE} {scheme} {width}")
        adapter = dialog.get_by_role("article", name=re.compile("Answer of triage_adapter at "))
        await expect(adapter).to_contain_text(SAID[TRIAGE])
        await expect(adapter).to_contain_text("rated 1")
        await expect(adapter.locator("[data-figure='dollars'] dd")).to_have_text(re.compile(r"^\$0\.0+\d+$"))
        await expect(dialog.get_by_role("article", name=re.compile("small_talk"))).to_contain_text(SAID["tiny"])
        boxes = [await cards.nth(number).bounding_box() for number in range(3)]
        assert len({box["x" if width > 800 else "y"] for box in boxes if box}) == 3
        assert await visitor.overflow() == 0
        await page.keyboard.press("Escape")
        await expect(dialog).to_have_count(0)
        await expect(compare).to_be_focused()


async def test_no_more_than_four_answers_are_compared(visitor: Visitor, services: ConsoleServices) -> None:
    boxes = visitor.page.locator("#decisions-body input[type='checkbox']")
    await expect(boxes.nth(4)).to_be_visible()
    for number in range(4):
        await boxes.nth(number).check()
    await boxes.nth(4).click()
    await expect(boxes.nth(4)).not_to_be_checked()
    await expect(visitor.page.locator("#find-status")).to_have_text("At most 4 answers can be compared at once.")
    await expect(visitor.page.locator("#compare-button")).to_have_text("Compare 4 answers")


async def test_a_request_that_named_its_path_has_no_task_and_no_confidence(
    visitor: Visitor, services: ConsoleServices
) -> None:
    name = await services.ask(IN_CHAT, "path:letter")
    row = visitor.page.locator(f"[data-decision='{name}']")
    await expect(row.locator("[data-name='task']")).to_have_text("path named")
    await expect(row.locator("[data-name='conf.']")).to_have_text("–")
    await row.locator("button").click()
    drawer = visitor.page.get_by_role("dialog")
    await expect(drawer).to_contain_text("none: the request named its path")
    await expect(drawer.locator(".facts")).not_to_contain_text("1.00")
    await expect(drawer.locator("#stored-answer")).to_have_text(SAID[VOICE])
