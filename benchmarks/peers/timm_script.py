"""A fine-tuning as timm and torchvision are commonly used: an image folder, a loop, no more.

Told by `benchmarks.time_to_accuracy` where pictures and weights are; prints the share of validation pictures
that are right after each epoch. Shares no code with the project.
"""

import argparse

import timm
import torch
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2


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
    torch.manual_seed(given.seed)

    model = timm.create_model(given.backbone)
    model.load_state_dict(torch.load(given.weights, weights_only=True))
    cfg = timm.data.resolve_model_data_config(model)
    end = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(cfg["mean"], cfg["std"])]
    changes = [v2.RandomResizedCrop(given.size, scale=(0.5, 1.0)), v2.RandomHorizontalFlip()]
    still = [v2.Resize(given.size), v2.CenterCrop(given.size)]
    train = ImageFolder(f"{given.folder}/train", v2.Compose([*changes, *end]))
    val = ImageFolder(f"{given.folder}/val", v2.Compose([*still, *end]))
    model.reset_classifier(len(train.classes))
    model.to(memory_format=torch.channels_last)
    batches = torch.utils.data.DataLoader(train, 32, shuffle=True, drop_last=True)
    judged = torch.utils.data.DataLoader(val, 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=given.epochs * len(batches))
    for _ in range(given.epochs):
        model.train()
        for pictures, labels in batches:
            pictures = pictures.to(memory_format=torch.channels_last)
            loss = torch.nn.functional.cross_entropy(model(pictures), labels, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        model.eval()
        right = 0
        with torch.inference_mode():
            for pictures, labels in judged:
                logits = model(pictures.to(memory_format=torch.channels_last))
                right += int((logits.argmax(1) == labels).sum())
        print(right / len(val), flush=True)


if __name__ == "__main__":
    main()
