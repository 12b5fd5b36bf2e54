"""Names a photo's classes: python example.py PHOTO. Needs onnxruntime, numpy and Pillow, nothing else."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

sys.stdout.reconfigure(errors="backslashreplace")  # the terminal may not be able to encode a label
session = onnxruntime.InferenceSession(Path(__file__).with_name("model.onnx"))
known = session.get_modelmeta().custom_metadata_map
labels, unsure_below = json.loads(known["labels"]), float(known["unsure_below"])
thresholds = json.loads(known["thresholds"])  # not empty for multi-label models

# Upright, RGB, on white; resizing and all further preprocessing are part of the model.
image = ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("RGBA")
white = Image.new("RGB", image.size, "white")
white.paste(image, mask=image)
(probabilities,) = session.run(["probabilities"], {"picture": np.asarray(white)})
if thresholds:
    print(", ".join(labels[place] for place in np.flatnonzero(probabilities >= thresholds)) or "none")
elif probabilities.max() < unsure_below:
    print("unsure")
for place in np.argsort(-probabilities)[:5]:
    print(f"{probabilities[place]:6.1%}  {labels[place]}")
