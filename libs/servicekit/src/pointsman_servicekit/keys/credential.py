"""The secret that a caller shows: `pm_PREFIX_SECRET`. Redis has its digest and its prefix, never the whole.

The secret is 32 characters drawn at random from 62, some 190 bits. Slow hashes protect what people make up; of this
nobody can try a part worth naming, so one SHA-256 is enough, and costs a request less than a microsecond.
"""

import hashlib
import re
import secrets
import string
from dataclasses import dataclass

ALPHABET = string.digits + string.ascii_letters
PREFIX, SECRET = 8, 32
LENGTH = len("pm_") + PREFIX + len("_") + SECRET

_FORM = re.compile(rf"pm_[0-9A-Za-z]{{{PREFIX}}}_[0-9A-Za-z]{{{SECRET}}}")


@dataclass(frozen=True, slots=True)
class Credential:
    text: str
    prefix: str
    """Drawn apart from the secret; for finding the key, and no help in guessing it."""


def make() -> Credential:
    prefix = _draw(PREFIX)
    return Credential(f"pm_{prefix}_{_draw(SECRET)}", prefix)


def is_well_formed(text: str) -> bool:
    return len(text) == LENGTH and _FORM.fullmatch(text) is not None


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _draw(count: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(count))
