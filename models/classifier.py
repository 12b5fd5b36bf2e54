"""The one LightningModule: any network, from uint8 pictures to breed probabilities."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

TOP = (1, 3, 5)


def topk_metrics(num_classes: int, prefix: str) -> MetricCollection:
    """Top-1/3/5 accuracy over pictures; k is clamped to the number of classes."""
    return MetricCollection(
        {f"top{k}": MulticlassAccuracy(num_classes, top_k=min(k, num_classes), average="micro") for k in TOP},
        prefix=prefix,
    )


class Classifier(pl.LightningModule):
    """Normalisation, network, loss, optimiser and metrics.

    Args:
        net: pictures N×3×H×W to logits N×num_classes.
        num_classes: number of classes.
        mean: per channel, in 0–1; subtracted.
        std: per channel, in 0–1; divided by.
        lr: highest learning rate, reached after the warm-up.
        weight_decay: of AdamW; biases and norms are spared.
        warmup: share of all steps over which the rate rises; then it falls as a half cosine to zero.
        label_smoothing: share of the target given to all classes alike.
        mixup: parameter of the Beta distribution (arXiv:1710.09412); 0 is none.
        layer_decay: factor on the rate per layer group from the head down; 1 is none.
        freeze_batchnorm: keep the statistics that a pretrained backbone brought.
        channels_last: memory layout; it changes the weights' last bits, so it is a choice, not a guess.
        seed: of dropout and mixup; each step draws from its own stream.
        class_weights: of each class in the training loss, or None: all alike.
    """

    def __init__(
        self,
        net: nn.Module,
        num_classes: int,
        mean: list[float],
        std: list[float],
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        warmup: float = 0.1,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        layer_decay: float = 1.0,
        freeze_batchnorm: bool = False,
        channels_last: bool = False,
        seed: int = 0,
        class_weights: list[float] | None = None,
    ):
        super().__init__()
        self.channels_last = channels_last
        self.net = net.to(memory_format=torch.channels_last) if channels_last else net
        # Not saved with the weights: they belong to the card, which makes them.
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        weights = None if class_weights is None else torch.tensor(class_weights)
        self.register_buffer("class_weights", weights, persistent=False)
        self.num_classes = num_classes
        self.lr, self.weight_decay, self.warmup, self.layer_decay = lr, weight_decay, warmup, layer_decay
        self.label_smoothing, self.mixup, self.seed = label_smoothing, mixup, seed
        self.freeze_batchnorm = freeze_batchnorm
        self.val_metrics = topk_metrics(num_classes, "val/")

    def normalise(self, pictures: torch.Tensor) -> torch.Tensor:
        """uint8 N×H×W×3 to float N×3×H×W; on the device, so that a quarter of the bytes travel."""
        x = (pictures.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        return x if self.channels_last else x.contiguous()

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Logits, N×num_classes, of uint8 pictures, N×H×W×3."""
        return self.net(self.normalise(pictures))

    def train(self, mode: bool = True) -> "Classifier":
        super().train(mode)
        if mode and self.freeze_batchnorm:
            for module in self.net.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # Lightning's checkpoints hold no random state; a stream per step needs none.
        stream = np.random.SeedSequence([self.seed, self.global_step, self.global_rank])
        torch.manual_seed(int(stream.generate_state(1)[0]))

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        pictures, labels = batch
        x = self.normalise(pictures)
        targets = nn.functional.one_hot(labels, self.num_classes).float()
        if self.mixup > 0:
            share = float(torch.distributions.Beta(self.mixup, self.mixup).sample())
            x, targets = x.lerp(x.flip(0), share), targets.lerp(targets.flip(0), share)
        loss = nn.functional.cross_entropy(
            self.net(x), targets, weight=self.class_weights, label_smoothing=self.label_smoothing
        )
        self.log(
            "train/loss",
            loss,
            on_step=False,
            on_epoch=True,
            sync_dist=True,
            prog_bar=True,
            batch_size=len(labels),
        )
        return loss

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> None:
        pictures, labels = batch
        logits = self(pictures)
        self.val_metrics.update(logits, labels)
        loss = nn.functional.cross_entropy(logits, labels)
        self.log("val/loss", loss, on_epoch=True, sync_dist=True, batch_size=len(labels))
        self.log_dict(self.val_metrics, on_epoch=True, prog_bar=True, batch_size=len(labels))

    def configure_optimizers(self) -> dict:
        from timm.optim import param_groups_layer_decay, param_groups_weight_decay

        if self.layer_decay < 1:
            groups = param_groups_layer_decay(self.net, self.weight_decay, layer_decay=self.layer_decay)
        else:
            groups = param_groups_weight_decay(self.net, self.weight_decay)
        for group in groups:
            group["lr"] = self.lr * group.get("lr_scale", 1.0)
        optimizer = torch.optim.AdamW(groups, lr=self.lr)
        steps = int(self.trainer.estimated_stepping_batches)
        rise = max(1, round(self.warmup * steps))

        def schedule(step: int) -> float:
            if step < rise:
                return (step + 1) / rise
            return 0.5 * (1 + np.cos(np.pi * (step - rise) / max(1, steps - rise)))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def cost(self, size: int) -> dict[str, int]:
        """Parameters, and multiply-adds of one picture of `size` × `size` pixels."""
        from torch.utils.flop_counter import FlopCounterMode

        training = self.training
        self.eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            self(torch.zeros(1, size, size, 3, dtype=torch.uint8, device=self.device))
        self.train(training)
        parameters = sum(parameter.numel() for parameter in self.net.parameters())
        return {"parameters": parameters, "multiply_adds": counter.get_total_flops() // 2}


def build(card: dict, **training: Any) -> Classifier:
    """A classifier with the network that a model's card names.

    Args:
        card: `net` (a `_target_` with its arguments), `classes`, and `input` with `mean` and `std`.
        training: further arguments of Classifier.
    """
    classes = len(card["classes"])
    net = instantiate(card["net"], num_classes=classes)
    return Classifier(net, classes, card["input"]["mean"], card["input"]["std"], **training)


def save(model: Classifier, card: dict, folder: Path) -> None:
    """Writes ``weights.safetensors`` and ``model.json``."""
    # A network of any memory layout is saved in one, so that the file depends on the values alone.
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.net.state_dict().items()}
    (folder / "weights.safetensors").write_bytes(to_safetensors(tensors))
    (folder / "model.json").write_text(json.dumps(card, indent=2) + "\n")


def load(folder: Path) -> tuple[Classifier, dict]:
    """The trained classifier of a folder, ready to predict, and its card."""
    card = json.loads((folder / "model.json").read_text())
    model = build(card, channels_last=card["channels_last"])
    model.net.load_state_dict(load_file(folder / "weights.safetensors"))
    return model.eval(), card
