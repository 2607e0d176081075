"""Classify image files over gRPC with Triton's client: `python grpc_client.py HOST:PORT MODEL FILE …`.

The key is in CROSSVIT_API_KEY, if the service wants one. It needs: pip install 'tritonclient[grpc]'
"""

import os
import sys
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton

address, model, *paths = sys.argv[1:]
key = os.environ.get("CROSSVIT_API_KEY")
files = np.array([Path(path).read_bytes() for path in paths], object)
images = triton.InferInput("encoded", [len(files)], "BYTES").set_data_from_numpy(files)
classes = triton.InferRequestedOutput("logits", class_count=3)

with triton.InferenceServerClient(address) as client:
    headers = {"authorization": f"Bearer {key}"} if key else None
    answer = client.infer(model, [images], outputs=[classes], headers=headers, client_timeout=10)

for path, row in zip(paths, answer.as_numpy("logits"), strict=True):
    for item in row:
        logit, index, label = item.decode().split(":", 2)
        print(f"{path}: {label} ({index}), logit {float(logit):.2f}")
