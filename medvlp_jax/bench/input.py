"""Images a second of one core, from files to the device, beside a plain Pillow loader in the same run.

    python -m medvlp_jax.bench input
    python -m medvlp_jax.bench input --src=FOLDER       # your own JPEGs instead of synthetic ones

Everything works in one thread and is measured in CPU seconds of this process, the loaders taking turns; the figure is the
median turn. Both make images only; "rows" are ours with the labels and word pieces of a report as well, of which later epochs
find the pieces kept. The second table times the parts of our rows one by one, the third says how many cores feed a chip: the
examples a second that it trains on, divided by the rows a second of a core. Give those of your run (images_per_s in its
metrics.jsonl, divided by its chips) as --rates; without, they are what the model's operations allow at --utilization.
"""
import argparse
import csv
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from medvlp_jax.bench import pil_loader
from medvlp_jax.input import decode, pipeline, prepared, tokens, transforms
from medvlp_jax.input.examples import DEFAULTS, make_row
from medvlp_jax.input.manifest import ManifestSource
from medvlp_jax.input.phantom import PhantomSource
from medvlp_jax.input.randaugment import rand_augment
from medvlp_jax.plan.chips import CHIPS

MEDKLIP = DEFAULTS._replace(crop="random_resized", rand_augment=(2, 7), needs=("labels",))
MLIP = DEFAULTS._replace(crop="random", fit="pad", frame=256, needs=("labels", "text", "swap"))
RECIPES = {"MedKLIP": (MEDKLIP, pil_loader.medklip), "MLIP": (MLIP, pil_loader.mlip)}
# Operations of one training step for an example, as medvlp_jax.plan.program.operations counts them for the paper's configs
OPERATIONS = {"MedKLIP": 23e9, "MLIP": 234e9}
ORIGINS = {"jpeg": "prepared, JPEG", "png": "prepared, PNG", "512": "512 px JPEG files"}
TARGETS = dict.fromkeys([("MedKLIP", "jpeg"), ("MedKLIP", "png")], 1500) | {("MLIP", "jpeg"): 5000, ("MLIP", "png"): 5000,
                                                                             ("MLIP", "512"): 900, ("MedKLIP", "512"): 900}
BATCH = 32


def write_files(folder: Path, images: int, src: str) -> Path:
    """JPEGs of 512 px on the long side and a manifest of them."""
    paths = sorted(p for p in Path(src).rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))[:images] if src else []
    if src and not paths:
        raise ValueError(f"no .jpg below {src}")
    phantom = None if src else PhantomSource("train", images, 0, 512)
    texts = PhantomSource("train", images)  # the reports' content does not matter here
    rows = [["image", "report", "split"]]
    for i in range(len(paths) or images):
        pixels = decode.decode(paths[i].read_bytes()) if src else phantom[i]["image"]
        scale = 512 / max(pixels.shape)
        pixels = transforms.resize(pixels, round(pixels.shape[0] * scale), round(pixels.shape[1] * scale))
        (folder / f"{i}.jpg").write_bytes(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes())
        rows.append([f"{i}.jpg", texts.text(i), "train"])
    path = folder / "manifest.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def ours(source, options, tokenizer=None):
    """() -> one batch of our training stream, in this thread."""
    iterator = pipeline.train_iterator(source, tokenizer, options, batch_size=BATCH, seed=0, threads=0)
    return lambda: next(iterator)["image"]


def plain(files: list[Path], make):
    """() -> one batch of the Pillow loader."""
    rng, order = np.random.default_rng(0), []

    def batch():
        rows = []
        for _ in range(BATCH):
            if not order:
                order.extend(rng.permutation(len(files)))
            rows.append(make(rng, files[order.pop()].read_bytes()))
        return np.stack(rows)

    return batch


def rates(loaders: dict, turns: int, batches: int, warmup: int = 1) -> dict[str, float]:
    """Images a second of each loader: the median of `turns` turns of `batches` batches, taken one loader after the other, after
    `warmup` batches of each."""
    found = {name: [] for name in loaders}
    for load in loaders.values():
        for _ in range(warmup):
            load()
    for _ in range(turns):
        for name, load in loaders.items():
            start = time.process_time()
            for _ in range(batches):
                load()
            found[name].append(batches * BATCH / (time.process_time() - start))
    return {name: statistics.median(values) for name, values in found.items()}


def each(fn, values) -> float:
    """Microseconds of CPU time that `fn` takes for one of `values`, after a round that is not counted."""
    for value in values[:8]:
        fn(value)
    start = time.process_time()
    for value in values:
        fn(value)
    return 1e6 * (time.process_time() - start) / len(values)


def stages(source, options, tokenizer) -> dict[str, float]:
    """{part: microseconds an image}."""
    rng, o, rows = np.random.default_rng(0), options, list(range(len(source)))
    data = [source[i]["image"] for i in rows]
    hint = None if o.crop == "random_resized" else o.frame
    pixels = [transforms.load(d, hint)[0] for d in data]
    view = {"size": o.image_size, "crop": o.crop, "frame": o.frame, "how": o.fit, "scale": o.crop_scale, "hflip": 0.0}
    images = [transforms.train_view(rng, p, **view, augment=None)[0] for p in pixels]
    flat = [np.ascontiguousarray(i[..., 0]) for i in images]
    size = min(BATCH, len(images))
    lists = [images[k : k + size] for k in range(0, len(images) - size + 1, size)]
    batches = [np.stack(some) for some in lists]
    geometry = transforms.Geometry()
    examples = [(source[i], image) for i, image in zip(rows, images, strict=True)]

    def tell(example):
        make_row(source, example[0], 0, example[1], geometry, np.asarray(rows), rng, tokenizer, o)

    for example in examples:
        tell(example)  # later epochs are what counts
    normalise = jax.jit(lambda x: (x.astype(jnp.float32) / 255 - 0.485) / 0.229)
    out = {
        "read": each(source.__getitem__, rows),
        "decode": each(lambda d: transforms.load(d, hint), data),
        "crop, resize": each(lambda p: transforms.train_view(rng, p, **view, augment=None), pixels),
        "RandAugment": each(lambda p: rand_augment(rng, p, *o.rand_augment), flat) if o.rand_augment else 0.0,
        "labels, text": each(tell, examples),
        "batch": each(np.stack, lists) / size,
        "to device, normalise": each(lambda b: jax.block_until_ready(normalise(jax.device_put(b))), batches) / size,
    }
    return out


def main(argv=None) -> dict:
    """Prints the tables -> {(recipe, from): (ours, Pillow)} images a second."""
    parser = argparse.ArgumentParser(prog="python -m medvlp_jax.bench input", description=__doc__.splitlines()[0])
    parser.add_argument("--src", default="", help="folder of JPEGs; default: synthetic radiographs")
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--quality", type=int, default=95, help="of the prepared JPEGs, as of data.prepare")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--batches", type=int, default=6)
    parser.add_argument("--rates", default="", help="examples a second of one of your chips: MedKLIP=9000,MLIP=1500")
    parser.add_argument("--utilization", type=float, default=0.4, help="without --rates: the share of a chip's bfloat16 peak")
    args = parser.parse_args(argv)
    from data import plan, prepare, shards

    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "files").mkdir()
        path = write_files(folder / "files", args.images, args.src)
        sources, files = {"512": ManifestSource(path, "train")}, {"512": sorted((folder / "files").glob("*.jpg"))}
        for kind in ("jpeg", "png"):
            prepare.run(plan.Plan("manifest", path, folder / kind, shards.Settings(256, args.quality, kind)), workers=0)
            sources[kind] = source = prepared.PreparedSource(folder / kind, "train")
            for i in range(len(source)):  # for Pillow: the same bytes as single files
                image = source[i]["image"]
                (folder / f"{i}.{kind}").write_bytes(image if kind == "jpeg" else decode.stored_png(image))
            files[kind] = sorted(folder.glob(f"*.{kind}"))
        tokenizer, loaders = tokens.load(), {}
        for recipe, (options, theirs) in RECIPES.items():
            for origin in ORIGINS:
                loaders[recipe, origin, "ours"] = ours(sources[origin], options._replace(needs=()))
                loaders[recipe, origin, "rows"] = ours(sources[origin], options, tokenizer)
                loaders[recipe, origin, "Pillow"] = plain(files[origin], theirs)
        found = rates(loaders, args.turns, args.batches, warmup=-(-2 * len(files["512"]) // BATCH))
        parts = {(r, origin): stages(sources[origin], RECIPES[r][0], tokenizer) for r in RECIPES for origin in ORIGINS}
    show(found, parts, chip_rates(args.rates, args.utilization))
    return {key: (found[*key, "ours"], found[*key, "Pillow"]) for key in parts}


def chip_rates(given: str, utilization: float) -> dict[str, dict[str, float]]:
    """{chip: {recipe: examples a second}}, given or assumed.

    Raises:
      ValueError: `given` is not of the form MedKLIP=9000,MLIP=1500.
    """
    if given:
        pairs = [pair.partition("=")[::2] for pair in given.split(",")]
        if wrong := [name for name, rate in pairs if name not in RECIPES or not rate.replace(".", "", 1).isdecimal()]:
            raise ValueError(f"--rates={given}: expected a number for {' or '.join(RECIPES)}, such as MedKLIP=9000,MLIP=1500; "
                             f"came {', '.join(map(repr, wrong))}")
        return {"your chip": {name: float(rate) for name, rate in pairs}}
    return {chip: {name: utilization * CHIPS[chip].flops["bfloat16"] / n for name, n in OPERATIONS.items()}
            for chip in ("h100", "v5p")}  # fmt: skip


def show(found: dict, parts: dict, chips: dict) -> None:
    """Prints the three tables."""
    print(f"{'recipe':8} {'from':18} {'images/s/core':>13} {'Pillow':>7} {'ratio':>6} {'target':>7} {'rows/s/core':>12}")
    for key in parts:
        mine, rows, theirs = (found[*key, who] for who in ("ours", "rows", "Pillow"))
        print(f"{key[0]:8} {ORIGINS[key[1]]:18} {mine:13.0f} {theirs:7.0f} {mine / theirs:6.1f} {TARGETS.get(key, ''):>7} "
              f"{rows:12.0f}")  # fmt: skip
    print("\nmicroseconds an image, part by part")
    heads = list(next(iter(parts.values())))
    print(f"{'recipe':8} {'from':18} " + " ".join(f"{h:>20}" for h in heads))
    for (recipe, origin), some in parts.items():
        print(f"{recipe:8} {ORIGINS[origin]:18} " + " ".join(f"{some[h]:20.0f}" for h in heads))
    print("\ncores that feed one chip")
    for chip, examples in chips.items():
        for recipe, rate in examples.items():
            cores = ", ".join(f"{rate / found[recipe, origin, 'rows']:.1f} from {ORIGINS[origin]}" for origin in ORIGINS)
            print(f"{chip:9} {recipe:8} at {rate:6.0f} examples a second (not measured here): {cores}")


if __name__ == "__main__":
    main()
