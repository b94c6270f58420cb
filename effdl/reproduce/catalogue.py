"""What there is: every artefact and claim of both theses, declared or not, and how far each has come."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effdl import config
from effdl.errors import ConfigError, EffdlError
from effdl.records.report import Track, untracked
from effdl.reproduce import artefact, published
from effdl.reproduce.artefact import Declaration
from effdl.reproduce.claims import answered
from effdl.reproduce.survey import survey

if TYPE_CHECKING:
    from effdl.reproduce.tally import Told

SETTING = "a setting"  # the note of what is printed of a setting: nothing is there to be measured
THESIS = {"oland": "Øland", "demirbilek": "Demirbilek"}


def why_not(name: str) -> str | None:
    """One line on what an artefact is and why it does not run; None where it is declared.

    Raises:
        ConfigError: there is no such artefact.
    """
    if name in artefact.declared():
        return None
    if (row := published.artefacts().get(name)) is not None:
        what = f"{name} ({row['title']}; {THESIS[row['source']]})"
        if row["nature"] == "borrowed-image":
            return f"{what} is a picture that the thesis borrowed from others; there is nothing to run"
        kind = f"{row['nature']}, {row['cost_class']}" if row["cost_class"] not in ("", "none") else row["nature"]
        return f"{what} is not declared yet, so it does not run ({kind})"
    chapters = dict.fromkeys(published.chapter(claim) for claim in published.claims())
    if name.startswith("claims-") and (chapter := name.removeprefix("claims-")) in chapters:
        count = sum(published.chapter(claim) == chapter for claim in published.claims())
        return f"{name} ({count} claims of the text, less those that tables answer) is not declared yet, so it does not run"
    run = re.fullmatch(r"[0-9a-f]{6,16}", name)
    where = f", and the record of a run lies in results/runs/{name}{'' if len(name) == 16 else '...'}" if run else ""
    raise ConfigError(f"{name}: no such artefact; effdl list names them all{where}")


def everything() -> dict[str, Any]:
    """{"artefacts": {id: {title, kind, nature, declared}}, "groups": {group: {choice: its line}}}."""
    ours = artefact.declared()
    rows = published.artefacts()
    found = {
        name: {key: row[key] for key in ("title", "kind", "nature")} | {"declared": name in ours} for name, row in rows.items()
    }
    for name, path in ours.items():
        if name not in rows:
            found[name] = {"title": artefact.read(path).title, "kind": "ours", "nature": "experiment", "declared": True}
    groups = {group: {choice: config.about(group, choice) for choice in config.choices(group)} for group in config.GROUPS}
    return {"artefacts": found, "groups": groups}


def list_text(found: Mapping[str, Any]) -> str:
    """What `everything` found, for people."""
    lines = ["Artefacts (* declared):"]
    for name, told in found["artefacts"].items():
        lines.append(f" {'*' if told['declared'] else ' '} {name:<14} {told['title']} ({told['nature']})")
    for group, choices in found["groups"].items():
        lines += ["", f"{group}:"] + [f"   {name:<20} {about}" for name, about in choices.items()]
    return "\n".join(lines)


def status(root: Path, track: Track = untracked, only: str | None = None) -> dict[str, Any]:
    """How far each artefact and each claim has come, from the ledger and the records here.

    only: this declared artefact and the claims that it answers; each of its own then has a verdict too, under "declared".

    Returns:
        {"artefacts": {id: {"declared", "scales": {scale: {"done", "left", "no_data", "verdicts": {word: how often}}}}},
        "claims": what `answers` says, "counts": each claim once, as `tally.counts` has them}; a wrong declaration or ledger
        stands as {"error": one line}.
    """
    from effdl.reproduce import tally
    from effdl.reproduce.remembered import digest_of_folder, verdicts

    digest = cache(digest_of_folder)  # of each of a few folders once
    told: list[tally.Told] = []
    artefacts: dict[str, Any] = {name: {"declared": False} for name in published.artefacts()}
    said: list[tuple[Declaration, Mapping[str, list[list[str]]]]] = []
    for name, path in artefact.declared().items():
        if only not in (None, name):
            continue
        try:
            declaration = artefact.read(path)
            found = verdicts(declaration, root, digest)
            scales = {
                scale: {**_scale(declaration, scale, root, track), "verdicts": found.words[scale]} for scale in found.words
            }
            artefacts[name] = {"declared": True, "scales": scales}
            said.append((declaration, found.said))
            told += found.told
        except EffdlError as error:
            artefacts[name] = {"declared": True, "error": str(error)}
    claims = answers(said, told)
    if only is None:
        return {"artefacts": artefacts, "claims": claims, "counts": tally.counts(told)}
    return {
        "artefacts": {only: artefacts[only]},
        "claims": {name: found for name, found in claims.items() if found["answered_by"] == only},
        "counts": tally.counts(told),
        "declared": {one.name: {"scale": one.scale, "verdict": one.word, "places": list(one.places)} for one in told},
    }


def status_text(found: Mapping[str, Any]) -> str:
    """What `status` found, for people."""
    from effdl.reproduce.tally import counts_text

    lines = ["Claims, each once, at its largest judged scale:", *(f"  {line}" for line in counts_text(found["counts"]))]
    lines += ["", "Artefacts, with the verdicts at each scale and place:"]
    undeclared = [name for name, told in found["artefacts"].items() if not told["declared"]]
    for name, told in found["artefacts"].items():
        if "error" in told:
            lines.append(f"  {name:<14} {told['error']}")
        for scale, counts in told.get("scales", {}).items():
            runs = f"{counts['done']} of {counts['done'] + counts['left']} runs done"
            missing = f", {counts['no_data']} cells without data or GPU" if counts["no_data"] else ""
            verdicts = ", ".join(f"{count} {word}" for word, count in counts["verdicts"].items()) or "nothing published"
            lines.append(f"  {name:<14} {scale:<7} {runs}{missing}; {verdicts}")
    if undeclared:
        lines.append(f"  not declared ({len(undeclared)}): {' '.join(undeclared)}")
    for name, told in found.get("declared", {}).items():
        lines += ["", "Claims as they are declared, each once:"] if name == next(iter(found["declared"])) else []
        where = f" ({told['scale']}, {told['places'][1]} of {told['places'][0]} places)" if told["scale"] else ""
        lines.append(f"  {name:<38} {told['verdict']}{where}")
    lines += ["", "Claims of the theses:" if "declared" in found else "Claims:"] if found["claims"] else []
    for name, told in found["claims"].items():
        words = _in_words(told["verdicts"])
        also = "".join(f" (also {other}{' ' if said else ''}{_in_words(said)})" for other, said in told["also"].items())
        lines.append(f"  {name:<38} {told['answered_by'] or told['why_not']}{' ' if words else ''}{words}{also}")
    return "\n".join(lines)


def _scale(declaration: Declaration, scale: str, root: Path, track: Track) -> dict[str, Any]:
    surveyed = survey(declaration, scale, root, track=track)
    return {
        "done": sum(one.done for one in surveyed),
        "left": sum(len(one.left) for one in surveyed),
        "no_data": sum(one.reason is not None for one in surveyed),
    }


def answers(
    said: Iterable[tuple[Declaration, Mapping[str, list[list[str]]]]], told: Sequence[Told]
) -> dict[str, dict[str, Any]]:
    """What became of each claim of the theses.

    Args:
        said: declarations, with what they say at each scale: [claim, verdict in words] of each place.
        told: their claims, of which `tally` says which one counts.

    Returns:
        {id: {"answered_by": the declaration whose verdict counts, "verdicts": {scale: [verdict in words]}, "also": {another
        declaration that answers it: its verdicts}}}; where none does, that is None, and "why_not" says it.
    """
    spoken = {declaration.artefact.id: of_scales for declaration, of_scales in said}
    found: dict[str, dict[str, Any]] = {}
    for name, row in published.claims().items():
        ranked = sorted((one for one in told if name in answered(one.claim)), key=lambda one: one.rank)
        of_each = {
            by: {scale: texts for scale, pairs in spoken[by].items() if (texts := [text for id, text in pairs if id == name])}
            for by in dict.fromkeys(one.declaration.artefact.id for one in ranked)
        }
        first = next(iter(of_each), None)
        verdicts = {} if first is None else of_each.pop(first)
        found[name] = {"answered_by": first, "verdicts": verdicts, "also": of_each}
        if first is None:
            found[name]["why_not"] = "a setting: nothing is there to be measured" if row["note"] == SETTING else "not declared"
    return found


def _in_words(verdicts: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{scale}: {', '.join(words)}" for scale, words in verdicts.items())
