"""The README's Python runs as printed, and its commands exist."""

import json
import re
import shlex
from pathlib import Path

from command import run
from omegaconf import OmegaConf

import effdl
from effdl.config import build, build_setting, compose
from effdl.search import space as space_of

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_python_example_trains_a_timm_model_layer_by_layer(tmp_path: Path) -> None:
    said = example("BlockChain", tmp_path)
    accuracy = float(re.search(r"'acc': ([0-9.]+)", said)[1])
    assert accuracy > 0.9
    assert re.search(r"peak training memory by layer: \[\d+(, \d+)+\]", said)
    assert not list(tmp_path.glob("results*")), "Run.in_memory writes nothing"


def test_a_module_of_ones_own_is_trained_in_ten_lines(tmp_path: Path) -> None:
    assert float(re.search(r"test accuracy: ([0-9.]+)", example("train_layerwise", tmp_path))[1]) > 0.9
    assert not list(tmp_path.glob("results*"))


def test_the_example_works_on_a_narrow_network_of_ones_own(tmp_path: Path) -> None:
    """Under the default's decision block, layers of eight channels get 13 to 30%."""
    layers = "*(nn.Sequential(nn.Conv2d(i, 8, 3, padding=1), nn.ReLU()) for i in (1, 8, 8)), nn.Flatten(), nn.Linear(2048, 10)"
    said = example("BlockChain", tmp_path, (r"timm\.create_model\(.*\)", f"(nn := torch.nn).Sequential({layers})"))
    assert float(re.search(r"'acc': ([0-9.]+)", said)[1]) > 0.9


def test_closed_form_examples_run_as_printed(tmp_path: Path) -> None:
    assert float(re.search(r"test accuracy: ([0-9.]+)", example("PlatonicClassifier", tmp_path))[1]) > 0.9
    (block,) = re.findall(r"```sh\n(python run.py method=platonic.*?)```", README, flags=re.DOTALL)
    commands = block.replace("\\\n", "").splitlines()
    assert len(commands) == 4
    for command in commands:
        words = command.split()
        assert words[:2] == ["python", "run.py"]
        assert build(compose(words[2:]), checked=False).method.projection
    words = commands[-1].split()
    done = run(*words[2:], f"results={tmp_path}", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["status"] == "finished"


def test_the_search_is_one_that_can_be() -> None:
    (block,) = re.findall(r"```sh\n(python run.py -m search=optuna.*?)```", README, flags=re.DOTALL)
    program, script, many, *overrides = shlex.split(block.replace("\\\n", ""))
    assert (program, script, many) == ("python", "run.py", "-m")
    space, fixed = space_of.read(overrides)
    assert set(space) == {"optimizer.lr", "optimizer.weight_decay"}
    composed = compose(fixed)
    assert build(composed).method and build_setting(OmegaConf.to_container(composed.search), "search").pruner is not None


def test_a_study_of_the_users_own_runs_as_printed(tmp_path: Path) -> None:
    assert re.search(r"\{'lr': [0-9.e-]+\}", example("optuna", tmp_path))
    assert len(list((tmp_path / "results" / "runs").iterdir())) == 4


def test_k_filtering_of_digits_runs_as_printed_and_keeps_what_is_not_redundant(tmp_path: Path) -> None:
    first, second = example("k_redundancy", tmp_path).splitlines()
    shares = [float(share) for share in re.findall(r"0\.\d+", first)]
    kept, count, *of_each = (int(number) for number in re.findall(r"\d+", second))
    assert sorted(shares, reverse=True) == shares and len({*shares}) == 3
    assert round(1 - kept / count, 3) == shares[1] and sum(of_each) == kept and count == 1797 and len(of_each) == 10


def test_the_example_of_packets_runs(tmp_path: Path) -> None:
    first, second = example("effdl.compression", tmp_path).splitlines()
    pattern = r"bits of each layer: \{'0.weight': 9, '2.weight': 9, '4.weight': [89]\} as \['plain', 'raw', .* 'raw'\]"
    assert re.fullmatch(pattern, first)  # of the last layer's 500 weights 15 are looked at
    assert 9.0 < float(second.split()[0]) < 9.2 and second.endswith(" bits a parameter with all that is beside")


def example(name: str, folder: Path, change: tuple[str, str] | None = None) -> str:
    """What the README's Python block that imports a name prints. change: a pattern in it, and what stands there instead."""
    (text,) = [block for block in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL) if name in block]
    if change is not None:
        text, count = re.subn(*change, text)
        assert count == 1
    script = folder / "example.py"
    script.write_text(text)
    done = run(cwd=folder, script=str(script))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_public_name_and_every_class_of_the_readmes_table_can_be_imported() -> None:
    (inside,) = re.findall(r"## What is inside\n(.*?)\n\n[^|\n]", README, flags=re.DOTALL)
    classes = set(re.findall(r"`([A-Z]\w*)`", inside))
    assert {"BlockChain", "Learner", "Rehearsal"} <= classes and len(classes) >= 5
    assert {name for name in {*effdl.__all__, *classes} if getattr(effdl, name).__name__ != name} == set()


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^make (\S+)", README, flags=re.MULTILINE)
    assert targets == ["demo", "test", "table-6.1"]
    rules = set(re.search(r"^table-.*?(?=:)", makefile, flags=re.MULTILINE)[0].split())
    patterns = [rule.replace("%", "") for rule in rules]
    plain = [target for target in targets if not target.startswith(tuple(patterns))]
    assert all(re.search(rf"^{target}:.*##", makefile, flags=re.MULTILINE) for target in plain)
