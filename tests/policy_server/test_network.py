import numpy as np
import pytest
import torch

from envs.state import sizes
from policy_server.backends.network import Encoder, encoding_of
from policy_server.policy import PolicySpec

SPEC = PolicySpec(
    action_space="ee_delta", action_dim=4, state={"joint_pos": 6, "thing_from_jaw": 3, "held": 1}
)


def test_joints_are_encoded_to_about_one_and_millimetres_stay_apart():
    encode = Encoder(encoding_of(SPEC))
    joints, near = [90.0, -90.0, 0.0, 0.0, 45.0, 100.0], [0.002, 0.0, -0.3]
    (row,) = encode(torch.tensor([[*joints, *near, 1.0]])).numpy()
    np.testing.assert_allclose(row[:6], [1, -1, 0, 0, 0.5, 1], atol=1e-6)
    np.testing.assert_allclose(row[6:10], [0.02, 0, -3, 1], atol=1e-6)
    np.testing.assert_allclose(row[10:], np.tanh([0.1, 0, -15]), atol=1e-6)


def test_a_known_vector_of_an_unknown_size_is_refused():
    spec = PolicySpec(action_space="ee_delta", action_dim=4, state={"thing": 3})
    with pytest.raises(ValueError, match="thing has 3 elements, expected 4"):
        encoding_of(spec)


def test_every_position_that_the_environment_gives_is_encoded():
    spec = PolicySpec(action_space="ee_delta", action_dim=4, state=sizes(4))
    encoding = encoding_of(spec)
    plain = {"held", "action", "time_left"}
    scales = iter(encoding.scale)
    for name, size in spec.state.items():
        own = [next(scales) for _ in range(size)]
        assert (own[0] == 1.0) == (name in plain), name
