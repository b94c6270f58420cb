"""Large pages of memory for tensors, asked for before PyTorch is imported."""

import os


def ask_for_huge_pages() -> None:
    """Tensors of 2 MiB and more lie in pages of 2 MiB, where the kernel gives them; for the start of a program.

    What a run gives back to the system (`training.hardware.keep_little`) comes anew page by page, zeroed as each is first
    touched: at 4 KiB that takes a fifth of the time of VGG-13's training, and a quarter of cnn4's layers. No number changes.
    THP_MEM_ALLOC_ENABLE=0 in the environment says no. Processes that this one starts do the same.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # which PyTorch reads once, as it makes the first tensor
