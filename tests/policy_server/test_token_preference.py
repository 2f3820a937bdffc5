"""Policies that answer in tokens learn from pairs of chunks, and are served afterwards."""

import shutil

import numpy as np
import pytest
import torch

from policy_server import tiny_openvla
from policy_server.load import load_policy
from policy_server.policy import PolicyRequest
from policy_server.self_test import probe
from policy_server.tiny import MIDDLE, SPREAD, make, small_pi
from policy_server.tiny_parts import movement
from policy_server.token_models import FastTokens, OpenVlaTokens, token_model
from policy_server.token_preference import (
    ChunkPair,
    main,
    read_pairs,
    train,
    usable,
    write_pairs,
)
from robot.words import UsageError
from tests.policy_server.openvla_requests import four, weights_of

KINDS = ("openvla", "pi0_fast")
SIZES = {"openvla": (56, 56), "pi0_fast": (64, 64)}


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def base(kind, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / kind
    return tiny_openvla.make(folder) if kind == "openvla" else make(kind, folder)


@pytest.fixture
def model(base):
    with small_pi():
        yield token_model(base)


def chunks(kind):
    """Return a chunk that is to be the better, and one that is not."""
    middle, scale = np.array(MIDDLE, np.float32), np.array(SPREAD, np.float32)
    if kind == "openvla":
        shares = np.array([[0.5, -0.3, 0.1, 0.0, 0.2, 0.0]], np.float32)
        return middle + scale * shares, middle - scale * shares
    return (middle + scale * movement(*way) for way in ((0.8, -0.4), (-0.6, 0.5)))


def pairs_of(kind, spec, count=6):
    draws, pairs = np.random.default_rng(0), list[ChunkPair]()
    better, worse = (chunk.astype(np.float32) for chunk in chunks(kind))
    for _ in range(count):
        picture = draws.integers(0, 256, (*SIZES[kind], 3), dtype=np.uint8)
        pairs.append(ChunkPair(request=probe(spec, picture=picture), better=better, worse=worse))
    return pairs


def favour(model, pairs):
    """Return how much likelier each better chunk is than the worse, nats."""
    requests = [pair.request for pair in pairs]
    with torch.no_grad():
        better = model.likelihood(requests, [pair.better for pair in pairs]).sum(dim=1)
        worse = model.likelihood(requests, [pair.worse for pair in pairs]).sum(dim=1)
    return (better - worse).numpy()


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}


def test_the_margin_rises_the_reference_stays_and_the_rest_is_served(kind, base, model, tmp_path):
    before, pairs = bytes_of(base), pairs_of(kind, model.spec)
    was = favour(model, pairs)
    seen = train(model, pairs, tmp_path / "out", steps=10, batch_size=3, learning_rate=3e-3)
    assert (seen[0].margin, seen[0].loss) == pytest.approx((0.0, np.log(2.0)), abs=1e-4)
    assert seen[-1].margin > 0.3
    assert seen[-1].loss < 0.6
    assert seen[-1].right == 1.0
    assert bytes_of(base) == before
    with small_pi():
        # The base is still what it was, and what was written is what was trained.
        np.testing.assert_allclose(favour(token_model(base), pairs), was, atol=1e-4)
        assert (favour(token_model(tmp_path / "out"), pairs) - was > 3.0).all()
        served = load_policy(str(tmp_path / "out"))
    assert served.spec.checkpoint != model.spec.checkpoint
    assert served.spec.normalisation == model.spec.normalisation
    assert served.infer_batch([pairs[0].request])[0].observed_at == 0.0


def test_adapters_that_are_switched_off_are_the_reference(kind, model):
    pairs = pairs_of(kind, model.spec, 2)
    was = favour(model, pairs)
    adapters = model.adapt(4)
    with torch.no_grad():
        for name, weight in adapters.named_parameters():
            if "lora_B" in name:
                weight.add_(0.3)
    assert np.abs(favour(model, pairs) - was).max() > 0.05
    with adapters.disable_adapter():
        np.testing.assert_allclose(favour(model, pairs), was, atol=1e-4)


def test_pairs_are_read_as_they_were_written(kind, model, tmp_path):
    pairs = pairs_of(kind, model.spec, 3)
    write_pairs(tmp_path / "pairs.npz", pairs)
    for one, other in zip(read_pairs(tmp_path / "pairs.npz"), pairs, strict=True):
        np.testing.assert_array_equal(one.better, other.better)
        np.testing.assert_array_equal(one.worse, other.worse)
        assert one.request.goal == other.request.goal
        for name, picture in other.request.images.items():
            np.testing.assert_array_equal(one.request.images[name], picture)


def test_chunks_of_the_same_tokens_are_no_pair(kind, model):
    [pair, *others] = pairs_of(kind, model.spec, 2)
    alike = ChunkPair(request=pair.request, better=pair.better, worse=pair.better + 1e-4)
    assert usable(model, [alike, *others]) == others
    with pytest.raises(UsageError, match="both chunks are the same tokens"):
        usable(model, [alike])


def test_pairs_of_another_action_space_are_refused(kind, model):
    [pair] = pairs_of(kind, model.spec, 1)
    other = ChunkPair(request=pair.request, better=pair.better[:, :4], worse=pair.worse[:, :4])
    with pytest.raises(UsageError, match="another policy's action space"):
        usable(model, [other])
    blind = PolicyRequest(state=pair.request.state, goal="Lift.", observed_at=0.0)
    with pytest.raises(UsageError, match="lacks front"):
        usable(model, [ChunkPair(request=blind, better=pair.better, worse=pair.worse)])
    with pytest.raises(UsageError, match="no pairs"):
        usable(model, [])


@pytest.fixture(scope="module")
def openvla(tmp_path_factory):
    return tiny_openvla.make(tmp_path_factory.mktemp("openvla") / "base")


def test_openvla_finds_its_own_answer_as_likely_as_when_it_gave_it(openvla):
    model, policy = OpenVlaTokens(openvla), load_policy(f"openvla:{openvla}")
    requests = four()
    rows = [chunk.actions for chunk in policy.infer_batch(requests)]
    said = policy.logits(requests).log_softmax(dim=-1).max(dim=-1).values
    with torch.no_grad():
        torch.testing.assert_close(model.likelihood(requests, rows), said, atol=2e-4, rtol=1e-4)


def test_fast_finds_chunks_as_likely_as_lerobots_own_loss_says(tmp_path):
    with small_pi():
        model = FastTokens(make("pi0_fast", tmp_path / "base"))
    pairs = pairs_of("pi0_fast", model.spec, 3)
    requests = [pair.request for pair in pairs] * 2
    rows = [*(pair.better for pair in pairs), *(pair.worse for pair in pairs)]
    with torch.no_grad():
        found = model.likelihood(requests, rows)
        batch = model._batch(requests, rows)  # pyright: ignore[reportPrivateUsage]
        loss, _ = model._policy.forward(batch)  # pyright: ignore[reportPrivateUsage]
    counted = batch["action.token_mask"][:, 1:]
    assert -float(found.sum() / counted.sum()) == pytest.approx(float(loss), abs=1e-5)
    assert (found[~counted] == 0.0).all()
    assert (found[counted] < 0.0).all()


@pytest.fixture
def words(openvla, tmp_path):
    pairs = pairs_of("openvla", load_policy(f"openvla:{openvla}").spec, 4)
    write_pairs(tmp_path / "pairs.npz", pairs)
    return [f"base={openvla}", f"pairs={tmp_path / 'pairs.npz'}", f"out={tmp_path / 'out'}"]


def test_the_command_line_writes_a_checkpoint_and_says_how_to_serve_it(
    words, openvla, tmp_path, capsys
):
    assert main([*words, "steps=3", "learning_rate=1e-3", "lora=2"]) == 0
    assert "make serve-pi POLICY=" in capsys.readouterr().out
    changed = weights_of(tmp_path / "out") if list((tmp_path / "out").glob("model-*")) else None
    assert changed is None or changed.keys() == weights_of(openvla).keys()
    assert load_policy(str(tmp_path / "out")).spec.horizon == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "pairs.npz"]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("steps=0", "no whole number"),
        ("beta=-1", "no positive number"),
        ("pairs=nowhere", "there is no file"),
        ("base=", "base=FOLDER pairs=FILE"),
        ("out=", "out=FOLDER"),
        ("colour=red", "known words"),
    ],
)
def test_words_that_cannot_be_meant_end_with_two(words, tmp_path, capsys, word, said):
    assert main([*words, word]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert said in line
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.npz"]


def test_a_policy_that_says_no_tokens_is_refused(words, tmp_path, capsys):
    with small_pi():
        act = make("act", tmp_path / "act")
    assert main([*words, f"base={act}"]) == 2
    assert "says no tokens" in capsys.readouterr().err
    shutil.rmtree(act)
    oft = tiny_openvla.make(tmp_path / "oft", head=True)
    assert main([*words, f"base={oft}"]) == 2
    assert "answers with numbers" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_training_that_diverges_leaves_nothing(words, tmp_path, capsys):
    assert main([*words, "steps=5", "learning_rate=1e30"]) == 1
    assert "lower learning_rate=" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.npz"]


def test_a_file_that_holds_something_else_is_refused(words, tmp_path, capsys):
    (tmp_path / "pairs.npz").write_bytes(b"no pairs")
    assert main(words) == 2
    assert "holds no pairs of chunks" in capsys.readouterr().err
