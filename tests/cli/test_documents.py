from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from pointsman_cli.errors import UsageError
from pointsman_cli.sources import MAX_BYTES, Document, read_documents, title_of


def test_a_folder_yields_its_texts_with_ids_and_titles(tmp_path: Path) -> None:
    (tmp_path / "fares").mkdir()
    (tmp_path / "fares" / "group.md").write_text("intro\n```\n# no heading\n```\n# Group travel #\ntext\n# Second\n")
    (tmp_path / "plain.txt").write_text("no heading")
    (tmp_path / "photo.png").write_bytes(b"\x89PNG")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "notes.md").write_text("hidden")

    documents = read_documents([tmp_path])

    assert [(document.id, document.title, document.file) for document in documents] == [
        ("fares/group", "Group travel", "fares/group.md"),
        ("plain", "plain", "plain.txt"),
    ]


def test_a_single_file_is_a_document(tmp_path: Path) -> None:
    file = tmp_path / "refunds.md"
    file.write_text("# Refunds\n")

    assert read_documents([file]) == [Document("refunds", "Refunds", "# Refunds\n", "refunds.md")]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_heading_ends_at_the_line_feed_only(end: str) -> None:
    assert title_of(f"say\u2028# none{end}# Fares\u2028and zones{end}text") == "Fares\u2028and zones"


def test_all_invalid_files_are_named_with_their_errors(tmp_path: Path) -> None:
    (tmp_path / "good.md").write_text("good")
    (tmp_path / "empty.md").write_text(" \n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "zeros.txt").write_bytes(b"text\x00text")
    (tmp_path / "large.md").write_bytes(b"x" * (MAX_BYTES + 1))
    (tmp_path / "good.txt").write_text("good too")

    with pytest.raises(UsageError) as refused:
        read_documents([tmp_path])

    told = str(refused.value)
    assert f"{tmp_path / 'empty.md'} is empty" in told
    assert f"{tmp_path / 'binary.txt'} is binary, or not in UTF-8" in told
    assert f"{tmp_path / 'zeros.txt'} is binary" in told
    assert f"{tmp_path / 'large.md'} is too large (4.0 MiB; at most 4 MiB)" in told
    assert f"{tmp_path / 'good.txt'} has the same id 'good' as good.md" in told


@pytest.mark.parametrize("mode", [0o000, 0o444])  # not listable; entries not accessible
def test_an_unreadable_folder_is_named(
    locked: Path, anybody: Callable[[], AbstractContextManager[None]], mode: int
) -> None:
    (locked / "sub").chmod(mode)

    with anybody(), pytest.raises(UsageError, match=rf"{locked / 'sub'}\S* cannot be read: Permission denied"):
        read_documents([locked])


def test_a_folder_without_texts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there are no \.md or \.txt files in"):
        read_documents([tmp_path])


@pytest.mark.parametrize(("name", "told"), [("a.pdf", "is not a .md or .txt file"), ("nothing", "does not exist")])
def test_a_binary_file_is_refused_by_name(tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF")

    with pytest.raises(UsageError, match=f"{name} {told}"):
        read_documents([tmp_path / name])
