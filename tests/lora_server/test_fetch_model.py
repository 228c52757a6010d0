"""The Job that downloads base models: each source has its own folder, and interrupted downloads are resumed."""

import os
from pathlib import Path

import pytest
from pointsman_lora_server.fetch_model import MARKER, FetchError, fetch


def hub(repository: str, revision: str | None, folder: Path) -> None:
    (folder / "config.json").write_text(f"{repository} {revision}")


def interrupted_hub(repository: str, revision: str | None, folder: Path) -> None:
    (folder / "part").write_text("1")
    raise ConnectionError("reset")


def fetched_at(url: str, folder: Path, seconds: int) -> None:
    assert fetch(url, folder, hub)
    os.utime(folder / MARKER, (seconds, seconds))


def test_a_repository_is_downloaded_at_its_revision_once(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    assert fetch("hf://org/model@v2", folder, hub)
    assert (folder / "config.json").read_text() == "org/model v2"
    assert not fetch("hf://org/model@v2", folder, interrupted_hub)


def test_an_interrupted_download_keeps_what_it_has_and_is_not_complete(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"cannot be fetched to .*: ConnectionError: reset"):
        fetch("hf://org/model", tmp_path / "a", interrupted_hub)
    assert not (tmp_path / "a" / MARKER).exists()

    assert fetch("hf://org/model", tmp_path / "a", hub)

    assert (tmp_path / "a" / "part").exists()


def test_the_model_before_is_kept_for_the_engines_that_run_with_it(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    for seconds, name in enumerate("abc"):
        fetched_at(f"hf://org/{name}", tmp_path / name, seconds)

    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["b", "c", "lost+found"]


def test_a_folder_takes_no_second_model(tmp_path: Path) -> None:
    assert fetch("hf://org/a", tmp_path / "a", hub)
    with pytest.raises(FetchError, match="holds another model, hf://org/a"):
        fetch("hf://org/b", tmp_path / "a", hub)
