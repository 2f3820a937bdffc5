"""Qwen2.5-VL, Qwen3-VL and models of their make by transformers, as a `VisionModel`."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# The types of torch and transformers are partly unknown.

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from qwen_vl_utils import process_vision_info  # pyright: ignore[reportMissingTypeStubs]
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from transformers.image_transforms import to_pil_image

from rewarder.answers import over_spellings
from rewarder.checkpoint import ModelUnavailable, fingerprint, folder_of
from rewarder.gather import Gather
from rewarder.prompts import LETTER, YES_NO, BadGoal, Prompt
from rewarder.reward import NoScore
from rewarder.vision_model import Answer, Question

MERGE = 2
"""Patches of a picture that become one token, along each side; qwen-vl-utils knows no other."""
DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class QwenVL:
    """Reads how a Qwen-VL model spreads its next word over the answers of a prompt."""

    def __init__(
        self,
        model: str,
        *,
        device: str = "auto",
        dtype: str = "auto",
        batch: int = 8,
        max_pixels: int = 448 * 448,
    ) -> None:
        """Load a folder, or the hub's name of a model that was downloaded.

        `device` is cpu, cuda, mps or auto; `dtype` is float32, bfloat16, float16, or auto, which is
        bfloat16 on cuda. Questions are answered `batch` at a time, pictures made smaller than
        `max_pixels`. Raise `ModelUnavailable` where there is none or it lacks words to answer with.
        """
        folder = folder_of(model)
        self._device = _device(device)
        kind = _dtype(dtype, self._device)
        self._patch = _patch_size(folder)
        self._processor, self._model = _loaded(folder, kind, self._device)
        self._batch, self._max_pixels = batch, max_pixels
        # Threads that score clips side by side share a batch.
        self._together = Gather(self._ask_in_batches, most=batch)
        self._spellings: dict[Prompt, list[list[int]]] = {}
        for prompt in (YES_NO, LETTER):
            self._spelt(prompt)
        self._refuse_thinking()
        word = str(kind).removeprefix("torch.")
        engine = f"transformers/{transformers.__version__}"
        known_as = Path(model).resolve().name if Path(model).is_dir() else model
        self._name = f"{known_as}#{fingerprint(folder)} {engine} {word}"

    @property
    def name(self) -> str:
        """Return the model, what its weights are known by, the engine and its version."""
        return self._name

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """Return an answer to each; raise `NoScore` for a goal or prompt that it cannot take."""
        return self._together(questions)

    def _ask_in_batches(self, questions: Sequence[Question]) -> list[Answer]:
        answers: list[Answer] = []
        for start in range(0, len(questions), self._batch):
            answers += self._ask_together(questions[start : start + self._batch])
        return answers

    def inputs(self, questions: Sequence[Question]) -> Mapping[str, Any]:
        """Return what the model is called with; raise `BadGoal`.

        The pictures are brought to sizes that the model can cut into patches by qwen-vl-utils
        alone: the processor would do it once more.
        """
        messages = [[self._message(question)] for question in questions]
        pictures = process_vision_info(messages, image_patch_size=self._patch)[0]
        texts = [self._text(*pair) for pair in zip(questions, messages, strict=True)]
        return self._processor(
            text=texts,
            images=pictures,
            do_resize=False,
            padding=True,
            padding_side="left",
            return_tensors="pt",
        ).to(self._device)

    def _ask_together(self, questions: Sequence[Question]) -> list[Answer]:
        spellings = [self._spellings_of(question.prompt) for question in questions]
        try:
            log_probs = self._next_word(self.inputs(questions))
        except BadGoal as error:
            raise NoScore(str(error)) from error
        except torch.OutOfMemoryError as error:
            raise NoScore(
                f"{len(questions)} questions do not fit into the memory of {self._device}; "
                "set a smaller batch or max_pixels",
                retry=True,
            ) from error
        if np.isnan(log_probs).any():
            raise NoScore("the model's own figures are not finite; try dtype=float32 or bfloat16")
        pairs = zip(log_probs, spellings, strict=True)
        return [Answer(log_probs=over_spellings(row, spelt)) for row, spelt in pairs]

    def _next_word(self, inputs: Mapping[str, Any]) -> NDArray[np.float64]:
        """Return the log-probability of every token to come next, shape (questions, tokens)."""
        with torch.inference_mode():
            logits = self._model(**inputs, logits_to_keep=1).logits[:, -1]
            return logits.float().log_softmax(dim=-1).cpu().numpy().astype(np.float64)

    def _message(self, question: Question) -> dict[str, Any]:
        pictures = [
            {
                "type": "image",
                "image": to_pil_image(np.asarray(picture)),
                "max_pixels": self._max_pixels,
            }
            for picture in question.pictures
        ]
        text = {"type": "text", "text": self._about(question)}
        return {"role": "user", "content": [*pictures, text]}

    def _text(self, question: Question, messages: Sequence[Mapping[str, Any]]) -> str:
        if question.prompt.chat:
            return self._processor.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        picture = f"<|vision_start|>{self._processor.image_token}<|vision_end|>"
        return picture * len(question.pictures) + self._about(question)

    def _about(self, question: Question) -> str:
        """Return the words of a question; raise `BadGoal` for any of this model's own tokens."""
        text = question.prompt.about(question.goal)
        for token in self._processor.tokenizer.get_added_vocab():
            if token in question.goal:
                raise BadGoal(f"the goal holds a token of the model's own: {token!r}")
        return text

    def _spellings_of(self, prompt: Prompt) -> list[list[int]]:
        try:
            return self._spelt(prompt)
        except ModelUnavailable as error:
            raise NoScore(str(error)) from error

    def _spelt(self, prompt: Prompt) -> list[list[int]]:
        """Return the tokens of each answer; raise `ModelUnavailable` where one has none."""
        if prompt not in self._spellings:
            self._spellings[prompt] = _tokens_of(self._processor.tokenizer, prompt)
        return self._spellings[prompt]

    def _refuse_thinking(self) -> None:
        message = {"role": "user", "content": [{"type": "text", "text": "?"}]}
        try:
            asked = self._processor.apply_chat_template(
                [message], tokenize=False, add_generation_prompt=True
            )
        except ValueError as error:
            raise ModelUnavailable(f"the model has no chat template: {error}") from error
        if asked.rstrip().endswith("<think>"):
            raise ModelUnavailable(
                "the model thinks before it answers, so its next word says nothing; "
                "take the Instruct checkpoint of the same size"
            )


def _loaded(folder: Path, dtype: torch.dtype, device: str) -> tuple[Any, Any]:
    """Return processor and model of a folder; raise `ModelUnavailable` unless they are whole."""
    try:
        processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True)
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=dtype, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelUnavailable(f"{folder} does not load: {' '.join(str(error).split())}") from error
    model, loading = loaded
    missing = sorted(loading["missing_keys"])
    if missing:
        raise ModelUnavailable(
            f"{folder} lacks {len(missing)} of the model's weights, {missing[0]} among them; "
            "download it again"
        )
    return processor, model.to(device).eval()


def _patch_size(folder: Path) -> int:
    """Return pixels along a patch's side, 14 for Qwen2.5-VL; raise `ModelUnavailable`."""
    try:
        config: Any = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelUnavailable(f"{folder} has no config.json of a model: {error}") from error
    vision = getattr(config, "vision_config", None)
    if "qwen" not in str(config.model_type) or getattr(vision, "spatial_merge_size", 0) != MERGE:
        raise ModelUnavailable(
            f"{folder} is a model of type {config.model_type}; expected Qwen2.5-VL or Qwen3-VL, "
            f"whose pictures are merged {MERGE} by {MERGE}; other models: reward=openai"
        )
    return int(config.vision_config.patch_size)


def _tokens_of(tokenizer: Any, prompt: Prompt) -> list[list[int]]:  # noqa: ANN401 - of any model
    """Return the tokens that spell each answer alone; raise `ModelUnavailable` where one has none.

    Spellings that this model splits are left out: it says them in more than one word.
    """
    answers: list[list[int]] = []
    for spellings in prompt.answers:
        coded = [tokenizer.encode(word, add_special_tokens=False) for word in spellings]
        known = {ids[0] for ids in coded if len(ids) == 1 and ids[0] != tokenizer.unk_token_id}
        taken = known & {token for answer in answers for token in answer}
        if not known or taken:
            word = spellings[0].strip()
            raise ModelUnavailable(
                f"the model has no single token of its own for {word!r}, so that this answer "
                "cannot be read from it; take a Qwen2.5-VL or Qwen3-VL Instruct checkpoint"
            )
        answers.append(sorted(known))
    return answers


def _device(name: str) -> str:
    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _dtype(name: str, device: str) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if device.startswith("cuda") else torch.float32
    if name not in DTYPES:
        raise ModelUnavailable(f"dtype={name} is not known; expected auto, {', '.join(DTYPES)}")
    return DTYPES[name]
