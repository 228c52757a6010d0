"""A user who follows docs/howto/csv-to-adapter.md in an empty folder, in which the wheels are installed."""

import re
import shutil
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from tests.doc_blocks import SHELL
from tests.gateway.doubles.waiting import found
from tests.quickstart.installation import PYTHONS, ROOT, WHEELS, environment_of, run, running

PAGE = [block.text for block in SHELL if block.page.name == "csv-to-adapter.md"]
"""The blocks of the page: install, init, start, ask, train, compare, choose, replace."""
PACKAGES = ("pointsman[retriever]", "pointsman-lora-server")


@dataclass(frozen=True)
class User:
    folder: Path
    environment: Mapping[str, str]

    async def shell(self, script: str, code: int = 0) -> str:
        """Runs a script as pasted into a terminal whose virtual environment is active; it stops at the first error."""
        path = f"{self.folder / 'env/bin'}:{self.environment['PATH']}"
        environment = {**self.environment, "PATH": path}
        return await run(self.folder, environment, "bash", "-euo", "pipefail", "-c", script, code=code)

    def up(self, http: str, **more: str) -> AbstractAsyncContextManager[None]:
        """Runs `pointsman up desk` in a second terminal."""
        command = (str(self.folder / "env/bin/pointsman"), "up", "desk", "--http", http, "--grpc", "127.0.0.1:0")
        return running(self.folder, {**self.environment, **more}, *command)

    def edit(self, pattern: str, replacement: str) -> None:
        """Replaces the first match of a regular expression in the configuration."""
        file = self.folder / "desk" / "pointsman.yaml"
        text, count = re.subn(pattern, replacement, file.read_text(), count=1, flags=re.MULTILINE)
        assert count == 1, pattern
        file.write_text(text)

    async def until_routed(self, reason: str) -> None:
        """Waits until the edited configuration serves."""

        async def is_active() -> bool:
            return reason in await self.shell('pointsman route "my booking was charged twice on my card"')

        await found(is_active, within=60)


def start_user(home: Path, engine_python: Path, **settings: str) -> User:
    """Returns a user with the folder `home`/empty. The models' folder is that of the clone."""
    folder = home / "empty"
    (folder / ".pointsman").mkdir(parents=True, mode=0o700)
    (folder / ".pointsman" / "models").symlink_to(ROOT / ".pointsman" / "models")
    given = {"POINTSMAN_ENGINE_PYTHON": str(engine_python), "PYTHONPATH": "", **settings}
    return User(folder, {**environment_of(home / "user"), **given})


async def install(user: User) -> None:
    assert any(WHEELS.glob("pointsman-*.whl")), "make wheels"
    interpreter = shutil.which(PYTHONS[0])
    assert interpreter
    await run(user.folder, user.environment, interpreter, "-m", "venv", "env")
    await run(user.folder, user.environment, "env/bin/pip", "install", "-q", "--find-links", str(WHEELS), *PACKAGES)
