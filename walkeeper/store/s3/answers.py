"""What an S3 server's refusal means for walkeeper. Pure: a status, an error code, and one of our errors with a hint.

Codes: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from walkeeper.errors import ChangedOnTheWay, NotFound, StoreDenied, StoreError, StoreUnavailable, StoreUnfit

MAX_MESSAGE: Final = 300

_LATER: Final = "The store failed or is busy: its own log says more. Nothing has to be changed here."
_REGION: Final = "The bucket is in another region, or behind another address: set region, and endpoint if it is given."
_RIGHTS: Final = (
    "The credentials need s3:PutObject, s3:GetObject and s3:ListBucket. An agent reads them again without a restart. A bucket "
    "whose policy demands an encryption header needs sse, and for a KMS key kms_key_id, with kms:GenerateDataKey and kms:Decrypt "
    "for it. object_lock_days needs s3:PutObjectRetention. What was stored with another sse_customer_key is denied, too."
)
_KEY: Final = (
    "If it is about encryption: an object that was stored with sse_customer_key is read with that key and no other, and one that "
    "was stored without it is read without it. If it is about a lock: object_lock_days is for a bucket that was made with object "
    "lock."
)
_CLOCK: Final = "This machine's clock and the server's differ too much: look at NTP."
_EXPIRED: Final = "The credentials have run out: renew them. An agent reads them again without a restart."

_DENIED: Final = {
    "AccessDenied": _RIGHTS,
    "InvalidRequest": _KEY,
    "InvalidArgument": _KEY,
    "SignatureDoesNotMatch": "The secret access key is wrong, or a proxy changes the request. An agent reads it again without "
    "a restart.",
    "InvalidAccessKeyId": "There is no such access key: correct the credentials. An agent reads them again without a restart.",
    "RequestTimeTooSkewed": _CLOCK,
    "RequestExpired": _CLOCK,
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "InvalidToken": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
}
_OTHER_REGION: Final = frozenset(
    {
        "PermanentRedirect",
        "TemporaryRedirect",
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
        "IncorrectEndpoint",
    }
)
_DAMAGED: Final = frozenset({"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"})


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error answer. ``code`` is the XML body's; of a HEAD, and of bodies that are not S3's, it is the status again."""

    status: int
    code: str
    message: str
    retry_after: str = ""

    def __str__(self) -> str:
        code = "" if self.code in ("", str(self.status)) else f" {self.code}"
        message = f": {self.message[:MAX_MESSAGE]}" if self.message else ""
        wait = f" (Retry-After: {self.retry_after[:MAX_MESSAGE]})" if self.retry_after else ""
        return " ".join(f"{self.status}{code}{message}{wait}".split())


def store_error(what: str, refusal: Refusal) -> StoreError:
    """``what`` names the object or the bucket. For everything but 412, which is not an error."""
    text = f"{what}: {refusal}"
    if refusal.code in _DENIED:
        return StoreDenied(text, hint=_DENIED[refusal.code])
    if refusal.code in _OTHER_REGION or refusal.status in (301, 307):
        return StoreDenied(text, hint=_REGION)
    if refusal.status in (401, 403):
        return StoreDenied(text, hint=_RIGHTS)
    if refusal.status == 501 or refusal.code == "NotImplemented":
        return StoreUnfit(
            text, hint="If it is about If-None-Match: set overwrite_guard: head, which is weaker, or use another store."
        )
    if refusal.code == "NoSuchBucket":
        return NotFound(text, proved=False, hint="Create the bucket, or fix its name: walkeeper creates none.")
    if refusal.status == 404:
        return NotFound(text, proved=refusal.code == "NoSuchKey", hint="Is endpoint the address of an S3 server?")
    if refusal.code in _DAMAGED:
        return ChangedOnTheWay(
            text, hint="The bytes were changed on their way: if it stays so, suspect memory or network."
        )
    return StoreUnavailable(text, hint=_LATER)


def line(error: BaseException) -> str:
    """What an error of a library says, in one."""
    return " ".join(str(error).split())[:MAX_MESSAGE]
