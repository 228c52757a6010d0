"""Finds the files that `pointsman ingest` and `up` send to the retriever, with their ids, titles and media types."""

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pointsman_cli.errors import UsageError

MAX_FILE_BYTES = 32 * 1024 * 1024  # the retriever's limit

TEXT_TYPES = {".md": "text/markdown", ".markdown": "text/markdown", ".txt": "text/plain"}
FORMATTED_TYPES = {
    ".html": "text/html",
    ".htm": "text/html",
    ".pdf": "application/pdf",
    ".jsonl": "application/jsonl",
    ".ndjson": "application/jsonl",
}
CODE_TYPES = {
    ".py": "text/x-python",
    ".js": "text/javascript",
    ".ts": "text/x-typescript",
    ".tsx": "text/x-typescript",
    ".java": "text/x-java",
    ".kt": "text/x-kotlin",
    ".go": "text/x-go",
    ".rs": "text/x-rust",
    ".c": "text/x-c",
    ".h": "text/x-c",
    ".cc": "text/x-c++",
    ".cpp": "text/x-c++",
    ".hpp": "text/x-c++",
    ".cs": "text/x-csharp",
    ".rb": "text/x-ruby",
    ".php": "text/x-php",
    ".swift": "text/x-swift",
    ".scala": "text/x-scala",
    ".sh": "text/x-shellscript",
    ".sql": "text/x-sql",
    ".proto": "text/x-protobuf",
}
MEDIA_TYPES = {**TEXT_TYPES, **FORMATTED_TYPES, **CODE_TYPES}

_LINE_END = re.compile(r"\r\n?|\n")  # Markdown's line ends; U+2028 and similar characters belong to a line


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to ingest into the retriever: one document, or several documents if it is a JSON Lines file.

    `relative` is its path inside the source folder.
    """

    id: str
    path: Path
    relative: str
    media_type: str

    def read(self) -> bytes:
        """Returns the file's content; raises UsageError if it has more than MAX_FILE_BYTES bytes or cannot be read."""
        try:
            size = self.path.stat().st_size
            if size > MAX_FILE_BYTES:
                raise UsageError(f"{self.path} has {size:,} bytes; at most {MAX_FILE_BYTES:,} are taken")
            return self.path.read_bytes()
        except OSError as error:
            raise UsageError(f"{self.path} cannot be read: {error.strerror}") from error

    def title(self, content: bytes) -> str:
        """Returns the document's title, given the file's content.

        It is the first heading of a Markdown or text file (see `title_of`), else the file's name without the ending.
        For source code it is the path inside the folder. For PDF, HTML and JSON Lines it is empty, since the retriever
        reads the title from the document.
        """
        if self.media_type in FORMATTED_TYPES.values():
            return ""
        suffix = self.path.suffix.lower()
        heading = title_of(content.decode(errors="replace")) if suffix in TEXT_TYPES else ""
        return heading or (self.relative if suffix in CODE_TYPES else self.path.stem)


@dataclass(frozen=True, slots=True)
class Source:
    """A folder with which a collection is synchronized, or a single file to add to it, and the files to ingest."""

    name: str
    """The absolute path of the folder; empty for a single file."""
    files: tuple[SourceFile, ...]
    problems: tuple[str, ...] = ()
    """One message for each folder inside this one that cannot be read."""
    skipped: tuple[str, ...] = ()
    """The paths of the files in this folder whose ending is unknown; they are not ingested."""


@dataclass(frozen=True, slots=True)
class FolderContent:
    """The regular files below a folder, and messages on the folders inside that cannot be read."""

    files: tuple[Path, ...]
    problems: tuple[str, ...]
    """One message for each folder that cannot be read; the files in it must not be treated as deleted."""


def find_sources(paths: Sequence[Path]) -> list[Source]:
    """Lists the files to ingest from files and folders; returns one source for each path.

    Raises UsageError if a path does not exist, if it is a file with an unknown ending, if there is no file to ingest,
    or if two files of any sources have the same id.
    """
    sources = [_source(path) for path in paths]
    seen: dict[str, Path] = {}
    for file in (file for source in sources for file in source.files):
        if file.id in seen:
            raise UsageError(f"nothing was ingested: {file.path} has the same id {file.id!r} as {seen[file.id]}")
        seen[file.id] = file.path
    if not seen:
        if problems := [problem for source in sources for problem in source.problems]:
            raise UsageError(f"there is nothing to ingest: {'; '.join(problems)}")
        known = ", ".join(MEDIA_TYPES)
        raise UsageError(f"there is nothing to ingest in {', '.join(map(str, paths))}; known endings: {known}")
    return sources


def _source(path: Path) -> Source:
    if path.is_file():
        if path.suffix.lower() not in MEDIA_TYPES:
            raise UsageError(f"{path} has an unknown ending; known: {', '.join(MEDIA_TYPES)}")
        return Source("", (_source_file(path, Path(path.name)),))
    if not path.is_dir():
        raise UsageError(f"{path} does not exist")
    content = list_files(path)
    known = [file for file in content.files if file.suffix.lower() in MEDIA_TYPES]
    files = tuple(_source_file(file, file.relative_to(path)) for file in known)
    skipped = tuple(str(file) for file in content.files if file.suffix.lower() not in MEDIA_TYPES)
    return Source(str(path.resolve()), files, content.problems, skipped)


def _source_file(path: Path, relative: Path) -> SourceFile:
    """Describes one file to ingest, given its path inside the folder.

    The id is that path, for Markdown and text files without the ending.
    """
    named = relative.with_suffix("") if path.suffix.lower() in TEXT_TYPES else relative
    return SourceFile(named.as_posix(), path, relative.as_posix(), MEDIA_TYPES[path.suffix.lower()])


def list_files(folder: Path) -> FolderContent:
    """Lists the regular files below a folder, sorted by path, without hidden files and hidden folders.

    Links to files are followed, links to folders are not. Each folder that cannot be read is in `problems`.
    """
    files: list[Path] = []
    problems: list[str] = []

    def on_error(error: OSError) -> None:
        problems.append(f"{error.filename} cannot be read: {error.strerror}")

    for where, folders, names in os.walk(folder, onerror=on_error):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(where, name) for name in names if not name.startswith(".")]
    return FolderContent(tuple(sorted(filter(_may_be_readable, files))), tuple(problems))


def _may_be_readable(file: Path) -> bool:
    """Returns whether the file is regular, and True if this cannot be determined: reading it then reports the error."""
    try:
        return stat.S_ISREG(file.stat().st_mode)
    except FileNotFoundError:  # a broken link
        return False
    except OSError:
        return True


def title_of(text: str) -> str:
    """Returns the text of the first Markdown heading of level 1 ("# TEXT") outside code blocks; empty if none."""
    fenced = False
    for line in _LINE_END.split(text):
        if line.startswith(("```", "~~~")):
            fenced = not fenced
        elif not fenced and line.startswith("# "):
            return line[2:].strip().rstrip("#").strip()
    return ""
