"""One deployment and one browser for all tests of this folder; each test gets its own page."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright

from tests.console.services import ConsoleServices, run_services, send_sample_requests
from tests.console.visitor import CHROMIUM, Visitor, visiting
from tests.gateway.doubles.tenancy import issue


@pytest_asyncio.fixture(scope="session", loop_scope="session", autouse=True)
async def browser() -> AsyncIterator[Browser]:
    if not CHROMIUM.exists():
        pytest.fail(f"{CHROMIUM} is not there: make console-tools")
    async with async_playwright() as playwright:
        # Chromium has no sandbox when it runs as root, as in containers; it loads only our pages.
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        await browser.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def services(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ConsoleServices]:
    """Services without authentication, as on a laptop."""
    async with run_services(tmp_path_factory.mktemp("open"), model_folder) as services:
        await send_sample_requests(services)
        yield services


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def guarded(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ConsoleServices]:
    """Services with authentication."""
    async with run_services(tmp_path_factory.mktemp("guarded"), model_folder, auth="on") as services:
        yield services


@pytest_asyncio.fixture(loop_scope="session")
async def visitor(browser: Browser, services: ConsoleServices) -> AsyncIterator[Visitor]:
    """Yields a user whose screen is 1600 pixels wide."""
    async with visiting(browser, services.url, 1600) as visitor:
        yield visitor


@pytest_asyncio.fixture(loop_scope="session")
async def stranger(browser: Browser, guarded: ConsoleServices) -> AsyncIterator[Visitor]:
    """Yields a user without a key."""
    async with visiting(browser, guarded.url, 1280, quiet=False) as visitor:
        yield visitor


@pytest_asyncio.fixture(loop_scope="session")
async def operators_key(guarded: ConsoleServices) -> str:
    return (await issue(guarded.valkey.url, operator=True)).credential.text


@pytest_asyncio.fixture(loop_scope="session")
async def plain_key(guarded: ConsoleServices) -> str:
    return (await issue(guarded.valkey.url)).credential.text
