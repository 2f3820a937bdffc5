"""The network of OpenVLA beside its parts, called one by one."""

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from policy_server import tiny_openvla
from policy_server.backends.openvla import Eyes, OpenVlaPolicy, Prompter
from policy_server.backends.openvla_model import OpenVla, architecture_of
from policy_server.policy import CheckpointError
from policy_server.tiny_openvla import CONFIG, MIDDLE, PICTURES, PIXELS, SPREAD, VOCABULARY
from robot.arm import JOINTS
from tests.policy_server.openvla_requests import GOALS, REAL, noise, request, weights_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_openvla.make(tmp_path_factory.mktemp("openvla"))


@pytest.fixture(scope="module")
def oft_folder(tmp_path_factory):
    return tiny_openvla.make(tmp_path_factory.mktemp("oft"), head=True)


@pytest.fixture(scope="module")
def policy(folder):
    return OpenVlaPolicy.load(folder)


@pytest.fixture(scope="module")
def oft(oft_folder):
    return OpenVlaPolicy.load(oft_folder)


def seen_by_hand(weights, part, index, pixels):
    """Return a tower's patches before its last block, block by block."""
    change = CONFIG["timm_changes"][index]
    tower = timm.create_model(
        CONFIG["timm_model_ids"][index], num_classes=0, img_size=PIXELS, **change
    ).eval()
    prefix = f"vision_backbone.{part}."
    own = {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
    tower.load_state_dict({n.replace("scale_factor", "gamma"): w for n, w in own.items()})
    x = tower._pos_embed(tower.patch_embed(pixels))
    for block in tower.blocks[: change["depth"] - 1]:
        x = block(x)
    return x[:, tower.num_prefix_tokens :]


def embeddings_by_hand(weights, llama, picture, tokens):
    """Return what Llama gets for one picture and prompt, shape (1, length, hidden)."""
    pixels = Eyes.of(PICTURES, size=PIXELS, center_crop=False).pixels(picture)[None]
    dino = seen_by_hand(weights, "featurizer", 0, pixels[:, :3])
    siglip = seen_by_hand(weights, "fused_featurizer", 1, pixels[:, 3:])
    x = torch.cat([dino, siglip], dim=2)
    for layer in ("fc1", "fc2", "fc3"):
        x = functional.gelu(x) if layer != "fc1" else x
        x = x @ weights[f"projector.{layer}.weight"].T + weights[f"projector.{layer}.bias"]
    words = llama.model.embed_tokens(torch.tensor([tokens]))
    return torch.cat([words[:, :1], x, words[:, 1:]], dim=1)


def llama_by_hand(weights):
    llama = LlamaForCausalLM(LlamaConfig(**CONFIG["text_config"])).eval()
    own = {
        n.removeprefix("language_model."): w for n, w in weights.items() if "language_model" in n
    }
    llama.load_state_dict(own)
    return llama


def prompt(goal):
    return Prompter(tiny_openvla.tokenizer(), first=1, vocabulary=VOCABULARY).tokens(goal)


@torch.no_grad()
def test_it_says_what_its_parts_say_when_called_by_hand(folder, policy):
    weights = weights_of(folder)
    llama = llama_by_hand(weights)
    context = embeddings_by_hand(weights, llama, noise(), prompt(GOALS[0]))
    said = []
    for _ in JOINTS:
        said.append(llama(inputs_embeds=context).logits[:, -1])
        word = llama.model.embed_tokens(said[-1].argmax(-1, keepdim=True))
        context = torch.cat([context, word], dim=1)
    expected = torch.stack(said, dim=1)
    torch.testing.assert_close(policy.logits([request()]), expected, atol=1e-4, rtol=0)
    tokens = expected[0].argmax(-1).numpy()
    shares = -1 + (2 * (VOCABULARY - tokens) - 1) / 255
    row = policy.infer_batch([request()])[0].actions[0]
    np.testing.assert_allclose(row, np.array(MIDDLE) + shares * np.array(SPREAD), rtol=1e-5)


@torch.no_grad()
def test_the_head_reads_states_that_see_each_other(oft_folder, oft):
    weights = weights_of(oft_folder)
    llama = llama_by_hand(weights)
    context = embeddings_by_hand(weights, llama, noise(), prompt(GOALS[0]))
    count = 8 * len(JOINTS)
    end = llama.model.embed_tokens(torch.tensor([[2]]))
    whole = torch.cat([context, torch.zeros(1, count, context.shape[2]), end], dim=1)
    length = whole.shape[1]
    everything = torch.zeros(1, 1, length, length)
    states = llama.model(inputs_embeds=whole, attention_mask=everything).last_hidden_state
    states = states[:, context.shape[1] - 1 :][:, :count].reshape(8, -1)
    head = load_file(next(oft_folder.glob("action_head*.safetensors")))
    x = states
    for name in ("layer_norm1", "fc1", "0", "1", "layer_norm2", "fc2"):
        x = head_layer(head, name, x)
    expected = np.array(MIDDLE) + x.numpy() * np.array(SPREAD)
    chunk = oft.infer_batch([request()])[0]
    np.testing.assert_allclose(chunk.actions, expected, atol=2e-3)


def head_layer(head, name, x):
    """Return what one named part of openvla-oft's head makes of its input."""

    def linear(part, y):
        return y @ head[f"model.{part}.weight"].T + head[f"model.{part}.bias"]

    def norm(part, y):
        scale, shift = head[f"model.{part}.weight"], head[f"model.{part}.bias"]
        return functional.layer_norm(y, y.shape[-1:], scale, shift)

    if name.isdigit():
        block = f"mlp_resnet_blocks.{name}.ffn"
        return x + linear(f"{block}.1", norm(f"{block}.0", x)).relu()
    if "norm" in name:
        return norm(name, x)
    return linear(name, x).relu() if name == "fc1" else linear(name, x)


def expected_shapes():
    """Return the parameters of openvla/openvla-7b by their names in the checkpoint."""
    shapes = {"projector.fc1.weight": (8704, 2176), "projector.fc1.bias": (8704,)}
    shapes |= {"projector.fc2.weight": (4096, 8704), "projector.fc2.bias": (4096,)}
    shapes |= {"projector.fc3.weight": (4096, 4096), "projector.fc3.bias": (4096,)}
    dino, siglip = "vision_backbone.featurizer", "vision_backbone.fused_featurizer"
    shapes |= {f"{dino}.cls_token": (1, 1, 1024), f"{dino}.reg_token": (1, 4, 1024)}
    for tower, depth, width, inner in ((dino, 24, 1024, 4096), (siglip, 27, 1152, 4304)):
        shapes[f"{tower}.pos_embed"] = (1, 256, width)
        shapes[f"{tower}.patch_embed.proj.weight"] = (width, 3, 14, 14)
        shapes[f"{tower}.patch_embed.proj.bias"] = (width,)
        shapes |= {f"{tower}.norm.{part}": (width,) for part in ("weight", "bias")}
        for block in (f"{tower}.blocks.{n}" for n in range(depth)):
            shapes |= linear(f"{block}.attn.qkv", 3 * width, width)
            shapes |= linear(f"{block}.attn.proj", width, width)
            shapes |= linear(f"{block}.mlp.fc1", inner, width)
            shapes |= linear(f"{block}.mlp.fc2", width, inner)
            for norm in ("norm1", "norm2"):
                shapes |= {f"{block}.{norm}.{part}": (width,) for part in ("weight", "bias")}
            if tower == dino:
                shapes |= {f"{block}.{ls}.scale_factor": (width,) for ls in ("ls1", "ls2")}
    pool = f"{siglip}.attn_pool"
    shapes |= {f"{pool}.latent": (1, 1, 1152)}
    shapes |= {f"{pool}.norm.{part}": (1152,) for part in ("weight", "bias")}
    for layer, size in {"q": (1152, 1152), "kv": (2304, 1152), "proj": (1152, 1152)}.items():
        shapes |= linear(f"{pool}.{layer}", *size)
    shapes |= linear(f"{pool}.mlp.fc1", 4304, 1152) | linear(f"{pool}.mlp.fc2", 1152, 4304)
    return shapes | llama_shapes()


def linear(name, outputs, inputs):
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def llama_shapes():
    shapes = {"language_model.lm_head.weight": (32064, 4096)}
    shapes |= {"language_model.model.embed_tokens.weight": (32064, 4096)}
    shapes |= {"language_model.model.norm.weight": (4096,)}
    for layer in (f"language_model.model.layers.{n}" for n in range(32)):
        shapes |= {f"{layer}.self_attn.{p}_proj.weight": (4096, 4096) for p in "qkvo"}
        shapes |= {f"{layer}.mlp.{p}_proj.weight": (11008, 4096) for p in ("gate", "up")}
        shapes[f"{layer}.mlp.down_proj.weight"] = (4096, 11008)
        shapes[f"{layer}.input_layernorm.weight"] = (4096,)
        shapes[f"{layer}.post_attention_layernorm.weight"] = (4096,)
    return shapes


def test_the_real_configuration_has_the_parameters_of_the_published_checkpoint():
    plan = architecture_of(REAL)
    with torch.device("meta"):
        network = OpenVla(plan)
    found = {
        name.replace(".gamma", ".scale_factor"): tuple(tensor.shape)
        for name, tensor in network.state_dict().items()
    }
    assert found == expected_shapes()
    assert sum(int(np.prod(shape)) for shape in found.values()) == 7_541_237_184
    assert (plan.vocabulary, plan.bins, plan.text.rms_norm_eps) == (32000, 256, 1e-6)


@torch.no_grad()
def test_the_real_towers_give_256_patches_of_2176_numbers():
    with torch.device("meta"):
        network = OpenVla(architecture_of(REAL))
        patches = network.vision_backbone(torch.empty(2, 6, 224, 224))
        tokens = network.projector(patches)
    assert (tuple(patches.shape), tuple(tokens.shape)) == ((2, 256, 2176), (2, 256, 4096))


@pytest.mark.parametrize(
    "change",
    [
        {"text_config": {"vocab_size": "many"}},
        {"image_sizes": [56, 28]},
        {"use_fused_vision_backbone": False},
        {"num_images_in_input": 2},
        {"timm_model_ids": ["vit_large_patch14_reg4_dinov2.lvd142m"]},
    ],
)
def test_other_networks_are_refused(change):
    with pytest.raises(CheckpointError):
        architecture_of({**CONFIG, **change})
