"""Plain segments to stored bodies and back: zstd, and age around it where recipients are configured.

What is written opens with the ``zstd`` command (and ``age``), without walkeeper (promise P12).
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from walkeeper.config import Config
from walkeeper.core.wal_page import Plain
from walkeeper.errors import CannotTell, ConfigError, Damaged, Locked, Refused

if TYPE_CHECKING or sys.version_info < (3, 14):
    from backports import zstd
else:
    from compression import zstd

LIBRARY: Final = "pyrage>=1.2"
"""The extra `encryption`."""
ZSTD: Final = ".zst"
AGE: Final = ".age"
PART: Final = 128 * 1024
"""Bytes: what stays in a processor's cache from one step to the next."""
SUFFIXES: Final = (ZSTD, ZSTD + AGE)
"""Every suffix an object of this format may have."""
AGAIN: Final = ".again"
"""Before the suffix, where a damaged object has the name itself: nothing is overwritten, so that the file is stored beside it."""
STORED: Final = (*SUFFIXES, *(AGAIN + suffix for suffix in SUFFIXES))
"""Every suffix of a file's object, in the order in which they are looked at."""

_FOR_WAL: Final[dict[int, int]] = {
    zstd.CompressionParameter.hash_log: 12,
    zstd.CompressionParameter.min_match: 5,
}
"""What level 1 does otherwise for WAL: a table that fits into a core's first cache, and shorter matches to make up for it."""
_FOR_FILES: Final[dict[int, int]] = {
    zstd.CompressionParameter.hash_log: 12,
    zstd.CompressionParameter.min_match: 7,
}
"""For a base backup's pieces, of which shorter matches make no less: a tenth of the time less."""


@dataclass(frozen=True, slots=True)
class Codec:
    """``level`` is zstd's. ``recipients`` are age public keys; ``identity_file`` holds the private ones, needed only
    where segments are read back."""

    level: int = 1
    recipients: tuple[str, ...] = ()
    identity_file: Path | None = None

    @property
    def suffix(self) -> str:
        return ZSTD + AGE if self.recipients else ZSTD

    def encode(self, plain: Plain | memoryview) -> bytes:
        """The body of a piece of WAL to store under ``suffix``."""
        return self.seal(self._frame(plain, _FOR_WAL))

    def pack(self, plain: Plain | memoryview) -> bytes:
        """The zstd frame of a base backup's piece. The same bytes make the same one, with the same zstd."""
        return self._frame(plain, _FOR_FILES)

    def _frame(self, plain: Plain | memoryview, at_level_1: dict[int, int]) -> bytes:
        """With a checksum and the plain size.

        All at once: piece by piece zstd copies what goes in, which takes a tenth more CPU time.
        """
        compressor = zstd.ZstdCompressor(options=self._options | (at_level_1 if self.level == 1 else {}))
        return compressor.compress(plain, zstd.ZstdCompressor.FLUSH_FRAME)

    def seal(self, frame: bytes) -> bytes:
        """The body to store under ``suffix``: another one at each call where there are recipients, else the frame itself."""
        return _encrypt(frame, self.recipients) if self.recipients else frame

    def growing(self) -> Growing:
        """For what comes bit by bit, and would be large if it lay there unpacked."""
        return Growing(zstd.ZstdCompressor(options=self._options), self.recipients)

    @property
    def _options(self) -> dict[int, int]:
        return {
            zstd.CompressionParameter.compression_level: self.level,
            zstd.CompressionParameter.checksum_flag: 1,
        }

    def parts(self, suffix: str, body: bytes, limit: int) -> Iterator[bytes]:
        """The plain bytes of a body, as ``unpacked``. Raises CannotTell, perhaps only at the end."""
        yield from unpacked(self.unseal(suffix, body), limit)

    def unseal(self, suffix: str, body: bytes) -> bytes:
        """The zstd frame in a body. Raises CannotTell for a damaged body or a key that does not fit."""
        return _decrypt(body, self.identity_file) if suffix.endswith(AGE) else body

    def decode(self, suffix: str, body: bytes, limit: int) -> bytes:
        """The plain bytes, at most ``limit`` of them, in no more memory than twice that, whatever the body unpacks to.

        Raises CannotTell for a damaged body or a key that does not fit.
        """
        return b"".join(self.parts(suffix, body, limit))


def most(plain: int) -> int:
    """Bytes of the body that so many plain ones make at most, also for some hundred recipients."""
    return plain + plain // 64 + 64 * 1024


@contextmanager
def named(key: str) -> Iterator[None]:
    """Whoever reads that an object is damaged must know which one to move away."""
    try:
        yield
    except (CannotTell, Refused) as problem:
        raise type(problem)(f"{key}: {str(problem).removeprefix('stored object: ')}", hint=problem.hint) from None


def unpacked(frame: bytes, limit: int) -> Iterator[bytes]:
    """The plain bytes piece by piece, at most ``limit`` of them: a third of the CPU time of all at once, which touches fresh
    memory for every page. Raises CannotTell, perhaps only at the end.
    """
    decompressor = zstd.ZstdDecompressor()
    total = 0
    try:
        while not decompressor.eof:
            part = decompressor.decompress(frame, max_length=PART)
            frame, total = b"", total + len(part)
            if total > limit or (not part and decompressor.needs_input):
                break
            yield part
    except zstd.ZstdError as error:
        raise Damaged(f"stored object: not a whole zstd frame ({error})", hint="The object is damaged.") from None
    if not decompressor.eof or decompressor.unused_data or total > limit:
        raise Damaged("stored object: cut short, or longer than such a file can be", hint="The object is damaged.")


class Growing:
    """A body that is packed as its plain bytes come. ``sha256`` and ``size`` are those of the plain bytes so far."""

    def __init__(self, compressor: zstd.ZstdCompressor, recipients: tuple[str, ...]) -> None:
        self._compressor = compressor
        self._recipients = recipients
        self._packed = bytearray()
        self._sum = hashlib.sha256()
        self.size = 0

    @property
    def sha256(self) -> str:
        return self._sum.hexdigest()

    def add(self, plain: Plain | memoryview) -> None:
        self._sum.update(plain)
        self.size += len(plain)
        self._packed += self._compressor.compress(plain)

    def body(self) -> bytes:
        """Call it once, at the end."""
        self._packed += self._compressor.flush(zstd.ZstdCompressor.FLUSH_FRAME)
        return _encrypt(bytes(self._packed), self._recipients) if self._recipients else bytes(self._packed)


def _encrypt(packed: bytes, recipients: tuple[str, ...]) -> bytes:
    pyrage = _pyrage()
    return bytes(pyrage.encrypt(packed, [pyrage.x25519.Recipient.from_str(recipient) for recipient in recipients]))


def _decrypt(body: bytes, identity_file: Path | None) -> bytes:
    if identity_file is None:
        raise Locked(
            "stored object: encrypted, and there is no identity to open it",
            hint="Set encryption.identity_file to the file with the private key.",
        )
    pyrage = _pyrage()
    try:
        lines = identity_file.read_text("ascii").splitlines()
        identities = [pyrage.x25519.Identity.from_str(line) for line in lines if line.startswith("AGE-SECRET-KEY-")]
        return bytes(pyrage.decrypt(body, identities))
    except OSError as error:
        raise Locked(f"{identity_file}: {error.strerror}", hint="The private key must be readable here.") from None
    except (UnicodeDecodeError, pyrage.IdentityError, pyrage.DecryptError) as error:
        # A header that was damaged looks like one for another key.
        kind = Damaged if isinstance(error, pyrage.DecryptError) and "keys" not in str(error) else Locked
        raise kind(
            f"stored object: {identity_file} does not open it ({error})",
            hint="The object was encrypted for another key, or it is damaged.",
        ) from None


def open_codec(config: Config) -> Codec:
    """The codec of a configuration. Raises ConfigError for a recipient that is not an age public key, or without pyrage."""
    pyrage: Any = _pyrage() if config.encryption_recipients else None
    for recipient in config.encryption_recipients:
        try:
            pyrage.x25519.Recipient.from_str(recipient)
        except pyrage.RecipientError as error:
            raise ConfigError(
                f"encryption.recipients: {recipient!r} is not an age public key ({error})",
                hint="A recipient looks like age1…; age-keygen prints it.",
            ) from None
    return Codec(config.compression_level, config.encryption_recipients, config.identity_file)


def _pyrage() -> Any:
    try:
        import pyrage  # noqa: PLC0415 - optional
    except ImportError:
        raise ConfigError(
            "encryption: the pyrage package is not installed",
            hint=f"Install it, the extra `encryption`: {sys.executable} -m pip install '{LIBRARY}'",
        ) from None
    return pyrage
