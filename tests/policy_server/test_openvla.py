import json
import shutil

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional
from torchvision.transforms import functional as vision
from transformers import LlamaConfig, LlamaForCausalLM

from policy_server import tiny_openvla
from policy_server.backends.openvla import ActionRange, Eyes, OpenVlaPolicy, Prompter, shares_of
from policy_server.backends.openvla_model import OpenVla, architecture_of
from policy_server.policy import CheckpointError, PolicyRequest
from policy_server.tiny_openvla import CONFIG, KEY, MIDDLE, PICTURES, PIXELS, SPREAD, VOCABULARY
from robot.arm import JOINTS

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


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


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


def rewrite(folder, **changes):
    """Replace weights by their last file's names; None removes one."""
    file = folder / "model-00002-of-00002.safetensors"
    tensors = load_file(file)
    for name, tensor in changes.items():
        tensors.pop(name, None)
        if tensor is not None:
            tensors[name] = tensor
    save_file(tensors, file)


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def by_hand(picture, size=PIXELS):
    """Return what OpenVLA's processor makes of a picture, by Pillow and torchvision."""
    small = vision.resize(Image.fromarray(picture), [size, size], vision.InterpolationMode.BICUBIC)
    parts = PICTURES["tvf_normalize_params"]
    return torch.cat([vision.normalize(vision.to_tensor(small), **part) for part in parts])


@pytest.mark.parametrize("shape", [(480, 640), (100, 60), (56, 56)])
def test_pixels_are_those_of_pillow_to_one_grey_level(shape):
    eyes = Eyes.of(PICTURES, size=PIXELS, center_crop=False)
    difference = (eyes.pixels(noise(1, shape)) - by_hand(noise(1, shape))).abs()
    assert difference.max() < 1.01 / 255 / 0.2236
    assert (difference < 1e-6).float().mean() > 0.98


def test_the_middle_is_cropped_by_area_and_sampled_between_corners():
    eyes = Eyes.of(PICTURES, size=PIXELS, center_crop=True)
    picture = noise(2, (PIXELS, PIXELS))
    at = (1 - 0.9**0.5) / 2 * (PIXELS - 1) + np.arange(PIXELS) * 0.9**0.5
    low, part = at.astype(int), (at - at.astype(int))[:, None]
    lines = picture[low] * (1 - part[..., None]) + picture[low + 1] * part[..., None]
    cropped = lines[:, low] * (1 - part) + lines[:, low + 1] * part
    expected = by_hand(np.floor(cropped / 255 * 255.5).astype(np.uint8))
    difference = (eyes.pixels(picture) - expected).abs()
    assert difference.max() < 1.01 / 255 / 0.2236
    assert (difference < 1e-6).float().mean() > 0.99


def test_colours_that_the_processor_once_computed_win_over_the_written_ones():
    kept = Eyes.of(PICTURES, size=PIXELS, center_crop=False)
    plain = {name: value for name, value in PICTURES.items() if name != "tvf_normalize_params"}
    written = Eyes.of(plain, size=PIXELS, center_crop=False)
    assert (kept.mean[0].item(), written.mean[0].item()) == pytest.approx((0.484375, 0.485))


@pytest.mark.parametrize(
    "change",
    [
        {"image_resize_strategy": "letterbox"},
        {"interpolations": ["bicubic", "nearest"]},
        {"input_sizes": [[3, 56, 56], [3, 28, 28]]},
    ],
)
def test_another_preparation_of_pictures_is_refused(change):
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json"):
        Eyes.of({**PICTURES, **change}, size=PIXELS, center_crop=False)


def test_the_prompt_is_lower_case_and_ends_with_the_empty_token():
    tokenizer = tiny_openvla.tokenizer()
    tokens = Prompter(tokenizer, first=1, vocabulary=VOCABULARY).tokens("Lift IT")
    text = "▁In:▁What▁action▁should▁the▁robot▁take▁to▁lift▁it?\nOut:"
    assert tokens[0] == 1
    assert [tokenizer.id_to_token(n) for n in tokens[1:]] == [
        *("<0x0A>" if letter == "\n" else letter for letter in text),
        "▁",
    ]


def test_a_tokenizer_without_the_empty_token_is_refused():
    facts = json.loads(tiny_openvla.tokenizer().to_str())
    number = facts["model"]["vocab"].pop("▁")
    facts["model"]["vocab"]["x-"] = number
    with pytest.raises(CheckpointError, match="lacks the token"):
        Prompter(tiny_openvla.Tokenizer.from_str(json.dumps(facts)), first=1, vocabulary=VOCABULARY)


def test_a_vocabulary_counted_with_padding_is_refused():
    with pytest.raises(CheckpointError, match="without padding"):
        Prompter(tiny_openvla.tokenizer(), first=1, vocabulary=VOCABULARY + 64)


def test_actions_are_counted_from_the_last_token_that_is_no_padding():
    tokens = np.array([31999, 31998, 31872, 31745, 31744])
    shares = shares_of(tokens, vocabulary=architecture_of(REAL).vocabulary)
    np.testing.assert_allclose(shares, [-254 / 255, -252 / 255, 0.0, 254 / 255, 254 / 255])
    assert shares_of(tokens, vocabulary=32064)[2] == pytest.approx(128 / 255)


def test_tokens_that_are_no_actions_mean_none():
    assert np.isnan(shares_of(np.array([0, 31743, 32000, 32063]), vocabulary=32000)).all()


def test_shares_become_actions_where_the_mask_says_so():
    stats = {"q01": [-10.0, 0.0, 5.0], "q99": [30.0, 100.0, 5.0], "mask": [True, True, False]}
    reach = ActionRange.of({"cubes": {"action": stats}}, None)
    rows = reach.actions(np.array([[-1.0, 0.5, 0.25], [1.0, 0.0, -0.75]]))
    np.testing.assert_allclose(rows, [[-10.0, 75.0, 0.25], [30.0, 50.0, -0.75]])


def test_without_a_mask_all_numbers_are_scaled():
    stats = {"q01": [0.0] * 6, "q99": [100.0] * 6}
    assert ActionRange.of({"cubes": {"action": stats}}, None).actions(np.zeros((1, 6))).min() == 50


def test_numbers_that_are_not_scaled_are_no_percent():
    stats = {"q01": [0.0] * 6, "q99": [90.0] * 6, "mask": [True] * 5 + [False]}
    meaning = ActionRange.of({"cubes": {"action": stats}}, None).meaning
    assert meaning["action_units"] == (*("deg",) * 5, "1")


@pytest.mark.parametrize(
    ("stats", "message"),
    [
        ({}, "neither"),
        ({"a": {}, "b": {}}, "none of a, b"),
        ({"a": {"action": {"q01": [0.0]}}}, "not whole"),
        ({"a": {"action": {"q01": [0.0], "q99": [1.0, 2.0]}}}, "different lengths"),
        ({"a": {"action": {"q01": [0.0], "q99": [float("nan")]}}}, "no ranges"),
    ],
)
def test_statistics_that_cannot_be_used_are_refused(stats, message):
    with pytest.raises(CheckpointError, match=message):
        ActionRange.of(stats, None)


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


def test_a_batch_says_what_singles_say(policy):
    alone = torch.cat([policy.logits([one]) for one in four()])
    torch.testing.assert_close(policy.logits(four()), alone, atol=1e-4, rtol=0)


def test_a_batch_acts_as_singles_do(policy, oft):
    for one in (policy, oft):
        together = [chunk.actions for chunk in one.infer_batch(four())]
        alone = [one.infer_batch([item])[0].actions for item in four()]
        np.testing.assert_allclose(together, alone, atol=2e-3)


def test_the_picture_matters(policy):
    pictures = [np.full((64, 64, 3), value, np.uint8) for value in (0, 255)]
    logits = policy.logits([request(picture) for picture in (*pictures, noise(3))])
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (logits[a] - logits[b])[0].abs().max() > 0.1


def test_the_sentence_matters(policy):
    first, second = policy.logits([request(goal=goal) for goal in GOALS[:2]])
    assert (first - second)[0].abs().max() > 0.1


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


def test_the_spec_names_an_so101s_joints_and_their_units(policy):
    spec = policy.spec
    assert (spec.action_space, spec.robot, spec.horizon) == ("joint_pos", "so101", 1)
    assert spec.action_names == JOINTS
    assert spec.action_units == (*("deg",) * 5, "percent")
    assert (spec.images, spec.image_size, spec.state) == (("front",), (PIXELS, PIXELS), {})
    assert (len(spec.checkpoint), len(spec.normalisation)) == (12, 12)


def test_chunks_are_one_row_or_the_heads_rows_with_the_requests_stamp(policy, oft):
    rows = [
        [(chunk.actions.shape, chunk.observed_at) for chunk in one.infer_batch(four())]
        for one in (policy, oft)
    ]
    stamps = (0.0, 1.0, 2.0, 3.0)
    assert rows == [[((1, 6), t) for t in stamps], [((8, 6), t) for t in stamps]]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (request(camera="side"), "no picture"),
        (request(noise().astype(np.float32)), "float32"),
        (request(noise()[..., :1]), "expected RGB"),
        (request(noise()[:0]), "empty"),
        (request(goal=" "), "empty"),
        (request(goal="very " * 200), "too many"),
    ],
)
def test_a_wrong_request_fails_alone(policy, wrong, message):
    right, refused = policy.infer_batch([request(), wrong])
    assert right.actions.shape == (1, 6)
    assert refused.actions.shape == (0, 6)
    assert message in refused.refusal


def test_no_requests_have_no_answers(policy):
    assert policy.infer_batch([]) == []


def test_words_that_are_no_action_are_no_chunk(copy):
    rewrite(copy, **{"language_model.lm_head.weight": torch.zeros(VOCABULARY + 64, 64)})
    chunk = OpenVlaPolicy.load(copy).infer_batch([request()])[0]
    assert (chunk.actions.shape, bool(chunk.refusal)) == ((0, 6), True)


def test_half_precision_answers_too(folder):
    chunk = OpenVlaPolicy.load(folder, dtype="bfloat16").infer_batch([request()])[0]
    assert chunk.actions.shape == (1, 6)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("projector.fc3.bias", None, "lacks projector.fc3.bias"),
        ("language_model.extra", torch.zeros(1), "unknown language_model.extra"),
        ("projector.fc3.bias", torch.zeros(3), r"projector.fc3.bias \(3,\), expected \(64,\)"),
    ],
)
def test_weights_that_do_not_fit_are_named(copy, name, tensor, message):
    rewrite(copy, **{name: tensor})
    with pytest.raises(CheckpointError, match=message):
        OpenVlaPolicy.load(copy)


def test_a_folder_without_weights_is_refused(copy):
    (copy / "model.safetensors.index.json").unlink()
    with pytest.raises(CheckpointError, match="neither"):
        OpenVlaPolicy.load(copy)


def test_weights_in_one_file_are_read_too(copy, folder, policy):
    (copy / "model.safetensors.index.json").unlink()
    save_file(weights_of(folder), copy / "model.safetensors")
    one = OpenVlaPolicy.load(copy)
    torch.testing.assert_close(one.logits([request()]), policy.logits([request()]))


def test_a_file_that_was_cut_short_is_refused(copy):
    file = copy / "model-00001-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="damaged"):
        OpenVlaPolicy.load(copy)


def test_other_weights_are_another_checkpoint(copy, policy):
    rewrite(copy, **{"projector.fc3.bias": torch.zeros(64)})
    spec = OpenVlaPolicy.load(copy).spec
    assert spec.checkpoint != policy.spec.checkpoint
    assert spec.normalisation == policy.spec.normalisation


def test_a_checkpoint_without_statistics_is_refused(copy):
    (copy / "dataset_statistics.json").unlink()
    with pytest.raises(CheckpointError, match="norm_stats"):
        OpenVlaPolicy.load(copy)


def test_the_base_models_statistics_stand_in_its_configuration(copy):
    stats = json.loads((copy / "dataset_statistics.json").read_text())
    (copy / "dataset_statistics.json").unlink()
    edit(copy / "config.json", norm_stats={**stats, "other": stats[KEY]})
    assert OpenVlaPolicy.load(copy, unnorm_key=KEY).spec.action_dim == 6
    with pytest.raises(CheckpointError, match=f"none of other, {KEY}"):
        OpenVlaPolicy.load(copy)


def test_another_robots_checkpoint_is_refused_unless_it_is_asked_for(copy):
    action = {"q01": [-1.0] * 7, "q99": [1.0] * 7, "mask": [True] * 6 + [False]}
    (copy / "dataset_statistics.json").write_text(json.dumps({"bridge_orig": {"action": action}}))
    with pytest.raises(CheckpointError, match="7 numbers"):
        OpenVlaPolicy.load(copy)
    spec = OpenVlaPolicy.load(copy, allow_other_robot=True).spec
    assert (spec.robot, spec.action_space, spec.action_dim) == ("bridge_orig", "other_robot", 7)
    assert spec.action_units == ("m", "m", "m", "rad", "rad", "rad", "1")


def test_a_pickled_head_is_never_read_but_how_to_convert_it_is_said(copy):
    (copy / "action_head--5_checkpoint.pt").write_bytes(b"anything")
    with pytest.raises(CheckpointError, match=r"is a pickle.*save_file"):
        OpenVlaPolicy.load(copy)


@pytest.mark.parametrize("part", ["proprio_projector", "noisy_action_projector", "vision_backbone"])
def test_inputs_that_would_be_ignored_are_refused(copy, part):
    (copy / f"{part}--5_checkpoint.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=part):
        OpenVlaPolicy.load(copy)


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


def test_the_maker_says_that_nothing_was_learnt(tmp_path):
    said = []
    assert tiny_openvla.main([f"out={tmp_path / 'tiny'}", "head=oft"], said.append) == 0
    assert "random weights" in said[0]
    assert "nothing was learnt" in (tmp_path / "tiny" / "README.md").read_text()


def test_the_maker_wants_a_folder(capsys):
    assert tiny_openvla.main([]) == 2
    assert "out=FOLDER" in capsys.readouterr().err
