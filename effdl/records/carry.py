"""One Spec carried out from start to summary: the only place where data, network, method and records meet."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from datetime import datetime
from functools import lru_cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from effdl import config
from effdl.archs.adapt import InputBlock
from effdl.archs.chain import BlockChain
from effdl.datasets.dataset import Dataset, Facts, split
from effdl.datasets.problem import Problem
from effdl.datasets.split import Split
from effdl.datasets.splitting import check_split
from effdl.errors import DataError, Diverged, EffdlError, FitFailed, HardwareError, RecordError
from effdl.records import kept
from effdl.records.logger import Log
from effdl.records.networks import network_bytes, tensors_bytes
from effdl.records.process import PROCESS_PEAK, HighWater, first_run
from effdl.records.provenance import other_source, provenance, sources
from effdl.records.report import DAMAGED, Answer, Reporter, Silent
from effdl.records.run import GoesOn, Run
from effdl.records.shorter import shorter
from effdl.records.store import Say, Store, write_atomically, write_json
from effdl.rng import seed_for
from effdl.training.company import Company, carried_together
from effdl.training.handle import CannotGoOn
from effdl.training.hardware import alone
from effdl.training.loop import reseed
from effdl.training.ranks import Ranks, joined

CPU = torch.device("cpu")
OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc", "Cannot allocate memory")


def carry_out(
    spec: config.Spec,
    root: Path,
    reporter: Reporter | None = None,
    threads: int | None = None,
    goes_on: GoesOn | None = None,
    company: Company | None = None,
) -> dict[str, Any]:
    """Run a Spec, go on with it, or answer from its record; returns what summary.json holds.

    Runs of several threads take their turn. Of several processes (``hardware.processes``) each calls this with the same Spec
    and gets the same answer; the first owns the record.

    Args:
        root: the results folder.
        threads: CPU threads where the Spec leaves them open.
        goes_on: may stop the run after an epoch, see `Run`.
        company: of the stack that it is one of, whose thread is `alone` for all of them.

    Raises:
        Stopped: ``goes_on`` did.
        EffdlError: nothing final was reached; the same call goes on from the last checkpoint.
    """
    if spec.stacked and company is None:  # as one of a stack, by itself
        with alone():
            return carried_together([lambda own: carry_out(spec, root, reporter, threads, goes_on, own)])[0]
    try:
        with nullcontext() if company else alone(), joined(spec.hardware.processes, spec.hardware.device) as ranks:
            return _carry_out(spec, root, reporter or Silent(), threads, ranks, goes_on, company or Company())
    except Exception as error:
        if "DataLoader worker" in str(error):  # raised wherever the run was when it noticed
            reason = " ".join(str(error).split())[:120]
            raise DataError(f"a process that decodes images died ({reason}): dataset.workers=0 does without") from None
        if not _is_out_of_memory(error):
            raise
        raise HardwareError(f"out of memory ({' '.join(str(error).split())[:120]}): try {spec.method.saves_memory}") from None


def _carry_out(
    spec: config.Spec,
    root: Path,
    reporter: Reporter,
    threads: int | None,
    ranks: Ranks,
    goes_on: GoesOn | None,
    company: Company,
) -> dict[str, Any]:
    print_of_data = fingerprint(spec.dataset)
    store = Store(root, config.run_id(spec, print_of_data), reporter.say)
    if (done := ranks.agree(lambda: _answer(store, spec))) is not None:
        return done
    device = spec.hardware.open(threads)
    train, test = company.share(spec.dataset, spec.dataset.load)
    problem = open_problem(spec, train, test, device, ranks)
    del train
    with ExitStack() as held:

        def begin() -> tuple[int, Answer | None]:
            held.enter_context(_owned(store))
            return _describe(store, spec, print_of_data, reporter.say), _answer(store, spec)

        begun_with, done = ranks.agree(begin)
        if done is not None:
            return done
        spec.hardware.open(begun_with)
        if ranks.rank > 0:
            return _follow(spec, problem, device, ranks)
        with Log(spec.logger, reporter.say, store.path, name_of(spec), config.dump(spec)) as log:
            return _lead(spec, store, problem, test.to(device), device, log, reporter, ranks, goes_on, company)


@contextmanager
def _owned(store: Store) -> Iterator[None]:
    """Own a run, of which a failed start leaves nothing behind."""
    with store.owned():
        try:
            yield
        except BaseException:
            store.discard_if_empty()
            raise


@lru_cache(maxsize=64)
def fingerprint(dataset: Dataset) -> str:
    """The data's fingerprint, read once a process: a sweep of thousands of runs shares one set."""
    return dataset.fingerprint()


def finished(spec: config.Spec, root: Path, say: Say) -> dict[str, Any] | None:
    """The summary of a Spec that has been carried out, else None. Raises EffdlError as `carry_out` does."""
    store = Store(root, config.run_id(spec, fingerprint(spec.dataset)), say)
    return None if (summary := _ended(store, spec)) is None else dict(_told(store, summary))


def answer(spec: config.Spec, root: Path, say: Say) -> Answer | None:
    """The same as `carry_out` answers with, which knows that it is from a record."""
    return _answer(Store(root, config.run_id(spec, fingerprint(spec.dataset)), say), spec)


def open_problem(
    spec: config.Spec, train: Split, test: Split, device: torch.device = CPU, ranks: Ranks | None = None
) -> Problem:
    """The seeded split of the training samples, checked, on a device."""
    facts = spec.dataset.facts()
    part, val = split(spec.dataset, train, spec.seed)
    check_split(spec.dataset, facts, train, (part, val, test))
    part, val = part.to(device), val.to(device)
    part.find_out((ranks or Ranks()).agree, spec.dataset.scaling == "pixel")
    augment = spec.augment.prepare(part) if spec.augment is not None else None
    return Problem(
        part, val, spec.objective, outputs=facts.outputs, batch_size=facts.batch_size, seed=spec.seed, augment=augment
    )


def build_network(spec: config.Spec, problem: Problem, device: torch.device) -> BlockChain:
    """The architecture with weights from the stream "init" and the input block fitted to the training split."""
    reseed(seed_for(spec.seed, "init"))
    model: BlockChain = spec.hardware.place(spec.arch.build(spec.dataset.facts()), device)
    if isinstance(model.input, InputBlock):
        model.input.scale(spec.dataset.scaling, problem.train_split)
    return model


def open_run(spec: config.Spec, test: Split | None, **places: Any) -> Run:
    """The run of a Spec; ``places``: where and with whom it keeps and shows itself (store, log, reporter, name, ranks)."""
    return Run(
        spec.seed,
        spec.optimizer,
        test=test,
        objective=spec.objective,
        filter=spec.filter,
        hardware=spec.hardware,
        sync=spec.sync,
        probes=spec.probe if test is not None else (),
        test_every=spec.test_every,
        batch_size=spec.dataset.batch_size,
        shorter=partial(shorter, spec),
        **places,
    )


def _lead(
    spec: config.Spec,
    store: Store,
    problem: Problem,
    test: Split,
    device: torch.device,
    log: Log,
    reporter: Reporter,
    ranks: Ranks,
    goes_on: GoesOn | None,
    company: Company,
) -> dict[str, Any]:
    """Carry a run out and record it; alone or as the first of several processes."""
    name = name_of(spec)
    places = {"store": store, "log": log, "name": name, "reporter": reporter, "ranks": ranks, "goes_on": goes_on}
    head = {"run_id": store.path.name, "name": name, "seed": spec.seed}

    def recorded(summary: dict[str, Any]) -> dict[str, Any]:
        summary = _after(summary, "status", {"ended": datetime.now().astimezone().isoformat(timespec="seconds")})
        store.finish(summary)
        log.close(summary)
        return {**summary, "path": str(store.path)}

    mark = None if spec.stacked else _high_water(spec, device)  # of a stack no run has a memory of its own
    try:
        run, network = _fit(spec, problem, device, lambda: open_run(spec, test, company=company, **places), store)
        metrics = run.summary(network, problem.val())
        write_atomically(store.path / "network.safetensors", network_bytes(network))
        if run.lists:
            write_atomically(store.path / kept.FILTER, tensors_bytes(run.lists))
        if mark is not None and not run.resumed and (above := mark.above()) is not None:
            metrics = _after(metrics, "memory/resident_peak_bytes", {PROCESS_PEAK: above})
        summary = {**head, "status": "finished", "summary": metrics}
    except (Diverged, FitFailed) as error:
        status = "diverged" if isinstance(error, Diverged) else "failed"
        summary = {**head, "status": status, "reason": str(error), "summary": {}}
    return ranks.agree(lambda: recorded(summary))


def _fit(
    spec: config.Spec, problem: Problem, device: torch.device, opened: Callable[[], Run], store: Store | None = None
) -> tuple[Run, nn.Module]:
    """A run to its network; anew where the method finds that its checkpoint is none."""
    run = opened()
    try:
        return run, spec.method.fit(problem, build_network(spec, problem, device), run)
    except CannotGoOn as error:
        if store is not None:
            cause = error.__cause__
            what = f"goes with files that are not there any longer ({cause})" if isinstance(cause, DataError) else None
            store.set_aside_checkpoint(what or "does not hold what the method saves")
    run = opened()
    return run, spec.method.fit(problem, build_network(spec, problem, device), run)


def _high_water(spec: config.Spec, device: torch.device) -> HighWater | None:
    """The process's mark before the network is built; None on a GPU, whose memory is not the process's."""
    if device.type != "cpu":
        return None
    if spec.optimizer is not None:
        import_module("torch._dynamo")  # as torch does for the first optimizer: 150 MiB that are not the network's
    return first_run()


def _after(metrics: dict[str, Any], name: str, more: dict[str, Any]) -> dict[str, Any]:
    """The metrics with more right after the one of that name, so that people find side by side what belongs together."""
    names = list(metrics)
    place = names.index(name) + 1 if name in metrics else len(names)
    return {key: {**metrics, **more}[key] for key in (*names[:place], *more, *names[place:])}


def _follow(spec: config.Spec, problem: Problem, device: torch.device, ranks: Ranks) -> dict[str, Any]:
    """Learn beside the first process, which measures and records; returns what it recorded."""
    with suppress(Diverged, FitFailed):  # which all meet
        _fit(spec, problem, device, lambda: open_run(spec, None, ranks=ranks))
    answer: dict[str, Any] = ranks.agree(dict)
    return answer


def name_of(spec: config.Spec) -> str:
    """The label with the first digits of the run's id, as its progress shows it; without them where the data are missing."""
    try:
        return f"{label(spec)} ({config.run_id(spec, fingerprint(spec.dataset))[:6]})"
    except EffdlError:
        return label(spec)


def label(spec: config.Spec) -> str:
    """A short name for people: method arch dataset seed, by their choices where these are known, else by their classes."""
    return f"{' '.join(names(spec).values())} seed {spec.seed}"


def names(spec: config.Spec) -> dict[str, str]:
    """group -> its choice by the name that people know, of those that tell runs from one another."""
    parts = {group: getattr(spec, group) for group in ("method", "arch", "dataset")}
    return {group: part.known_as or spec.chosen.get(group) or part.snake_name() for group, part in parts.items()}


def _ended(store: Store, spec: config.Spec) -> dict[str, Any] | None:
    """summary.json if the run is done; a record of another config under the same name is an error."""
    summary = store.summary()
    if summary is None or store.spec() is None:
        return None
    _compare(store, spec)
    return summary


def _told(store: Store, summary: dict[str, Any]) -> Answer:
    return Answer({**kept.without_note(summary), "path": str(store.path)})


def _answer(store: Store, spec: config.Spec) -> Answer | None:
    """The same, with the record's date, how the source of users' own classes differs, and which of its files do."""
    if (summary := _ended(store, spec)) is None:
        return None
    found, other, changed = _told(store, summary), other_source(spec, store.provenance()), store.changed(summary)
    found.record = f"{store.ended():%Y-%m-%d %H:%M}"
    if changed:
        found[DAMAGED] = changed
    if said := [*([other] if other else []), *([kept.in_words(changed)] if changed else [])]:
        found.record += f"; {'; '.join(said)}: {kept.AGAIN}"
    return found


def _compare(store: Store, spec: config.Spec) -> None:
    """Raise a RecordError where the stored config is another than the one asked for."""
    stored = store.spec()
    if stored is None:
        return
    if said := next(difference(config.dump(spec, identity_only=True), stored["config"]), None):
        raise RecordError(
            f"{store.path}: its record says {said}: most likely a default changed without a new numerics_version; "
            "move the record away to run again"
        )


def difference(asked: Mapping[str, Any], stored: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Each key that both dumps of a config have, and not alike, in words. A key that one of them lacks came later."""
    for key in asked:
        if key not in stored:
            continue
        ours, theirs = asked[key], stored[key]
        if key == "_target_":
            theirs = config.today(theirs)
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            yield from difference(ours, theirs, f"{prefix}{key}.")
        elif ours != theirs:
            shown = (value.get("_target_", value) if isinstance(value, Mapping) else value for value in (theirs, ours))
            yield "{}={}, asked for is {}".format(prefix + key, *shown)


def _describe(store: Store, spec: config.Spec, print_of_data: str, say: Say) -> int:
    """Write spec.json and provenance.json, or compare with what stands there; returns the threads that the run began with."""
    if (stored := store.spec()) is not None:
        _compare(store, spec)
        threads: int = stored["threads"]
        _note_sources(store, spec, say)
        return threads
    facts = spec.dataset.facts()
    if store.provenance() is None:  # else spec.json alone was lost
        write_json(store.path / "provenance.json", {**provenance(), "sources": sources(spec)})
    write_json(
        store.path / "spec.json",
        {
            "config": config.dump(spec),
            "identity": config.identity(spec, print_of_data),
            "facts": {name: getattr(facts, name) for name in Facts.__slots__},
            "threads": torch.get_num_threads(),
        },
    )
    return torch.get_num_threads()


def _note_sources(store: Store, spec: config.Spec, say: Say) -> None:
    """A run that goes on under another source of users' own classes says so, and keeps the digests of both."""
    stored = store.provenance()
    if stored is None or not store.is_under_way() or (other := other_source(spec, stored)) is None:
        return
    say(f"{name_of(spec)}: {other}; it goes on all the same, which its record keeps: `effdl run --again ...` begins anew")
    before = [*stored.get("sources_before", []), stored.get("sources")]
    write_json(store.path / "provenance.json", {**stored, "sources": sources(spec), "sources_before": before})


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, EffdlError):
        return False
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(t in str(error) for t in OUT_OF_MEMORY)
