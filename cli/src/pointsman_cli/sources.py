"""What `pointsman ingest` is pointed at: folders and files, as the retriever is to have them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pointsman_cli.documents import title_of
from pointsman_cli.errors import Misused
from pointsman_cli.folders import look_into

MAX_FILE_BYTES = 32 * 1024 * 1024  # the retriever's limit

TEXT = {".md": "text/markdown", ".markdown": "text/markdown", ".txt": "text/plain"}
FILES = {
    ".html": "text/html",
    ".htm": "text/html",
    ".pdf": "application/pdf",
    ".jsonl": "application/jsonl",
    ".ndjson": "application/jsonl",
}
CODE = {
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
MEDIA_TYPES = {**TEXT, **FILES, **CODE}


@dataclass(frozen=True, slots=True)
class File:
    id: str
    path: Path
    relative: str
    media_type: str

    def read(self) -> bytes:
        """Raises Misused that names it."""
        try:
            size = self.path.stat().st_size
            if size > MAX_FILE_BYTES:
                raise Misused(f"{self.path} has {size:,} bytes; at most {MAX_FILE_BYTES:,} are taken")
            return self.path.read_bytes()
        except OSError as error:
            raise Misused(f"{self.path} cannot be read: {error.strerror}") from error

    def title(self, content: bytes) -> str:
        """Of a text: its first heading, or its name. A PDF or an HTML page has its own, which the retriever finds."""
        if self.media_type in FILES.values():
            return ""
        heading = title_of(content.decode(errors="replace")) if self.path.suffix.lower() in TEXT else ""
        return heading or (self.relative if self.path.suffix.lower() in CODE else self.path.stem)


@dataclass(frozen=True, slots=True)
class Source:
    """A folder, which its documents are kept in step with; or a single file, which has no name here."""

    name: str
    files: tuple[File, ...]
    problems: tuple[str, ...] = ()
    """Each names a folder inside that cannot be read."""


def find(paths: Sequence[Path]) -> list[Source]:
    """Raises Misused where there is nothing to ingest, or two files would be one document."""
    sources = [_source(path) for path in paths]
    seen: dict[str, Path] = {}
    for file in (file for source in sources for file in source.files):
        if file.id in seen:
            raise Misused(f"nothing was ingested: {file.path} has the same id {file.id!r} as {seen[file.id]}")
        seen[file.id] = file.path
    if not seen:
        if problems := [problem for source in sources for problem in source.problems]:
            raise Misused(f"there is nothing to ingest: {'; '.join(problems)}")
        known = ", ".join(MEDIA_TYPES)
        raise Misused(f"there is nothing to ingest in {', '.join(map(str, paths))}; known endings: {known}")
    return sources


def _source(path: Path) -> Source:
    if path.is_file():
        if path.suffix.lower() not in MEDIA_TYPES:
            raise Misused(f"{path} is of no kind that is known: {', '.join(MEDIA_TYPES)}")
        return Source("", (_file(path, Path(path.name)),))
    if not path.is_dir():
        raise Misused(f"{path} is not there")
    inside = look_into(path)
    files = [_file(file, file.relative_to(path)) for file in inside.files if file.suffix.lower() in MEDIA_TYPES]
    return Source(str(path.resolve()), tuple(files), inside.problems)


def _file(path: Path, relative: Path) -> File:
    """A text's id is its path without the ending, any other file's with it."""
    named = relative.with_suffix("") if path.suffix.lower() in TEXT else relative
    return File(named.as_posix(), path, relative.as_posix(), MEDIA_TYPES[path.suffix.lower()])
