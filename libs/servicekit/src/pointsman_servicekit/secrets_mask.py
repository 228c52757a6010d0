"""Keys and passwords in a text, made unreadable; fast where there are none."""

import re

MASK = "[secret]"

_SECRETS = re.compile(
    r"""
      (?<![A-Za-z0-9]) (?:pm|sk|rk|pk) [_-] [A-Za-z0-9_-]{8,}          # our keys, and those of most providers
    | (?<![A-Za-z0-9]) (?:gh[pousr]_|hf_|xox[abp]-|AKIA|AIza) [A-Za-z0-9_-]{8,}
    | (?<![A-Za-z0-9_-]) eyJ [A-Za-z0-9_-]{8,} \. [A-Za-z0-9_-]{8,} (?: \. [A-Za-z0-9_-]* )?   # a JSON web token
    | (?<= Bearer [ ]) [^\s"',;]{8,}
    | (?<= Basic [ ]) [A-Za-z0-9+/=]{8,}
    | (?<= ://) [^\s/@:"']* : [^\s/@"']+ (?= @ )                          # in an address
    | -----BEGIN [A-Z ]* PRIVATE[ ]KEY----- [^-]* (?: -----END [A-Z ]* PRIVATE[ ]KEY----- )?
    """,
    re.VERBOSE | re.IGNORECASE,
)


def mask_secrets(text: str, mask: str = MASK) -> str:
    """`text` with `mask` in place of each key, token, private key, and password in an address."""
    return _SECRETS.sub(mask, text)
