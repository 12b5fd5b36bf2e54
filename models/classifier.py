"""The LightningModule for all networks, from uint8 images to class logits."""

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
    """A network with its normalisation, loss, metrics, optimiser and learning rate schedule.

    Args:
        net: maps images N×3×H×W to logits N×num_classes.
        num_classes: number of classes.
        mean: channel means in 0–1.
        std: channel standard deviations in 0–1.
        task: single-label or multi-label.
        lr: peak learning rate, reached after warm-up.
        weight_decay: AdamW's; not applied to biases and norm layers.
        warmup: fraction of all steps with linear warm-up, followed by cosine decay to zero.
        label_smoothing: fraction of the target spread over all classes.
        mixup: alpha of the Beta distribution (arXiv:1710.09412); 0 disables it.
        cutmix: alpha of CutMix (arXiv:1905.04899); 0 disables it. With both, each batch gets one at random.
        layer_decay: layer-wise learning rate decay, per layer group from the head down; 1 disables it.
        frozen: number of frozen layer groups, from the stem up; other than 0 needs a timm network.
        freeze_batchnorm: keep the running statistics of a pretrained backbone.
        channels_last: memory layout; explicit because it changes the weights' last bits.
        class_weights: weight of each class in the training loss; None: equal weights.
        flip: average predictions over an image and its mirror image, at twice the cost.
        loss: replaces the task's; called with logits and smoothed targets, both N×num_classes.
        metrics: additional metrics by name, called with probabilities, N×num_classes, and integer targets;
            logged as ``val/NAME``.
        temperature: divides the logits at inference; fitted on validation after training.
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
        # Not saved with the weights, since mean and std are stored in the model card.
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
        self.task_metrics, self.custom_metrics = (
            nn.ModuleDict({f"val/{name}": metric for name, metric in by_name.items()})
            for by_name in (task.metrics(num_classes), metrics or {})
        )
        self.loss = loss

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Float N×3×H×W from uint8 N×H×W×3; on the device, since uint8 is four times less to transfer."""
        x = torch.addcmul(self.shift, images.permute(0, 3, 1, 2).float(), self.scale)
        return x if self.channels_last else x.contiguous()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Temperature-scaled logits, N×num_classes, of uint8 images, N×H×W×3."""
        return self._run(self.net, images) / self.temperature

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Input of the head, N×C, for uint8 images, N×H×W×3."""
        return self._run(lambda x: pooled_features(self.net, x), images)

    def _run(self, net: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> torch.Tensor:
        """What `net` returns for the normalised images, averaged with the mirrored ones if `flip` is set."""
        x = self.normalise(images)
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
        """The loss of uint8 images, N×H×W×3, and targets; images beyond the last target are outliers."""
        images, labels = batch
        x, outliers = self.normalise(images).tensor_split([len(labels)])
        targets = self.task.dense(labels, self.num_classes)
        if self.mix:
            x, targets = self.mix(x, targets)
        if len(outliers):
            x = torch.cat([x, outliers])
            targets = torch.cat([targets, self.task.outlier_targets(len(outliers), targets)])
        if self.loss is not None:
            loss = self.loss(self.net(x), self.task.smooth(targets, self.label_smoothing))
        else:
            loss = self.task.loss(self.net(x), targets, self.class_weights, self.label_smoothing)
        self.log("train/loss", loss, prog_bar=True, logger=False)
        return loss

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> None:
        """Logs the task's metrics, additional metrics, and the loss without smoothing and class weights."""
        images, labels = batch
        logits = self(images)
        # In double precision, so that the mean does not depend on how images are split over ranks.
        loss = self.task.loss(logits, labels).double()
        self.log("val/loss", loss, batch_size=len(labels), sync_dist=True)
        for name, metric in self.task_metrics.items():
            metric.update(self.task.metric_inputs(logits), labels.long())
            self.log(name, metric, prog_bar=name == self.task.monitor)
        for name, metric in self.custom_metrics.items():
            metric.update(self.task.probabilities(logits), labels.long())
            self.log(name, metric)

    def evaluate(self, probabilities: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
        """The logged validation metrics, computed from given probabilities, N×num_classes, and labels."""
        metrics = {**self.task_metrics, **self.custom_metrics}
        inputs = probabilities, labels.long()
        return {name: float(metric.cpu().clone()(*inputs)) for name, metric in metrics.items()}

    def parameter_groups(self) -> list[dict]:
        """Parameter groups by weight decay and depth, each with its peak learning rate."""
        from timm.optim import param_groups_layer_decay, param_groups_weight_decay

        if self.layer_decay < 1:
            groups = param_groups_layer_decay(self.net, self.weight_decay, layer_decay=self.layer_decay)
        else:
            groups = param_groups_weight_decay(self.net, self.weight_decay)
        for group in groups:
            group["lr"] = self.lr * group.get("lr_scale", 1.0)
        return groups

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with linear warm-up and cosine decay, stepped per batch."""
        optimizer = torch.optim.AdamW(self.parameter_groups(), lr=self.lr)
        steps = self.trainer.estimated_stepping_batches
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.lr_factor(step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def lr_factor(self, step: int, steps: int) -> float:
        """Learning rate at a step relative to its peak: linear warm-up, then cosine decay to zero."""
        warmup = max(1, round(self.warmup * steps))
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    def cost(self, size: int) -> dict[str, int]:
        """The number of `parameters`, and `multiply_adds` for one image of `size` × `size` pixels."""
        from torch.utils.flop_counter import FlopCounterMode

        training = self.training
        self.eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            self(torch.zeros(1, size, size, 3, dtype=torch.uint8, device=self.device))
        self.train(training)
        parameters = sum(parameter.numel() for parameter in self.net.parameters())
        return {"parameters": parameters, "multiply_adds": counter.get_total_flops() // 2}


def build(card: ModelCard, shapes: dict[str, tuple[int, ...]] | None = None) -> Classifier:
    """A classifier with the network that a model card describes, with random weights.

    Args:
        card: the model card.
        shapes: shapes of the weights to load, compared before memory is allocated.

    Raises:
        NetworkError: the network is unknown, or does not match the weights.
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
    """Writes ``weights.safetensors`` and ``model.json`` into a folder."""
    # Contiguous, so that the file depends only on the values, not on the memory layout.
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.net.state_dict().items()}
    (folder / "weights.safetensors").write_bytes(to_safetensors(tensors))
    card.write(folder)


def load(folder: Path) -> tuple[Classifier, ModelCard]:
    """The trained classifier of a folder, in eval mode, and its card; both files are untrusted.

    Raises:
        DamagedError: card or weights are damaged or don't match, or this checkout does not know the network.
    """
    card = read_card(folder)
    weights = folder / "weights.safetensors"
    try:
        model = build(card, shapes_of(weights))
    except NetworkError as error:
        raise DamagedError(f"{folder}/model.json: {error}") from error
    check_weights(state := read_weights(weights), model.net.state_dict(), weights)
    model.net.load_state_dict(state)
    return model.eval(), card


def check_weights(state: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], where: object) -> None:
    """Rejects weights that PyTorch would convert silently, and weights with NaN or infinity.

    Args:
        state: the weights.
        expected: the network's own tensors.
        where: the file, for messages.

    Raises:
        DamagedError: names the first such tensor.
    """
    for name, value in state.items():
        if value.is_floating_point() != expected[name].is_floating_point() or value.is_complex():
            raise DamagedError(f"{where}: {name[:100]} is {value.dtype}, not {expected[name].dtype}")
        if not value.isfinite().all():
            raise DamagedError(f"{where}: {name[:100]} contains NaN or infinity; train the model again")


def shapes_of(file: Path) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor of a weights file, read from its header.

    Raises:
        DamagedError: it can't be read as weights.
    """
    with _errors_as_damaged(file), safe_open(file, "pt") as opened:
        names = list(opened.keys())
        return {name: tuple(opened.get_slice(name).get_shape()) for name in names}


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a weights file.

    Raises:
        DamagedError: it can't be read as weights.
    """
    with _errors_as_damaged(file):
        return load_file(file)


@contextmanager
def _errors_as_damaged(file: Path) -> Iterator[None]:
    """Turns errors of reading a weights file into a DamagedError that names the file."""
    try:
        if not file.is_file():
            raise DamagedError(f"{file} is missing")
        yield
    except (SafetensorError, OSError) as error:
        raise DamagedError(f"{file} can't be read as weights ({str(error).splitlines()[0][:200]})") from error
