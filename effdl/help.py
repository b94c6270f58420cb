"""The help page of run.py, made of the YAML files alone."""

from effdl import config

EXAMPLES = """\
  python run.py                                                     the default: DLL on handwritten digits, seconds
  python run.py method=backprop arch=vgg13_bn dataset=mnist         says what it will cost before it starts
  python run.py method=dll method/decision=vgg arch=vgg13_bn        a nested choice has a slash, a value a dot
  python run.py method.epochs=[3,4,5] optimizer.lr=0.02 seed=1
  python run.py -m method=dll,backprop seed=0,1,2                   a sweep: six runs, one process a core, resumable
"""


def help_page() -> str:
    """Every group with its choices and what they are, from the YAML files alone."""
    lines = ["effdl: train networks by rules other than plain end-to-end backpropagation.", ""]
    lines += ["python run.py [-m] [group=choice] [group.key=value] ...", ""]
    for group in config.GROUPS:
        lines.append(f"{group}:")
        default = config.default_choices().get(group)
        for name in config.choices(group):
            mark = "*" if name == default else " "
            lines.append(f" {mark} {name:<20} {config.about(group, name)}")
        lines.append("")
    lines += [
        "Root keys: seed (0), test_every (epoch, segment, run), results (folder of the records), workers (of a sweep).",
        "",
    ]
    lines += ["* is the default. Any key of a choice can be set; a wrong one is answered with those that there are.", ""]
    lines += ["Examples:", EXAMPLES.rstrip(), ""]
    lines += [
        "The last line on standard output is one JSON object with run_id, status, path and summary; the same command asked"
    ]
    lines += [
        "again answers from the record, and goes on where it was if it was killed; `effdl run --again ...` sets the record"
    ]
    lines += ["aside and makes it anew. A crash names file and line of your code, and EFFDL_DEBUG=1 shows its whole traceback."]
    lines += ["`make demo` shows the main idea."]
    return "\n".join(lines)
