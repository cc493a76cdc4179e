"""What a refusal of Google's or Azure's store means for walkeeper. Pure: obstore's text, to one of our errors with a hint.

obstore's errors are text: the request, " - ", the status and the body; then, for developers, "Debug source:" with what lay below.
Codes: https://cloud.google.com/storage/docs/xml-api/reference-status
https://learn.microsoft.com/en-us/rest/api/storageservices/blob-service-error-codes
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from walkeeper.errors import NotFound, StoreDenied, StoreError, StoreUnavailable, StoreUnfit

MAX_MESSAGE: Final = 300

_LATER: Final = "The store failed or is busy: its own log says more. Nothing has to be changed here."
_SETTINGS: Final = (
    "The request was refused: look at the settings of the account, of the bucket or container, and of the object."
)
_WAY: Final = "Is the store up, and endpoint its address? Look at the way to it: name service, firewall, proxy."
_CLOCK: Final = "This machine's clock and the store's differ too much: look at NTP."
_ODD_NAME: Final = "Another program's object lies there, under a name that obstore cannot read: move it away."
_CREDENTIALS: Final = (
    "No credentials could be had: look at the key file or the token, or at the identity of this machine or pod. "
    "An agent reads them again without a restart."
)
_TRUST: Final = (
    "The server's certificate is not trusted: renew it, or name its authority in ca_file. It is never ignored."
)

ABSENT: Final = frozenset({"NoSuchKey", "BlobNotFound"})
_THERE: Final = frozenset({(412, "PreconditionFailed"), (412, "ConditionNotMet"), (409, "BlobAlreadyExists")})
_NO_BUCKET: Final = frozenset({"NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted", "ContainerDisabled"})
_DENIED: Final = {
    "SignatureDoesNotMatch": "The key is wrong, or a proxy changes the request. An agent reads it again without a restart.",
    "AuthenticationFailed": "The key or the token is wrong, or has run out, or the clock is wrong. An agent reads them again "
    "without a restart.",
    "InvalidAuthenticationInfo": "The key or the token has no valid form. An agent reads it again without a restart.",
    "ExpiredToken": "The credentials have run out: renew them. An agent reads them again without a restart.",
    "RequestTimeTooSkewed": _CLOCK,
    "BlobImmutableDueToPolicy": "A policy of the container keeps what is there: its owner knows until when.",
    "AccountIsDisabled": "The storage account or the project is disabled: that is for its owner.",
    "UserProjectAccountProblem": "The storage account or the project is disabled: that is for its owner.",
    "UserProjectMissing": "The bucket lets those who ask pay, which obstore does not know: use a bucket whose owner pays.",
}

_REFUSED: Final = re.compile(r"status code: (\d{3})[^:\n]*:?(.*)", re.DOTALL)
_IN_BULK: Final = re.compile(r"Bulk delete request failed for key .*: (.*) \(code: (\w+)\)", re.DOTALL)
_BULK_CODES: Final = {
    "specified blob does not exist": "BlobNotFound",
    "immutable due to a policy": "BlobImmutableDueToPolicy",
}
"""Told by the message, as the text leaves the code out."""
_ASKED_FOR_ONE: Final = "token request"
_IDENTITY_FILE: Final = "federated token file"
_CODE: Final = re.compile(r"<Code>(\w{1,100})</Code>")
_MESSAGE: Final = re.compile(r"<Message>([^<]*)")
_KIND: Final = re.compile(r"^Generic \w+ error: ")
_BELOW: Final = re.compile(r'(?:message|error): "([^"]*)"')
_QUERY: Final = re.compile(r"(https?://[^\s?]*)\?\S*")


@dataclass(frozen=True, slots=True)
class Answer:
    """What an error's text says. ``status`` is 0 where no answer came; ``code`` is the XML body's, or empty."""

    status: int
    code: str
    message: str
    token: bool = False
    """It is about the credentials' own server, and not about the store."""
    untrusted: bool = False

    def __str__(self) -> str:
        return " ".join(f"{self.status or ''} {self.code}{': ' if self.code else ''}{self.message}".split())


def read(text: str) -> Answer:
    """Takes nothing out of a URL's query: a SAS token lies there."""
    said, _, below = text.partition("Debug source:")
    token = _ASKED_FOR_ONE in said.partition("status code")[0]
    if bulk := _IN_BULK.search(said):
        code = next((code for words, code in _BULK_CODES.items() if words in bulk[1]), "")
        status = int(bulk[2]) if bulk[2].isdigit() else 0
        return Answer(status, code, _line(bulk[1]))
    if refused := _REFUSED.search(said):
        body = refused[2]
        named, message = _CODE.search(body), _MESSAGE.search(body)
        told = message[1] if message else re.sub(r"<[^>]*>", " ", body)
        return Answer(int(refused[1]), named[1] if named else "", _line(told), token)
    why = _BELOW.search(below)
    reason = _line(_KIND.sub("", said.rpartition(" - ")[2]))
    if why and why[1] not in reason:
        reason += f" ({_line(why[1])})"
    return Answer(0, "", reason, token, untrusted="InvalidCertificate" in below)


def there(answer: Answer) -> bool:
    """Whether the refusal of a conditional PUT says that the object is there. Both statuses mean other things too."""
    return (answer.status, answer.code) in _THERE


def store_error(what: str, answer: Answer, *, rights: str) -> StoreError:
    """``what`` names the object or the bucket, and ``rights`` what is to be granted."""
    text = f"{what}: {answer}"
    if answer.untrusted:
        return StoreDenied(text, hint=_TRUST)
    if _IDENTITY_FILE in answer.message:
        return StoreDenied(text, hint=_CREDENTIALS)
    if answer.token:
        not_asked = answer.status == 0 or _is_busy(answer)
        return (StoreUnavailable if not_asked else StoreDenied)(text, hint=_CREDENTIALS)
    if "invalid path" in answer.message and answer.status == 0:
        return StoreUnavailable(text, hint=_ODD_NAME)
    if answer.status == 0:
        return StoreUnavailable(text, hint=_WAY)
    if answer.code in _DENIED:
        return StoreDenied(text, hint=_DENIED[answer.code])
    if answer.status in (401, 403):
        return StoreDenied(text, hint=rights)
    if answer.status == 501 or answer.code == "NotImplemented":
        return StoreUnfit(text, hint="Is endpoint the address of such a store? It does not know what it was asked for.")
    if answer.code in _NO_BUCKET:
        return NotFound(
            text, proved=False, hint="Create the bucket or container, or fix its name: walkeeper creates none."
        )
    if answer.status == 404:
        return NotFound(text, proved=answer.code in ABSENT, hint="Is endpoint the address of such a store?")
    return StoreUnavailable(text, hint=_LATER if _is_busy(answer) else _SETTINGS)


def _is_busy(answer: Answer) -> bool:
    return answer.status >= 500 or answer.status in (408, 429) or answer.code == "OperationAborted"


def _line(text: str) -> str:
    return " ".join(_QUERY.sub(r"\1", text).split())[:MAX_MESSAGE]
