"""Run by the Python that has the package `kserve`: asks a service with KServe's own clients, and prints the answers.

Arguments: the URL, the model's name, an image file, and the port of gRPC if there is one.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig


def request(model: str, image: bytes) -> InferRequest:
    """One image file, raw: in the binary extension of REST, in raw_input_contents of gRPC."""
    tensor = InferInput(name="encoded", shape=[1], datatype="BYTES")
    tensor.set_data_from_numpy(np.array([image], dtype=np.object_), binary_data=True)
    return InferRequest(model_name=model, infer_inputs=[tensor])


def answered(response: Any) -> dict[str, Any]:
    outputs = {output.name: output for output in response.outputs}
    logits = outputs["logits"].as_numpy()
    return {"model": response.model_name, "shape": list(logits.shape), "best": int(logits[0].argmax())}


async def main(url: str, model: str, image: bytes, grpc_port: str = "") -> None:
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    found = {
        "live": await client.is_server_live(url),
        "ready": await client.is_server_ready(url),
        "model ready": await client.is_model_ready(url, model),
        "rest": answered(await client.infer(url, request(model, image), model_name=model)),
    }
    await client.close()
    if grpc_port:
        async with InferenceGRPCClient(f"127.0.0.1:{grpc_port}") as grpc:
            found["grpc"] = answered(await grpc.infer(request(model, image)))
    print(json.dumps(found))


if __name__ == "__main__":
    url, model, photo, *port = sys.argv[1:]
    asyncio.run(main(url, model, Path(photo).read_bytes(), *port))
