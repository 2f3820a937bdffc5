import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision.transforms import functional as vision

from policy_server import tiny, tiny_openvla
from policy_server.backends.openvla import ActionRange, Eyes, OpenVlaPolicy, Prompter, shares_of
from policy_server.backends.openvla_model import architecture_of
from policy_server.policy import CheckpointError
from policy_server.tiny_openvla import KEY, PICTURES, PIXELS, VOCABULARY
from robot.arm import JOINTS
from tests.policy_server.openvla_requests import GOALS, REAL, four, noise, request, weights_of


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


def test_weights_of_eight_bits_answer_too(folder):
    policy = OpenVlaPolicy.load(folder, int8=True)
    kept = policy.network.state_dict().values()
    assert policy.infer_batch([request()])[0].actions.shape == (1, 6)
    assert torch.int8 in {value.dtype for value in kept}


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


def test_the_maker_says_that_nothing_was_learnt(tmp_path):
    said = []
    words = ["kind=openvla", f"out={tmp_path / 'tiny'}", "head=oft"]
    assert tiny.main(words, said.append) == 0
    assert "random weights" in said[0]
    assert "nothing was learnt" in (tmp_path / "tiny" / "README.md").read_text()


def test_the_maker_wants_a_folder(capsys):
    assert tiny.main(["kind=openvla"]) == 2
    assert "out=FOLDER" in capsys.readouterr().err
