"""Predicts a photo's classes: python example.py PHOTO. Needs only onnxruntime, numpy and Pillow."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

sys.stdout.reconfigure(errors="backslashreplace")  # the terminal may not be able to encode a label
session = onnxruntime.InferenceSession(Path(__file__).with_name("model.onnx"))
metadata = session.get_modelmeta().custom_metadata_map
labels, unsure_below = json.loads(metadata["labels"]), float(metadata["unsure_below"])
thresholds = json.loads(metadata["thresholds"])  # not empty for multi-label models

# Upright, RGB, on white; the model itself does all further preprocessing, including resizing.
image = ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("RGBA")
white = Image.new("RGB", image.size, "white")
white.paste(image, mask=image)
(probabilities,) = session.run(["probabilities"], {"picture": np.asarray(white)})
if thresholds:
    print(", ".join(labels[index] for index in np.flatnonzero(probabilities >= thresholds)) or "none")
elif probabilities.max() < unsure_below:
    print("unsure")
for index in np.argsort(-probabilities)[:5]:
    print(f"{probabilities[index]:6.1%}  {labels[index]}")
