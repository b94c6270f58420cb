"""A network's blocks, and all that one of them is trained with, as the settings of a run make them."""

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

from effdl.archs.vision import undrawn
from effdl.reproduce import artefact

BLOCK = 9  # the one whose training is shown, counted from 1
KEPT, TRAINED, THROWN, NOISE = "0.88", "sandybrown", "lightsteelblue", "mistyrose"
HEIGHT = 0.8


def draw(declaration, scale: str, runs) -> Figure:
    """Left the network, right the temporary one that the marked block learns in."""
    cell = next(cell for cell in declaration.cells(scale) if cell.at["method"] == "dll")
    method, names, shapes, decision = made(artefact.specs(cell)[0])
    figure = Figure(figsize=(10, 6.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    column(
        left,
        [
            (f"{name}: {sizes(shape)}", TRAINED if i == BLOCK else KEPT)
            for i, (name, shape) in enumerate(zip(names, shapes, strict=True), 1)
        ]
        + [("pooling and a linear layer", KEPT)],
    )
    left.set_title(f"{len(names)} blocks and what decides", loc="left", fontsize=9)
    forward, backward = method.input_dropout, method.gradient_dropout
    parts = [
        (f"feednet: blocks 1 to {BLOCK - 1}, without gradients", KEPT),
        (f"dropout of the input, {forward:g} · {method.input_dropout_decay:g}^epoch", NOISE),
        (f"block {BLOCK}, {names[BLOCK - 1]}: {sizes(shapes[BLOCK - 1])}", TRAINED),
        (f"dropout of gradients alone, {backward:g}", NOISE),
        *((words, THROWN) for words in decision),
    ]
    column(right, parts)
    right.set_title("one block in training; blue is thrown away afterwards", loc="left", fontsize=9)
    return figure


def made(spec):
    """The method, the blocks' names and what they put out, and the decision block part by part."""
    facts = spec.dataset.facts()
    chain = undrawn(lambda: spec.arch.build(facts))
    shapes = chain.shapes(facts.input_shape)[: len(chain.names)]
    block = undrawn(lambda: spec.method.decision.build(shapes[BLOCK - 1], facts.outputs))
    told = []
    for part in block.children():
        conv = next((m for m in part.modules() if type(m).__name__ == "Conv2d"), None)
        if conv is None:
            told.append(f"average pooling, {facts.outputs} outputs")
        else:
            told.append(f"3×3 convolution of stride {conv.stride[0]}: {conv.in_channels} to {conv.out_channels}, BN, ReLU")
    return spec.method, list(chain.names), shapes, told


def sizes(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def column(axes, parts: list[tuple[str, str]]) -> None:
    """Boxes one above the other, from the bottom up, with arrows between them."""
    axes.axis("off")
    axes.set(xlim=(0, 1), ylim=(-0.2, len(parts)))
    for y, (words, colour) in enumerate(parts):
        axes.add_patch(Rectangle((0.05, y), 0.9, HEIGHT, facecolor=colour, edgecolor="black", linewidth=0.6))
        axes.text(0.5, y + HEIGHT / 2, words, ha="center", va="center", fontsize=7.5)
        if y:
            axes.add_patch(FancyArrowPatch((0.5, y - 1 + HEIGHT), (0.5, y), arrowstyle="-|>", mutation_scale=6, linewidth=0.6))
