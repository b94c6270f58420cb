"""The ledger: committed lines, one per cell and provenance, from which tables, figures and verdicts are made."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from effdl import config
from effdl.errors import ConfigError, DataError, HardwareError, RecordError, SearchMissing
from effdl.records import stacking
from effdl.records.process import of_the_machine
from effdl.reproduce import declared, searched
from effdl.reproduce.artefact import NO_GPU, Cell, Declaration, specs
from effdl.reproduce.intact import Intact, again
from effdl.reproduce.lines import SEARCH, canonical
from effdl.reproduce.lines import Line as Line
from effdl.reproduce.lines import checksum as checksum
from effdl.reproduce.lines import ledger_path as ledger_path
from effdl.reproduce.lines import read as read
from effdl.reproduce.sought import MISSING
from effdl.setting import Setting

Say = Callable[[str], None]
PROVENANCE = ("commit", "dirty", "python", "torch", "machine", "processor", "vector", "blas", "cpus", "gpu")


def collect(
    declaration: Declaration, scale: str, root: Path, cells: Sequence[Cell] | None = None, say: Say | None = None
) -> list[Line]:
    """Lines of the runs that have ended here, finished or not; a cell without data or GPU has a line that says so.

    say: is told of records that are not as their runs left them. Raises RecordError where what is taken from one is not.
    """
    lines: dict[str, Line] = {}
    intact = Intact(root, declaration.artefact.series)
    stood = cache(lambda commit: declared.at(declaration, scale, commit))  # the same for thousands of runs
    shown = cells if cells is not None else declaration.all_cells(scale)
    for cell in shown:
        try:
            values = searched.values(declaration, scale, cell, root)
            made = stacking.kept(specs(cell, values), root)
            commands = ((spec, partial(again, cell, values, spec, root)) for spec in made)
            found = [_run(declaration, scale, cell, spec, root, stood, intact, anew) for spec, anew in commands]
        except (DataError, HardwareError, SearchMissing) as error:
            reason = {DataError: "no data", SearchMissing: MISSING}.get(type(error), str(error))
            empty = {"artefact": declaration.artefact.id, "scale": scale, "cell": cell.name, "reason": reason}
            lines[cell.name] = {**empty, "runs": []}
            continue
        for line, run in filter(None, found):
            lines.setdefault(canonical(line), {**line, "runs": []})["runs"].append(run)
    if say is not None and (said := intact.said()) is not None:
        say(said)
    return [*searched.lines(declaration, scale, shown, root), *(stamped(line) for line in lines.values())]


def publish(declaration: Declaration, scale: str, root: Path, say: Callable[[str], None]) -> Path:
    """Add what has ended here to the committed lines; what stands there stays, unless the declaration no longer makes it.

    Raises:
        RecordError: nothing has been run; a line was edited, or its numbers were made under another default; runs here and
            published ones of the same cell are of different data; a record was damaged after its end, see `Intact`; or evidence
            that should be fresh is not, see `_check_fresh`.
    """
    from effdl.records.store import write_atomically

    name = declaration.artefact.id
    before, fresh = read(root, name), collect(declaration, scale, root, say=say)
    if declaration.scale(scale).evidence == "fresh" and (declaration.artefact.claims or declaration.artefact.published):
        _check_fresh(declaration, scale, fresh, root)
    kept = list(_current(declaration, scale, before, root, say))
    anew = {line["cell"] for line in fresh if line["runs"]}
    kept = [line for line in kept if line["scale"] != scale or line["cell"] not in anew or "outdated" not in line]
    fresh = _of_one_kind(scale, kept, fresh, say)
    _compare(scale, kept, fresh, say)
    present = {line["cell"] for line in kept if line["scale"] == scale and SEARCH not in line}
    known = {(line["cell"], run["run_id"]) for line in kept if line["scale"] == scale for run in line["runs"]}
    merged = {canonical({**line, "runs": None}): line for line in kept}
    merged |= {canonical(line): line for line in fresh if "reason" in line and line["cell"] not in present}
    merged |= {canonical({**line, "runs": None}): line for line in fresh if SEARCH in line}
    added = 0
    for line in fresh:
        runs = [run for run in line["runs"] if (line["cell"], run["run_id"]) not in known]
        if runs:
            home = merged.setdefault(canonical({**line, "runs": None}), {**line, "runs": []})
            home["runs"] = sorted([*home["runs"], *runs], key=lambda run: run["seed"])
            added += len(runs)
    if not any(line["scale"] == scale and (line["runs"] or line.get("reason") == NO_GPU) for line in merged.values()):
        raise RecordError(f"{name}: nothing has been run at scale {scale}; effdl run {name} --scale {scale}")
    path = ledger_path(root, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = sorted(canonical({**line, "checksum": checksum(line)}) for line in merged.values())
    write_atomically(path, ("\n".join(texts) + "\n").encode())
    for text in made_anew(declaration, fresh):
        say(f"made anew: {text}")
    say(f"{path}: {added} runs added, {len(known)} were there")
    return path


def run_ids(line: Line) -> list[str]:
    """The run_ids that a line's spec, seeds and data fingerprint give, computed anew; where an older ``numerics_version`` made
    its runs, by that one."""
    spec = config.build({**line["spec"], "logger": None}, checked=False)
    versions = _versions(spec, line)
    return [config.run_id(replace(spec, seed=run["seed"]), line["data"], versions) for run in line["runs"]]


def stamped(line: Line) -> Line:
    """A line with what its spec says of its runs, so that reports need not build it: draws, what another seed draws anew;
    test_samples, how many the test split has where the set itself says so; and outdated, which code made the runs where today's
    gives other numbers."""
    if not line["runs"]:
        return line
    spec = config.build({**line["spec"], "logger": None}, checked=False)
    known = {key: value for key, value in line.items() if key != "outdated"}
    known |= {"draws": list(spec.draws), "test_samples": spec.dataset.test_size}
    if versions := _versions(spec, line):
        older = (f"{cls.snake_name()} {version}, now {cls.numerics_version}" for cls, version in versions.items())
        known["outdated"] = f"outdated: {', '.join(older)}"
    return known


def _versions_of(line: Line) -> dict[type[Setting], int]:
    """The same of a line; {} where its spec cannot be built any longer, which publishing says by itself."""
    with suppress(ConfigError):
        return _versions(config.build({**line["spec"], "logger": None}, checked=False), line)
    return {}


def _versions(spec: config.Spec, line: Line) -> dict[type[Setting], int]:
    """Which older ``numerics_version`` of its choices a line's runs were made under; {} where under today's, or where their
    run_ids follow from none."""
    made = replace(spec, seed=line["runs"][0]["seed"])
    now = {type(choice): choice.version() for choice in config.all_settings(spec) if choice.version() > 1}
    for versions in itertools.product(*(range(version, 0, -1) for version in now.values())):
        then = dict(zip(now, versions, strict=True))
        if config.run_id(made, line["data"], then) == line["runs"][0]["run_id"]:
            return {cls: version for cls, version in then.items() if version < now[cls]}
    return {}


def _check_fresh(declaration: Declaration, scale: str, lines: Sequence[Line], root: Path) -> None:
    """Raise a RecordError for runs whose numbers could have been known when claims and floors were declared: older than their
    declaration, made from one that stood in no commit, or published before with another artefact.

    Cells whose seeds draw nothing are let through: anybody can know their numbers at any time.
    """
    elsewhere = {
        run["run_id"]: path.stem
        for path in sorted((root / "ledger").glob("*.jsonl"))
        if path.stem != declaration.artefact.id
        for line in read(root, path.stem)
        for run in line["runs"]
    }
    for line in (line for line in lines if line["runs"]):
        if not line["draws"] and not declaration.artefact.drawn:
            continue
        if line["declaration"]["commit"] is None:
            raise RecordError(
                f"{line['cell']}: was run from a declaration that stands in no commit: commit {declaration.path.name}, move "
                "the records of its runs away, and run again; or declare evidence: exploratory"
            )
        if moved := declared.moved(declaration, scale, line["declaration"]):
            raise RecordError(
                f"{line['cell']}: its runs are older than {', '.join(moved)} of {declaration.path.name}: run again "
                "from a commit that has it (a change of claims or floors brings new seeds), or declare evidence: first_looks"
            )
        if known := [elsewhere[run["run_id"]] for run in line["runs"] if run["run_id"] in elsewhere]:
            raise RecordError(f"{line['cell']}: some of its runs stand in {known[0]}'s ledger, and are no fresh evidence")


def _of_one_kind(scale: str, kept: Sequence[Line], fresh: Sequence[Line], say: Callable[[str], None]) -> list[Line]:
    """Without cells whose runs here were stacked and those published were not, or the other way about."""
    kinds = {line["cell"]: "stacked" in line["spec"] for line in kept if line["scale"] == scale and "spec" in line}
    found = []
    for line in fresh:
        if "spec" in line and kinds.get(line["cell"], "stacked" in line["spec"]) != ("stacked" in line["spec"]):
            say(
                f"{line['cell']}: its published runs were {'' if kinds[line['cell']] else 'not '}trained as one, those here "
                "otherwise; they are not mixed: delete its lines from the ledger to publish these"
            )
        else:
            found.append(line)
    return found


def _compare(scale: str, kept: Sequence[Line], fresh: Sequence[Line], say: Callable[[str], None]) -> None:
    """Say which runs here ended in other numbers than those published, which stay. Raise a RecordError for other data."""
    published = {line["cell"]: line for line in kept if line["scale"] == scale and line["runs"]}
    known = {run["run_id"]: run for line in kept if line["scale"] == scale for run in line["runs"]}
    for line in (line for line in fresh if line["runs"]):
        if (theirs := published.get(line["cell"])) is not None and theirs["data"] != line["data"]:
            raise RecordError(
                f"{line['cell']}: published runs are of data {theirs['data'][:10]}, those here of {line['data'][:10]}; "
                "one cell has one data set: delete its lines from the ledger to publish these"
            )
        other = [run for run in line["runs"] if run["run_id"] in known and known[run["run_id"]]["numbers"] != run["numbers"]]
        if other:
            ids = ", ".join(run["run_id"] for run in other)
            say(f"{line['cell']}: {ids}: not the numbers that are published, which stay (another machine or version?)")


def _current(declaration: Declaration, scale: str, lines: list[Line], root: Path, say: Callable[[str], None]) -> Iterator[Line]:
    """Lines without the runs of this scale that the declaration no longer makes of their data; without data here, all stay."""
    made: dict[str, list[config.Spec] | None] = {}
    cells = declaration.all_cells(scale)
    for cell in cells:
        try:
            made[cell.name] = specs(cell, searched.values(declaration, scale, cell, root))
        except (DataError, HardwareError):
            made[cell.name] = None
        except SearchMissing:
            made[cell.name] = []
    for line in lines:
        if line["scale"] != scale:
            yield stamped(line)
            continue
        if "reason" in line:  # said anew where it still holds
            continue
        if SEARCH in line:
            if any(cell.search is not None and cell.search.asked == line[SEARCH]["asked"] for cell in cells):
                yield line
            else:
                say(f"{line['cell']}: its search is no longer declared; dropped")
            continue
        known = made.get(line["cell"], [])
        versions = _versions_of(line)
        known = known and [replace(spec, stacked=line["spec"].get("stacked")) for spec in known]
        valid = None if known is None else {config.run_id(spec, line["data"], versions): spec for spec in known}
        _check_line(line, valid or {})
        runs = [run for run in line["runs"] if valid is None or run["run_id"] in valid]
        if len(runs) < len(line["runs"]):
            say(f"{line['cell']}: {len(line['runs']) - len(runs)} published runs are no longer declared; dropped")
        if runs:
            yield stamped({**line, "runs": runs})


def _check_line(line: Line, made: Mapping[str, config.Spec]) -> None:
    """Raise a RecordError where published run_ids do not follow from their line, or now stand for another config."""
    from effdl.records.carry import difference

    ids = [run["run_id"] for run in line["runs"]]
    if run_ids(line) != ids:
        raise RecordError(f"{line['cell']}: published run_ids do not follow from their line; delete it and publish again")
    for spec in (made[one] for one in ids if one in made):
        if said := next(difference(config.dump(spec, identity_only=True) | {"seed": 0}, line["spec"]), None):
            raise RecordError(
                f"{line['cell']}: its published line says {said}: most likely a default changed without a new "
                "numerics_version; delete the line to publish anew"
            )


def _run(
    declaration: Declaration,
    scale: str,
    cell: Cell,
    spec: config.Spec,
    root: Path,
    stood: Callable[[str | None], Line],
    intact: Intact,
    anew: Callable[[], str],
) -> tuple[Line, Line] | None:
    """A run that has ended: what its line says, and its own entry.

    stood: commit -> the declaration as it was then. anew: the command that makes its record anew.
    """
    from effdl.records.carry import fingerprint, finished
    from effdl.records.earlier import records
    from effdl.records.store import Store

    summary, data = finished(spec, root, lambda text: None), fingerprint(spec.dataset)  # of this very config, or an error
    store = Store(root, config.run_id(spec, data), lambda text: None)
    intact.check(store, anew)
    stored, provenance = store.spec(), store.provenance()
    if summary is None or stored is None:
        return None
    if provenance is None:
        raise RecordError(f"{store.path}: its provenance.json is lost; `{anew()}` makes it anew")
    name = declaration.artefact.id
    line = {
        "artefact": name,
        "scale": scale,
        "cell": cell.name,
        "command": f"effdl run {name} --scale {scale} --cell {cell.name}",
        "spec": config.dump(spec, identity_only=True) | {"seed": 0},
        "data": data,
        "declaration": stood(provenance["commit"]),
        "provenance": {**{key: provenance.get(key) for key in PROVENANCE}, "threads": stored["threads"]},
    }
    wanted = declaration.artefact.numbers
    run = {
        "run_id": store.path.name,
        "seed": spec.seed,
        **_ended(summary, wanted),
        "times": {key: value for key, value in _wanted(summary, wanted).items() if of_the_machine(key)},
        "series": intact.points(store, summary, anew),
    }
    before = [{"ended": date, **_ended(told, wanted)} for date, told in records(root, store.path.name)]
    return line, run | ({"earlier": before} if before else {})


def _ended(summary: Mapping[str, Any], wanted: Sequence[str] | None) -> Line:
    """How a run ended, with its reason where there is one, and its numbers but for what the machine says."""
    return {
        "status": summary["status"],
        **({"reason": summary["reason"]} if "reason" in summary else {}),
        "numbers": {key: value for key, value in _wanted(summary, wanted).items() if not of_the_machine(key)},
    }


def made_anew(declaration: Declaration, lines: Sequence[Line]) -> Iterator[str]:
    """Each run whose record was set aside and made anew, with the artefact's number then and now."""
    metric = declaration.artefact.metric
    runs = {run["run_id"]: (line["cell"], run) for line in lines for run in line["runs"]}
    for cell, run in runs.values():
        for before in run.get("earlier", ()):
            then, now = (one["numbers"].get(metric, one["status"]) for one in (before, run))
            which = f"{cell}, seed {run['seed']} ({run['run_id'][:6]})"
            yield f"{which}: {metric} {then} in the record of {before['ended']}, {now} anew"


def _wanted(summary: Mapping[str, Any], names: Sequence[str] | None) -> dict[str, Any]:
    """A summary's numbers, or those of them that the ledger keeps."""
    return {key: value for key, value in summary["summary"].items() if names is None or key in names}
