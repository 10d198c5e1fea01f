"""Size of a BMP, TIFF or WebP as its header tells it, so that a huge one is refused before anything is decoded."""


def size(data: bytes) -> tuple[int, int] | None:
    """(height, width) in the header of a BMP, TIFF or WebP; None where it is not told there, or for other formats."""
    if data[:2] == b"BM" and len(data) >= 26:
        if data[14:18] == b"\x0c\0\0\0":  # of OS/2, with 16 bits each
            return int.from_bytes(data[20:22], "little"), int.from_bytes(data[18:20], "little")
        return abs(int.from_bytes(data[22:26], "little", signed=True)), int.from_bytes(data[18:22], "little")
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):  # "+" is BigTIFF
        return _tiff_size(data, "little" if data[:2] == b"II" else "big", b"+" in data[:4])
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp_size(data)
    return None


def _tiff_size(data: bytes, order: str, big: bool) -> tuple[int, int] | None:
    """Of the first image: its directory, anywhere in the file, has the width as tag 256 and the height as tag 257."""
    count, step, field = (8, 20, 8) if big else (2, 12, 4)
    at = int.from_bytes(data[8:16] if big else data[4:8], order)
    found = {}
    for entry in range(at + count, min(at + count + step * int.from_bytes(data[at : at + count], order), len(data)), step):
        tag, kind = (int.from_bytes(data[entry + k : entry + k + 2], order) for k in (0, 2))
        size = {3: 2, 4: 4, 16: 8}.get(kind)  # SHORT, LONG, LONG8
        if tag in (256, 257) and size:
            value = entry + 4 + field
            found[tag] = int.from_bytes(data[value : value + size], order)
    return (found[257], found[256]) if len(found) == 2 else None


def _webp_size(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[27:30], "little"), 1 + int.from_bytes(data[24:27], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
    return int.from_bytes(data[28:30], "little") & 0x3FFF, int.from_bytes(data[26:28], "little") & 0x3FFF
