"""A process of several ends at once when it has said all, and a lone one as every other does."""

import os

import pytest

from effdl import ending, torchrun


@pytest.mark.parametrize(("status", "code"), [("finished", 0), ("diverged", ending.FINAL["diverged"])])
def test_one_of_several_ends_with_the_code_of_its_run_and_a_lone_one_returns(
    status: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    result = {"name": "a run", "status": status, "reason": "loss is nan"}
    for several in (True, False):
        monkeypatch.setattr(torchrun._Watch, "on", several)
        if code:
            with pytest.raises(SystemExit) as left:
                ending.answer([result], many=False)
            assert left.value.code == code
        else:
            ending.answer([result], many=False)
    assert ended == [code]
