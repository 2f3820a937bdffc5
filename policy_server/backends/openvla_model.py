"""OpenVLA's network from a folder of weights: two towers that see, a projector, and Llama.

The classes are timm's and transformers' own; parameters keep the names that published checkpoints
(`openvla/openvla-7b` and what is fine-tuned from it) give them.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# timm's, transformers' and torch's own types are partly unknown.

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import timm
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from policy_server.policy import CheckpointError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
HEAD = "action_head"
UNREAD = ("proprio_projector", "noisy_action_projector", "vision_backbone")
"""What the names of files begin with that openvla-oft writes for inputs which are not read here."""
CONVERT = (
    'python -c "import torch; from safetensors.torch import save_file; save_file({{k: v.clone()'
    " for k, v in torch.load('{0}.pt', weights_only=True).items()}}, '{0}.safetensors')\""
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tower:
    """A network that looks at the picture."""

    name: str
    """Timm's."""
    changes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What timm shall build otherwise than the name says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """What a checkpoint's `config.json` says of the network."""

    towers: tuple[Tower, Tower]
    """DINOv2, then SigLIP."""
    picture_size: int
    """Height and width, pixels."""
    text: LlamaConfig
    vocabulary: int
    """Tokens without the padding that `text.vocab_size` counts: the last ones are the actions."""
    bins: int


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """Return what `config.json` describes; raise `CheckpointError`."""
    try:
        sizes, text = set(config["image_sizes"]), LlamaConfig.from_dict(dict(config["text_config"]))
        towers = tuple(_towers(config))
        bins, padding = int(config["n_action_bins"]), int(config["pad_to_multiple_of"])
    except (KeyError, TypeError, ValueError, StrictDataclassError) as error:
        raise CheckpointError(f"config.json is not OpenVLA's: {error!r}") from None
    if not config.get("use_fused_vision_backbone") or len(towers) != 2 or len(sizes) != 1:
        raise CheckpointError("config.json has not two fused towers that see pictures of one size")
    if config.get("num_images_in_input", 1) != 1:
        raise CheckpointError("it was trained with several pictures a request; one is read here")
    return Architecture(
        towers=towers,
        picture_size=int(sizes.pop()),
        text=text,
        vocabulary=int(text.vocab_size or 0) - padding,
        bins=bins,
    )


def _towers(config: Mapping[str, Any]) -> Iterator[Tower]:
    names = config["timm_model_ids"]
    nothing = [None] * len(names)
    activations = config.get("timm_override_act_layers") or nothing
    changes = config.get("timm_changes") or nothing
    for name, activation, change in zip(names, activations, changes, strict=True):
        yield Tower(name=name, changes={"act_layer": activation, **(change or {})})


class Vision(nn.Module):
    """The two towers side by side."""

    def __init__(self, towers: Sequence[Tower], picture_size: int) -> None:
        super().__init__()
        self.featurizer, self.fused_featurizer = (
            cast(Any, timm.create_model(t.name, num_classes=0, img_size=picture_size, **t.changes))
            for t in towers
        )

    @property
    def width(self) -> int:
        """Return how many numbers a patch has."""
        return int(self.featurizer.embed_dim + self.fused_featurizer.embed_dim)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return patches, shape (batch, patches, width), of pixels (batch, 6, height, width)."""
        halves = zip((self.featurizer, self.fused_featurizer), pixels.split(3, dim=1), strict=True)
        # The layer before the last, without its norm: what the projector was trained on.
        seen = [
            tower.get_intermediate_layers(half, n={len(tower.blocks) - 2})[0]
            for tower, half in halves
        ]
        return torch.cat(seen, dim=2)


class Projector(nn.Module):
    """Brings patches into Llama's space."""

    def __init__(self, vision: int, text: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(vision, 4 * vision)
        self.fc2 = nn.Linear(4 * vision, text)
        self.fc3 = nn.Linear(text, text)

    def forward(self, patches: Tensor) -> Tensor:
        """Return tokens, shape (batch, patches, text), of patches (batch, patches, vision)."""
        widened = functional.gelu(self.fc1(patches))
        return self.fc3(functional.gelu(self.fc2(widened)))


class OpenVla(nn.Module):
    """A picture and a sentence in, tokens or hidden states out; batches answer as singles do."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.vision_backbone = Vision(architecture.towers, architecture.picture_size)
        self.projector = Projector(self.vision_backbone.width, architecture.text.hidden_size)
        self.language_model = LlamaForCausalLM(architecture.text)

    @property
    def room(self) -> int:
        """Return how many tokens of prompts and answers fit beside a picture."""
        patches = int(self.vision_backbone.featurizer.patch_embed.num_patches)
        return self.architecture.text.max_position_embeddings - patches - 1

    def join(self, pixels: Tensor, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Return embeddings (batch, length, hidden), padded on the left, and their mask.

        A picture's patches stand after the first token of its prompt.
        """
        weight = self.projector.fc1.weight
        patches = self.projector(self.vision_backbone(pixels.to(weight)))
        words = [self._embedded(torch.tensor(prompt, device=weight.device)) for prompt in prompts]
        rows = [torch.cat([w[:1], seen, w[1:]]) for w, seen in zip(words, patches, strict=True)]
        length = max(map(len, rows))
        embeddings = [functional.pad(row, (0, 0, length - len(row), 0)) for row in rows]
        mask = [
            functional.pad(torch.ones(len(row), dtype=torch.long), (length - len(row), 0))
            for row in rows
        ]
        return torch.stack(embeddings), torch.stack(mask).to(weight.device)

    def say(self, pixels: Tensor, prompts: Sequence[Sequence[int]], count: int) -> Tensor:
        """Return the logits of the `count` likeliest next tokens, one after the other.

        Shape (batch, count, vocabulary with padding), float32.
        """
        cache = DynamicCache(config=self.language_model.config)
        embeddings, mask = self.join(pixels, prompts)
        said = [self._advance(embeddings, mask, cache)]
        while len(said) < count:
            mask = functional.pad(mask, (0, 1), value=1)
            last = self._embedded(said[-1].argmax(-1, keepdim=True))
            said.append(self._advance(last, mask, cache))
        return torch.stack(said, dim=1)

    def action_states(self, pixels: Tensor, prompts: Sequence[Sequence[int]], count: int) -> Tensor:
        """Return Llama's last hidden states that openvla-oft reads actions from.

        Shape (batch, count, hidden). All tokens see each other there: `count` empty ones and the
        end of the sentence follow the prompt, and a state is read one place before its token.
        """
        embeddings, mask = self.join(pixels, prompts)
        end = torch.full((len(prompts), 1), _end_of(self.language_model.config)).to(mask.device)
        after = functional.pad(self._embedded(end), (0, 0, count, 0))
        mask = functional.pad(mask, (0, count + 1), value=1)
        everyone = mask.bool()[:, None, None, :].expand(-1, 1, mask.shape[1], -1)
        answer = self.language_model.model(
            inputs_embeds=torch.cat([embeddings, after], dim=1),
            attention_mask=everyone,
            position_ids=_positions(mask),
            use_cache=False,
        )
        return answer.last_hidden_state[:, -count - 2 : -2]

    def _embedded(self, tokens: Tensor) -> Tensor:
        return self.language_model.get_input_embeddings()(tokens)

    def _advance(self, embeddings: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
        """Return the logits after the last of `embeddings`, which `mask` ends with."""
        answer = self.language_model(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=_positions(mask)[:, -embeddings.shape[1] :],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return answer.logits[:, -1].float()


def _positions(mask: Tensor) -> Tensor:
    return (mask.cumsum(1) - 1).clamp(min=0)


def _end_of(config: LlamaConfig) -> int:
    ends = config.eos_token_id
    return int(ends[0] if isinstance(ends, list) else ends or 0)


class Block(nn.Module):
    """A layer of `ActionHead` that adds to what it gets."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ffn = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Return the same shape."""
        return x + self.ffn(x)


class ActionHead(nn.Module):
    """openvla-oft's continuous head: hidden states in, rows of shares out."""

    def __init__(self, width: int, action_dim: int) -> None:
        super().__init__()
        self.action_dim = action_dim
        self.layer_norm1 = nn.LayerNorm(width * action_dim)
        self.fc1 = nn.Linear(width * action_dim, width)
        self.mlp_resnet_blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.layer_norm2 = nn.LayerNorm(width)
        self.fc2 = nn.Linear(width, action_dim)

    def forward(self, states: Tensor) -> Tensor:
        """Return (batch, rows, action_dim) from states (batch, rows * action_dim, width)."""
        x = states.reshape(len(states), -1, self.action_dim * states.shape[2])
        x = functional.relu(self.fc1(self.layer_norm1(x)))
        for block in self.mlp_resnet_blocks:
            x = block(x)
        return self.fc2(self.layer_norm2(x)).float()


def weight_files(folder: Path) -> list[Path]:
    """Return the files of a checkpoint's weights, in order; raise `CheckpointError` for none."""
    shards: Mapping[str, str] = {"": WEIGHTS} if (folder / WEIGHTS).is_file() else {}
    if (folder / INDEX).is_file():
        shards = json.loads((folder / INDEX).read_text(encoding="utf-8")).get("weight_map", {})
    if not shards:
        raise CheckpointError(f"{folder} has neither {INDEX} nor {WEIGHTS} that names weights")
    return [folder / Path(name).name for name in sorted(set(shards.values()))]


def load_network(
    folder: Path, architecture: Architecture, *, device: str, dtype: torch.dtype
) -> OpenVla:
    """Return the network of a folder, ready to answer; raise `CheckpointError`."""
    weights = {
        _timm_name(name): tensor
        for file in weight_files(folder)
        for name, tensor in _tensors(file, device=device, dtype=dtype)
    }
    with torch.device("meta"):
        network = OpenVla(architecture)
    _fill(network, weights)
    # Its frequencies are no weights, so no file holds them.
    llama = network.language_model.model
    llama.rotary_emb = LlamaRotaryEmbedding(architecture.text, device=torch.device(device))
    return network.eval().requires_grad_(False)


def head_file(folder: Path) -> Path | None:
    """Return the weights of openvla-oft's head, None for a checkpoint that says tokens.

    Raise `CheckpointError` for pickles and for parts that would be ignored.
    """
    for name in sorted(path.name for path in folder.iterdir()):
        if name.startswith(UNREAD):
            raise CheckpointError(f"it was trained with {name}, which cannot be used here")
    found = sorted(folder.glob(f"{HEAD}*.safetensors"))
    pickles = sorted(folder.glob(f"{HEAD}*.pt"))
    if len(found) > 1:
        raise CheckpointError(f"it has several heads: {', '.join(path.name for path in found)}")
    if pickles and not found:
        raise CheckpointError(
            f"{pickles[0].name} is a pickle, which is never read here; if you trust it: "
            + CONVERT.format(pickles[0].with_suffix(""))
        )
    return found[0] if found else None


def load_head(file: Path, network: OpenVla, *, action_dim: int) -> ActionHead:
    """Return openvla-oft's head for a network, where that is; raise `CheckpointError`."""
    like = network.projector.fc3.weight
    tensors = _tensors(file, device=str(like.device), dtype=like.dtype)
    weights = {
        name.removeprefix("module.").removeprefix("model."): tensor for name, tensor in tensors
    }
    with torch.device("meta"):
        head = ActionHead(len(like), action_dim)
    _fill(head, weights)
    return head.eval().requires_grad_(False)


def _tensors(file: Path, *, device: str, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    try:
        tensors = load_file(file, device=device)
    except SafetensorError as error:
        raise CheckpointError(f"{file.name} is damaged: {error}") from None
    for name, tensor in tensors.items():
        yield name, tensor.to(dtype)


def _timm_name(name: str) -> str:
    """Return timm's name of a layer's scale, which checkpoints rename."""
    stem, dot, last = name.rpartition(".")
    return f"{stem}{dot}gamma" if last == "scale_factor" else name


def _fill(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put weights into a module without any; raise `CheckpointError` unless every one fits."""
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    odd = {
        "lacks": sorted(wanted.keys() - given.keys()),
        "has unknown": sorted(given.keys() - wanted.keys()),
        "has in another shape": sorted(
            f"{name} {given[name]}, expected {wanted[name]}"
            for name in wanted.keys() & given.keys()
            if given[name] != wanted[name]
        ),
    }
    found = [f"{what} {_listed(names)}" for what, names in odd.items() if names]
    if found:
        raise CheckpointError(f"the checkpoint {'; it '.join(found)}")
    module.load_state_dict(weights, assign=True)


def _listed(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
