"""The bytes that are recorded are those that a link sees, but for the transport's framing."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import counted_worker
import pytest
from command import ROOT, environment

ALONE = ["unshare", "--map-root-user", "--net"]  # a network of which nobody else uses the loopback
UP = "ip link set lo up && exec "


@pytest.mark.slow
def test_recorded_bytes_are_those_on_the_link(tmp_path: Path) -> None:
    if not (shutil.which("unshare") and shutil.which("ip")) or subprocess.run([*ALONE, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody have a network of their own")
    torchrun = f"{sys.executable} -m torch.distributed.run --standalone --nproc_per_node=2"
    command = f"{UP}{torchrun} {ROOT}/tests/counted_worker.py {tmp_path}"
    own = environment(GLOO_SOCKET_IFNAME="lo")
    done = subprocess.run([*ALONE, "sh", "-c", command], capture_output=True, text=True, timeout=200, env=own, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "counted.json").read_text())
    assert set(found) == {*counted_worker.FORMS, "hook", *(f"compared: {name}" for name in counted_worker.COMPARED)}
    exchanges, raw = counted_worker.EXCHANGES, 4 * (1001 * 800 + 801 * 10)
    assert found["tensors"][0] == 2 * exchanges * (raw + 8)
    for name, (recorded, counted) in found.items():
        # 66 bytes of headers before at most 65,483 of content, as much for what acknowledges it, and gloo's own heads
        heads = 80_000 if "PowerSGD" in name else 40_000  # which sums thrice a step, and little each time
        assert recorded < counted < 1.02 * recorded + heads, name
