"""Decisions that Redis has no longer are listed from exported files."""

import re
import time
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from tests.console.services import run_services
from tests.console.visitor import visiting
from tests.gateway.doubles.config_folder import IN_CHAT
from tests.gateway.doubles.exported_history import export, three_days
from tests.gateway.doubles.exports import ExportHarness, files_in

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_older_decisions_come_from_the_files_and_a_problem_is_shown(
    browser: Browser, model_folder: Path, tmp_path: Path
) -> None:
    harness = ExportHarness(tmp_path / "exported")
    older = three_days(30, until=time.time() - 60)
    export(harness, older.values())
    async with run_services(tmp_path, model_folder, console_records=str(harness.files)) as services:
        name = await services.ask(IN_CHAT)
        async with visiting(browser, services.url, 1600, quiet=False) as visitor:
            page, rows = visitor.page, visitor.page.locator("#decisions-body [data-decision]")
            button = page.get_by_role("button", name="Older decisions")
            await expect(rows).to_have_count(1)
            await button.click()
            await expect(rows).to_have_count(26, timeout=30_000)
            await button.click()
            await expect(rows).to_have_count(31, timeout=30_000)
            shown = [await row.get_attribute("data-decision") for row in await rows.all()]
            assert shown == [name, *older]
            await expect(button).to_be_hidden()
            await expect(page.locator("#find-status")).to_have_text("31 decisions found in the whole request log.")
            await rows.last.locator("button").click()
            await expect(page.get_by_role("dialog")).to_contain_text(list(older)[-1], timeout=30_000)
            await page.keyboard.press("Escape")
            await page.get_by_role("button", name="Show all").click()
            await expect(rows).to_have_count(1)
            files_in(harness.files)[0].write_bytes(b"PAR1 and no more")
            await button.click()
            await expect(page.locator("#find-status")).to_have_text(
                re.compile("cannot be read now; the gateway's log has the reason"), timeout=30_000
            )
            await expect(rows).to_have_count(1)
