"""The message of an incident in other people's formats: CEF, OCSF, ECS, plain text. Hostile text cannot leave its field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from alerts.explanations import harmless
from detector import __version__
from detector.errors import RefusedError
from detector.lines import seconds

Message = Mapping[str, Any]
LIMIT = 1000  # characters of one field
CEF_SEVERITY = {"low": 3, "medium": 6, "high": 8, "critical": 10}
OCSF_SEVERITY = {"low": 2, "medium": 3, "high": 4, "critical": 5}
OCSF_STATUS = {"open": 1, "acknowledged": 2, "confirmed": 4, "dismissed": 4, "expired": 4}  # new, in progress, resolved
OCSF_ACTIVITY = {"opened": 1, "raised": 2, "closed": 3, "test": 1}  # create, update, close
LOOK_ALIKES = str.maketrans({"<": "\u2039", ">": "\u203a", "@": "\uff20", "*": "\u2217", "`": "\u2032"})
OCSF_VERSION, ECS_VERSION = "1.3.0", "8.11.0"


def read(body: bytes) -> dict[str, Any]:
    """The message; raises RefusedError where these bytes are none."""
    try:
        message = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RefusedError(f"expected the JSON object of a message: {error}") from error
    missing = {"message", "kind", "id", "user", "severity", "state", "summary"} - message.keys()
    if missing:
        raise RefusedError(f"expected the JSON object of a message, without {', '.join(sorted(missing))}")
    return message


def title(message: Message) -> str:
    """One line: what happened to whose account."""
    what = {"opened": "probable takeover", "raised": "graver now", "closed": f"{message['state']}", "test": "test"}[message["kind"]]
    return f"unlike: {message['severity']}: {what}: {tame(message['user'], 80)}"


def text(message: Message) -> str:
    """A few lines for people."""
    lines = [
        tame(message["summary"], LIMIT),
        f"{message.get('sessions', 1)} alarming sessions, priority {message.get('priority', 0)}",
    ]
    return "\n".join([*lines, *([str(message["url"])] if message.get("url") else [])])


def tame(value: object, limit: int) -> str:
    """Text in which no chat sees markup, a link or a name to call: its signs are swapped for look-alikes."""
    return harmless(str(value), limit).translate(LOOK_ALIKES)


def cef(message: Message) -> str:
    """Common Event Format 0: `|` and `\\` are escaped in the head, `=` and `\\` in the extension."""
    name = {"opened": "Probable account takeover", "raised": "Account takeover graver", "closed": "Incident closed", "test": "Test"}
    head = ["CEF:0", "unlike", "unlike", __version__, f"account_takeover_{message['kind']}", name[message["kind"]]]
    fields = {
        "suser": message["user"],
        "externalId": message["id"],
        "rt": int(1000 * seconds(message["time"])),
        "reason": message["summary"],
        "cn1": message.get("sessions", 1),
        "cn1Label": "alarming sessions",
        "cs1": message["state"],
        "cs1Label": "state",
        "cs2": message["severity"],
        "cs2Label": "severity",
        "cfp1": message.get("priority", 0.0),
        "cfp1Label": "priority",
        "request": message.get("url", ""),
    }
    escaped = (harmless(str(part), LIMIT).replace("\\", "\\\\").replace("|", "\\|") for part in head)
    extension = (
        f"{k}={harmless(str(v), LIMIT).replace(chr(92), chr(92) * 2).replace('=', chr(92) + '=')}"
        for k, v in fields.items()
        if v != ""
    )
    return f"{'|'.join(escaped)}|{CEF_SEVERITY[message['severity']]}|{' '.join(extension)}"


def ocsf(message: Message) -> dict[str, Any]:
    """OCSF Detection Finding (class 2004)."""
    activity, verdict = OCSF_ACTIVITY[message["kind"]], message.get("verdict") or {}
    at = int(1000 * seconds(message["time"]))
    created = int(1000 * seconds(message["opened"])) if message.get("opened") else at
    return {
        "class_uid": 2004,
        "class_name": "Detection Finding",
        "category_uid": 2,
        "category_name": "Findings",
        "activity_id": activity,
        "activity_name": {1: "Create", 2: "Update", 3: "Close"}[activity],
        "type_uid": 200400 + activity,
        "type_name": f"Detection Finding: {({1: 'Create', 2: 'Update', 3: 'Close'})[activity]}",
        "time": at,
        "severity_id": OCSF_SEVERITY[message["severity"]],
        "severity": message["severity"].capitalize(),
        "status_id": OCSF_STATUS[message["state"]],
        "status": {1: "New", 2: "In Progress", 4: "Resolved"}[OCSF_STATUS[message["state"]]],
        "confidence_score": round(100 * float(verdict.get("belief", 0.0))),
        "message": harmless(str(message["summary"]), LIMIT),
        "metadata": {"version": OCSF_VERSION, "product": {"name": "unlike", "vendor_name": "unlike", "version": __version__}},
        "finding_info": {
            "uid": message["id"],
            "title": "Probable account takeover",
            "desc": harmless(str(message["summary"]), LIMIT),
            "created_time": created,
            "modified_time": at,
            "types": [str(reason["id"]) for reason in message.get("reasons", []) if reason.get("nats", 0) > 0],
            **({"src_url": message["url"]} if message.get("url") else {}),
        },
        "evidences": [{"actor": {"user": {"name": harmless(str(message["user"]), LIMIT), "type_id": 1}}}],
    }


def ecs(message: Message) -> dict[str, Any]:
    """Elastic Common Schema, an alert."""
    verdict = message.get("verdict") or {}
    return {
        "@timestamp": message["time"],
        "ecs": {"version": ECS_VERSION},
        "event": {
            "kind": "alert",
            "category": ["intrusion_detection"],
            "type": ["end" if message["kind"] == "closed" else "change" if message["kind"] == "raised" else "start"],
            "module": "unlike",
            "dataset": "unlike.incident",
            "id": message["message"],
            "severity": CEF_SEVERITY[message["severity"]],
            "risk_score": float(message.get("priority", 0.0)),
            "reason": harmless(str(message["summary"]), LIMIT),
            "url": message.get("url", ""),
        },
        "message": harmless(str(message["summary"]), LIMIT),
        "user": {"name": harmless(str(message["user"]), LIMIT)},
        "rule": {"name": "probable account takeover", "uuid": message["id"]},
        "unlike": {
            "state": message["state"],
            "severity": message["severity"],
            "sessions": message.get("sessions", 1),
            "p": verdict.get("p"),
        },
    }
