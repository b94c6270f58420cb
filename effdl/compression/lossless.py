"""Lossless compression of floats as they are, which the text sets aside as of little use (§3.1): LZW, and deflate beside it."""

import zlib

MOST_CODES = 2**16


def lzw(data: bytes) -> bytes:
    """Welch's codes: each of the longest string met before, which is then known with the byte behind it as well.

    Codes are as wide as the strings known need; where there are 65,536, all but single bytes are forgotten.

    Example:
        >>> len(lzw(b"a" * 1000))
        51
    """
    known = {bytes([one]): one for one in range(256)}
    written, waiting, bits, string = bytearray(), 0, 0, b""
    for one in data:
        longer = string + bytes([one])
        if longer in known:
            string = longer
            continue
        waiting |= known[string] << bits
        bits += (len(known) - 1).bit_length()
        if len(known) < MOST_CODES:
            known[longer] = len(known)
        else:
            known = {bytes([one]): one for one in range(256)}
        string = bytes([one])
        if bits >= 4096:
            written += (waiting & (1 << 4096) - 1).to_bytes(512, "little")
            waiting, bits = waiting >> 4096, bits - 4096
    if string:
        waiting |= known[string] << bits
        bits += (len(known) - 1).bit_length()
    return bytes(written + waiting.to_bytes((bits + 7) // 8, "little"))


def deflate(data: bytes) -> bytes:
    """Strings met before, then Huffman's codes, by zlib at its usual level."""
    return zlib.compress(data)
