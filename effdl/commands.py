"""The console command ``effdl``: list, explain, plan, run, status, report, publish, compress, predictions."""

import argparse
import gc
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from effdl import checking, cli, config, ending, searching
from effdl.arguments import Parser, count, read, word
from effdl.errors import ConfigError
from effdl.home import at_home
from effdl.huge_pages import ask_for_huge_pages


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; errors are one line on standard error and an exit code that says which kind."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    ask_for_huge_pages()
    try:
        options = read(parser(), given)
        code = options.command(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        ending.stop("interrupted; the same command goes on where this one stopped", 130)
    except Exception as error:
        ending.stop_for(error, given)
    sys.exit(code)


def parser() -> Parser:
    top = Parser("effdl", description="Tables and figures of the theses, and single runs.")
    commands = top.add_subparsers(metavar="command")

    def add(name: str, command: object, about: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=about, description=about)
        made.set_defaults(command=command)
        made.add_argument("--results", default=Path("results"), type=_folder, help="folder of records and ledger (results)")
        return made

    for name, command, about in (
        ("plan", plan, "what an artefact or a single run would cost"),
        ("run", run, "run an artefact, or a single run as run.py does"),
    ):
        made = add(name, command, about)
        made.add_argument("what", nargs="*", help="an artefact's id, or overrides such as method=dll arch=vgg13_bn")
        _add_scale(made)
        made.add_argument("--cell", help="only these cells: axis=level,axis=level")
        made.add_argument("--workers", type=count, help="processes (one a core)")
        made.add_argument("--no-stack", dest="stack", action="store_false", help="train each of many small networks by itself")
        made.add_argument("--json", action="store_true", help="one JSON object on standard output")
        made.add_argument("--config-dir", "-cd", type=_config_folder, help="the folder of a config of yours")
        made.add_argument("--config-name", "-cn", type=word, help="the name of a config, such as a search's best")
        if name == "run":
            made.add_argument("--again", action="store_true", help="of a single run, set its record aside and make it anew")
        if name == "plan":
            _add_planning(made)
    for name, command, about in (
        ("report", report, "published numbers beside ours, from the ledger, else from the runs made here"),
        ("publish", publish, "add the runs made here to the committed ledger"),
    ):
        made = add(name, command, about)
        made.add_argument("what", help="an artefact's id")
        _add_scale(made)
        if name == "report":
            made.add_argument("--json", action="store_true", help="the verdicts as one JSON object on standard output")
    add("list", list_all, "every artefact, and every choice of every group").add_argument("--json", action="store_true")
    made = add("status", status, "every artefact and claim, or one artefact: declared, run, held")
    made.add_argument("what", nargs="?", help="an artefact's id")
    made.add_argument("--json", action="store_true")
    made = add("explain", explain, "what may be set: every key of a choice, or one key")
    made.add_argument("what", nargs="+", help="a choice or a key, such as method=dll, method.epochs or seed")
    made.add_argument("--json", action="store_true")
    made = add("compress", compress, "what weights take when they are quantised and coded, and what that saves on a link")
    _add_coding(made)
    made = add("predictions", predictions, "a picture of what a finished run says of each pixel, beside images and labels")
    made.add_argument("what", help="the folder of a finished run on images whose pixels have labels")
    made.add_argument("--images", type=count, default=6, help="how many, from the first on (6)")
    made.add_argument("--split", default="val", choices=("val", "train"), help="validation or training images (val)")
    made.add_argument("--json", action="store_true")
    return top


def _add_planning(made: argparse.ArgumentParser) -> None:
    made.add_argument("--time", action="store_true", help="of a single run, measure some steps too; of several they always are")
    made.add_argument("--link", type=word, help="of a run with sync=averaging, what sending takes between its --workers N")
    made.add_argument("-m", "--multirun", nargs="*", metavar="OVERRIDE", help="the runs that run.py -m has with these")


def _add_coding(made: argparse.ArgumentParser) -> None:
    made.add_argument("what", help="a .safetensors file, or the folder of a finished run")
    made.add_argument("--bits", type=count, help="of all layers; by their entropy where not given")
    made.add_argument("--coder", default="auto", type=word, help="auto, huffman, ans, zstd or plain")
    made.add_argument("--link", type=word, help="a rate such as 100Mbit")
    made.add_argument("--json", action="store_true")


def _folder(text: str) -> Path:
    return at_home(text, "--results")


def _config_folder(text: str) -> str:
    return str(at_home(word(text), "--config-dir"))


def _add_scale(made: argparse.ArgumentParser) -> None:
    made.add_argument("--scale", help="paper, medium, small or smoke; small where it is declared")


def plan(options: argparse.Namespace) -> int:
    """Print what an artefact or one run would cost."""
    from effdl.records.tracking import tracking

    if options.link is not None:
        return _plan_exchange(options)
    if options.multirun is not None:
        return _plan_many(options)
    if not _is_artefact(options):
        spec, remark = checking.spec_of(_overrides(options))
        from effdl.records.plan import cost
        from effdl.reproduce.planned import cost_of_run

        if options.time:
            print("effdl: trying a few steps of each layer", file=sys.stderr, flush=True)
        with tracking() as track:
            found = cost(spec, timed=options.time, track=track)
        if found is None:
            raise ConfigError(f"method: {type(spec.method).__name__} does not say what it would cost; only a run tells")
        print(json.dumps(found.to_json()) if options.json else cost_of_run(" ".join(options.what), found, remark))
        return 0
    from effdl.reproduce import console

    declaration, scale = _declared(options)
    surveyed = _survey(declaration, scale, options)
    with tracking() as track:
        planned = console.Plan(declaration, scale, surveyed, _workers(options), track)
    print(json.dumps(planned.to_json()) if options.json else planned.text())
    return 0


def _plan_exchange(options: argparse.Namespace) -> int:
    """Print what averaging would take of a run's time on a link, by form of what is sent."""
    from effdl.records.links import bits_per_second
    from effdl.records.tracking import tracking

    if options.multirun is not None or _is_artefact(options):
        raise ConfigError("--link: belongs to the overrides of one run with sync=averaging")
    link = bits_per_second(options.link)
    if options.workers is None or options.workers < 2:
        given = "" if options.workers is None else f", not {options.workers}"
        raise ConfigError(f"--workers: of several, such as --workers 8, each on a link of its own{given}")
    spec, _ = checking.spec_of(_overrides(options))
    from effdl.records.exchanging import exchanging
    from effdl.reproduce.exchanged import text

    print("effdl: trying a few steps, and coding what they change", file=sys.stderr, flush=True)
    with tracking() as track:
        found = exchanging(spec, link, options.workers, track)
    print(json.dumps(found.to_json()) if options.json else text(" ".join(options.what), found))
    return 0


def _workers(options: argparse.Namespace) -> int:
    return options.workers or os.cpu_count() or 1


def _plan_many(options: argparse.Namespace) -> int:
    """Print what the runs of a sweep, or a search's trials, would cost."""
    from effdl.records.tracking import tracking
    from effdl.reproduce import sweep

    options.what += options.multirun
    if ids := [one for one in options.what if "=" not in one and not one.startswith("~")]:
        raise ConfigError(f"-m: belongs to overrides, such as seed=0,1,2, not to {ids[0]}")
    _is_artefact(options)
    given = _overrides(options)
    overrides = [one for one in given if not one.startswith(cli.OF_HYDRA)]
    if searching.is_search(overrides):
        settings = config.of_sweeper(options.what, options.config_dir, options.config_name)
        composed, trials = searching.trials(overrides, settings)
        _, workers = _places(options, composed, given)
        told = sweep.search(composed, trials, workers)
        print(json.dumps(told) if options.json else sweep.search_text(told, workers))
        return 0
    first = config.compose(config.grammar.sweep(overrides)[0][0])
    root, workers = _places(options, first, given)
    with tracking() as track:
        asked = sweep.runs(overrides, track)
    print("effdl: trying a few steps of each kind of run", file=sys.stderr, flush=True)
    with tracking() as track:
        planned = sweep.sweep(asked, root, workers, track, options.stack and cli.stacks(first))
    print(json.dumps(planned.to_json()) if options.json else planned.text())
    return 0


def _places(options: argparse.Namespace, composed: Any, overrides: Sequence[str]) -> tuple[Path, int]:
    """The results folder and the number of processes, as overrides say it, else as options do."""
    given = {one.partition("=")[0] for one in overrides}
    root, workers = cli.places(composed)
    return root if "results" in given else options.results, workers if "workers" in given else _workers(options)


def _overrides(options: argparse.Namespace) -> list[str]:
    """What is asked for, with what a config of the user's says, in overrides alone. Raises ConfigError."""
    config.refuse(options.what)
    config.no_config([f"results={options.results}", *options.what], options.config_dir, options.config_name)
    return config.spelled_out(options.what, options.config_dir, options.config_name)


def run(options: argparse.Namespace) -> int:
    """Run an artefact and report it, or run one Spec."""
    if not _is_artefact(options):
        places = [f"results={json.dumps(str(options.results))}", *([] if options.stack else ["stack=false"])]
        return cli.run_overrides([*places, *_overrides(options)], options.again)
    if options.again:
        raise ConfigError("--again: sets the record of one run aside; give its overrides, not an artefact's id")
    from effdl.records.report import Console
    from effdl.reproduce import conduct, searched
    from effdl.reproduce.sought import MISSING

    if (line := _why_not(options.what[0])) is not None:
        print(line)
        return 0
    declaration, scale = _declared(options)
    surveyed = _survey(declaration, scale, options)
    if waiting := [one.cell for one in surveyed if one.reason == MISSING]:
        searched.carry_out(declaration, scale, waiting, options.results, _workers(options), Console)
        surveyed = _survey(declaration, scale, options)
    return conduct.conduct(declaration, scale, surveyed, options.results, _workers(options), options.json)


def report(options: argparse.Namespace) -> int:
    """Print an artefact's report and draw its figure."""
    from effdl.reproduce import conduct

    declaration, scale = _declared(options)
    lines, source = conduct.lines_of(declaration, scale, options.results)
    print(f"effdl: from {source}", file=sys.stderr)
    conduct.show(declaration, scale, lines, options.results, options.json)
    return 0


def publish(options: argparse.Namespace) -> int:
    """Write an artefact's ended runs into the ledger."""
    from effdl.reproduce import ledger

    declaration, scale = _declared(options)
    ledger.publish(declaration, scale, options.results, lambda text: print(text, file=sys.stderr))
    return 0


def list_all(options: argparse.Namespace) -> int:
    """Print every artefact and every choice."""
    from effdl.reproduce import catalogue

    found = catalogue.everything()
    print(json.dumps(found) if options.json else catalogue.list_text(found))
    return 0


def status(options: argparse.Namespace) -> int:
    """Print what is declared, run and held."""
    from effdl.records.tracking import tracking
    from effdl.reproduce import catalogue

    if options.what and (line := catalogue.why_not(options.what)) is not None:
        print(line)
        return 0
    gc.disable()  # what it makes stays to the end; looking through it takes a tenth of the time
    try:
        with tracking() as track:
            found = catalogue.status(options.results, track, options.what)
    finally:
        gc.enable()
    print(json.dumps(found) if options.json else catalogue.status_text(found))
    return 0


def explain(options: argparse.Namespace) -> int:
    """Print what may be set, with defaults, ranges and meaning."""
    from effdl.config import explain as explaining

    found = explaining.explain(options.what)
    print(json.dumps(found) if options.json else explaining.text(found, shutil.get_terminal_size((128, 24)).columns))
    return 0


def compress(options: argparse.Namespace) -> int:
    """Print what a packet would make of weights."""
    from effdl import compressing
    from effdl.records.links import bits_per_second
    from effdl.records.tracking import tracking

    link = None if options.link is None else bits_per_second(options.link)
    state = compressing.load(options.what)
    with tracking() as track:
        found = compressing.compress(state, options.bits, options.coder, track)
    print(json.dumps(compressing.to_json(found, link)) if options.json else compressing.text(found, link))
    return 0


def predictions(options: argparse.Namespace) -> int:
    """Draw predicted labels of pixels into the folder of their run."""
    from effdl import predicting

    shown, dataset = predicting.predicted(Path(options.what), options.split, options.images)
    path = predicting.write(Path(options.what), shown, dataset)
    print(json.dumps(predicting.to_json(path, shown)) if options.json else predicting.text(path, shown))
    return 0


def _is_artefact(options: argparse.Namespace) -> bool:
    """Whether an id is given, or overrides. Raises ConfigError where it is neither."""
    if len(options.what) == 1 and not _is_override(options.what[0]):
        if named := [name for name in ("dir", "name") if getattr(options, f"config_{name}") is not None]:
            raise ConfigError(f"--config-{named[0]}: belongs to overrides, not to an artefact's id")
        return True
    if misplaced := [name for name in ("scale", "cell") if getattr(options, name)]:
        raise ConfigError(f"--{misplaced[0]}: belongs to an artefact's id, not to overrides")
    if ids := [one for one in options.what if not _is_override(one)]:
        raise ConfigError(f"{ids[0]}: an artefact stands alone; its settings are those of its scales")
    return False


def _is_override(text: str) -> bool:
    return "=" in text or text.startswith("~")


def _why_not(name: str) -> str | None:
    from effdl.reproduce import catalogue

    return catalogue.why_not(name)


def _declared(options: argparse.Namespace) -> tuple[Any, str]:
    """The declaration and the scale asked for. Raises ConfigError: unknown, not declared, or no such scale."""
    from effdl.reproduce import artefact, catalogue

    name = options.what if isinstance(options.what, str) else options.what[0]
    if (line := catalogue.why_not(name)) is not None:
        raise ConfigError(line)
    declaration = artefact.load(name)
    scales = list(declaration.artefact.scales)
    scale = options.scale or ("small" if "small" in scales else scales[0])
    declaration.scale(scale)
    return declaration, scale


def _survey(declaration: Any, scale: str, options: argparse.Namespace) -> list[Any]:
    from effdl.records.tracking import tracking
    from effdl.reproduce.survey import survey

    with tracking() as track:
        return survey(declaration, scale, options.results, options.cell, track, options.stack)
