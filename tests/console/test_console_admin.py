"""The console in a real Chromium: sign-in with PKCE, keys and limits, and the configuration's versions."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from tests.console.services import ConsoleServices, run_services
from tests.console.visitor import Visitor, visiting
from tests.gateway.doubles.issuer import AUDIENCE, CLIENT, FakeIssuer, running_issuer

SOME_ROUNDS_MS = 20_000
"""The page reads keys and configuration in every third of its rounds, which are two seconds apart."""

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def issuer() -> AsyncIterator[FakeIssuer]:
    async with running_issuer() as issuer:
        yield issuer


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def signing_on(
    model_folder: Path, issuer: FakeIssuer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ConsoleServices]:
    """Runs services with single sign-on, in which every user is an admin."""
    access = {
        "issuer": issuer.url,
        "audiences": [AUDIENCE, CLIENT],
        "algorithms": ["ES256"],
        "grants": [{"tenant": "ops", "admin": True}],
        "login": {"client_id": CLIENT},
    }
    folder = tmp_path_factory.mktemp("signing_on")
    async with run_services(folder, model_folder, access={"single_sign_on": access}, auth="on") as services:
        yield services


@pytest_asyncio.fixture(loop_scope="session")
async def admin(browser: Browser, signing_on: ConsoleServices) -> AsyncIterator[Visitor]:
    """Opens the console as a user who has signed in."""
    async with visiting(browser, signing_on.url, 1280, quiet=False) as visitor:
        await visitor.page.get_by_role("button", name="Sign in").click()
        await expect(visitor.page.locator("#key-button")).to_have_text("ops (admin)")
        yield visitor


async def test_a_user_signs_in_and_leaves_no_code_in_the_address(admin: Visitor) -> None:
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/console", admin.page.url)
    await expect(admin.page.locator("#standing")).to_contain_text("local ready")


async def test_a_sign_in_that_was_begun_elsewhere_is_refused(browser: Browser, signing_on: ConsoleServices) -> None:
    async with visiting(browser, signing_on.url, 1280, quiet=False) as visitor:
        await visitor.page.goto(f"{signing_on.url}/console?code=stolen&state=theirs")
        await expect(visitor.page.get_by_role("dialog")).to_contain_text("was not begun in this tab")


async def test_a_key_is_created_limited_and_revoked(admin: Visitor) -> None:
    page = admin.page
    await page.get_by_role("button", name="New key").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Tenant").fill("acme")
    await dialog.get_by_label("Name, for people to read").fill("desk")
    await dialog.get_by_label("At most dollars a day").fill("2.5")
    await dialog.get_by_role("button", name="Create it").click()
    key = await page.locator("#created-key").text_content() or ""
    assert re.fullmatch(r"pm_\w{8}_\w{32}", key)
    await dialog.get_by_role("button", name="Close").click()
    prefix = key.split("_")[1]
    row = page.locator(f"#keys-body tr[data-owner='{prefix}']")
    await expect(row).to_contain_text("desk")
    await expect(page.get_by_role("table", name="Budgets")).to_contain_text("$2.50 a day")
    await page.get_by_role("button", name=f"Limits of key {prefix}").click()
    await dialog.get_by_label("At most requests a minute").fill("7")
    await dialog.get_by_role("button", name="Set them").click()
    await expect(row).to_contain_text("7 requests a minute")
    await page.get_by_role("button", name=f"Revoke of key {prefix}").click()
    await dialog.get_by_role("button", name="Revoke it").click()
    await expect(row).to_contain_text("revoked")


async def test_administrative_changes_are_shown(admin: Visitor, signing_on: ConsoleServices) -> None:
    rows = admin.page.locator("#changes tbody tr")
    await expect(rows.last).to_contain_text("configuration first seen", timeout=SOME_ROUNDS_MS)
    await expect(rows.last).to_contain_text(str(signing_on.folder / "config"))


async def test_the_running_and_a_rejected_configuration_are_shown(admin: Visitor, signing_on: ConsoleServices) -> None:
    page = admin.page
    await expect(page.locator("#configuration-running")).to_contain_text("paths.yaml")
    file = signing_on.folder / "config" / "tasks.yaml"
    before = file.read_text()
    file.write_text(before.replace("default_path: safe_start", "default_path: nowhere"))
    await expect(page.locator("#configuration-rejected .problem")).to_contain_text("nowhere", timeout=SOME_ROUNDS_MS)
    file.write_text(before)
    await expect(page.locator("#configuration-rejected")).to_have_count(0, timeout=SOME_ROUNDS_MS)
