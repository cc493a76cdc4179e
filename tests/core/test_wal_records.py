"""Records: the checksum, and what a segment may look like when it is compared with a tail. Real segments: test_wal_of_servers."""

from __future__ import annotations

from walkeeper.core.wal_records import crc32c


def test_the_checksum_is_castagnolis() -> None:
    """The check value of RFC 3720, appendix B.4, and that of every catalogue of CRCs."""
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(bytes([255] * 32)) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"123456789") == 0xE3069283
