"""How verify, list and fetch end: 0 sound, 1 a gap or damage, 2 cannot tell. Whatever goes wrong is never taken for a gap."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable
from typing import Any, Final

from walkeeper.config import Config
from walkeeper.config.model import MAIN
from walkeeper.core.store_words import for_store
from walkeeper.errors import WalkeeperError
from walkeeper.lib.terminal import answered, complain, printable, tell
from walkeeper.store.open import url_of

SOUND: Final = 0
DAMAGED: Final = 1
CANNOT_TELL: Final = 2
VERDICT: Final = ("sound", "damaged", "cannot tell")
"""By exit code, in documents."""
FORMAT: Final = 1
"""Of the documents that --json prints."""
NEXT: Final = "\n\n"
"""Between two stores."""


def hint_for(config: Config, text: str) -> str:
    """With commands that are for this store, where another may be the first."""
    return for_store(text, config.store_name) if config.others or config.store_name != MAIN else text


def say(work: Callable[[], tuple[str, int]], *, json: bool = False, does: bool = False) -> int:
    """Print what ``work`` returns; its code, or 2 for whatever it raises: a traceback would exit with 1.

    ``does``: it has not only looked, so that its code holds even where nobody can be told.
    """
    found, code = _done(work, json=json)
    if found:
        tell(found)
    return code if does else answered(code)


def say_of_each(
    config: Config, work: Callable[[Config], tuple[str, int]], *, json: bool = False, does: bool = False
) -> int:
    """``say`` of every store; where there are several each under a heading, or one document of all. The worst code: damage that
    was found counts, whatever else cannot be told.
    """
    if not config.others:
        return say(lambda: work(config), json=json, does=does)
    codes: list[int] = []
    documents: list[dict[str, Any]] = []
    for each in config.of_each_store:
        name, url = each.store_name, url_of(each.store)
        if not json:
            tell(f"{'' if not codes else NEXT}Store {name}: {printable(url or 'it cannot be opened')}\n")
        found, code = _done(lambda each=each: work(each), about=f"store {name}: ", json=json)  # type: ignore[misc]
        codes.append(code)
        if json:
            documents.append({"name": name, "store": url, **json_module.loads(found)})
        elif found:
            tell(found)
    worst = DAMAGED if DAMAGED in codes else max(codes)
    if json:
        tell(_document(worst, stores=documents))
    return worst if does else answered(worst)


def _done(work: Callable[[], tuple[str, int]], *, about: str = "", json: bool) -> tuple[str, int]:
    try:
        return work()
    except WalkeeperError as problem:
        text, hint = f"{about}{problem}", problem.hint
    except Exception as problem:  # noqa: BLE001 - a traceback would exit with 1
        text = f"{about}{type(problem).__name__}: {problem}"
        hint = "This is a mistake in walkeeper or in a library it uses. Please report it."
    complain(text, hint)
    return _document(CANNOT_TELL, problem=text, hint=hint or None) if json else "", CANNOT_TELL


def _document(code: int, **more: Any) -> str:
    return json_module.dumps({"format": FORMAT, "verdict": VERDICT[code], "exit_code": code, **more}, indent=2)
