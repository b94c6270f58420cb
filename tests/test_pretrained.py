"""A real pretrained network, EfficientNet-Lite0 with its ImageNet weights, on real photographs.

EFFDL_PRETRAINED names a folder with tf_efficientnet_lite0.safetensors, the state dict of timm's network of that name.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import picture
import pytest
import timm
import torch
from safetensors.torch import load_file
from test_image_files import imagenette

from effdl.archs.adapt import InputBlock
from effdl.archs.library import Library
from effdl.config import build, compose
from effdl.datasets.folder import Folder
from effdl.records.carry import carry_out

NAME = "tf_efficientnet_lite0"
CLASSES = [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]  # Imagenette's ten among ImageNet's thousand, in its folders' order


def weights() -> Path:
    file = Path(os.environ.get("EFFDL_PRETRAINED", "pretrained")) / f"{NAME}.safetensors"
    if not file.is_file():
        pytest.skip(
            f'no {file.name} under EFFDL_PRETRAINED; where there is a network: python -c "import timm; from safetensors.torch '
            f"import save_file; save_file(timm.create_model('{NAME}', pretrained=True).state_dict(), '{file}')\""
        )
    return file


def test_given_weights_tell_photographs_apart_as_the_librarys_own_network_does() -> None:
    """Chance is a tenth among Imagenette's classes, a thousandth among all; of 200 images 162 and 59 were right."""
    file, dataset = weights(), Folder(root=str(imagenette()), name="imagenette2-96", size=96)
    train, test = picture.whole(dataset)
    problem, made = replace(dataset.facts(), outputs=1000), Library(name=NAME, size=96, weights=str(file))
    made.check(problem)
    chain = made.build(problem).eval()
    assert isinstance(chain.input, InputBlock) and len(chain) == made.facts(problem).blocks == 18
    chain.input.fit(train.x)
    theirs = timm.create_model(NAME).eval()
    theirs.load_state_dict(load_file(file))
    some = torch.arange(0, len(test), len(test) // 60)
    with torch.no_grad():
        x = chain.input(test.x[some])
        logits = chain.head(chain.blocks(x))
        assert torch.equal(logits, theirs(x))
    truth = torch.tensor(CLASSES)[test.y[some]]
    assert (logits[:, CLASSES].argmax(1) == test.y[some]).float().mean() > 0.6
    assert (logits.argmax(1) == truth).float().mean() > 0.1


@pytest.mark.slow
def test_learning_layer_by_layer_goes_on_from_given_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As from the command line: 240 photographs, three segments of two epochs, with the weights and without."""
    file = weights()
    monkeypatch.setenv("EFFDL_DATA", str(imagenette().resolve()))
    data = [
        "dataset=folder",
        "dataset.name=imagenette2-96",
        "dataset.size=96",
        "dataset.train_limit=240",
        "dataset.val_size=100",
    ]
    network = ["arch=library", f"arch.name={NAME}", "arch.size=96", "arch.cuts=[blocks.3,blocks.5,blocks.6]"]
    learns = ["method=dll", "method.epochs=2", "optimizer.lr=0.01", "dataset.batch_size=32", "test_every=run"]

    def score(*more: str) -> Any:
        done = carry_out(build(compose([*data, *network, *learns, *more])), tmp_path)
        assert done["status"] == "finished"
        return done["summary"]["val/acc"]

    given, drawn = score(f"arch.weights={file.resolve()}", "arch.new_head=true"), score()
    assert given > 0.5 and given > drawn + 0.2  # 0.71 and 0.20 were measured
