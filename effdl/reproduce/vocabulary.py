"""The fixed vocabulary of declarations: what a YAML under experiments/ may say, validated like any config."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from effdl.setting import Count, NonNegative, Real, Size, Switch

Where = Mapping[str, str | tuple[str, ...]]  # axis -> level or levels; what is not named is not restricted
Overrides = dict[str, Any]  # config key or group -> value, as on the command line
Unit = Literal["percent", "points", "MiB", "s", "layer", "passes", "bits", ""]
Statistic = Literal["mean", "median", "max", "min"]
Evidence = Literal["fresh", "first_looks", "exploratory"]
SCALE_OF = {"percent": 100.0, "points": 100.0, "MiB": 2.0**-20}


class Entry(BaseModel):
    """Base of all: frozen, and a key that is not listed is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Level(Entry):
    """One level of an axis. row: its values in the published CSV; null where the thesis has no such cells."""

    label: str | None = None
    row: dict[str, str] | None = {}
    set: Overrides = {}


class Choice(Entry):
    """One way to fill in what the text leaves open."""

    label: str
    set: Overrides = {}


class Assumption(Entry):
    """A setting that the text leaves open. The first choice is ours; a scale's grid says where others run too."""

    why: str
    choices: dict[str, Choice]
    where: Where = {}


class Rule(Entry):
    """Overrides, and how many seeds, for some of the cells; later rules win."""

    where: Where = {}
    set: Overrides = {}
    seeds: Count | None = None


class Variant(Entry):
    """Cells that also run under other choices of an assumption."""

    choose: dict[str, tuple[str, ...]]
    where: Where = {}
    seeds: Count | None = None


class Floor(Entry):
    """A baseline that must be finished, for claims about it and about the cells that differ from it in ``baseline`` alone to be
    judged; below its floor they are *undertrained*.

    baseline: the axis and level of the baseline. where: the cells that it concerns.
    reaches: "longer" wants it within two points of validation accuracy (of a squared error, within 5%) of the same network on
    the same data with three times ``method.epochs``, over which schedules stretch; two runs of that, with seeds that judge
    nothing else, are part of the scale. "print" wants 90% of the way from chance to what the thesis prints for the cell.
    "twice_chance" wants twice what a guess reaches, of scores of which more is better; it gates claims of ``length: given`` as
    well, since a network that has learned nothing says nothing of its epochs.
    chance: what a guess reaches, in the artefact's unit; of "print" and "twice_chance", which need it.
    """

    baseline: dict[str, str]
    reaches: Literal["longer", "print", "twice_chance"]
    where: Where = {}
    chance: Real | None = None


class Searched(Entry):
    """Cells whose values are searched before they run, by the validation score, with a seed that none of them has.

    Each cell has a search of its own, but cells that ask the same share one. What it found stands in the ledger, and the cell
    composes from it; without it the cell has no runs.

    params: key -> what is searched, in the override grammar of a sweep, such as "tag(log, interval(1e-4, 1))". trials: how
    many, and sampler and pruner, of configs/search. metric: of a run's summary, by default the score that chooses. set:
    overrides of the trials alone, such as fewer epochs.
    """

    params: dict[str, str]
    where: Where = {}
    trials: Count = 20
    sampler: Literal["tpe", "random", "cmaes", "grid"] = "tpe"
    pruner: Literal["median", "hyperband"] | None = None
    metric: str | None = None
    set: Overrides = {}


class Scale(Entry):
    """A named set of overrides: how large the artefact is run.

    about: one line on what it is and takes. where: the cells that it has, by default all. without: those that it lacks.
    evidence: "fresh" draws its seeds from the digest of claims and floors, so that no run is older than what it judges; a
    change of these asks for new runs. "first_looks" marks verdicts on runs whose numbers were known when the claims were
    declared; its seeds count from 0. "exploratory" has no verdicts.
    """

    about: str
    seeds: Count = 3
    where: Where = {}
    without: tuple[Where, ...] = ()
    rules: tuple[Rule, ...] = ()
    grid: tuple[Variant, ...] = ()
    floors: tuple[Floor, ...] = ()
    searches: tuple[Searched, ...] = ()
    evidence: Evidence = "fresh"


class Claim(Entry):
    """A statement about our cells: compare(left, right) relation value, within a tolerance.

    left, right: restrict the cells of each side; the rest is shared and paired. No right: left's own values. metric: of a
    run's summary, or one that `measures` makes. compare: of a pair; "saving" is 1 − left/right; a ratio has no unit but one
    that the claim itself names. less: a metric that is taken from it, run by run, such as what is printed for the cell.
    kind: "mean" of what runs draw; "share" of runs in which a metric of 0 and 1 is 1 ("finished" is one that all have);
    "value" of a number that cannot vary, such as bytes, whose cells must each agree in all runs.
    relation, value: taken from ``answers`` where it names a claim of claims.csv, or two: the ends of a range, or a ratio's left
    and right. tolerance: how far beyond the value still counts as holding, in the unit. least: how far beyond the value a
    difference must lie, where the claim speaks of its size ("much better"). each: axes for each combination of whose levels the
    claim is judged by itself. along: an axis, each of whose levels is compared with the one before it instead of with a right
    side. pooled: axes over whose levels the claim speaks of a mean; without them a side is one cell. length: "given" where the
    claim is about the epochs that were trained, or no training at all, so that no baseline need be finished. fitted: the places
    where the configuration was searched on this very number, true for all. ours: not the thesis's. note: what a reader should
    know of how ours is measured.
    """

    says: str
    left: Where
    right: Where | None = None
    where: Where = {}
    metric: str | None = None
    less: str | None = None
    kind: Literal["mean", "share", "value"] = "mean"
    unit: Unit | None = None
    compare: Literal["difference", "ratio", "saving"] = "difference"
    relation: Literal[">=", "<=", "~"] | None = None
    value: Real | None = None
    tolerance: NonNegative = 0.0
    least: NonNegative = 0.0
    each: tuple[str, ...] = ()
    along: str | None = None
    pooled: tuple[str, ...] = ()
    length: Literal["given"] | None = None
    fitted: Switch | tuple[Where, ...] = False
    answers: str | tuple[str, str] | None = None
    ours: Switch = False
    note: str = ""


class Column(Entry):
    """A column of the table of details. share_of: the metric divided by its mean in the cell that this selects."""

    name: str
    metric: str
    unit: Unit = ""
    statistic: Statistic = "mean"
    spread: bool = False
    share_of: Where | None = None
    digits: Size = 2


class Published(Entry):
    """Where the thesis's numbers stand: a CSV file beside the declarations, and its column. fitted: as in a claim."""

    csv: str
    column: str = "value"
    tolerance: NonNegative = 0.0
    fitted: Switch | tuple[Where, ...] = False


class Artefact(Entry):
    """A table or figure, declared once.

    id: as in artefacts.csv, else one of our own. metric, unit, statistic: what a cell shows. axes: their product is the
    cells. rows, columns: the axes that are rows, and the one that is columns, of the printed table; without columns the
    details are the table. pooled: row axes, such as draws of the data, over whose levels a first table is a mean. without:
    combinations of levels that are no cells, since they cannot be. series: keys of metrics.jsonl that the figure draws.
    numbers: of a run, those that the ledger keeps where all would be too much. picture: whether the README shows it.
    module: the file beside the declaration that measures and draws, where it is another's. cells_of: the declaration beside it
    whose set, axes, rules and assumptions it shares, see `artefact.shared`. drawn: what its measures draw by
    a run's seed, beside what the run itself draws. in_turns: whether runs are carried out seed by seed instead of cell by cell,
    so that what changes on a machine over hours falls on all cells alike. plans: label -> overrides of runs whose memory
    `effdl run` shows below the report; they are planned and never trained.
    """

    id: str
    title: str | None = None
    source: str = ""
    metric: str
    unit: Unit = ""
    statistic: Statistic = "mean"
    axes: dict[str, dict[str, Level]]
    rows: tuple[str, ...]
    columns: str | None = None
    pooled: tuple[str, ...] = ()
    without: tuple[Where, ...] = ()
    set: Overrides = {}
    rules: tuple[Rule, ...] = ()
    assumptions: dict[str, Assumption] = {}
    scales: dict[str, Scale]
    claims: dict[str, Claim] = {}
    details: tuple[Column, ...] = ()
    series: tuple[str, ...] = ()
    numbers: tuple[str, ...] | None = None
    published: Published | None = None
    notes: tuple[str, ...] = ()
    picture: bool = True
    module: str | None = None
    cells_of: str | None = None
    drawn: tuple[str, ...] = ()
    in_turns: bool = False
    plans: dict[str, Overrides] = {}


def explain(error: ValidationError) -> str:
    """The first of its errors on one line: the key, and what is wrong or what there is instead."""
    errors = error.errors()
    first = next((one for one in errors if one["loc"] and one["loc"][-1] == "[key]"), errors[0])
    key = ".".join(str(part) for part in first["loc"])
    if first["loc"] and first["loc"][-1] == "[key]":
        name = str(first["input"]).lower() if isinstance(first["input"], bool) else first["input"]
        return f'{key.removesuffix(".[key]")}: names are text, so one like a number or a switch stands in quotes: "{name}"'
    if first["type"] == "extra_forbidden":
        return f"{key}: unknown key; there are {', '.join(_siblings(first['loc']))}"
    if first["type"] == "missing":
        return f"{key}: is missing"
    return f"{key}: {first['msg']}, got {first['input']!r}"


def _siblings(loc: tuple[int | str, ...]) -> list[str]:
    """The keys that are allowed where the last one of ``loc`` stands."""
    annotation: Any = Artefact
    for part in loc[:-1]:
        if isinstance(annotation, type) and issubclass(annotation, Entry):
            annotation = annotation.model_fields[str(part)].annotation
        else:  # a dict's or a tuple's value
            annotation = [arg for arg in get_args(annotation) if arg is not ...][-1]
        annotation = next(iter(get_args(annotation)), annotation) if type(None) in get_args(annotation) else annotation
    return list(annotation.model_fields)
