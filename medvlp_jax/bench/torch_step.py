"""The torch side of `bench step`, a process of its own: `python -m medvlp_jax.bench.torch_step FOLDER`."""
import json
import sys
from pathlib import Path

import numpy as np
import torch

from medvlp_jax.bench import turns
from medvlp_jax.bench.torch_medklip import MedKLIP
from medvlp_jax.bench.torch_mlip import MLIP

NO_DECAY = ("prototypes", "cls_token", "pos_embed")  # beside vectors and scalars


class Trainer:
    """The model, its optimizer and one step, from what `step.write` left: plan, knowledge tables."""

    def __init__(self, plan: dict, tables: dict[str, np.ndarray]):
        self.plan = plan
        self.tables = [torch.from_numpy(tables[name]) for name in ("entities", "positions")]
        width, fields, losses = self.tables[0].shape[1], plan["fields"], plan["losses"]
        if plan["method"] == "mlip":
            self.model = MLIP(plan["image"], plan["text"], fields, plan["objective"], losses, width)
        else:
            self.model = MedKLIP(plan["image"], fields, losses, width)
        self.model.train()
        plain = {id(p) for name, p in self.model.named_parameters() if p.ndim < 2 or name.split(".")[-1] in NO_DECAY}
        parameters = list(self.model.parameters())
        groups = [
            {"params": [p for p in parameters if id(p) not in plain], "weight_decay": plan["weight_decay"]},
            {"params": [p for p in parameters if id(p) in plain], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, plan["lr"], plan["betas"], 1e-8)
        self.mean, self.std = (torch.tensor(plan["normalisation"][k]).view(1, 3, 1, 1) for k in ("mean", "std"))

    @property
    def parameters(self) -> int:
        """How many values are learnt."""
        return sum(p.numel() for p in self.model.parameters())

    def step(self, batch: dict[str, torch.Tensor], **options) -> dict[str, float]:
        """One update -> loss, gradient norm and terms. options: of the model's forward."""
        image = batch["image"].permute(0, 3, 1, 2).float() / 255  # (B, 1, H, W)
        batch = {**batch, "image": (image - self.mean) / self.std}
        tables = self.tables[:1] if self.plan["method"] == "mlip" else self.tables
        self.optimizer.zero_grad()
        loss, terms = self.model(batch, *tables, **options)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.plan["clip_norm"])
        self.optimizer.step()
        return {"loss": loss.item(), "grad_norm": norm.item(), **{k: v.item() for k, v in terms.items()}}


def main(folder: Path) -> None:
    """Answers the questions of `turns.Side` on stdin."""
    torch.set_num_threads(turns.cores())
    torch.manual_seed(0)
    trainer = Trainer(json.loads((folder / "plan.json").read_text()), dict(np.load(folder / "tables.npz")))
    batch = {k: torch.from_numpy(v) for k, v in np.load(folder / "batch.npz").items()}
    turns.serve(lambda: trainer.step(batch), parameters=trainer.parameters)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
