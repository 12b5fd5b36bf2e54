"""Fine-tuning as in fastai's documentation: `fine_tune`, the head first, then all layers.

`benchmarks.time_to_accuracy` runs it. Prints the validation accuracy, a fraction, after each epoch. Shares no
code with the project.
"""

import argparse

import timm
import torch
from fastai.vision.all import (
    Callback,
    ImageDataLoaders,
    Normalize,
    Resize,
    ResizeMethod,
    accuracy,
    aug_transforms,
    set_seed,
    vision_learner,
)


class PrintAccuracy(Callback):
    """Prints the validation accuracy after each epoch."""

    order = 60  # after fastai's Recorder, which has order 50

    def after_epoch(self) -> None:
        print(float(self.recorder.values[-1][-1]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("weights")
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    set_seed(args.seed)

    cfg = timm.data.resolve_model_data_config(timm.create_model(args.backbone))
    loaders = ImageDataLoaders.from_folder(
        args.folder,
        train="train",
        valid="val",
        item_tfms=Resize(args.size, method=ResizeMethod.Squish),
        batch_tfms=[*aug_transforms(size=args.size), Normalize.from_stats(cfg["mean"], cfg["std"])],
        bs=32,
        num_workers=0,
    )
    learner = vision_learner(loaders, args.backbone, pretrained=False, metrics=accuracy, normalize=False)
    # What pretrained=True does, but with local weights, because a hub may not be reachable.
    body = learner.model[0].model
    state = torch.load(args.weights, weights_only=True)
    body.load_state_dict({name: value for name, value in state.items() if name in body.state_dict()})
    learner.freeze()
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(args.epochs, cbs=PrintAccuracy())


if __name__ == "__main__":
    main()
