"""Published data sets by name: each reader turns the official layout below a root into rows of the manifest format.

data/README.md says for each where to get it, what is expected below the root, and where the split comes from.
"""
from pathlib import Path

from medvlp_jax.input.datasets import chexpert_plus, covidx, labels, mimic, openi, places
from medvlp_jax.input.rows import Rows

# name -> root -> rows (dicts with keys of rows.COLUMNS); all splits
READERS = {
    "chestxray14": labels.chestxray14, "google_nih": labels.google_nih, "chexpert": labels.chexpert,
    "chexpert_plus": chexpert_plus.chexpert_plus, "chexpert5x200": labels.chexpert5x200, "covidx": covidx.covidx,
    "edema_severity": labels.edema_severity, "openi": openi.openi, "padchest": labels.padchest, "rsna": places.rsna,
    "siim": places.siim, "covid_rural": places.covid_rural, "object_cxr": places.object_cxr,
    "chestxdet10": places.chestxdet10, "ms_cxr": places.ms_cxr, "vindr": places.vindr, "mimic_cxr": mimic.mimic_cxr,
}  # fmt: skip


def read(name: str, root: str | Path, **options) -> Rows:
    """All rows of the data set `name` below `root`, each with `source` = name. options: of the reader, such as `reports`.

    Raises:
      FileNotFoundError: a file of the official layout is missing. ValueError: a column or value that was not expected.
    """
    return Rows(({**row, "source": name} for row in READERS[name](Path(root).expanduser(), **options)), name)
