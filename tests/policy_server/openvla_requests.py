"""What an OpenVLA is asked in tests, and what is known of the real one and the tiny one."""

import numpy as np
from safetensors.torch import load_file

from policy_server.policy import PolicyRequest
from policy_server.tiny_openvla import CONFIG

GOALS = ("Lift the red cube.", "go", "Put the green cube in the blue bowl.", "Größe ☃")
REAL = {
    **{name: value for name, value in CONFIG.items() if name != "timm_changes"},
    "image_sizes": [224, 224],
    "text_config": {
        "model_type": "llama",
        "pad_token_id": 32000,
        "torch_dtype": "bfloat16",
        "vocab_size": 32064,
    },
}
"""What `config.json` of openvla/openvla-7b says of the network."""


def noise(seed=0, shape=(48, 64)):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def request(picture=None, goal=GOALS[0], stamp=0.0, camera="front"):
    picture = noise() if picture is None else picture
    picture.setflags(write=False)
    return PolicyRequest(state={}, goal=goal, observed_at=stamp, images={camera: picture})


def four():
    return [request(noise(n), goal, float(n)) for n, goal in enumerate(GOALS)]


def weights_of(folder):
    return {
        name: tensor
        for file in sorted(folder.glob("model-*.safetensors"))
        for name, tensor in load_file(file).items()
    }
