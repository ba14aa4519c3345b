"""Write docs/openapi.json: the calls of a vault's server, from its routes and what is said here.

`routes.CALLS` says which calls there are, `formats/messages.py` what their JSON is. The rest is in
DESCRIBED, and tests/net/test_openapi.py holds it to the server.
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from transfer.formats import messages
from transfer.formats.keyring import MAX_KEYRING
from transfer.formats.messages import FRAMES, JSON, LINES, MAX_ASKED, MAX_CONTROL, OCTETS, PROBLEM
from transfer.formats.point import MAX_POINT
from transfer.formats.reference import ID_SIZE, REFERENCE_SIZE
from transfer.net.routes import CALLS, PARAMETERS, Call, OpenCall
from transfer.policy.token_bucket import MAX_RATE
from transfer.vault.base import MAX_BODY, MAX_FRAMES

TARGET = Path(__file__).with_name("openapi.json")
Schema = dict[str, Any]


class Body(NamedTuple):
    """*most* bytes; *schema* is the name of a message where it is JSON."""

    media: str
    most: int
    schema: str | None = None


class Described(NamedTuple):
    """*answers* by status; *problems* are those of this call alone, as (status, code)."""

    summary: str
    answers: dict[int, tuple[str, str | None] | None]
    problems: tuple[tuple[int, str], ...] = ()
    query: tuple[str, ...] = ()
    body: Body | None = None


_ENDED = (409, "session-ended")
_COMMIT = (_ENDED, (409, "missing"), (410, "point-missing"), (422, "refused"))
_NUMBER = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
_DOMAIN = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
QUERY: dict[str, tuple[bool, Schema, str]] = {
    "session": (True, _NUMBER | {"minimum": 1}, "number of a session"),
    "tag": (True, _NUMBER | {"maximum": 255}, "kind * 16 + level of the frames"),
    "generation": (True, _NUMBER | {"minimum": 1, "maximum": 2**32 - 1}, "of the domain's ID key"),
    "domain": (True, _DOMAIN, "the caller's own, in hex"),
    "version": (True, _NUMBER | {"minimum": 1}, "of the keyring"),
    "version?": (False, _NUMBER, "of the keyring; the newest"),
    "order?": (False, {"type": "string", "enum": ["any", "asked"]}, "of the answer's frames"),
    "pace?": (
        False,
        {"type": "integer", "minimum": 0, "maximum": MAX_RATE},
        "bytes a second at which the session's answers are sent at most, all of them together",
    ),
    "after?": (False, _NUMBER, "only points with a higher arrival number"),
    "limit?": (False, _NUMBER, "so many at most"),
}
PATH = {"session": "number of a session", "point": "ID of a recovery point"}
_ASKED = Body(OCTETS, MAX_ASKED * REFERENCE_SIZE)
DESCRIBED = {
    "POST /v1/register": Described(
        "A credential and a certificate request, for a machine's certificate",
        {200: (JSON, "Registered")}, ((403, "credential-refused"), (409, "name-taken")),
        body=Body(JSON, MAX_CONTROL, "Register"),
    ),
    "POST /v1/renew": Described(
        "The caller's next certificate; the old one may have ended up to a year ago",
        {200: (JSON, "Renewed")}, body=Body(JSON, MAX_CONTROL, "Renew"),
    ),
    "GET /v1/vault": Described("The vault as the caller may see it", {200: (JSON, "VaultView")}),
    "GET /v1/statistics": Described("What the caller's domain has stored", {200: (JSON, None)}),
    "POST /v1/sessions": Described(
        "A new session: to read, or as the one writer of an item", {200: (JSON, "Session")},
        ((409, "item-busy"), (422, "refused")), body=Body(JSON, MAX_CONTROL, "NewSession"),
    ),
    "POST /v1/sessions/{session}/heartbeat": Described(
        "A sign of life; a pace holds at once for answers under way", {204: None}, (_ENDED,),
        ("pace?",),
    ),
    "POST /v1/sessions/{session}/end": Described("Abandon a session", {204: None}),
    "GET /v1/sessions/{session}/wanted": Described(
        "References of damaged frames below the newest point of the session's item",
        {200: (OCTETS, None)}, (_ENDED,),
    ),
    "POST /v1/have": Described(
        "IDs of 32 bytes; which are there, one bit each", {200: (OCTETS, None)}, (_ENDED,),
        ("session", "tag", "generation"), Body(OCTETS, MAX_ASKED * ID_SIZE),
    ),
    "POST /v1/frames": Described(
        f"At most {MAX_FRAMES} frames to store; the outcome of each", {200: (JSON, "Outcomes")},
        (_ENDED,), ("session",), Body(FRAMES, MAX_BODY),
    ),
    "POST /v1/fetch": Described(
        "References of 33 bytes; those of their frames that are there", {200: (FRAMES, None)},
        (_ENDED,), ("session", "order?", "pace?"), Body(OCTETS, MAX_FRAMES * REFERENCE_SIZE),
    ),
    "POST /v1/damaged": Described(
        "References of 33 bytes, of frames that do not open", {204: None}, (_ENDED,),
        ("session",), _ASKED,
    ),
    "GET /v1/items": Described("The domain's items", {200: (JSON, "Items")}, query=("domain",)),
    "GET /v1/points": Described(
        "The domain's points in order of arrival, one ListedPoint to a line",
        {200: (LINES, None)}, query=("domain", "after?", "limit?"),
    ),
    "POST /v1/points": Described(
        "Commit a point. 202: ask at the address in the answer how it stands",
        {200: (JSON, "ListedPoint"), 202: (JSON, "Committing")}, _COMMIT, ("session",),
        Body(OCTETS, MAX_POINT),
    ),
    "GET /v1/points/{point}": Described(
        "How a commit stands. 404: nobody knows, commit it again",
        {200: (JSON, "ListedPoint"), 202: (JSON, "Committing")}, ((404, "not-found"), *_COMMIT),
    ),
    "GET /v1/keyring": Described(
        "A keyring, as it was added", {200: (OCTETS, None)}, ((404, "not-found"),),
        ("domain", "version?"),
    ),
    "POST /v1/keyring": Described(
        "Add the keyring that follows the newest", {204: None}, ((422, "refused"),),
        ("domain", "version"), Body(OCTETS, MAX_KEYRING),
    ),
}  # fmt: skip
# What any call may answer; of those with a body the second as well, for machines the third, and
# where calls and not bytes are the resource the fourth.
GENERIC = (
    (400, "call-refused"), (400, "format-error"), (400, "newer-format"), (400, "usage-error"),
    (404, "call-refused"), (405, "call-refused"), (403, "not-authorised"), (422, "refused"),
    (500, "bug"), (500, "damaged-data"), (500, "integrity-error"), (503, "call-refused"),
    (503, "not-stored"), (503, "lock-held"), (503, "vault-unavailable"), (503, "transient-error"),
    (507, "no-space"),
)  # fmt: skip
OF_BODIES = ((408, "call-refused"), (411, "call-refused"), (413, "call-refused"))
OF_MACHINES = ((401, "not-registered"),)
OF_CONTROL = ((429, "too-many-calls"),)
_MESSAGES = (
    messages.Register, messages.Registered, messages.Renew, messages.Renewed, messages.VaultView,
    messages.NewSession, messages.Session, messages.Outcomes, messages.ListedPoint,
    messages.Committing, messages.Items, messages.Problem,
)  # fmt: skip


def problems_of(call: Call | OpenCall) -> list[tuple[int, str]]:
    described = DESCRIBED[f"{call.method} {call.path}"]
    found = set(GENERIC) | set(described.problems)
    if described.body is not None:
        found |= set(OF_BODIES)
    if isinstance(call, Call) or call.path == "/v1/renew":
        found |= set(OF_MACHINES)
    if not (isinstance(call, Call) and call.bulk):
        found |= set(OF_CONTROL)
    return sorted(found)


def _content(media: str, schema: str | None) -> Schema:
    if schema is not None:
        return {media: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    if media == JSON:
        return {media: {"schema": {"type": "object", "additionalProperties": {"type": "integer"}}}}
    return {media: {"schema": {"type": "string", "format": "binary"}}}


def _parameters(call: Call | OpenCall, described: Described) -> list[Schema]:
    found = [
        {
            "name": name, "in": "path", "required": True, "description": PATH[name],
            "schema": {"type": "string", "pattern": f"^{pattern}$"},
        }
        for name, pattern in PARAMETERS.items() if f"{{{name}}}" in call.path
    ]  # fmt: skip
    for name in described.query:
        required, schema, description = QUERY[name]
        found.append({
            "name": name.rstrip("?"), "in": "query", "required": required,
            "description": description, "schema": schema,
        })  # fmt: skip
    return found


def _operation(call: Call | OpenCall) -> Schema:
    described = DESCRIBED[f"{call.method} {call.path}"]
    answers: Schema = {}
    for status, content in described.answers.items():
        answers[str(status)] = {"description": "Done" if status != 202 else "Under way"}
        if content is not None:
            answers[str(status)]["content"] = _content(*content)
    for status in sorted({status for status, _ in problems_of(call)}):
        codes = [code for found, code in problems_of(call) if found == status]
        answers[str(status)] = {
            "description": ", ".join(codes), "content": _content(PROBLEM, "Problem"),
            "x-codes": codes,
        }  # fmt: skip
    found: Schema = {"summary": described.summary, "responses": answers}
    if parameters := _parameters(call, described):
        found["parameters"] = parameters
    if described.body is not None:
        media, most, schema = described.body
        content = _content(media, schema)
        found["requestBody"] = {"required": True, "content": content, "x-max-bytes": most}
    open_to_all = isinstance(call, OpenCall) and call.path != "/v1/renew"
    found["security"] = [] if open_to_all else [{"certificate": []}]
    return found


def page() -> str:
    paths: Schema = {}
    for call in CALLS:
        paths.setdefault(call.path, {})[call.method.lower()] = _operation(call)
    _, schemas = msgspec.json.schema_components(
        _MESSAGES, ref_template="#/components/schemas/{name}"
    )
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "A vault of transfer", "version": messages.VERSION,
            "description": "Made by docs/make_openapi.py; do not edit.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"certificate": {"type": "mutualTLS"}},
        },
    }  # fmt: skip
    return json.dumps(document, indent=1) + "\n"


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(TARGET.read_text() != page())
    TARGET.write_text(page())
