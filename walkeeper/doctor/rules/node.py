"""This node: its user, spool, programs and keys."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from functools import partial

from walkeeper.core.amounts import size
from walkeeper.doctor.facts import Facts, Unknown, known
from walkeeper.doctor.rule import Good, NotKnown, Rule, Verdict, Wrong
from walkeeper.doctor.rules import paste

error = partial(Rule, area="Node", severity="error")
warning = partial(Rule, area="Node", severity="warning")


@error(
    what="doctor runs as the agent's user, which is PostgreSQL's.",
    why="As somebody else it sees another socket, other rights and perhaps other credentials than the agent.",
    fix="sudo -u postgres walkeeper doctor",
)
def right_user(facts: Facts) -> Iterator[Verdict]:
    if facts.uid != known(facts.servers_uid):
        yield NotKnown(
            f"this is uid {facts.uid}, and PostgreSQL's and the agent's is {facts.servers_uid}: "
            f"sudo -u '#{facts.servers_uid}' {paste.walkeeper(facts, 'doctor')}"
        )
    else:
        yield Good("this is the agent's user")


@error(
    what="The spool is a directory of the agent's user, with mode 0700.",
    why="WAL holds the data itself. The agent refuses a spool that others can read, or that is not its own.",
    fix="chown postgres: SPOOL && chmod 0700 SPOOL",
)
def spool_private(facts: Facts) -> Iterator[Verdict]:
    spool = known(facts.spool)
    uid = facts.uid if isinstance(facts.servers_uid, Unknown) else facts.servers_uid
    path = shlex.quote(spool.path)
    make = f"install -d -o {uid} -m 0700 {path}   # as root"
    if not spool.exists and spool.creatable:
        yield Good(f"{spool.path} is made at the agent's first start")
    elif not spool.exists:
        yield Wrong(f"{spool.path} is not there, and this user cannot make it", (make,))
    elif not spool.plain:
        yield Wrong(f"{spool.path} is not a directory, or it is a link", (f"rm {path}", make))
    elif spool.uid != uid:
        yield Wrong(f"{spool.path} belongs to uid {spool.uid}, not to {uid}", (f"chown -R {uid} {path}   # as root",))
    elif spool.mode & 0o077:
        yield Wrong(f"the mode of {spool.path} is {spool.mode:04o}", (f"chmod 0700 {path}",))
    else:
        yield Good(f"{spool.path} is the agent's alone")


@error(
    what="The spool's file system has room for its limit.",
    why="A full disk ends pg_receivewal; below the limit streaming only pauses. At least two segments must fit.",
    fix="A larger disk for spool.directory, or a lower spool.limit.",
)
def spool_room(facts: Facts) -> Iterator[Verdict]:
    spool = known(facts.spool)
    this = facts.this
    segment = 16 << 20 if this is None or isinstance(this.server, Unknown) else int(this.server.state.segment_size)
    room, limit = spool.free + spool.used, facts.config.spool_limit
    fix = _limit_fix(facts, max(2 * segment, room // 2))
    if room < 2 * segment:
        yield Wrong(
            f"{size(room)} for the spool: not even two segments fit",
            (f"df {shlex.quote(spool.path)}   # a larger disk, or another spool.directory",),
            severity=None if facts.config.spools else "warning",
        )
    elif limit < 2 * segment:
        yield Wrong(f"spool.limit is {size(limit)}: less than two segments", fix, severity="warning")
    elif room < limit:
        text = f"{size(room)} for the spool, and its limit is {size(limit)}"
        yield Wrong(text, fix, severity="warning")
    else:
        yield Good(f"{size(room)} for a limit of {size(limit)}")


def _limit_fix(facts: Facts, limit: int) -> tuple[str, ...]:
    return (
        f"# in {facts.config.source}; or give the spool a larger disk:",
        *paste.yaml_lines(paste.key(facts, "spool"), {"limit": f"{max(1, limit >> 20)}MiB"}),
        paste.reload_agent(facts),
    )


@error(
    what="pg_receivewal is there, and at least of the server's version.",
    why="It is what streams the WAL, and what fetches from other members what a promoted node no longer has. With "
    "`receiver: builtin` or `archiver: command` it is a warning, as nothing but the second is lost without it.",
    fix="Install the server's client programs, or set postgresql.bin_dir.",
)
def receiver(facts: Facts) -> Iterator[Verdict]:
    problem = facts.receiver_problem
    if problem is None:
        yield Good("pg_receivewal can be used")
    else:
        yield Wrong(str(problem), (f"# {problem.hint}",), severity=None if facts.config.spools else "warning")


@error(
    what="What is encrypted can be decrypted on this node.",
    why="restore_command on this node reads what every node stored: without encryption.identity_file it can only say "
    "that it cannot tell.",
    fix="encryption.identity_file on every node, readable by PostgreSQL's user alone.",
)
def encryption(facts: Facts) -> Iterator[Verdict]:
    config = facts.config
    if facts.codec_problem is not None:
        hint = facts.codec_problem.hint or f"look at the encryption section in {config.source}"
        yield Wrong(str(facts.codec_problem), (f"# {hint}",))
    elif config.encryption_recipients and config.identity_file is None:
        section = paste.key(facts, "encryption")
        lines = paste.yaml_lines(section, {"identity_file": "/etc/walkeeper/age-key"})
        fix = (f"# the private key of these recipients; in {config.source}:", *lines)
        text = "new objects are encrypted, and this node has no identity_file to read them"
        yield Wrong(text, fix, severity=None if facts.waits_for_store else "warning")
    else:
        yield Good("encrypted" if config.encryption_recipients else "nothing is encrypted")


@warning(
    what="Where objects are encrypted, they carry authentication codes, too.",
    why="The public key is enough to make an object that opens: whoever may create objects decides what is restored.",
    fix="authentication.key_files and authentication.since on every host that archives or restores.",
)
def authentication(facts: Facts) -> Iterator[Verdict]:
    config = facts.config
    if config.authentication_keys:
        yield Good("objects carry codes")
    elif config.encryption_recipients:
        file = "/etc/walkeeper/authentication-key"
        uid = facts.uid if isinstance(facts.servers_uid, Unknown) else facts.servers_uid
        fix = (
            "# one key, the same file on all hosts; as root:",
            f"openssl rand -hex 32 | install -D -o {uid} -m 0600 /dev/stdin {file}",
            f"# in {config.source}; since: a segment that is still to come on all hosts",
            "# (docs/operations.md, Authentication of objects):",
            *paste.yaml_lines(paste.key(facts, "authentication"), {"key_files": f"[{file}]", "since": '"SEGMENT"'}),
        )
        yield Wrong("objects are encrypted, and nothing shows who made them", fix)
    else:
        yield Good("nothing is encrypted, and objects carry no codes")
