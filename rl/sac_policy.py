"""The networks that SB3's SAC trains here: LayerNorm in actor and critics, made for a CPU."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false
# SB3's own types are partly unknown.

import math
from typing import Any

import torch
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.sac.policies import Actor, SACPolicy
from torch import Tensor

from policy_server.backends.network import LOG_STD
from rl.networks import Networks

_HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)
_MARGIN = 1e-6
"""SB3's guard against the logarithm of nothing where an action saturates."""


class FastActor(Actor):
    """A tanh-Gaussian actor whose noise comes from a generator of its own."""

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401 - SB3's, passed on
        super().__init__(**kwargs)
        del self.latent_pi, self.mu, self.log_std
        outputs = 2 * get_action_dim(self.action_space)
        self.networks = Networks(1, (self.features_dim, *self.net_arch, outputs))
        self.noise = torch.Generator()
        self.entropy = torch.zeros(())
        """Mean entropy of the last batch that was learnt from."""

    def get_action_dist_params(self, obs: PyTorchObs) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return mean and logarithm of the standard deviation before the tanh."""
        run = self.networks.trained if torch.is_grad_enabled() else self.networks.values
        mean, log_std = run(obs)[0].chunk(2, dim=1)  # pyright: ignore[reportArgumentType]
        return mean, log_std.clamp(*LOG_STD), {}

    def action_log_prob(self, obs: PyTorchObs) -> tuple[Tensor, Tensor]:
        """Return a sampled action and the logarithm of its density, as SB3's distribution does."""
        mean, log_std, _ = self.get_action_dist_params(obs)
        noise = torch.randn(mean.shape, generator=self.noise)
        action = torch.addcmul(mean, log_std.exp(), noise).tanh()
        gaussian = (noise * noise).mul_(0.5).add_(_HALF_LOG_TAU)
        squash = torch.log((1 + _MARGIN) - action * action)
        log_prob = -(gaussian + log_std + squash).sum(dim=1)
        if log_prob.requires_grad:
            self.entropy = -log_prob.detach().mean()
        return action, log_prob


class FastCritic(ContinuousCritic):
    """Critics that give the actor its derivative and nothing that SB3 would throw away."""

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401 - SB3's, passed on
        super().__init__(**kwargs)
        for index in range(self.n_critics):
            delattr(self, f"qf{index}")
        self.q_networks = []
        inputs = kwargs["features_dim"] + get_action_dim(self.action_space)
        self.networks = Networks(self.n_critics, (inputs, *kwargs["net_arch"], 1))
        self.subset = self.n_critics
        """As targets, so many of the critics answer, drawn anew for each batch."""
        self.draws = torch.Generator()
        self.q = torch.zeros(1)
        """What the first critic said of the last batch that it learnt from."""

    def forward(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, ...]:
        """Return each critic's values, shape (batch, 1); SB3 takes the least of them.

        Where a subset makes the targets, the actor follows the mean of all instead (REDQ, Chen et
        al., 2021), and that is the one value here.
        """
        if actions.requires_grad:
            values = self.networks.steered(obs, actions)
            return values if self._all_answer else (torch.cat(values, 1).mean(1, keepdim=True),)
        x = torch.cat([obs, actions], dim=1)
        if not torch.is_grad_enabled():
            return tuple(self.networks.values(x, self._drawn()))
        values = self.networks.trained(x)
        self.q = values[0].detach()
        return values

    @property
    def _all_answer(self) -> bool:
        return self.subset == self.n_critics

    def _drawn(self) -> list[int] | None:
        """Return which critics make this batch's targets; None for all."""
        if self._all_answer:
            return None
        return torch.randperm(self.n_critics, generator=self.draws)[: self.subset].tolist()


class FastPolicy(SACPolicy):
    """SB3's policy with these networks."""

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> FastActor:
        """Return an actor."""
        return FastActor(**self._update_features_extractor(self.actor_kwargs, features_extractor))

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> FastCritic:
        """Return critics."""
        return FastCritic(**self._update_features_extractor(self.critic_kwargs, features_extractor))
