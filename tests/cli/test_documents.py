from pathlib import Path

import pytest
from pointsman_cli.errors import UsageError
from pointsman_cli.sources import find_sources, title_of


def test_a_folder_yields_its_files_with_ids_and_titles(tmp_path: Path) -> None:
    (tmp_path / "fares").mkdir()
    (tmp_path / "fares" / "group.md").write_text("intro\n```\n# no heading\n```\n# Group travel #\ntext\n# Second\n")
    (tmp_path / "plain.txt").write_text("no heading")
    (tmp_path / "photo.png").write_bytes(b"\x89PNG")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "notes.md").write_text("hidden")

    (source,) = find_sources([tmp_path])

    assert source.name == str(tmp_path)
    assert [(file.id, file.title(file.read()), file.relative) for file in source.files] == [
        ("fares/group", "Group travel", "fares/group.md"),
        ("plain", "plain", "plain.txt"),
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_heading_ends_at_the_line_feed_only(end: str) -> None:
    assert title_of(f"say\u2028# none{end}# Fares\u2028and zones{end}text") == "Fares\u2028and zones"


def test_two_files_with_one_id_are_named(tmp_path: Path) -> None:
    for name in ("good.md", "good.txt"):
        (tmp_path / name).write_text("good")

    with pytest.raises(UsageError, match=rf"{tmp_path / 'good.txt'} has the same id 'good' as {tmp_path / 'good.md'}"):
        find_sources([tmp_path])


def test_a_folder_without_documents_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is nothing to ingest in"):
        find_sources([tmp_path])


@pytest.mark.parametrize(("name", "message"), [("a.png", "has an unknown ending"), ("nothing", "does not exist")])
def test_a_file_that_cannot_be_a_document_is_refused_by_name(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG")

    with pytest.raises(UsageError, match=f"{name} {message}"):
        find_sources([tmp_path / name])
