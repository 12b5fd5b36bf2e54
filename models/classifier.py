"""The one LightningModule: any network, from uint8 pictures to logits of classes."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import nn
from torchmetrics import Metric
from torchvision.transforms import v2

from models.build import NetworkError, from_card
from models.pretrained import freeze, pooled_features
from pipeline import tasks
from pipeline.portable import DamagedError, ModelCard, read_card
from pipeline.tasks import Task


class Classifier(pl.LightningModule):
    """Normalisation, network, loss, metrics, optimiser and learning rate.

    Args:
        net: pictures N×3×H×W to logits N×num_classes.
        num_classes: number of classes.
        mean: per channel, in 0–1; subtracted.
        std: per channel, in 0–1; divided by.
        task: what the labels are.
        lr: highest learning rate, reached after the warm-up.
        weight_decay: of AdamW; biases and norms are spared.
        warmup: share of all steps over which the rate rises; then it falls as a half cosine to zero.
        label_smoothing: share of the target given to all classes alike.
        mixup: parameter of the Beta distribution (arXiv:1710.09412); 0 is none.
        cutmix: likewise (arXiv:1905.04899); a batch gets one of the two where both are given.
        layer_decay: factor on the rate per layer group from the head down; 1 is none.
        frozen: groups of layers from below that are not trained; 0 is none, others need a timm network.
        freeze_batchnorm: keep the statistics that a pretrained backbone brought.
        channels_last: memory layout; it changes the weights' last bits, so it is a choice, not a guess.
        class_weights: of each class in the training loss, or None: all alike.
        flip: answers by the mean over a picture and its mirror image, at twice the cost.
        loss: called with logits and targets, both N×num_classes, in place of the task's; targets are smoothed
            already.
        metrics: further ones by name, called with probabilities, N×num_classes, and targets; logged as
            ``val/NAME``.
        temperature: logits are divided by it when it answers; found on validation after training.
    """

    def __init__(
        self,
        net: nn.Module,
        num_classes: int,
        mean: list[float],
        std: list[float],
        task: Task,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        warmup: float = 0.1,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        layer_decay: float = 1.0,
        frozen: int = 0,
        freeze_batchnorm: bool = False,
        channels_last: bool = False,
        class_weights: list[float] | None = None,
        flip: bool = False,
        temperature: float = 1.0,
        loss: nn.Module | None = None,
        metrics: dict[str, Metric] | None = None,
    ):
        super().__init__()
        self.save_hyperparameters(ignore=["net", "task", "loss", "metrics"])
        self.task, self.channels_last = task, channels_last
        self.net = net.to(memory_format=torch.channels_last) if channels_last else net
        if frozen:
            freeze(self.net, frozen)
        # Not saved with the weights: they belong to the card, which makes them.
        means, deviations = (torch.tensor(each).view(1, 3, 1, 1) for each in (mean, std))
        self.register_buffer("scale", 1 / (255 * deviations), persistent=False)
        self.register_buffer("shift", -means / deviations, persistent=False)
        weights = None if class_weights is None else torch.tensor(class_weights)
        self.register_buffer("class_weights", weights, persistent=False)
        self.num_classes = num_classes
        self.lr, self.weight_decay, self.warmup, self.layer_decay = lr, weight_decay, warmup, layer_decay
        self.label_smoothing = label_smoothing
        kinds = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
        mixing = [kind(alpha=float(alpha), num_classes=num_classes) for kind, alpha in kinds if alpha > 0]
        self.mix = v2.RandomChoice(mixing) if mixing else None
        self.freeze_batchnorm, self.flip, self.temperature = freeze_batchnorm, flip, temperature
        self.task_metrics, self.own_metrics = (
            nn.ModuleDict({f"val/{name}": metric for name, metric in found.items()})
            for found in (task.metrics(num_classes), metrics or {})
        )
        self.loss = loss

    def normalise(self, pictures: torch.Tensor) -> torch.Tensor:
        """uint8 N×H×W×3 to float N×3×H×W; on the device, so that a quarter of the bytes travel."""
        x = torch.addcmul(self.shift, pictures.permute(0, 3, 1, 2).float(), self.scale)
        return x if self.channels_last else x.contiguous()

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Logits, N×num_classes, of uint8 pictures, N×H×W×3."""
        return self._answer(self.net, pictures) / self.temperature

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        """What the head sees, N×C, of uint8 pictures, N×H×W×3; a linear head makes logits of it."""
        return self._answer(lambda x: pooled_features(self.net, x), pictures)

    def _answer(self, net: Callable[[torch.Tensor], torch.Tensor], pictures: torch.Tensor) -> torch.Tensor:
        x = self.normalise(pictures)
        if not self.flip:
            return net(x)
        return net(torch.cat([x, x.flip(3)])).unflatten(0, (2, -1)).mean(dim=0)

    def train(self, mode: bool = True) -> "Classifier":
        super().train(mode)
        if mode and self.freeze_batchnorm:
            for module in self.net.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """The loss of pictures, uint8 N×H×W×3, with their targets, at most N: those behind show no class."""
        pictures, labels = batch
        x, others = self.normalise(pictures).tensor_split([len(labels)])
        targets = self.task.dense(labels, self.num_classes)
        if self.mix:
            x, targets = self.mix(x, targets)
        if len(others):
            x = torch.cat([x, others])
            targets = torch.cat([targets, self.task.no_class(len(others), targets)])
        if self.loss is not None:
            loss = self.loss(self.net(x), self.task.smooth(targets, self.label_smoothing))
        else:
            loss = self.task.loss(self.net(x), targets, self.class_weights, self.label_smoothing)
        self.log("train/loss", loss, prog_bar=True, logger=False)
        return loss

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> None:
        """Logs the task's metrics, a person's own and the loss, unsmoothed and unweighted."""
        pictures, labels = batch
        logits = self(pictures)
        # In double precision: the mean may not depend on how the images are shared out.
        loss = self.task.loss(logits, labels).double()
        self.log("val/loss", loss, batch_size=len(labels), sync_dist=True)
        for name, metric in self.task_metrics.items():
            metric.update(self.task.metric_inputs(logits), labels.long())
            self.log(name, metric, prog_bar=name == self.task.monitor)
        for name, metric in self.own_metrics.items():
            metric.update(self.task.probabilities(logits), labels.long())
            self.log(name, metric)

    def evaluate(self, probabilities: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
        """The logged metrics of answers that are already there."""
        metrics = {**self.task_metrics, **self.own_metrics}
        answers = probabilities, labels.long()
        return {name: float(metric.cpu().clone()(*answers)) for name, metric in metrics.items()}

    def parameter_groups(self) -> list[dict]:
        """Parameters by weight decay and by depth, each with its highest learning rate."""
        from timm.optim import param_groups_layer_decay, param_groups_weight_decay

        if self.layer_decay < 1:
            groups = param_groups_layer_decay(self.net, self.weight_decay, layer_decay=self.layer_decay)
        else:
            groups = param_groups_weight_decay(self.net, self.weight_decay)
        for group in groups:
            group["lr"] = self.lr * group.get("lr_scale", 1.0)
        return groups

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW; the rate rises in a straight line and falls as half a cosine, step by step."""
        optimizer = torch.optim.AdamW(self.parameter_groups(), lr=self.lr)
        steps = self.trainer.estimated_stepping_batches
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.rate(step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def rate(self, step: int, steps: int) -> float:
        """Share of the highest learning rate at a step: a straight rise, then half a cosine to zero."""
        rise = max(1, round(self.warmup * steps))
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))

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


def build(card: ModelCard, shapes: dict[str, tuple[int, ...]] | None = None) -> Classifier:
    """A classifier with the network that a model's card names.

    Args:
        card: the model's.
        shapes: of the weights that will be loaded; compared before memory is taken.

    Raises:
        NetworkError: the card names no known network, or is not of these weights.
    """
    classes = len(card.classes)
    net = from_card(card.net, classes, shapes)
    return Classifier(
        net,
        classes,
        card.input.mean,
        card.input.std,
        tasks.of(card.task),
        channels_last=card.channels_last,
        flip=card.flip,
        temperature=card.temperature,
    )


def save(model: Classifier, card: ModelCard, folder: Path) -> None:
    """Writes ``weights.safetensors`` and ``model.json``."""
    # A network of any memory layout is saved in one, so that the file depends on the values alone.
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.net.state_dict().items()}
    (folder / "weights.safetensors").write_bytes(to_safetensors(tensors))
    card.write(folder)


def load(folder: Path) -> tuple[Classifier, ModelCard]:
    """The trained classifier of a folder, ready to predict, and its card; a stranger may have made both.

    Raises:
        DamagedError: card or weights are damaged, don't belong together, or name what this checkout does not
            know.
    """
    card = read_card(folder)
    weights = folder / "weights.safetensors"
    try:
        model = build(card, shapes_of(weights))
    except NetworkError as error:
        raise DamagedError(f"{folder}/model.json: {error}") from error
    check_numbers(state := read_weights(weights), model.net.state_dict(), weights)
    model.net.load_state_dict(state)
    return model.eval(), card


def check_numbers(state: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], where: object) -> None:
    """Refuses weights that PyTorch would convert without a word, and those that answer NaN.

    Raises:
        DamagedError: names the first such tensor.
    """
    for name, value in state.items():
        if value.is_floating_point() != wanted[name].is_floating_point() or value.is_complex():
            raise DamagedError(f"{where}: {name[:100]} is {value.dtype}, not {wanted[name].dtype}")
        if not value.isfinite().all():
            raise DamagedError(f"{where}: {name[:100]} holds NaN or infinity; train the model again")


def shapes_of(file: Path) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor of a weights file, from its header alone.

    Raises:
        DamagedError: it can't be read as weights.
    """
    with _told(file), safe_open(file, "pt") as opened:
        names = list(opened.keys())
        return {name: tuple(opened.get_slice(name).get_shape()) for name in names}


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a weights file.

    Raises:
        DamagedError: it can't be read as weights.
    """
    with _told(file):
        return load_file(file)


@contextmanager
def _told(file: Path) -> Iterator[None]:
    try:
        if not file.is_file():
            raise DamagedError(f"{file} is missing")
        yield
    except (SafetensorError, OSError) as error:
        raise DamagedError(f"{file} can't be read as weights ({str(error).splitlines()[0][:200]})") from error
