"""A fine-tuning as fastai's documentation shows it: `fine_tune`, the head first, then all.

Told by `benchmarks.time_to_accuracy` where pictures and weights are; prints the share of validation pictures
that are right after each epoch. Shares no code with the project.
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


class Tell(Callback):
    """Prints validation's accuracy after each epoch."""

    order = 60  # after the recorder, which notes the accuracy at 50

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
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    set_seed(given.seed)

    cfg = timm.data.resolve_model_data_config(timm.create_model(given.backbone))
    loaders = ImageDataLoaders.from_folder(
        given.folder,
        train="train",
        valid="val",
        item_tfms=Resize(given.size, method=ResizeMethod.Squish),
        batch_tfms=[*aug_transforms(size=given.size), Normalize.from_stats(cfg["mean"], cfg["std"])],
        bs=32,
        num_workers=0,
    )
    learner = vision_learner(loaders, given.backbone, pretrained=False, metrics=accuracy, normalize=False)
    # What pretrained=True does, with the weights that lie here: no hub can be reached by every machine.
    body = learner.model[0].model
    state = torch.load(given.weights, weights_only=True)
    body.load_state_dict({name: value for name, value in state.items() if name in body.state_dict()})
    learner.freeze()
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(given.epochs, cbs=Tell())


if __name__ == "__main__":
    main()
