"""Scores of clips that were scored before, by what is in them."""

import hashlib
import json
import threading
from collections import OrderedDict

from rewarder.messages import camera_message
from rewarder.reward import Clip, Score


class ScoreCache:
    """Keeps the scores that were asked for last."""

    def __init__(self, entries: int) -> None:
        """Keep so many; none with 0."""
        if entries < 0:
            raise ValueError(f"a cache of {entries} entries makes no sense; expected 0 or more")
        self._entries = entries
        self._scores: OrderedDict[str, Score] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._scores)

    def get(self, key: str) -> Score | None:
        """Return a score, None where it is not known (any more)."""
        with self._lock:
            score = self._scores.get(key)
            if score is not None:
                self._scores.move_to_end(key)
        return score

    def put(self, key: str, score: Score) -> None:
        """Keep a score, and forget the one that was not asked for the longest."""
        with self._lock:
            self._scores[key] = score
            self._scores.move_to_end(key)
            while len(self._scores) > self._entries:
                self._scores.popitem(last=False)


def clip_sha(clip: Clip) -> str:
    """Return 32 hex digits of the hash of all that a model gets to see of a clip."""
    digest = hashlib.sha256()
    cameras = {name: camera_message(camera) for name, camera in (clip.cameras or {}).items()}
    sizes = {name: [len(picture) for picture in row] for name, row in clip.frames.items()}
    said = [clip.goal, len(clip), sizes, None if clip.cameras is None else cameras]
    digest.update(json.dumps(said, sort_keys=True).encode())
    for values in (clip.stamps, clip.joint_pos, clip.joint_target):
        digest.update(values.tobytes())
    for name in sorted(clip.frames):
        for picture in clip.frames[name]:
            digest.update(picture)
    return digest.hexdigest()[:32]
