"""Names the breed in a photo: python example.py PHOTO. Needs onnxruntime, numpy and Pillow, nothing else."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession("model.onnx")
known = session.get_modelmeta().custom_metadata_map
labels, unsure_below = json.loads(known["labels"]), float(known["unsure_below"])

# Upright and in RGB; sizing and all that follows are inside the model.
picture = np.asarray(ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("RGB"))
(probabilities,) = session.run(["probabilities"], {"picture": picture})
if probabilities.max() < unsure_below:
    print("unsure")
for place in np.argsort(-probabilities)[:5]:
    print(f"{probabilities[place]:6.1%}  {labels[place]}")
